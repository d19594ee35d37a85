"""The demo, on a small scan in the place of the bundled one: through a real MRML scene, and without."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from CycleINRLib.cli import demo
from CycleINRLib.cli.main import main
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.io.files import read, write

HAS_SLICER = importlib.util.find_spec("slicer") is not None


@pytest.fixture
def small_sample(tmp_path: Path, thick_ct: Volume, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write(thick_ct, tmp_path / "CT_small.nrrd")
    monkeypatch.setattr(demo, "find_sample", lambda start: path)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_files(folder: Path, source: Volume) -> None:
    output = read(folder / "CT_small_isotropic.nrrd")
    target = source.geometry.resliced(source.spacing_mm[0] / source.spacing_mm[1])
    assert output.geometry.same_place_as(target, tol_mm=1e-4)
    report = json.loads((folder / "CT_small_report.json").read_text("utf-8"))
    assert report["input"]["thickness_mm"] == 2.5
    assert report["snli"]["output"] is not None
    assert (folder / "CT_small_coronal.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.mrml
@pytest.mark.skipif(not HAS_SLICER, reason="slicer-core is not installed")
def test_the_demo_runs_through_a_real_scene_and_saves_it(small_sample, tmp_path, capsys):
    folder = tmp_path / "made" / "by demo"
    assert main(["demo", "--output", str(folder)]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "MRML" in out and "SNLI" in out and str(folder / "CT_small_coronal.png") in out
    assert names(folder) == {f"CT_small{end}" for end in ("_isotropic.nrrd", "_report.json", "_coronal.png", ".mrb")}
    check_files(folder, read(small_sample))

    from CycleINRLib.scene.headless import HeadlessScene

    (tmp_path / "again").mkdir()
    world = HeadlessScene(tmp_path / "again")
    world.load(folder / "CT_small.mrb")
    assert world.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2


def test_without_slicer_core_the_demo_reads_plain_files_and_says_so(small_sample, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "slicer" else find(name, *a))
    folder = tmp_path / "out"
    assert main(["demo", "--output", str(folder)]) == 0
    assert "slicer-core is not installed" in capsys.readouterr().out
    check_files(folder, read(small_sample))
    assert main(["demo", "--output", str(folder), "--quiet"]) == 0  # files of an earlier demo are replaced


def test_without_matplotlib_the_demo_says_why_there_is_no_picture(small_sample, tmp_path, capsys, monkeypatch):
    find, absent = importlib.util.find_spec, ("slicer", "matplotlib")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else find(name, *a))
    assert main(["demo", "--output", str(tmp_path / "out")]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert names(tmp_path / "out") == {"CT_small_isotropic.nrrd", "CT_small_report.json"}


def test_the_bundled_scans_are_found_and_need_upsampling():
    for start in ("CT", "MR"):
        volume = read(demo.find_sample(start))
        assert volume.spacing_mm[0] > 3 * volume.spacing_mm[1]
        assert volume.thickness_mm is not None
