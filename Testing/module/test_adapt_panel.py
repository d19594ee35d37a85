"""Adapting a model to scans of the scene: the console's way and the panel's, children that play a part."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from driving import assert_gone, finish, left_behind, run_until, volumes
from fake_job import LIGHT

from CycleINRLib.child import launcher
from CycleINRLib.errors import Cancelled, CycleINRError, RequestError, ResourceError, VolumeError
from CycleINRLib.modelcard import read_card
from CycleINRLib.panel.state import State

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")


@pytest.fixture
def a_scan(a_scan):
    """The scan with as many slices as learning needs: 14."""
    values = np.random.default_rng(0).normal(40, 20, (14, 8, 7)).astype(np.int16)
    slicer.util.updateVolumeFromArray(a_scan, values)
    return a_scan


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
    assert report["improved"] and report["held_out"]["slices"] == 4
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
    assert report["held_out"]["slices"] == 4 * 14 // 3  # the played child counts the slices that it was handed


def test_one_scan_that_can_be_learned_from_is_enough(a_logic, a_scan):
    cube = add_scan(slicer.util.arrayFromVolume(a_scan), 1.0, "Cube")
    a_logic.checkAdaptable([cube, a_scan])
    _, report = a_logic.adapt([cube, a_scan])
    assert report["held_out"]["slices"] == 2 * 14 // 3  # both are handed over; the child leaves one out and says so


def test_ct_and_mr_together_are_refused(a_logic, a_scan):
    other = add_scan(slicer.util.arrayFromVolume(a_scan), name="MR")
    other.SetAttribute("DICOM.Modality", "MR")
    with pytest.raises(RequestError, match="two modalities"):
        a_logic.adapt([a_scan, other])


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
        (VolumeError, "is isotropic.*1 x 1 x 1 mm in Cube", {"inputVolumes": add_scan(values, 1.0, "Cube")}),
        (VolumeError, "too few slices", {"inputVolumes": add_scan(values[:11].copy(), name="Few")}),
        (VolumeError, "2 scans", {"inputVolumes": [slicer.util.getNode("Few"), slicer.util.getNode("Cube")]}),
        (RequestError, "minutes", {"minutes": 0}),
        (RequestError, "route", {"route": "scenic"}),
        (RequestError, "must be .safetensors", {"outputModel": tmp_path / "mine.pt"}),
        (RequestError, "folder of the output does not exist", {"outputModel": tmp_path / "no" / "mine.safetensors"}),
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


# --- the panel --------------------------------------------------------------------------------------------------
def start_and_wait(panel) -> None:
    panel.ui.adaptButton.click()
    finish(panel)


def test_adapt_saves_a_model_says_how_good_it_is_and_apply_takes_it(a_panel, a_scan, an_app, kept):
    ui = a_panel.ui
    assert ui.adaptButton.enabled and "no thin slices are needed" in ui.adaptButton.toolTip
    assert ui.adaptMinutesSpinBox.value == 0
    ui.adaptButton.click()
    assert (ui.applyButton.text, ui.applyButton.toolTip) == ("C&ancel", "Stop, and save no model.")
    assert not ui.adaptButton.enabled and ui.adaptButton.toolTip.startswith("Wait until the running job ends")
    assert not ui.advancedCollapsibleButton.enabled and ui.progressBar.visible
    finish(a_panel)
    line = "Adapted model saved. On 4 slices that it never saw, it is 0.4 dB better than before (4.5 % less error)."
    assert ui.messageLabel.text == line and not ui.adaptLabel.visible
    assert ui.warningsLabel.text == "Note: Slice thickness is estimated."
    assert kept() == ["Scan adapted.safetensors"] and left_behind(an_app) == [] and an_app.popups == []
    path = Path(ui.modelFileEdit.currentPath)
    assert path.name == kept()[0] and read_card(path) and not ui.modelComboBox.enabled
    assert volumes() == ["Scan"]
    ui.applyButton.click()
    assert ui.adaptLabel.text == line and ui.adaptLabel.visible
    finish(a_panel)
    job = json.loads(slicer.util.getNode("Scan z2").GetAttribute("CycleINR.job"))
    assert job["model"] == str(path)


def test_a_model_that_is_no_better_changes_nothing(a_panel, fake_child, kept):
    fake_child("no better")
    start_and_wait(a_panel)
    ui = a_panel.ui
    assert "no better on slices it never saw, so the starting model was kept" in ui.messageLabel.text
    assert ui.modelFileEdit.currentPath == "" and ui.modelComboBox.enabled and kept() == []
    assert a_panel.controller.panel.state is State.DONE


def test_what_the_panel_asks_of_an_adaptation_reaches_the_child(a_panel, monkeypatch):
    ui, reports = a_panel.ui, []
    shown = type(a_panel.controller)._finish_adapt

    def note(panel, outcome):
        reports.append(outcome[1])
        shown(panel, outcome)

    monkeypatch.setattr(type(a_panel.controller), "_finish_adapt", note)
    ui.adaptMinutesSpinBox.value = 7.0
    ui.thicknessSpinBox.value = 3.0
    ui.deviceComboBox.setCurrentText("cpu")
    ui.modalityComboBox.setCurrentText("mr")
    ui.modelComboBox.setCurrentText("light")
    ui.targetComboBox.setCurrentText("z-scale")
    start_and_wait(a_panel)
    asked = {"minutes": 7.0, "thickness_mm": 3.0, "device": "cpu", "modality": "mr", "model": "light", "route": "auto"}
    assert {name: reports[0]["job"][name] for name in asked} == asked
    start_and_wait(a_panel)  # the next one begins where the last one ended
    assert Path(reports[1]["job"]["model"]).name == "Scan adapted.safetensors"
    assert Path(ui.modelFileEdit.currentPath).name == "Scan adapted 2.safetensors"


def test_the_further_volumes_are_learned_from_too(three_scans, a_panel, kept):
    a_panel.ui.folderButton.click()
    start_and_wait(a_panel)
    assert kept() == ["Scan and 2 more adapted.safetensors"]
    assert "On 14 slices" in a_panel.ui.messageLabel.text  # a third of the 3 x 14 that the child was handed


def test_a_disabled_adapt_button_says_why(open_panel, a_scene, fake_child):
    panel = open_panel()
    ui = panel.ui
    assert not ui.adaptButton.enabled and ui.adaptButton.toolTip.startswith("No volume is chosen")
    scan = add_scan(np.random.default_rng(0).normal(40, 20, (14, 8, 7)).astype(np.int16), 1.0)
    ui.inputSelector.setCurrentNode(scan)
    run_until(panel, lambda: not ui.adaptButton.enabled and "isotropic" in ui.adaptButton.toolTip)
    scan.SetSpacing(1, 1, 5)
    run_until(panel, lambda: ui.adaptButton.enabled)
    slicer.util.updateVolumeFromArray(scan, np.zeros((14, 8, 7), np.int16))
    run_until(panel, lambda: not ui.adaptButton.enabled)
    assert "All voxels are equal" in ui.adaptButton.toolTip


def test_the_scans_are_looked_at_only_where_something_changed(three_scans, a_panel, monkeypatch):
    asked, real = [], a_panel.logic.checkAdaptable

    def note(nodes, **options):
        asked.append(len(nodes))
        real(nodes, **options)

    monkeypatch.setattr(a_panel.logic, "checkAdaptable", note)
    ui = a_panel.ui
    ui.folderButton.click()
    asked.clear()
    ui.targetComboBox.setCurrentText("z-scale")
    ui.zScaleSpinBox.value = 2.5
    ui.adaptMinutesSpinBox.value = 30.0
    assert asked == []
    three_scans[0].SetSpacing(1, 1, 1)
    run_until(a_panel, lambda: asked)
    assert asked == [3] and ui.adaptButton.enabled  # the other two are enough


def test_adapting_is_possible_where_the_asked_slices_are_not(a_panel):
    ui = a_panel.ui
    ui.targetComboBox.setCurrentText("spacing")
    ui.spacingSpinBox.value = 5.0
    assert not ui.applyButton.enabled and ui.adaptButton.enabled
    start_and_wait(a_panel)
    assert ui.messageLabel.text.startswith("Adapted model saved.") and not ui.applyButton.enabled


def test_progress_of_an_adaptation_is_shown_and_cancel_saves_nothing(a_panel, fake_child, an_app, kept):
    fake_child("slow")
    ui = a_panel.ui
    ui.adaptButton.click()
    run_until(a_panel, lambda: ui.progressBar.value == 25)
    assert ui.messageLabel.text == "Adapting: 1 of 4, 3 s left"
    pid = a_panel.controller.jobs.run._child.pid
    ui.applyButton.click()
    assert ui.applyButton.text == "C&ancel" and not ui.applyButton.enabled
    finish(a_panel)
    assert ui.messageLabel.text == "Stopped; no model was saved."
    assert a_panel.controller.panel.state is State.IDLE and ui.adaptButton.enabled
    assert kept() == [] and left_behind(an_app) == [] and an_app.popups == []
    assert_gone(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="reads /proc")
def test_cancel_ends_a_deaf_adaptation_and_its_own_children(a_panel, fake_child, an_app, kept):
    fake_child("deaf")
    a_panel.ui.adaptButton.click()
    note = a_panel.controller.jobs.run.folder / "grandchild"
    run_until(a_panel, lambda: note.exists() and note.read_text())
    pids = [a_panel.controller.jobs.run._child.pid, int(note.read_text())]
    a_panel.ui.applyButton.click()
    finish(a_panel)
    for pid in pids:
        assert_gone(pid)
    assert kept() == [] and left_behind(an_app) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    "part, words",
    [
        ("killed", "killed by the system, probably for lack of memory. Found: allocating 40 GB. Next: close other"),
        ("crashed", "crashed by an invalid memory access. Found: libtorch_cpu.so: fault. Next: check the environment"),
        ("failure", "Out of memory. Found: needs 9 GB. Next: crop the volume."),
    ],
)
def test_an_adaptation_whose_child_dies_is_told_in_words_and_can_be_repeated(
    a_panel, fake_child, an_app, kept, part, words
):
    fake_child(part)
    start_and_wait(a_panel)
    assert words in a_panel.ui.messageLabel.text and a_panel.ui.copyButton.visible
    assert kept() == [] and left_behind(an_app) == [] and an_app.popups == []
    fake_child("success")
    start_and_wait(a_panel)
    assert kept() == ["Scan adapted.safetensors"]


def test_a_disk_full_at_the_end_is_told_in_the_panel(a_panel, an_app, monkeypatch, kept):
    def full(made, partial):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    start_and_wait(a_panel)
    assert "cannot be saved. Found: [Errno 28] No space left on device" in a_panel.ui.messageLabel.text
    assert a_panel.controller.panel.state is State.FAILED and a_panel.ui.modelFileEdit.currentPath == ""
    assert kept() == [] and left_behind(an_app) == []


def test_closing_the_scene_ends_an_adaptation(a_panel, a_scene, fake_child, an_app, kept):
    fake_child("slow")
    a_panel.ui.adaptButton.click()
    pid = a_panel.controller.jobs.run._child.pid
    a_scene.scene.Clear(False)
    assert_gone(pid)
    finish(a_panel)
    assert kept() == [] and left_behind(an_app) == [] and an_app.popups == []
    assert not a_panel.ui.adaptButton.enabled and "No volume is chosen" in a_panel.ui.adaptButton.toolTip


def test_removing_a_further_volume_ends_an_adaptation(three_scans, a_panel, fake_child, an_app, kept):
    fake_child("slow")
    a_panel.ui.folderButton.click()
    a_panel.ui.adaptButton.click()
    pid = a_panel.controller.jobs.run._child.pid
    slicer.mrmlScene.RemoveNode(three_scans[2])
    assert_gone(pid)
    finish(a_panel)
    assert "input volume was removed" in a_panel.ui.messageLabel.text
    assert kept() == [] and left_behind(an_app) == []
    assert a_panel.ui.adaptButton.enabled  # the others are still there


def test_closing_the_module_ends_an_adaptation(a_panel, fake_child, an_app, kept):
    fake_child("slow")
    a_panel.ui.adaptButton.click()
    pid = a_panel.controller.jobs.run._child.pid
    a_panel.cleanup()
    assert_gone(pid)
    assert left_behind(an_app) == [] and kept() == []


def test_another_module_may_be_opened_while_a_model_is_adapted(a_panel, kept):
    a_panel.ui.adaptButton.click()
    a_panel.exit()
    finish(a_panel)
    a_panel.enter()
    ui = a_panel.ui
    assert Path(ui.modelFileEdit.currentPath).name == kept()[0]
    assert "Adapted model saved." in f"{ui.messageLabel.text} {ui.adaptLabel.text}"


def test_adapting_asks_for_pytorch_once_like_apply(a_panel, an_app, monkeypatch, kept):
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda requirement: False)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    a_panel.ui.adaptButton.click()
    assert "install it by the Extensions Manager" in a_panel.ui.messageLabel.text
    assert a_panel.controller.jobs.run is None and kept() == [] and an_app.popups == []


def test_minutes_and_model_file_come_back_with_a_saved_scene(a_panel, a_scene, tmp_path):
    ui = a_panel.ui
    ui.adaptMinutesSpinBox.value = 45.0
    start_and_wait(a_panel)
    path = ui.modelFileEdit.currentPath
    a_scene.save(tmp_path / "case.mrb")
    a_scene.scene.Clear(False)
    assert (ui.adaptMinutesSpinBox.value, ui.modelFileEdit.currentPath, ui.adaptLabel.text) == (0, "", "")
    a_scene.load(tmp_path / "case.mrb")
    assert (ui.adaptMinutesSpinBox.value, ui.modelFileEdit.currentPath) == (45, path)
