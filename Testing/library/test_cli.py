"""The shell's front door: what goes to stdout and what to stderr, jobs that repeat, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from CycleINRLib import __version__
from CycleINRLib.cli import upsample
from CycleINRLib.cli.console import Console
from CycleINRLib.cli.main import main
from CycleINRLib.events import Failed, Finished, Progress, Warned, from_line
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.io.files import read, write

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def scan(tmp_path: Path, thick_ct: Volume) -> Path:
    """A small thick CT as a file, its slice thickness inside."""
    return write(thick_ct, tmp_path / "scan.nrrd")


@pytest.fixture
def run(capsys):
    """main(argv) to (status, stdout, stderr)."""

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        return status, *capsys.readouterr()

    return call


def start(*argv: object, script: tuple[str, ...] = ("-m", "CycleINRLib"), **more) -> subprocess.Popen[str]:
    command = [sys.executable, *script, *map(str, argv)]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, **more)


def test_upsample_writes_an_isotropic_volume_where_it_belongs_and_tells_both_noises(scan, run, tmp_path):
    status, out, err = run("upsample", scan, tmp_path / "iso.nrrd", "--modality", "ct")
    assert (status, err) == (0, "")
    source, output = read(scan), read(tmp_path / "iso.nrrd")
    expected = source.geometry.resliced(source.spacing_mm[0] / source.spacing_mm[1])
    assert output.geometry.same_place_as(expected, tol_mm=1e-6)
    assert output.values.dtype == source.values.dtype
    assert "64 x 64 x 15 voxels" in out and "SNLI" in out and "noise ratio" in out
    assert str(tmp_path / "iso.nrrd") in out


@pytest.mark.parametrize("large", [False, True])
def test_the_network_is_loaded_while_a_large_scan_is_read_and_after_a_small_one(large, scan, tmp_path, monkeypatch):
    begun, found = threading.Event(), []
    monkeypatch.setattr(upsample, "_load_network", begun.set)
    monkeypatch.setattr(upsample, "LOADED_AHEAD_BYTES", 0 if large else scan.stat().st_size + 1)

    def read_meanwhile(path, **more):
        found.append(begun.wait(60) if large else begun.is_set())
        return read(path, **more)

    monkeypatch.setattr("CycleINRLib.io.files.read", read_meanwhile)
    assert main(["upsample", str(scan), str(tmp_path / "iso.nrrd"), "--gain", "0", "--quiet"]) == 0
    assert found == [large]


def test_volume_report_and_picture_are_written_together_and_nothing_else(scan, run, tmp_path):
    files = [tmp_path / "o.mha", "--report", tmp_path / "o.json", "--picture", tmp_path / "o.png"]
    status, out, _ = run("upsample", scan, *files, "--z-scale", 2)
    assert status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"scan.nrrd", "o.mha", "o.json", "o.png"}
    report = json.loads((tmp_path / "o.json").read_text("utf-8"))
    assert report["z_scale"] == 2 and report["snli"]["output"] > 0
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    assert all(str(tmp_path / name) in out for name in ("o.mha", "o.json", "o.png"))


def test_json_prints_one_object_and_nothing_else(scan, run, tmp_path):
    for argv in (
        ("upsample", scan, tmp_path / "iso.nrrd", "--z-scale", 2, "--json"),
        ("info", scan, "--json"),
        ("measure", scan, "--json"),
        ("models", "--json"),
        ("preview", scan, "--plane", "coronal", "--z-scale", 2, "--json"),
    ):
        status, out, _ = run(*argv)
        assert status == 0
        assert isinstance(json.loads(out), dict), argv


def test_events_are_json_lines_from_progress_to_result(scan, run, tmp_path):
    status, out, err = run("upsample", scan, tmp_path / "iso.nrrd", "--z-scale", 9, "--events", "json")
    assert (status, err) == (0, "")
    events = [from_line(line) for line in out.splitlines()]
    assert {type(event) for event in events} == {Progress, Warned, Finished}
    assert events[-1].files == [str(tmp_path / "iso.nrrd")]
    assert events[-1].report["z_scale"] == 9


def test_an_error_among_events_is_the_last_line_and_one_line_on_stderr(scan, run, tmp_path):
    status, out, err = run("--events", "json", "upsample", scan, tmp_path / "iso.xyz")
    event = from_line(out)
    assert status == 2
    assert isinstance(event, Failed) and err == f"cycleinr: error: {event.to_error()}\n"


def test_one_form_of_output_at_a_time(scan, run):
    status, _, err = run("info", scan, "--json", "--events", "json")
    assert status == 2 and "--json and --events" in err


def test_a_warning_comes_once_on_stderr_and_quiet_keeps_it_to_the_report(scan, run, tmp_path):
    argv = ["upsample", scan, "--z-scale", 9, "--modality", "ct", "--report"]
    _, _, err = run(*argv[:2], tmp_path / "a.nrrd", *argv[2:], tmp_path / "a.json")
    assert err.count("cycleinr: warning: ") == len(err.splitlines()) == 1
    _, _, err = run(*argv[:2], tmp_path / "b.nrrd", *argv[2:], tmp_path / "b.json", "--quiet")
    assert err == ""
    assert len(json.loads((tmp_path / "b.json").read_text("utf-8"))["warnings"]) == 1


def test_the_job_of_a_report_repeats_the_run_byte_for_byte(scan, run, tmp_path):
    run("upsample", scan, tmp_path / "first.nrrd", "--z-scale", 2.5, "--report", tmp_path / "r.json")
    job = json.loads((tmp_path / "r.json").read_text("utf-8"))["job"]
    job.update(output=str(tmp_path / "again.nrrd"), report=None)
    (tmp_path / "job.json").write_text(json.dumps(job), "utf-8")
    status, _, _ = run("run", tmp_path / "job.json")
    assert status == 0
    assert (tmp_path / "again.nrrd").read_bytes() == (tmp_path / "first.nrrd").read_bytes()


def test_overwrite_replaces_and_without_it_the_old_file_stays(scan, run, tmp_path):
    target = tmp_path / "iso.nrrd"
    target.write_bytes(b"old")
    assert run("upsample", scan, target, "--z-scale", 2)[0] == 2
    assert target.read_bytes() == b"old"
    assert run("upsample", scan, target, "--z-scale", 2, "--overwrite")[0] == 0
    assert read(target).geometry.shape == (29, 64, 64)


@pytest.mark.parametrize("name", ["r.json", "p.png"])
def test_every_output_is_checked_before_computing(name, scan, run, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"old")
    monkeypatch.setattr("CycleINRLib.upsampling.upsample.upsample", lambda *_, **__: pytest.fail("computed"))
    option = {"r.json": "--report", "p.png": "--picture"}[name]
    status, _, err = run("upsample", scan, tmp_path / "iso.nrrd", option, tmp_path / name)
    assert status == 2 and "--overwrite" in err
    assert not (tmp_path / "iso.nrrd").exists()


def test_two_outputs_of_one_name_are_refused(scan, run, tmp_path):
    job = {"task": "upsample", "input": str(scan), "output": str(tmp_path / "a.nrrd")}
    job.update(report=str(tmp_path / "a.json"), picture=str(tmp_path / "a.json"))
    (tmp_path / "job.json").write_text(json.dumps(job), "utf-8")
    assert run("run", tmp_path / "job.json")[0] == 2


def test_a_picture_that_fails_leaves_the_volume_and_nothing_half_written(scan, run, tmp_path, monkeypatch):
    def fails(path: Path, *_: object) -> None:
        Path(path).write_bytes(b"half a picture")
        raise ValueError("no room for the title")

    monkeypatch.setattr("CycleINRLib.pictures.planes.coronal_comparison", fails)
    status, _, err = run("upsample", scan, tmp_path / "iso.nrrd", "--picture", tmp_path / "p.png", "--z-scale", 2)
    assert status == 1 and "no room for the title" in err
    assert {path.name for path in tmp_path.iterdir()} == {"scan.nrrd", "iso.nrrd"}
    assert read(tmp_path / "iso.nrrd").geometry.shape == (29, 64, 64)


def test_like_fills_the_grid_of_the_reference(scan, run, tmp_path):
    source = read(scan)
    target = source.geometry.resliced(3.3)
    write(Volume(np.zeros(target.shape, np.int16), target), tmp_path / "ref.nrrd")
    status, _, _ = run("upsample", scan, tmp_path / "out.nrrd", "--like", tmp_path / "ref.nrrd")
    assert status == 0
    assert read(tmp_path / "out.nrrd").geometry.same_place_as(target, tol_mm=1e-6)


def test_info_tells_geometry_thickness_and_what_upsample_would_do(scan, run):
    facts = json.loads(run("info", scan, "--json")[1])
    assert facts["thickness_mm"] == 2.5 and facts["slice_axis"] == "k"
    assert facts["modality"] == "CT" and facts["modality_guessed"]
    assert facts["upsample"]["target"]["shape"] == [72, 64, 64]
    assert facts["upsample"]["memory_mb"] > 0
    people = run("info", scan)[1]
    assert "slice thickness 2.5 mm" in people and "64 x 64 x 72 voxels" in people


def test_info_of_an_isotropic_volume_tells_that_upsample_would_refuse(scan, run, tmp_path):
    run("upsample", scan, tmp_path / "iso.nrrd")
    status, out, _ = run("info", tmp_path / "iso.nrrd", "--json")
    assert status == 0
    assert json.loads(out)["upsample"]["code"] == "bad_volume"


def test_info_lists_the_series_of_a_folder_and_shows_the_one_that_is_chosen(run, tmp_path):
    import made_wrong

    made_wrong.dicom_series(tmp_path / "d", series="1.2.3.4")
    made_wrong.dicom_series(tmp_path / "d", (0, 2, 4, 6), series="1.2.3.5")
    status, out, _ = run("info", tmp_path / "d", "--json")
    facts = json.loads(out)
    assert status == 0 and "geometry" not in facts
    assert {one["uid"] for one in facts["series"]} == {"1.2.3.4", "1.2.3.5"}
    chosen = json.loads(run("info", tmp_path / "d", "--series", "1.2.3.5", "--json")[1])
    assert chosen["geometry"]["shape"] == [4, 10, 12]


def test_measure_prints_the_noise_of_every_slice(scan, run):
    out = run("measure", scan)[1]
    report = json.loads(run("measure", scan, "--json")[1])
    assert out.count("slice  ") == len(report["noise_per_slice"]) == 15
    assert f"{report['snli']:.3f}" in out


def test_models_names_file_fingerprint_and_card(run):
    import hashlib

    (model,) = [m for m in json.loads(run("models", "--json")[1])["models"] if m["name"] == "light"]
    assert model["sha256"] == hashlib.sha256(Path(model["file"]).read_bytes()).hexdigest()
    assert model["parameters"] > 10_000
    assert model["card"]["z_scale_range"][0] > 1


def test_preview_writes_the_picture_of_one_plane(scan, run, tmp_path):
    status, out, _ = run("preview", scan, "--plane", "sagittal", "--z-scale", 2, "--picture", tmp_path / "p.png")
    assert status == 0 and "p.png" in out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_options_for_every_command_may_stand_before_or_after_it(scan, run):
    assert run("--quiet", "info", scan, "--json")[0] == run("info", scan, "--json", "--quiet")[0] == 0


def test_help_and_version_are_no_errors(run):
    assert run("--version")[:2] == (0, f"cycleinr {__version__}\n")
    for argv in (["--help"], ["upsample", "--help"], ["train", "--help"]):
        status, out, err = run(*argv)
        assert status == 0 and err == "" and out.startswith("usage: cycleinr")


def test_the_traceback_comes_with_debug_alone(scan, run, tmp_path):
    argv = ["upsample", scan, tmp_path / "iso.xyz"]
    assert "Traceback" not in run(*argv)[2]
    status, _, err = run(*argv, "--debug")
    assert status == 2 and "Traceback" in err
    assert err.splitlines()[-1].startswith("cycleinr: error: ")


class Terminal:
    """A stderr that says it is a terminal, or not, and keeps what it hears."""

    def __init__(self, is_terminal: bool) -> None:
        self.text, self.is_terminal = "", is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "way", "quiet", "shown"),
    [
        (True, "people", False, True),
        (False, "people", False, False),
        (True, "people", True, False),
        (True, "events", False, False),
    ],
)
def test_the_bar_shows_on_a_terminal_alone(is_terminal, way, quiet, shown, monkeypatch):
    terminal = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    console = Console(way, quiet)
    console.hear(Progress("upsample", 3, 40, 12.5))
    assert ("3/40" in terminal.text and "12 s left" in terminal.text) is shown


def test_the_bar_is_wiped_before_the_error_line(monkeypatch):
    terminal = Terminal(True)
    monkeypatch.setattr(sys, "stderr", terminal)
    from CycleINRLib.errors import VolumeError

    console = Console()
    console.hear(Progress("upsample", 1, 2))
    console.fail(VolumeError("No"))
    assert terminal.text.endswith("\r\x1b[Kcycleinr: error: No.\n")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals and pipes")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_130_and_nothing_is_left(sign, thick_ct, tmp_path):
    path = write(thick_ct, tmp_path / "scan.nrrd")
    argv = [
        "upsample",
        path,
        tmp_path / "iso.nrrd",
        "--events",
        "json",
        "--gain",
        1,
        "--noise",
        "acquired",
        "--device",
        "cpu",
    ]
    process = start(*argv, script=(str(Path(__file__).with_name("endless.py")),), stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        event = from_line(line)
        if isinstance(event, Progress) and event.stage == "upsample" and event.done > 1:
            break
    process.send_signal(sign)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert err.count("cycleinr: error: ") == 1 and "Traceback" not in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["scan.nrrd"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals and pipes")
def test_a_reader_that_goes_away_is_no_traceback(scan):
    reading, writing = os.pipe()
    os.close(reading)
    process = start("measure", scan, stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=300)
    assert err == ""
    assert process.returncode == 141


def test_the_command_runs_as_module_and_by_path_from_anywhere(tmp_path):
    for command in (["-m", "CycleINRLib"], [str(REPOSITORY / "CycleINRLib" / "__main__.py")]):
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY) if command[0] == "-m" else ""}
        done = subprocess.run(
            [sys.executable, *command, "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.strip()) == (0, f"cycleinr {__version__}")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("listening", ["batch", "train"])
def test_a_background_job_of_a_script_stays_deaf_to_ctrl_c(listening):
    """Shells start it with Ctrl-C ignored: it is meant for what runs in the foreground."""
    from CycleINRLib.archive.stop import CtrlC
    from CycleINRLib.cli.train import stop_after_saving

    said: list[str] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with CtrlC(said.append) if listening == "batch" else stop_after_saving():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN and said == []
    finally:
        signal.signal(signal.SIGINT, before)
