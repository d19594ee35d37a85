"""A job handed to a child process as arrays, and its result taken back; the child is played by fake_job.py."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from CycleINRLib.child import launcher
from CycleINRLib.child.folder import result_volume
from CycleINRLib.child.run import Run
from CycleINRLib.errors import Cancelled, CycleINRError, ResourceError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume

FAKE = Path(__file__).resolve().parents[1] / "module" / "fake_job.py"
JOB = {"task": "upsample", "z_scale": 2.0}


@pytest.fixture(autouse=True)
def part(monkeypatch):
    """The child is fake_job.py; call with the name of its part."""
    monkeypatch.setattr(launcher, "own_command", lambda folder: [sys.executable, str(FAKE), str(folder)])
    return lambda name: monkeypatch.setenv("CYCLEINR_TEST_PART", name)


@pytest.fixture
def a_volume() -> Volume:
    values = np.arange(4 * 3 * 2, dtype=np.int16).reshape(4, 3, 2)
    return Volume(
        values, Geometry.from_spacing(values.shape, (4.0, 1.0, 1.0)), "CT", "HU", 3.0, "k", ("Tilted.",), "scan"
    )


def test_values_and_facts_travel_there_and_back(a_volume, tmp_path):
    closed = []
    run = Run(JOB, a_volume, result_volume, tmp_path, closed.append)
    back = run.wait()
    assert np.array_equal(back.values[::2], a_volume.values) and back.values.dtype == np.int16
    assert back.spacing_mm == (2.0, 1.0, 1.0)
    assert (back.modality, back.unit, back.thickness_mm, back.slice_axis) == ("CT", "HU", 3.0, "k")
    assert (back.warnings, back.name) == (("Tilted.",), "scan")
    assert closed == [run] and list(tmp_path.iterdir()) == []


def test_several_volumes_travel_in_their_order(a_volume, tmp_path):
    heard = []

    def finish(folder, facts):
        asked = json.loads((folder / "job.json").read_text("utf-8"))
        heard.extend(np.load(folder / f"input_{n}.npy") for n in range(len(asked["volumes"])))
        assert not (folder / "input.npy").exists() and "volume" not in asked
        return [one["name"] for one in asked["volumes"]], facts["report"]["held_out"]["slices"]

    other = a_volume.with_values(a_volume.values + 1)
    run = Run({"task": "adapt"}, [a_volume, replace(other, name="other")], finish, tmp_path)
    assert run.wait() == (["scan", "other"], 2)
    assert np.array_equal(heard[0], a_volume.values) and np.array_equal(heard[1], other.values)
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_is_a_reversed_view_travels_as_it_looks(a_volume, tmp_path):
    turned = a_volume.with_values(a_volume.values[::-1, :, ::-1])
    assert np.array_equal(Run(JOB, turned, result_volume, tmp_path).wait().values[::2], turned.values)


def test_a_failure_keeps_its_class_and_its_log(a_volume, tmp_path, part):
    part("failure")
    run = Run(JOB, a_volume, result_volume, tmp_path)
    for _ in range(2):
        with pytest.raises(ResourceError, match="needs 9 GB"):
            run.wait()
    assert run.done and run.log == "Traceback: somewhere deep"
    assert list(tmp_path.iterdir()) == []


def test_a_discarded_run_is_over_at_once_and_says_why(a_volume, tmp_path, part):
    part("slow")
    closed = []
    run = Run(JOB, a_volume, result_volume, tmp_path, closed.append)
    assert not run.done
    run.discard("The scene was closed")
    run.discard("again")
    assert run.done and closed == [run] and list(tmp_path.iterdir()) == []
    with pytest.raises(Cancelled, match="The scene was closed"):
        run.result()


def test_a_result_that_cannot_be_used_is_raised_once_and_then_told(a_volume, tmp_path):
    def finish(folder, facts):
        raise MemoryError

    run = Run(JOB, a_volume, finish, tmp_path)
    while not run.done:
        time.sleep(0.02)
    with pytest.raises(MemoryError):
        run.result()
    with pytest.raises(CycleINRError, match="cannot be used. Found: MemoryError"):
        run.result()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_a_child_starts(a_volume, tmp_path):
    with pytest.raises(ResourceError, match="cannot be handed"):
        Run(JOB, a_volume, result_volume, tmp_path / "absent")


def test_a_child_that_cannot_start_leaves_no_folder(a_volume, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "own_command", lambda folder: [str(tmp_path / "nothing")])
    with pytest.raises(CycleINRError, match="cannot be started"):
        Run(JOB, a_volume, result_volume, tmp_path)
    assert list(tmp_path.iterdir()) == []
