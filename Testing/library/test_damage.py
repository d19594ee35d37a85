"""No input breaks a parser: damaged files, DICOM, jobs, job folders and models are read or refused by a typed error."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from damage import FACTS, JOB, MODEL, corpus, damaged, damaged_facts, outcome, outcome_of_card, outcome_of_facts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from CycleINRLib.modelcard import read_card

FEW = settings(
    max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
NAMES = ("a.nrrd", "a.nii", "b.nii.gz", "a.mha", "a.dcm", "mf.dcm", "a.npy", "a.safetensors", "job.json")


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
