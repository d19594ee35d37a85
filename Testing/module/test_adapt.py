"""Adapting a model to scans of the scene: the console's way and the panel's, children that play a part."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from driving import assert_gone, left_behind
from fake_job import LIGHT

from CycleINRLib import launcher
from CycleINRLib.errors import Cancelled, CycleINRError, RequestError, ResourceError, VolumeError
from CycleINRLib.modelcard import read_card

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")


@pytest.fixture
def a_logic(the_module, a_scan, fake_child):
    """The module's logic on a scene with a scan."""
    return the_module.CycleINRLogic()


@pytest.fixture
def kept(an_app):
    """Lists the files in the folder of adapted models."""
    folder = Path(an_app.slicerUserSettingsFilePath).parent / "CycleINR" / "Models"
    return lambda: sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def add_scan(values, spacing: float = 4.0, name: str = "Other"):
    return slicer.util.addVolumeFromArray(values, np.diag([1.0, 1.0, spacing, 1.0]), name=name)


# --- the logic alone --------------------------------------------------------------------------------------------
def test_an_adapted_model_is_a_new_file_named_after_the_scan(a_logic, a_scan, an_app, kept):
    before, heard = slicer.util.arrayFromVolume(a_scan).copy(), []
    path, report = a_logic.adapt(a_scan, progress=heard.append)
    assert report["improved"] and report["held_out"]["slices"] == 2
    assert path.name == "Scan adapted.safetensors" and kept() == [path.name]
    assert path.read_bytes() == LIGHT.read_bytes()
    assert [event.event for event in heard] == ["progress", "result"]
    assert np.array_equal(slicer.util.arrayFromVolume(a_scan), before) and left_behind(an_app) == []
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == [a_scan]


def test_a_second_model_never_takes_the_place_of_the_first(a_logic, a_scan, kept):
    names = [a_logic.adapt(a_scan)[0].name for _ in range(3)]
    assert names == ["Scan adapted.safetensors", "Scan adapted 2.safetensors", "Scan adapted 3.safetensors"]
    assert kept() == sorted(names)


def test_several_scans_are_learned_from_together_each_once(three_scans, a_logic):
    path, report = a_logic.adapt((*three_scans, three_scans[0]))
    assert path.name == "Scan and 3 more adapted.safetensors"
    assert report["held_out"]["slices"] == 4 * 6 // 3  # the played child counts the slices that it was handed


def test_what_is_asked_reaches_the_child(a_logic, a_scan):
    asked = {"minutes": 3.0, "route": "in-plane", "model": "light", "profile": "box", "modality": "ct", "axis": "k"}
    _, report = a_logic.adapt(a_scan, thickness=3.0, device="cpu", steps=5, **asked)
    expected = {**asked, "thickness_mm": 3.0, "device": "cpu", "steps": 5}
    assert {name: report["job"][name] for name in expected} == expected


def test_a_model_that_is_no_better_leaves_no_file_and_names_the_starting_one(a_logic, a_scan, fake_child, kept):
    fake_child("no better")
    path, report = a_logic.adapt(a_scan)
    assert not report["improved"] and path == LIGHT and kept() == []
    mine = Path(shutil.copy(LIGHT, slicer.app.temporaryPath))
    path, report = a_logic.adapt(a_scan, model=str(mine))
    assert path == mine and kept() == []


@pytest.mark.parametrize(
    "name, expected", [("a/b: c*?", "a_b_ c_ adapted"), ("..", "Scan adapted"), ("Schädel 3", "Schädel 3 adapted")]
)
def test_any_name_of_a_scan_gives_a_name_for_a_file(a_logic, a_scan, name, expected):
    a_scan.SetName(name)
    assert a_logic.adapt(a_scan)[0].name == f"{expected}.safetensors"


def test_a_file_of_ones_own_choice_is_written_and_not_overwritten_unasked(a_logic, a_scan, tmp_path, kept):
    wanted = tmp_path / "mine.safetensors"
    assert a_logic.adapt(a_scan, str(wanted))[0] == wanted and kept() == []
    wanted.write_bytes(b"precious")
    with pytest.raises(RequestError, match="exists"):
        a_logic.adapt(a_scan, wanted)
    assert wanted.read_bytes() == b"precious"
    assert a_logic.adapt(a_scan, wanted, overwrite=True)[0] == wanted
    assert read_card(wanted).name == "light"


