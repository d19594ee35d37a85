"""`cycleinr adapt`: what it takes, what it leaves behind, and what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapting needs torch")

from CycleINRLib.cli.main import main  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.io.files import read, write  # noqa: E402
from CycleINRLib.modelcard import read_card  # noqa: E402
from CycleINRLib.network.weights import load_model  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "Resources" / "SampleData" / "MR_knee_4.3mm.nrrd"


@pytest.fixture(scope="module")
def block() -> Volume:
    """A block of a real scan with thick slices."""
    volume = read(SAMPLE)
    first = volume.slices_first("kji"[int(np.argmax(volume.spacing_mm))])
    geometry = first.geometry.cropped((2, 100, 100), (20, 64, 64))
    return first.with_values(np.ascontiguousarray(first.values[2:22, 100:164, 100:164]), geometry)


@pytest.fixture
def scan(block, tmp_path) -> Path:
    return write(block, tmp_path / "mr_knee.nrrd")


def adapt(*words: object) -> int:
    return main(["adapt", *map(str, words)])


def test_the_model_of_one_scan_is_written_and_upsample_takes_it(scan, tmp_path, capsys):
    model, fine = tmp_path / "knee.safetensors", tmp_path / "fine.nrrd"
    assert adapt(scan, "--output", model, "--steps", 2, "--thickness", 3.3) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "held out" in said and "mr_knee" in said and str(model) in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["knee.safetensors", "mr_knee.nrrd"]
    card = read_card(model)
    assert card.name == "knee" and "adapted" in card.training
    assert main(["upsample", str(scan), str(fine), "--z-scale", "2", "--model", str(model), "--noise", "acquired"]) == 0


def test_json_tells_the_whole_report_and_nothing_else(scan, tmp_path, capsys):
    assert adapt(scan, "--output", tmp_path / "m.safetensors", "--steps", 1, "--thickness", 3, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["groups"][0]["thickness_mm"] == 3 and report["model"].endswith("m.safetensors")
    assert set(report["held_out"]) >= {"slices", "psnr_db", "psnr_start_db", "psnr_cubic_db"}


def test_run_repeats_the_job_of_an_adaptation_from_its_report(scan, tmp_path, capsys):
    first, again, told = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "job.json"
    assert adapt(scan, "--output", first, "--steps", 2, "--thickness", 3.3, "--seed", 5, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    told.write_text(json.dumps({**report, "job": {**report["job"], "output": str(again)}}), "utf-8")
    assert main(["run", str(told)]) == 0, capsys.readouterr().err
    weights = [load_model(path)[0].state_dict() for path in (first, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert main(["run", str(told)]) == 2 and "output exists" in capsys.readouterr().err
    told.write_text(json.dumps({"task": "adapt", "inputs": [str(scan)]}), "utf-8")
    assert main(["run", str(told)]) == 2 and "lacks a path" in capsys.readouterr().err


def test_a_folder_of_scans_is_taken_whole_and_what_cannot_be_read_is_said(block, scan, tmp_path, capsys):
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.move(scan, folder / "a.nrrd")
    matrix = np.array(block.geometry.ijk_to_ras)
    matrix[:3, 2] *= 1.5
    write(Volume(block.values, Geometry(block.values.shape, matrix)), folder / "b.nrrd")
    (folder / "c.nrrd").write_bytes(b"no image")
    assert adapt(folder, "--output", tmp_path / "m.safetensors", "--steps", 1, "--thickness", 3) == 0
    told = capsys.readouterr()
    assert "c.nrrd is left out" in told.err
    assert len([line for line in told.out.splitlines() if line.startswith("scans ")]) == 2  # two protocols


def test_nothing_readable_is_an_error_of_one_line_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert adapt(tmp_path / "empty", "--output", tmp_path / "m.safetensors", "--steps", 1) == 3
    assert adapt(tmp_path / "none", "--output", tmp_path / "m.safetensors", "--steps", 1) == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 2 and "no scan to adapt to" in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_output_that_exists_or_is_the_start_is_refused(scan, tmp_path, capsys):
    taken = tmp_path / "m.safetensors"
    taken.write_bytes(b"mine")
    assert adapt(scan, "--output", taken, "--steps", 1) == 2
    light = REPOSITORY / "Resources" / "Models" / "light.safetensors"
    assert adapt(scan, "--output", light, "--steps", 1, "--overwrite") == 2
    assert taken.read_bytes() == b"mine" and "output is the input" in capsys.readouterr().err


def test_a_picture_that_would_be_replaced_is_refused_before_any_computing(scan, tmp_path, capsys):
    picture = tmp_path / "m.png"
    picture.write_bytes(b"mine")
    assert adapt(scan, "--output", tmp_path / "m.safetensors", "--steps", 1, "--route", "synthetic") == 2
    assert picture.read_bytes() == b"mine" and "output exists" in capsys.readouterr().err
    assert not (tmp_path / "m.adapt").exists()


def begun(scan: Path, output: Path, *more: str) -> subprocess.Popen:
    words = ["adapt", str(scan), "--output", str(output), "--steps", "100000", "--thickness", "3.3", *more]
    command = [sys.executable, "-m", "CycleINRLib", *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, seconds: float = 600) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"no {path.name}"
        time.sleep(0.1)


def test_a_stopped_run_says_how_to_go_on_and_does(scan, tmp_path, capsys):
    output = tmp_path / "m.safetensors"
    run = begun(scan, output)
    wait_for(tmp_path / "m.adapt" / "network.csv")
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=600)
    assert run.returncode == 130 and "--resume" in said and not output.exists()
    assert (tmp_path / "m.adapt" / "network.state").exists()
    assert adapt(scan, "--output", output, "--steps", 100000, "--thickness", 3.3) == 2  # not begun anew by accident
    assert "--resume" in capsys.readouterr().err
    assert adapt(scan, "--output", output, "--steps", 300, "--thickness", 3.3, "--resume") == 2
    assert "steps" in capsys.readouterr().err


def test_a_killed_run_goes_on_and_leaves_the_model_alone(scan, tmp_path, capsys):
    output = tmp_path / "m.safetensors"
    words = (scan, "--output", output, "--steps", 3, "--thickness", 3.3)
    assert adapt(*words) == 0
    whole = load_model(output)[0].state_dict()
    output.unlink()
    run = begun(scan, output)
    wait_for(tmp_path / "m.adapt" / "job.json")
    run.kill()
    run.communicate()
    assert adapt(*words) == 2 and not output.exists()
    assert adapt(*words, "--overwrite") == 0  # begun anew
    again = load_model(output)[0].state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "mr_knee.nrrd"]


@pytest.mark.skipif(sys.platform == "win32", reason="sizes of files are limited on POSIX systems alone")
def test_a_full_disk_is_an_error_of_one_line_and_leaves_no_model(scan, tmp_path):
    words = f"-m CycleINRLib adapt {scan} --output {tmp_path / 'm.safetensors'} --steps 1 --thickness 3.3"
    limited = f"ulimit -f 200; exec {sys.executable} {words}"  # in blocks of 512 bytes or 1 kB
    done = subprocess.run(["bash", "-c", limited], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5, done.stderr
    assert "weights cannot be written" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "m.safetensors").exists()
    assert not list(tmp_path.rglob(".*"))
