"""The child as the panel starts it: a process run by path, a folder with arrays, JSON lines, rename at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from CycleINRLib.child import folder as protocol
from CycleINRLib.child import parent, worker
from CycleINRLib.child.folder import StopSign, volume_facts, write_job
from CycleINRLib.child.worker import run_folder
from CycleINRLib.errors import Cancelled, RequestError, VolumeError
from CycleINRLib.events import Failed, Finished, Progress, Warned, from_line
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.jobs import AdaptJob, UpsampleJob

MAIN = Path(worker.__file__).parents[1] / "__main__.py"


def small(volume: Volume, size: int = 24) -> Volume:
    """The central block of a scan, all slices."""
    count = volume.values.shape[0]
    first = (0, *((n - size) // 2 for n in volume.values.shape[1:]))
    block = volume.values[:, first[1] : first[1] + size, first[2] : first[2] + size]
    return volume.with_values(np.ascontiguousarray(block), volume.geometry.cropped(first, (count, size, size)))


def prepare(folder: Path, volume: Volume, task: str = "upsample", **job: Any) -> Path:
    """The folder as the parent leaves it before the start."""
    folder.mkdir(parents=True, exist_ok=True)
    write_job(folder, {**UpsampleJob(**job).to_json(), "task": task}, volume)
    return folder


def start(folder: Path, script: Path = MAIN, **more: Any) -> subprocess.Popen[str]:
    """The child by path, from a folder that is not the repository, with a bare import path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(
        [sys.executable, str(script), "run", str(folder)], cwd=folder, env=environment, **pipes, **more
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, thick_ct: Volume) -> Path:
    """A folder whose name is not plain, with a job for a tiny CT."""
    return prepare(tmp_path / "a job ü", small(thick_ct), z_scale=2.5, device="cpu")


def test_the_child_upsamples_like_the_library_and_speaks_json_lines_alone(folder, thick_ct):
    from CycleINRLib.upsampling.upsample import upsample

    process = start(folder)
    out, err = process.communicate(timeout=3000)
    assert process.returncode == 0, err
    events = [from_line(line) for line in out.splitlines()]
    assert None not in events, out
    assert isinstance(events[-1], Finished)
    assert any(isinstance(event, Progress) and event.stage == "upsample" for event in events)

    expected = upsample(small(thick_ct), z_scale=2.5, device="cpu")
    values, result = np.load(folder / "output.npy"), json.loads((folder / "result.json").read_text("utf-8"))
    assert values.dtype == expected.volume.values.dtype
    assert np.array_equal(values, expected.volume.values)
    geometry = Geometry(values.shape, result["volume"]["ijk_to_ras"])
    assert geometry.same_place_as(expected.volume.geometry, tol_mm=1e-9)
    assert result["report"]["snli"] == expected.report["snli"]
    assert events[-1].report == result["report"]
    assert names(folder) == {"job.json", "input.npy", "output.npy", "result.json"}


def test_the_child_measures_and_writes_no_volume(tmp_path, thick_mr):
    from CycleINRLib.upsampling.measure import measure

    heard: list[Any] = []
    folder = prepare(tmp_path / "m", thick_mr, "measure")
    run_folder(folder, heard.append)
    report = json.loads((folder / "result.json").read_text("utf-8"))["report"]
    assert report == json.loads(json.dumps(measure(thick_mr)))
    assert heard[-1].report == measure(thick_mr)
    assert names(folder) == {"job.json", "input.npy", "result.json"}


def test_the_child_fills_the_grid_of_a_reference(tmp_path, thick_ct):
    volume = small(thick_ct)
    folder = prepare(tmp_path / "like", volume)
    target = volume.geometry.resliced(3)
    facts = json.loads((folder / "job.json").read_text("utf-8"))
    facts["like"] = {"shape": list(target.shape), "ijk_to_ras": target.ijk_to_ras.tolist()}
    (folder / "job.json").write_text(json.dumps(facts), "utf-8")
    run_folder(folder, lambda event: None)
    assert np.load(folder / "output.npy").shape == target.shape


def computing(folder: Path) -> subprocess.Popen[str]:
    """A child in the midst of a slab that never ends."""
    process = start(folder, script=Path(__file__).with_name("endless.py"))
    assert process.stdout is not None
    for line in process.stdout:
        event = from_line(line)
        if isinstance(event, Progress) and event.stage == "upsample" and event.done > 1:
            return process
    raise AssertionError(process.communicate())