def test_a_file_that_came_meanwhile_is_kept_beside_the_model(a_logic, a_scan, tmp_path):
    wanted = tmp_path / "mine.safetensors"
    run = a_logic.adapt(a_scan, wanted, wait=False)
    wanted.write_bytes(b"precious")
    path, _ = run.wait()
    assert path.name == "mine 2.safetensors" and read_card(path) and wanted.read_bytes() == b"precious"


def test_a_bad_request_starts_no_child(a_logic, a_scan, an_app, monkeypatch, tmp_path, kept):
    monkeypatch.setattr(launcher, "own_command", lambda folder: pytest.fail("a child was started"))
    values = slicer.util.arrayFromVolume(a_scan)
    refusals = (
        (VolumeError, "No volume", {"inputVolumes": None}),
        (VolumeError, "No volume", {"inputVolumes": []}),
        (VolumeError, "already isotropic.*Found: Cube, 1 x 1 x 1 mm", {"inputVolumes": add_scan(values, 1.0, "Cube")}),
        (VolumeError, "already isotropic", {"inputVolumes": [a_scan, slicer.util.getNode("Cube")]}),
        (VolumeError, "too few slices", {"inputVolumes": add_scan(values[:2].copy())}),
        (RequestError, "minutes", {"minutes": 0}),
        (RequestError, "route", {"route": "scenic"}),
        (RequestError, "ends in .safetensors", {"outputModel": tmp_path / "mine.pt"}),
        (RequestError, "folder of the model is missing", {"outputModel": tmp_path / "no" / "mine.safetensors"}),
    )
    for error, words, asked in refusals:
        with pytest.raises(error, match=words):
            a_logic.adapt(**{"inputVolumes": a_scan, **asked})
    assert left_behind(an_app) == [] and kept() == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told_before_the_computing(a_logic, a_scan, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ResourceError, match="read-only"):
        a_logic.adapt(a_scan, tmp_path / "locked" / "mine.safetensors")


def test_a_settings_folder_that_cannot_be_made_is_told_before_the_computing(a_logic, a_scan, an_app, monkeypatch):
    monkeypatch.setattr(launcher, "own_command", lambda folder: pytest.fail("a child was started"))
    Path(an_app.slicerUserSettingsFilePath).parent.write_text("a file in its place")
    with pytest.raises(ResourceError, match="could not be saved.*choose another folder"):
        a_logic.adapt(a_scan)


def test_a_disk_that_is_full_when_the_model_is_kept_leaves_no_part_of_it(a_logic, a_scan, an_app, monkeypatch, kept):
    def full(made, partial):
        Path(partial).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ResourceError, match="cannot be saved.*No space left on device"):
        a_logic.adapt(a_scan)
    assert kept() == [] and left_behind(an_app) == []


def test_a_full_temporary_folder_is_told_and_leaves_nothing(a_logic, a_scan, an_app, monkeypatch, kept):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ResourceError, match="cannot be handed.*No space left on device"):
        a_logic.adapt(a_scan)
    assert left_behind(an_app) == [] and kept() == []


def test_cancel_leaves_no_model(a_logic, a_scan, fake_child, an_app, kept):
    fake_child("slow")
    run = a_logic.adapt(a_scan, wait=False)
    pid = run._child.pid
    with pytest.raises(CycleINRError, match="still running"):
        run.result()
    run.cancel()
    while not run.done:
        time.sleep(0.02)
    with pytest.raises(Cancelled):
        run.result()
    assert_gone(pid)
    assert kept() == [] and left_behind(an_app) == []


@pytest.mark.parametrize("at", [0, 1])
def test_removing_any_of_the_scans_ends_the_adaptation(three_scans, a_logic, fake_child, an_app, kept, at):
    fake_child("slow")
    run = a_logic.adapt(three_scans[:2], wait=False)
    slicer.mrmlScene.RemoveNode(three_scans[3])  # not one of them
    assert not run.done
    slicer.mrmlScene.RemoveNode(three_scans[at])
    with pytest.raises(Cancelled, match="input volume was removed"):
        run.result()
    assert kept() == [] and left_behind(an_app) == []
