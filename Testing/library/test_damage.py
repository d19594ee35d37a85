"""No input breaks a parser: damaged files, DICOM, jobs, job folders and models are read or refused by a typed error."""

from __future__ import annotations

import json
import logging
import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from damage import (
    FACTS,
    JOB,
    MODEL,
    corpus,
    damaged,
    damaged_facts,
    outcome,
    outcome_of_card,
    outcome_of_facts,
    with_facts,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from CycleINRLib.child.folder import read_result
from CycleINRLib.errors import CycleINRError
from CycleINRLib.events import from_line
from CycleINRLib.jobs import UpsampleJob
from CycleINRLib.machine import recall, remember
from CycleINRLib.modelcard import read_card
from CycleINRLib.network.weights import find_model
from CycleINRLib.upsampling.gain import kept_gain
from CycleINRLib.upsampling.memory import SlabRule
from CycleINRLib.upsampling.speed import Speed, _key, known_speed

FEW = settings(
    max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
NAMES = (
    "a.nrrd",
    "a.nii",
    "b.nii.gz",
    "a.mha",
    "a.dcm",
    "mf.dcm",
    "a.npy",
    "a.safetensors",
    "a.pack",
    "batch.sqlite",
    "job.json",
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("sound")
    return folder, corpus(folder)


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_each_input_of_the_corpus_is_read_as_it_is(sound, name, tmp_path):
    (tmp_path / name).write_bytes(sound[1][name])
    assert outcome(tmp_path / name) == "read"


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_a_damaged_input_is_read_or_refused_by_the_error_that_is_owed(sound, name, tmp_path, seed):
    (tmp_path / name).write_bytes(damaged(sound[1][name], np.random.default_rng(seed)))
    outcome(tmp_path / name)


@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_a_job_folder_with_a_wrong_fact_is_read_or_refused(sound, seed):
    outcome_of_facts(sound[0], damaged_facts({**JOB, "volume": FACTS}, np.random.default_rng(seed)))


@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_a_model_card_with_a_wrong_fact_is_read_or_refused(seed):
    card = json.loads(read_card(MODEL).to_json())
    outcome_of_card(damaged_facts(card, np.random.default_rng(seed)))


@given(content=st.binary(max_size=600))
@FEW
@pytest.mark.parametrize(
    "start", [b"NRRD0004\n", b"NDims = 3\n", b"\x5c\x01\x00\x00", b"\x1f\x8b", b"\x08\x00\x05\x00"]
)
def test_arbitrary_bytes_after_the_first_ones_of_a_format_are_refused_or_read(tmp_path, start, content):
    (tmp_path / "a.nrrd").write_bytes(start + content)
    outcome(tmp_path / "a.nrrd")


@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_facts_of_a_pack_of_another_kind_are_read_or_refused(sound, tmp_path, seed):
    outcome(with_facts(sound[1]["a.pack"], tmp_path / "b.pack", np.random.default_rng(seed)))


@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_what_was_kept_of_a_scan_or_a_machine_is_taken_whole_or_measured_anew(tmp_path, monkeypatch, seed):
    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path))
    rng = np.random.default_rng(seed)
    remember("fits", "a", {"gain": 0.9, "warnings": ["b"]})
    remember(
        "speed",
        _key(read_card(find_model("auto")).network, UpsampleJob()),
        Speed(1e-8, 2e-9, "CPU", SlabRule(64, 4, 9, 1e9)).to_json(),
    )
    for kind in ("fits", "speed"):
        path = tmp_path / f"{kind}.json"
        text = json.dumps(damaged_facts(json.loads(path.read_text("utf-8")), rng)).encode("utf-8", "replace")
        path.write_bytes(damaged(text, rng) if rng.random() < 0.5 else text)
    gain, speed = kept_gain(SimpleNamespace(warn=str.strip), "a"), known_speed()
    assert gain is None or math.isfinite(gain)
    assert speed is None or min(speed.encode_s, speed.decode_s) >= 0


def test_brackets_nested_too_deeply_are_no_json_anywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path))
    deep = "[" * 100_000
    (tmp_path / "fits.json").write_text(deep, "utf-8")
    assert recall("fits", "a") is None and from_line(deep) is None
    (tmp_path / "result.json").write_text(deep, "utf-8")
    with pytest.raises(CycleINRError, match="no readable result"):
        read_result(tmp_path)


def test_json_of_files_is_read_by_the_one_function_that_bounds_it():
    """Where a file of the library calls json.loads itself, it reads what it wrote in the same breath."""
    library = Path(__file__).resolve().parents[2] / "CycleINRLib"
    calls = [path.name for path in library.rglob("*.py") for _ in range(path.read_text("utf-8").count("json.load"))]
    assert sorted(calls) == ["adapt.py", "adapt.py", "jobs.py", "jobs.py"]