def test_a_cancel_file_stops_a_running_child_and_leaves_nothing(tmp_path, thick_ct):
    folder = prepare(tmp_path / "cancelled", small(thick_ct), device="cpu", gain=1.0, noise="acquired")
    process = computing(folder)
    (folder / "cancel").touch()
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    last = from_line(out.splitlines()[-1])
    assert isinstance(last, Failed) and last.code == "cancelled"
    assert err.splitlines()[-1].startswith("cycleinr: error: ")
    assert names(folder) == {"job.json", "input.npy", "cancel"}


def test_a_child_whose_parent_is_gone_stops(folder):
    (folder / "alive").touch()
    os.utime(folder / "alive", (time.time() - 61, time.time() - 61))
    process = start(folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "parent" in err
    assert names(folder) == {"job.json", "input.npy", "alive"}


def stale(folder, sign: str) -> StopSign:
    (folder / "alive").write_text(sign)
    os.utime(folder / "alive", (time.time() - 61, time.time() - 61))
    return StopSign(folder)


def test_the_stop_sign_tells_a_fresh_parent_from_a_stale_one(tmp_path):
    sign = StopSign(tmp_path)
    assert not sign()  # started by hand: nobody touches the file
    (tmp_path / "alive").touch()
    assert not sign()
    os.utime(tmp_path / "alive", (time.time() - 20, time.time() - 20))
    assert not sign()
    os.utime(tmp_path / "alive", (time.time() - 61, time.time() - 61))
    assert sign() and sign()  # once gone, it stays gone


def test_a_stale_parent_that_lives_is_waited_for(tmp_path):
    assert not stale(tmp_path, parent.sign_of_life())()


def test_a_process_that_ended_is_no_parent_and_neither_is_another_one_with_its_id(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    sign = parent.sign_of_life(ended.pid)
    assert parent.lives(sign)
    ended.communicate(b"\n")
    assert not parent.lives(sign) and stale(tmp_path, sign)()
    assert not parent.lives(f"{os.getpid()} {sign.partition(' ')[2]} of another")  # the id is used again


@pytest.mark.parametrize("sign", ["", "12", "abc def", f"{os.getpid()}", "-1 5", "99999999999 5"])
def test_a_sign_that_tells_no_process_is_no_life(sign):
    assert not parent.lives(sign)


def test_cancel_between_start_and_computing_is_seen(folder):
    (folder / "cancel").touch()
    with pytest.raises(Cancelled):
        run_folder(folder, lambda event: None)
    assert names(folder) == {"job.json", "input.npy", "cancel"}


def test_the_result_appears_after_the_array_and_both_are_whole(folder, monkeypatch):
    order = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        if Path(target).parent == folder:
            order.append(Path(target).name)
        assert Path(source).name.startswith(".")
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    run_folder(folder, lambda event: None)
    assert order == ["output.npy", "result.json"]


def test_a_failure_while_the_result_is_written_takes_the_array_back(folder, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(protocol, "_write_json", fails)
    with pytest.raises(OSError):
        run_folder(folder, lambda event: None)
    assert names(folder) == {"job.json", "input.npy"}


def test_the_child_says_an_error_as_an_event_and_as_a_line(tmp_path, thick_ct):
    flat = thick_ct.with_values(np.zeros_like(thick_ct.values))
    process = start(prepare(tmp_path / "flat", flat, z_scale=2))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 3
    event = from_line(out.splitlines()[-1])
    assert isinstance(event, Failed) and event.code == "bad_volume"
    assert err.splitlines()[-1] == f"cycleinr: error: {event.to_error()}"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"task": "cook"}, RequestError),
        ({"volume": None}, RequestError),
        ({"volume": {"modality": "CT"}}, RequestError),
        ({"volume": {"ijk_to_ras": "somewhere"}}, RequestError),
        ({"job": {"z_scale": 40}}, RequestError),
        ({"job": {"sharpness": 1}}, RequestError),
        ({"like": {"shape": [3, 3, 3]}}, RequestError),
        ({"volume": {"ijk_to_ras": np.zeros((4, 4)).tolist()}}, VolumeError),
    ],
)
def test_a_folder_whose_job_makes_no_sense_is_refused(change, error, folder):
    facts = json.loads((folder / "job.json").read_text("utf-8"))
    (folder / "job.json").write_text(json.dumps({**facts, **change}), "utf-8")
    with pytest.raises(error):
        run_folder(folder, lambda event: None)
    assert names(folder) == {"job.json", "input.npy"}


@pytest.mark.parametrize("content", [None, b"", b"no array", np.array([object()], dtype=object)])
def test_an_array_that_cannot_be_read_is_refused_and_a_pickle_is_never_opened(content, folder):
    (folder / "input.npy").unlink()
    if isinstance(content, bytes):
        (folder / "input.npy").write_bytes(content)
    elif content is not None:
        np.save(folder / "input.npy", content, allow_pickle=True)
    with pytest.raises(VolumeError):
        run_folder(folder, lambda event: None)


