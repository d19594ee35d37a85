"""A job handed to a child process as arrays, and its result taken back; the child is played by fake_job.py."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from CycleINRLib.child import launcher
from CycleINRLib.child.claim import remove_if_left
from CycleINRLib.child.folder import StopSign, result_volume
from CycleINRLib.child.run import Run
from CycleINRLib.child.worker import run_folder
from CycleINRLib.errors import Cancelled, CycleINRError, RequestError, ResourceError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume

JOB = {"task": "upsample", "z_scale": 2.0}


@pytest.fixture(autouse=True)
def part(fake_child):
    """The child of every test here is fake_job.py; call with the name of its part."""
    return fake_child


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


# --- a parent that is killed --------------------------------------------------------------------------------------
PARENT = """
import sys, time
import numpy as np
from pathlib import Path
from CycleINRLib.child import launcher
from CycleINRLib.child.run import Run
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
fake, home = sys.argv[1:]
launcher.own_command = lambda folder: [sys.executable, fake, str(folder)]
volume = Volume(np.zeros((4, 3, 2), np.int16), Geometry.from_spacing((4, 3, 2), (4.0, 1.0, 1.0)))
run = Run({"task": "upsample", "z_scale": 2.0}, volume, lambda folder, facts: facts, home)
print(run._child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def parent(part, fake_program, tmp_path):
    """Starts a parent that waits for a child; gives the process and the child's id."""
    begun = []

    def begin() -> tuple[subprocess.Popen, int]:
        part("slow")
        words = [sys.executable, "-c", PARENT, str(fake_program), str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(fake_program.parents[2])}
        begun.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
        return begun[-1], int(begun[-1].stdout.readline())

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_the_folder_of_a_run_whose_processes_were_killed_is_removed_by_the_next_run(a_volume, tmp_path, part, parent):
    (killed, child), (living, other) = parent(), parent()
    left = {path for path in tmp_path.iterdir() if (path / "input.npy").exists()}
    assert len(left) == 2
    killed.kill()
    killed.wait()
    os.kill(child, signal.SIGKILL)
    mine = tmp_path / "CycleINR-notes"  # no hand-over folder, whatever its name says
    mine.mkdir()
    part("success")
    Run(JOB, a_volume, result_volume, tmp_path).wait()
    kept = set(tmp_path.iterdir())
    assert mine in kept and len(kept & left) == 1 and len(kept) == 2
    living.kill()
    living.wait()
    os.kill(other, signal.SIGKILL)
    Run(JOB, a_volume, result_volume, tmp_path).wait()
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_child_that_ends_after_its_parent_was_killed_removes_the_folder(tmp_path, parent):
    process, child = parent()
    (folder,) = tmp_path.iterdir()
    remove_if_left(folder)  # as the child does at its end
    assert (folder / "input.npy").exists()
    process.kill()
    process.wait()
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RequestError, match="unknown"):  # however it ends
        job = json.loads((folder / "job.json").read_text("utf-8"))
        (folder / "job.json").write_text(json.dumps({**job, "task": "unknown"}), "utf-8")
        run_folder(folder, lambda event: None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_machine_or_behind_a_link_is_not_removed(tmp_path):
    for name, machine in (("CycleINR-a", "elsewhere"), ("real", platform.node())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").write_text(machine)
    (tmp_path / "CycleINR-link").symlink_to(tmp_path / "real")
    remove_if_left(tmp_path / "CycleINR-a")
    remove_if_left(tmp_path / "CycleINR-link")
    assert {path.name for path in tmp_path.iterdir()} == {"CycleINR-a", "CycleINR-link", "real"}
    remove_if_left(tmp_path / "real")  # nobody holds its lock
    assert not (tmp_path / "real").exists()


def test_a_child_whose_folder_was_removed_stops(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    sign = StopSign(folder)
    assert not sign()
    folder.rmdir()
    with pytest.raises(Cancelled, match="gone"):
        sign.check()