def test_a_library_that_prints_does_not_break_the_lines(folder, monkeypatch, capsys):
    from CycleINRLib.cli import main as cli
    from CycleINRLib.upsampling import upsample as task

    real = task.upsample

    def talkative(*args: Any, **options: Any) -> Any:
        print("a library says hello")
        return real(*args, **options)

    monkeypatch.setattr(task, "upsample", talkative)
    assert cli.main(["run", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert all(from_line(line) is not None for line in out.splitlines())
    assert "a library says hello" in err


def test_started_by_path_the_folder_io_is_no_top_level_module():
    code = f"import runpy, sys; sys.argv = [{str(MAIN)!r}, '--version']; sys.path[0] = {str(MAIN.parent)!r}\n"
    code += f"try: runpy.run_path({str(MAIN)!r}, run_name='__main__')\nexcept SystemExit: pass\n"
    code += "import importlib.util, io\nprint(io.__file__, importlib.util.find_spec('imaging'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert "CycleINRLib" not in run.stdout
    assert run.stdout.split()[-1] == "None"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_a_child_with_130_and_nothing_is_left(tmp_path, thick_ct):
    folder = prepare(tmp_path / "stopped", small(thick_ct), device="cpu", gain=1.0, noise="acquired")
    process = computing(folder)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert names(folder) == {"job.json", "input.npy"}


def test_the_child_previews_planes_that_equal_those_of_the_library(tmp_path, thick_ct):
    from CycleINRLib.upsampling.preview import preview

    volume = small(thick_ct)
    folder = prepare(tmp_path / "job", volume, "preview", z_scale=2.0, device="cpu")
    facts = json.loads((folder / "job.json").read_text("utf-8"))
    at = float(volume.geometry.ras_of(np.array([7, 5, 12]))[1])
    (folder / "job.json").write_text(json.dumps({**facts, "planes": {"coronal": at, "sagittal": None}}), "utf-8")
    heard: list = []
    run_folder(folder, heard.append)
    assert names(folder) == {"job.json", "input.npy", "coronal.npy", "sagittal.npy", "result.json"}
    told = json.loads((folder / "result.json").read_text("utf-8"))["volumes"]
    for name, mm in (("coronal", at), ("sagittal", None)):
        expected = preview(volume, name, mm, z_scale=2.0, device="cpu")
        values = np.load(folder / f"{name}.npy")
        assert np.array_equal(values, expected.values)
        assert Geometry(values.shape, told[name]["ijk_to_ras"]).same_place_as(expected.geometry)
    told = [(event.stage, event.done) for event in heard if isinstance(event, Progress)]
    assert told == [("read", 0), ("preview", 0), ("preview", 1), ("preview", 2)]
    assert isinstance(heard[-1], Finished)


def test_the_first_line_of_a_child_comes_before_torch_is_loaded(tmp_path, thick_ct):
    folder = prepare(tmp_path / "job", small(thick_ct), "preview", z_scale=2.0, device="cpu")
    program = (
        "import sys; from CycleINRLib.child.worker import run_folder\n"
        "def hear(event): print(event.stage, 'torch' in sys.modules); sys.exit()\n"
        "run_folder(sys.argv[1], hear)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert done.stdout.split() == ["read", "False"], done.stderr


def test_a_preview_that_fails_leaves_no_plane(tmp_path, thick_ct):
    folder = prepare(tmp_path / "job", small(thick_ct), "preview", z_scale=2.0, device="cpu")
    facts = json.loads((folder / "job.json").read_text("utf-8"))
    (folder / "job.json").write_text(json.dumps({**facts, "planes": {"coronal": None, "oblique": None}}), "utf-8")
    with pytest.raises(RequestError, match="no such plane"):
        run_folder(folder, lambda event: None)
    assert names(folder) == {"job.json", "input.npy"}


def test_a_preview_that_cannot_be_written_leaves_no_plane(tmp_path, thick_ct, monkeypatch):
    def full(path, values, real=protocol.write_array):
        if values.shape[2] == 1:  # the sagittal one
            raise OSError(28, "No space left on device")
        real(path, values)

    monkeypatch.setattr(protocol, "write_array", full)
    folder = prepare(
        tmp_path / "job", small(thick_ct), "preview", z_scale=2.0, device="cpu", gain=1.0, noise="acquired"
    )
    facts = json.loads((folder / "job.json").read_text("utf-8"))
    (folder / "job.json").write_text(json.dumps({**facts, "planes": {"coronal": None, "sagittal": None}}), "utf-8")
    with pytest.raises(OSError, match="No space"):
        run_folder(folder, lambda event: None)
    assert names(folder) == {"job.json", "input.npy"}


# --- adapt ------------------------------------------------------------------------------------------------------
def prepare_adapt(folder: Path, *volumes: Volume, **job: Any) -> Path:
    """The folder of an adaptation, as the parent leaves it before the start."""
    folder.mkdir(parents=True)
    write_job(folder, AdaptJob(**job).to_json(), volumes)
    return folder


@pytest.fixture
def learning(monkeypatch):
    """The task played in this process: `light` as it is. The returned list gets what the task was asked for."""
    from CycleINRLib.network.weights import find_model, load_model

    asked: list[Any] = []

    def adapt(volumes, job, *, folder, progress, cancelled):
        asked.append((volumes, job))
        (folder / "part.bin").write_bytes(b"half a network")
        progress(Progress("adapt", 1, 2))
        progress(Warned("Thickness estimated."))
        if cancelled():
            raise Cancelled("Stopped on request")
        network, card = load_model(find_model("light"))
        report = {"improved": True, "warnings": ["Thickness estimated.", "One scan alone."]}
        return SimpleNamespace(network=network, card=replace(card, name="mine"), report=report)

    monkeypatch.setitem(sys.modules, "CycleINRLib.adapting.adapt", SimpleNamespace(adapt=adapt))
    return asked


def test_the_child_hands_all_scans_to_adapt_and_leaves_a_model_that_loads(tmp_path, thick_ct, thick_mr, learning):
    from CycleINRLib.network.weights import load_model

    folder = prepare_adapt(tmp_path / "job", thick_ct, thick_mr, minutes=3.0, device="cpu")
    heard: list[Any] = []
    run_folder(folder, heard.append)
    ((volumes, job),) = learning
    assert job == AdaptJob(minutes=3.0, device="cpu")
    for volume, given in zip(volumes, (thick_ct, thick_mr), strict=True):
        assert np.array_equal(volume.values, given.values) and volume_facts(volume) == volume_facts(given)
    assert names(folder) == {"job.json", "input_0.npy", "input_1.npy", "model.safetensors", "result.json"}
    network, card = load_model(folder / "model.safetensors")
    assert card.name == "mine" and sum(1 for _ in network.parameters()) > 10
    assert json.loads((folder / "result.json").read_text("utf-8")) == {"report": heard[-1].report}


def test_the_warnings_of_an_adaptation_are_events_each_once(tmp_path, thick_mr, learning):
    heard: list[Any] = []
    run_folder(prepare_adapt(tmp_path / "job", thick_mr), heard.append)
    assert [event.event for event in heard] == ["progress", "progress", "warning", "warning", "result"]
    assert [event.message for event in heard[2:4]] == ["Thickness estimated.", "One scan alone."]


def test_a_cancelled_adaptation_leaves_nothing(tmp_path, thick_mr, learning):
    folder = prepare_adapt(tmp_path / "job", thick_mr)
    with pytest.raises(Cancelled):
        run_folder(folder, lambda event: getattr(event, "stage", "") == "adapt" and (folder / "cancel").touch())
    assert len(learning) == 1  # it was under way
    assert names(folder) == {"job.json", "input_0.npy", "cancel"}


def test_a_disk_that_is_full_at_the_end_of_an_adaptation_leaves_no_model(tmp_path, thick_mr, learning, monkeypatch):
    folder = prepare_adapt(tmp_path / "job", thick_mr)

    def full(path: Path, facts: Any) -> None:
        assert (folder / "model.safetensors").is_file()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(protocol, "_write_json", full)
    with pytest.raises(OSError):
        run_folder(folder, lambda event: None)
    assert names(folder) == {"job.json", "input_0.npy"}


@pytest.mark.parametrize("volumes", [None, [], {"ijk_to_ras": np.eye(4).tolist()}, [{"modality": "MR"}]])
def test_an_adaptation_whose_scans_have_no_geometry_is_refused(volumes, tmp_path, thick_mr, learning):
    folder = prepare_adapt(tmp_path / "job", thick_mr)
    facts = json.loads((folder / "job.json").read_text("utf-8"))
    (folder / "job.json").write_text(json.dumps({**facts, "volumes": volumes}), "utf-8")
    with pytest.raises(RequestError):
        run_folder(folder, lambda event: None)
    assert learning == []


def test_a_missing_array_of_an_adaptation_is_named(tmp_path, thick_mr, learning):
    folder = prepare_adapt(tmp_path / "job", thick_mr, thick_mr)
    (folder / "input_1.npy").unlink()
    with pytest.raises(VolumeError, match="input_1.npy"):
        run_folder(folder, lambda event: None)
