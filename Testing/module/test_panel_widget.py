"""The panel from Apply to result: the real module file, real widgets, a real scene, children that play a part."""

from __future__ import annotations

import json
import sys
import time
import types

import numpy as np
import pytest
from driving import assert_gone, finish, left_behind, remember_a_speed, rows, run_until, volumes

from CycleINRLib.child import launcher
from CycleINRLib.errors import Cancelled, CycleINRError, RequestError, ResourceError, VolumeError
from CycleINRLib.panel.state import State

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")


# --- before Apply -----------------------------------------------------------------------------------------------
def test_the_panel_opens_with_the_scan_chosen_and_says_what_it_would_give(a_panel, a_scan):
    ui = a_panel.ui
    assert ui.inputSelector.currentNode() is a_scan
    assert ui.applyButton.enabled and ui.applyButton.text == "&Apply"
    table = rows(ui.informationTable)
    assert table["Dimensions"] == ["7 × 8 × 6", "7 × 8 × 21"]
    assert table["Spacing (mm)"] == ["1 × 1 × 4", "1 × 1 × 1"]
    assert table["Name"] == ["Scan", "Scan z4"]
    assert "thickness is unknown" in ui.warningsLabel.text
    assert not ui.zScaleSpinBox.enabled and not ui.progressBar.visible
    assert ui.modelComboBox.currentText == "auto" and ui.modelComboBox.count > 1


@pytest.fixture
def nothing_remembered(monkeypatch, tmp_path):
    """As on a machine where nothing was computed yet."""
    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path / "cache"))


def test_the_expected_time_is_that_of_an_earlier_run_and_follows_the_request(
    nothing_remembered, a_panel, an_app, monkeypatch
):
    ui = a_panel.ui
    monkeypatch.setattr(launcher, "own_command", lambda folder: pytest.fail("a child was started"))
    assert rows(ui.informationTable)["Expected time"] == ["", "not known yet"] and ui.applyButton.enabled
    remember_a_speed()
    a_panel.controller.look()
    before = rows(ui.informationTable)["Expected time"][1]
    ui.targetComboBox.setCurrentText("z-scale")
    ui.zScaleSpinBox.value = 8.0
    after = rows(ui.informationTable)["Expected time"][1]
    assert 0 < int(before.removesuffix(" s")) < int(after.removesuffix(" s"))


def test_without_a_scan_apply_is_disabled_and_says_why(open_panel, a_scene, fake_child):
    ui = open_panel().ui
    assert not ui.applyButton.enabled and not ui.previewButton.enabled
    assert ui.applyButton.toolTip == ui.previewButton.toolTip == ui.messageLabel.text
    assert ui.messageLabel.text.startswith("No volume is chosen")


def test_a_label_map_is_not_chosen_by_itself(open_panel, a_scene, fake_child):
    a_scene.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert open_panel().ui.inputSelector.currentNode() is None


def test_every_change_of_the_request_is_judged_at_once(a_panel, a_scan):
    ui = a_panel.ui
    ui.targetComboBox.setCurrentText("z-scale")
    ui.zScaleSpinBox.value = 2.5
    assert ui.zScaleSpinBox.enabled and "any number above 1" in ui.zScaleSpinBox.toolTip
    assert not ui.spacingSpinBox.enabled and ui.spacingSpinBox.toolTip == "Choose spacing under Slices first."
    assert rows(ui.informationTable)["Dimensions"][1] == "7 × 8 × 13"
    ui.targetComboBox.setCurrentText("spacing")
    ui.spacingSpinBox.value = 0.5
    assert rows(ui.informationTable)["Spacing (mm)"][1] == "1 × 1 × 0.5"
    ui.spacingSpinBox.value = 5.0
    assert "not finer than the source" in ui.applyButton.toolTip and not ui.applyButton.enabled
    ui.targetComboBox.setCurrentText("isotropic")
    ui.thicknessSpinBox.value = 3.0
    of_the_scan = "Note: The values of the CT reach from -17.26 to 71.91: they are no HU, by which models go."
    assert ui.warningsLabel.text == of_the_scan and ui.warningsLabel.visible  # and nothing of the request
    a_panel.controller.request.parameters.outputVolume = a_scan
    assert not ui.applyButton.enabled
    assert ui.applyButton.toolTip.startswith("The output is the input. Found: Scan.")
    assert ui.messageLabel.text == ui.applyButton.toolTip
    a_panel.controller.request.parameters.outputVolume = None
    assert ui.applyButton.enabled


def test_an_isotropic_scan_cannot_be_made_isotropic_but_can_be_scaled(a_panel, a_scan):
    a_scan.SetSpacing(1, 1, 1)  # as another module may do; the panel follows
    run_until(a_panel, lambda: not a_panel.ui.applyButton.enabled)
    assert "already isotropic" in a_panel.ui.applyButton.toolTip
    a_panel.ui.targetComboBox.setCurrentText("z-scale")
    assert a_panel.ui.applyButton.enabled


def test_a_model_file_takes_the_place_of_the_model_and_comes_back_with_the_scene(a_panel):
    ui = a_panel.ui
    ui.modelComboBox.setCurrentText("light")
    assert a_panel.controller.request.parameters.model == "light"
    ui.modelFileEdit.currentPath = "/models/mine.safetensors"
    assert (
        a_panel.controller.request.of_upsample()["model"] == "/models/mine.safetensors" and not ui.modelComboBox.enabled
    )
    assert "model file" in ui.modelComboBox.toolTip
    a_panel.controller.request.parameters.modelFile = ""
    assert ui.modelFileEdit.currentPath == "" and ui.modelComboBox.enabled
    assert ui.modelComboBox.toolTip.startswith("The trained network")
    assert a_panel.controller.request.of_upsample()["model"] == "light"


def test_noise_is_chosen_in_words_and_reaches_the_job_in_its_own(a_panel):
    ui, asked = a_panel.ui, a_panel.controller.request.of_upsample
    assert asked()["noise"] == "auto" and "thin-slice" in ui.noiseComboBox.toolTip
    for words, name in (("new in each slice", "renew"), ("as acquired", "acquired"), ("removed", "remove")):
        ui.noiseComboBox.setCurrentText(words)
        assert asked()["noise"] == name


# --- region of interest -----------------------------------------------------------------------------------------
def test_a_new_region_holds_the_scan_and_a_smaller_one_is_all_that_is_computed(a_panel, a_scan, a_scene):
    region = a_scene.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    a_panel.ui.regionSelector.choose(region)
    assert rows(a_panel.ui.informationTable)["Dimensions"][0] == "7 × 8 × 6"
    region.SetCenterWorld(3, 3, 10)
    region.SetSizeWorld(4, 4, 14)  # 3 to 17 mm: the slices at 4, 8, 12, 16 mm
    run_until(a_panel, lambda: rows(a_panel.ui.informationTable)["Dimensions"][0] != "7 × 8 × 6")
    assert rows(a_panel.ui.informationTable)["Dimensions"] == ["5 × 5 × 4", "5 × 5 × 13"]
    a_panel.ui.applyButton.click()
    finish(a_panel)
    made = slicer.util.getNode("Scan z2")
    assert np.array_equal(slicer.util.arrayFromVolume(made)[::2], slicer.util.arrayFromVolume(a_scan)[1:5, 1:6, 1:6])
    region.SetCenterWorld(500, 0, 0)
    run_until(a_panel, lambda: not a_panel.ui.applyButton.enabled)
    assert "holds nothing of the scan" in a_panel.ui.applyButton.toolTip


# --- Apply ------------------------------------------------------------------------------------------------------
def test_apply_makes_a_node_and_shows_its_figures(a_panel, a_scan, an_app):
    before = slicer.util.arrayFromVolume(a_scan).copy()
    ui = a_panel.ui
    ui.applyButton.click()
    assert ui.applyButton.text == "C&ancel" and ui.applyButton.enabled
    assert not ui.inputsCollapsibleButton.enabled and ui.progressBar.visible
    assert volumes() == ["Scan"]  # nothing before success
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]
    node = slicer.util.getNode("Scan z2")
    assert np.array_equal(slicer.util.arrayFromVolume(node)[::2], before)
    assert node.GetNodeReference("CycleINR.source") is a_scan
    assert np.array_equal(slicer.util.arrayFromVolume(a_scan), before)
    assert ui.messageLabel.text == "Done: Scan z2"
    assert rows(ui.readoutTable)["SNLI"] == ["scan 0.100, result 0.200"]
    assert ui.applyButton.text == "&Apply" and ui.applyButton.enabled
    assert ui.inputsCollapsibleButton.enabled and not ui.progressBar.visible
    assert left_behind(an_app) == []
    run_until(a_panel, lambda: not a_panel.controller.timer.active)  # nothing ticks in an idle panel


def test_apply_twice_makes_two_nodes(a_panel):
    for _ in range(2):
        a_panel.ui.applyButton.click()
        finish(a_panel)
    assert volumes() == ["Scan", "Scan z2", "Scan z2_1"]


def test_a_chosen_output_is_filled(a_panel):
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
    a_panel.ui.outputSelector.choose(output)
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert volumes() == ["Scan", "Mine"]
    assert slicer.util.arrayFromVolume(output).shape == (11, 8, 7)


def test_what_the_panel_asks_reaches_the_child(a_panel):
    ui = a_panel.ui
    ui.targetComboBox.setCurrentText("z-scale")
    ui.zScaleSpinBox.value = 2.5
    ui.thicknessSpinBox.value = 3.0
    ui.selfCheckBox.checked = False
    chosen = {"consistency": "keep", "device": "cpu", "model": "light", "precision": "float32", "modality": "mr"}
    for name, text in chosen.items():
        getattr(ui, f"{name}ComboBox").setCurrentText(text)
    ui.applyButton.click()
    finish(a_panel)
    job = json.loads(slicer.util.getNode("Scan z2").GetAttribute("CycleINR.job"))
    asked = {"z_scale": 2.5, "thickness_mm": 3.0, "self_check": False, "noise": "auto", **chosen}
    assert {key: job[key] for key in asked} == asked


def test_progress_is_shown_and_cancel_leaves_the_scene_as_it_was(a_panel, fake_child, an_app):
    fake_child("slow")
    ui = a_panel.ui
    ui.applyButton.click()
    run_until(a_panel, lambda: ui.progressBar.value == 25)
    assert ui.messageLabel.text == "Upsampling: 1 of 4, 3 s left"
    pid = a_panel.controller.jobs.run._child.pid
    ui.applyButton.click()
    assert ui.applyButton.text == "C&ancel" and not ui.applyButton.enabled
    finish(a_panel)
    assert ui.messageLabel.text.startswith("Stopped; the scene is as it was.")
    assert a_panel.controller.panel.state is State.IDLE and ui.applyButton.enabled
    assert volumes() == ["Scan"] and an_app.popups == [] and left_behind(an_app) == []
    assert_gone(pid)


def test_a_failure_is_told_once_with_the_log_and_apply_is_possible_again(a_panel, fake_child, an_app):
    fake_child("failure")
    a_panel.ui.applyButton.click()
    finish(a_panel)
    words = "Out of memory. Found: needs 9 GB. Next: crop the volume."
    assert a_panel.ui.messageLabel.text == words
    assert an_app.popups == []  # told in the panel
    a_panel.ui.copyButton.click()
    from PySide6.QtWidgets import QApplication

    assert QApplication.clipboard().text() == f"{words}\nTraceback: somewhere deep"
    assert a_panel.ui.applyButton.enabled and volumes() == ["Scan"] and left_behind(an_app) == []
    fake_child("success")
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]


# --- the scene changes meanwhile --------------------------------------------------------------------------------
def test_closing_the_scene_ends_the_job(a_panel, a_scene, fake_child, an_app):
    fake_child("slow")
    a_panel.ui.applyButton.click()
    pid = a_panel.controller.jobs.run._child.pid
    a_scene.scene.Clear(False)
    assert_gone(pid)
    finish(a_panel)
    assert volumes() == [] and an_app.popups == [] and left_behind(an_app) == []
    assert not a_panel.ui.applyButton.enabled
    assert "No volume is chosen" in a_panel.ui.messageLabel.text


def test_removing_the_input_ends_the_job_and_removing_another_does_not(a_panel, a_scan, fake_child, an_app):
    fake_child("slow")
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other")
    a_panel.ui.applyButton.click()
    pid = a_panel.controller.jobs.run._child.pid
    slicer.mrmlScene.RemoveNode(other)
    assert a_panel.controller.jobs.run is not None and not a_panel.controller.jobs.run.done
    slicer.mrmlScene.RemoveNode(a_scan)
    assert_gone(pid)
    finish(a_panel)
    assert volumes() == [] and left_behind(an_app) == []


def test_an_output_that_was_removed_meanwhile_becomes_a_new_node(a_panel, fake_child):
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
    a_panel.ui.outputSelector.choose(output)
    a_panel.ui.applyButton.click()
    slicer.mrmlScene.RemoveNode(output)
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]


def test_closing_the_module_ends_the_job(a_panel, fake_child, an_app):
    fake_child("slow")
    a_panel.ui.applyButton.click()
    pid = a_panel.controller.jobs.run._child.pid
    a_panel.cleanup()
    assert_gone(pid)
    assert left_behind(an_app) == [] and not a_panel.controller.timer.active


def test_another_module_may_be_opened_while_the_job_runs(a_panel):
    a_panel.ui.applyButton.click()
    a_panel.exit()
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]
    a_panel.enter()
    assert a_panel.ui.applyButton.enabled
    a_panel.enter()  # Slicer may call it twice
    assert rows(a_panel.ui.readoutTable)


# --- PyTorch ----------------------------------------------------------------------------------------------------
@pytest.fixture
def without_torch(an_app, monkeypatch):
    """pip_check says no until `PyTorchUtils` was asked, which notes how."""
    installed: list = []

    def install_torch(**options):
        installed.append(options)
        return object()

    logic = types.SimpleNamespace(installTorch=install_torch)
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda requirement: bool(installed))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=lambda: logic))
    return installed


def test_torch_is_installed_by_its_extension_after_consent(a_panel, without_torch, an_app):
    a_panel.ui.applyButton.click()
    assert len(an_app.questions) == 1 and "PyTorch" in an_app.questions[0]
    assert without_torch == [{"askConfirmation": False, "torchVersionRequirement": ">=2.4"}]
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]


def test_a_second_click_while_packages_are_installed_does_nothing(a_panel, without_torch, an_app, monkeypatch):
    clicks = []

    def process_events():
        clicks.append(a_panel.ui.applyButton.enabled)
        a_panel.controller.on_apply()

    monkeypatch.setattr(an_app, "processEvents", process_events)
    a_panel.ui.applyButton.click()
    assert clicks and len(an_app.questions) == 1 and len(without_torch) == 1
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]


def test_without_consent_nothing_is_installed_and_nothing_runs(a_panel, without_torch, an_app):
    an_app.agrees = False
    a_panel.ui.applyButton.click()
    assert without_torch == [] and a_panel.controller.jobs.run is None
    assert a_panel.ui.applyButton.text == "&Apply" and a_panel.ui.applyButton.enabled


def test_without_the_pytorch_extension_the_user_is_told_to_install_it(a_panel, without_torch, an_app, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    a_panel.ui.applyButton.click()
    assert "install it by the Extensions Manager" in a_panel.ui.messageLabel.text
    assert an_app.popups == [] and an_app.questions == []


# --- the logic alone --------------------------------------------------------------------------------------------
def test_the_console_gets_node_and_report(the_module, a_scan, fake_child, an_app):
    heard = []
    node, report = the_module.CycleINRLogic().upsample(a_scan, zScale=2, name="Fine", progress=heard.append)
    assert node.GetName() == "Fine" and report["z_scale"] == 2
    assert [event.event for event in heard] == ["progress", "result"]
    assert left_behind(an_app) == []


def test_the_console_gets_a_handle_that_can_be_asked_and_cancelled(the_module, a_scan, fake_child):
    fake_child("slow")
    run = the_module.CycleINRLogic().upsample(a_scan, wait=False)
    assert not run.done
    with pytest.raises(CycleINRError, match="still running"):
        run.result()
    run.cancel()
    while not run.done:
        time.sleep(0.02)
    for _ in range(2):
        with pytest.raises(Cancelled):
            run.result()
    assert volumes() == ["Scan"]


def test_a_handle_gives_the_same_node_twice(the_module, a_scan, fake_child):
    run = the_module.CycleINRLogic().upsample(a_scan, wait=False)
    while not run.done:
        time.sleep(0.02)
    assert run.result()[0] is run.result()[0]
    assert volumes() == ["Scan", "Scan z2"]


def test_measure_gives_a_report_and_no_node(the_module, a_scan, fake_child, an_app):
    report = the_module.CycleINRLogic().measure(a_scan)
    assert report["task"] == "measure"
    assert volumes() == ["Scan"] and left_behind(an_app) == []


def test_an_error_of_the_child_is_raised_with_its_class(the_module, a_scan, fake_child, an_app):
    fake_child("failure")
    with pytest.raises(ResourceError, match="needs 9 GB"):
        the_module.CycleINRLogic().upsample(a_scan)
    assert left_behind(an_app) == []


def test_a_bad_request_starts_no_child(the_module, a_scan, fake_child, an_app, monkeypatch):
    monkeypatch.setattr(launcher, "own_command", lambda folder: pytest.fail("a child was started"))
    logic = the_module.CycleINRLogic()
    with pytest.raises(VolumeError):
        logic.upsample(None)
    with pytest.raises(RequestError, match="output is the input"):
        logic.upsample(a_scan, outputVolume=a_scan)
    with pytest.raises(RequestError, match="above 1"):
        logic.upsample(a_scan, zScale=0.5)
    with pytest.raises(RequestError, match="Only one target"):
        logic.upsample(a_scan, zScale=2, spacing=1)
    assert left_behind(an_app) == []


def test_ctrl_c_while_waiting_ends_the_child(the_module, a_scan, fake_child, an_app):
    fake_child("slow")
    logic = the_module.CycleINRLogic()
    pids = []

    def interrupt(event):
        pids.extend(run._child.pid for run in logic._running.runs)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logic.upsample(a_scan, progress=interrupt)
    assert_gone(pids[0])
    assert left_behind(an_app) == [] and logic._running.runs == {}


def test_a_full_disk_is_told_and_leaves_nothing(the_module, a_scan, an_app, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        the_module.CycleINRLogic().upsample(a_scan)
    assert left_behind(an_app) == []


# --- preview and views ------------------------------------------------------------------------------------------
def arrangement(app) -> int:
    return app.manager.layoutLogic().GetLayoutNode().GetViewArrangement()


def shown_in(app, view: str):
    """(name of the volume, slice offset) of one of the module's views."""
    logic = app.manager.sliceWidget(f"CycleINR{view}").sliceLogic()
    node = slicer.mrmlScene.GetNodeByID(logic.GetSliceCompositeNode().GetBackgroundVolumeID())
    return node.GetName(), logic.GetSliceNode().GetSliceOffset()


def test_preview_shows_two_planes_beside_the_scan_and_gives_the_layout_back(a_panel, a_scan, an_app):
    a_scan.CreateDefaultDisplayNodes()
    before = arrangement(an_app)
    a_panel.ui.previewButton.click()
    assert a_panel.ui.applyButton.text == "C&ancel" and not a_panel.ui.previewButton.enabled
    finish(a_panel)
    assert a_panel.ui.messageLabel.text.startswith("Preview shown")
    assert arrangement(an_app) != before
    for direction in ("Coronal", "Sagittal"):
        name, offset = shown_in(an_app, f"{direction}Result")
        assert name == f"Scan preview {direction.lower()}"
        assert shown_in(an_app, f"{direction}Scan") == ("Scan", offset)
    planes = [slicer.util.getNode(f"Scan preview {name}") for name in ("coronal", "sagittal")]
    assert [slicer.util.arrayFromVolume(node).shape for node in planes] == [(6, 1, 7), (6, 8, 1)]
    assert all(node.GetHideFromEditors() and not node.GetSaveWithScene() for node in planes)
    assert a_panel.ui.compareButton.text == "&Back to the earlier layout"
    a_panel.ui.compareButton.click()
    assert arrangement(an_app) == before and volumes() == ["Scan"]


def test_the_planes_of_a_preview_meet_at_the_crosshair(the_module, a_scan, fake_child, monkeypatch, a_scene):
    asked = []
    monkeypatch.setattr(the_module.CycleINRLogic, "_start", lambda self, *_, beside, **__: asked.append(beside))
    crosshair = a_scene.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCrosshairMode(crosshair.ShowBasic)
    crosshair.SetCrosshairRAS(2.2, 6.4, 9)
    the_module.CycleINRLogic().preview(a_scan)
    crosshair.SetCrosshairRAS(500, 6, 9)  # outside the scan: its middle
    the_module.CycleINRLogic().preview(a_scan)
    assert asked[0] == {"planes": {"coronal": 6.0, "sagittal": 2.0}}
    assert asked[1] == {"planes": {"coronal": pytest.approx(4, abs=1), "sagittal": 3.0}}


def test_a_sagittal_acquisition_is_previewed_in_the_coronal_and_the_axial_plane(the_module, a_scan, monkeypatch):
    asked = []
    monkeypatch.setattr(the_module.CycleINRLogic, "_start", lambda self, *_, beside, **__: asked.append(beside))
    matrix = np.array([[0, 0, 4, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    a_scan.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    the_module.CycleINRLogic().preview(a_scan)
    assert asked[0]["planes"] == {"coronal": 3.0, "axial": 4.0}


def test_axial_planes_of_a_coronal_acquisition_are_shown_beside_it(a_panel, a_scan, an_app):
    matrix = np.array([[1, 0, 0, 0], [0, 0, 4, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    a_scan.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    a_panel.ui.previewButton.click()
    finish(a_panel)
    assert a_panel.ui.messageLabel.text.startswith("Preview shown"), a_panel.ui.messageLabel.text
    assert shown_in(an_app, "AxialResult")[0] == "Scan preview axial"
    assert shown_in(an_app, "AxialScan") == ("Scan", shown_in(an_app, "AxialResult")[1])
    assert shown_in(an_app, "SagittalResult")[0] == "Scan preview sagittal"


def test_side_by_side_links_the_views_keeps_one_window_and_restores_the_layout(a_panel, a_scan, an_app):
    a_scan.CreateDefaultDisplayNodes()
    a_scan.GetDisplayNode().SetAutoWindowLevel(False)
    a_scan.GetDisplayNode().SetWindowLevel(350, 40)
    ui, before = a_panel.ui, arrangement(an_app)
    assert not ui.compareButton.enabled
    ui.applyButton.click()
    finish(a_panel)
    ui.compareButton.click()
    assert ui.compareButton.text == "&Back to the earlier layout"
    for direction in ("Coronal", "Sagittal"):
        assert shown_in(an_app, f"{direction}Result")[0] == "Scan z2"
        assert shown_in(an_app, f"{direction}Scan")[1] == shown_in(an_app, f"{direction}Result")[1]
        logic = an_app.manager.sliceWidget(f"CycleINR{direction}Scan").sliceLogic()
        assert logic.GetSliceCompositeNode().GetLinkedControl()
        assert logic.GetSliceNode().GetOrientation() == direction
    mine, other = (slicer.util.getNode(name).GetDisplayNode() for name in ("Scan z2", "Scan"))
    mine.SetWindowLevel(1500, 300)
    assert (other.GetWindow(), other.GetLevel()) == (1500, 300)
    other.SetWindowLevel(400, 50)
    assert (mine.GetWindow(), mine.GetLevel()) == (400, 50)
    ui.compareButton.click()
    assert arrangement(an_app) == before and ui.compareButton.text == "Show side &by side"
    other.SetWindowLevel(1, 1)  # they go their own ways again
    assert mine.GetWindow() == 400


def test_a_layout_that_the_user_chose_meanwhile_stays(a_panel, a_scan, an_app, fake_child):
    a_scan.CreateDefaultDisplayNodes()
    a_panel.ui.applyButton.click()
    finish(a_panel)
    a_panel.ui.compareButton.click()
    an_app.manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    a_panel.controller.show()
    assert a_panel.ui.compareButton.text == "Show side &by side"
    fake_child("slow")
    a_panel.ui.previewButton.click()
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert arrangement(an_app) == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView


def test_noise_by_slice_makes_tables_and_one_chart(a_panel, an_app):
    a_panel.ui.applyButton.click()
    finish(a_panel)
    for _ in range(2):
        a_panel.ui.noiseButton.click()
    assert len({chart.GetID() for chart in an_app.charts}) == 1
    chart = an_app.charts[0]
    assert chart.GetNumberOfPlotSeriesNodes() == 2
    scan, result = (chart.GetNthPlotSeriesNode(n).GetTableNode().GetTable() for n in range(2))
    assert [scan.GetValue(r, 1).ToDouble() for r in range(3)] == [0, 4, 8]  # mm
    assert [scan.GetValue(r, 2).ToDouble() for r in range(3)] == [1, 2, 3]
    assert result.GetNumberOfRows() == 10 and result.GetValue(0, 1).ToDouble() == 2  # the first one is unknown


# --- several volumes --------------------------------------------------------------------------------------------
def test_a_folder_is_worked_off_one_volume_after_the_other(three_scans, a_panel, an_app):
    ui = a_panel.ui
    assert ui.outputSelector.enabled
    ui.folderButton.click()
    assert [node.GetName() for node in ui.moreSelector.checkedNodes()] == ["Second", "Third"]
    assert not ui.outputSelector.enabled and "each gets a new volume" in ui.outputSelector.toolTip
    ui.applyButton.click()
    assert ui.messageLabel.text.startswith("1 of 3, Scan.")
    finish(a_panel)
    assert ui.messageLabel.text == "Done: Scan z2, Second z2, Third z2"
    assert volumes()[4:] == ["Scan z2", "Second z2", "Third z2"] and left_behind(an_app) == []


def test_one_failure_in_a_queue_does_not_stop_the_others(three_scans, a_panel, fake_child):
    fake_child("failure of Second")
    a_panel.ui.folderButton.click()
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert volumes()[4:] == ["Scan z2", "Third z2"]
    assert a_panel.ui.messageLabel.text.startswith("Done: Scan z2, Third z2. Second: Out of memory.")


def test_cancel_ends_the_queue_and_a_volume_removed_meanwhile_is_left_out(three_scans, a_panel, fake_child, an_app):
    a_panel.ui.folderButton.click()
    a_panel.ui.applyButton.click()
    slicer.mrmlScene.RemoveNode(three_scans[1])
    finish(a_panel)
    assert volumes()[3:] == ["Scan z2", "Third z2"]
    assert "no longer in the scene" in a_panel.ui.messageLabel.text
    fake_child("slow")
    a_panel.ui.applyButton.click()
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert volumes()[3:] == ["Scan z2", "Third z2"] and left_behind(an_app) == []


def test_the_further_volumes_come_back_with_a_saved_scene_and_with_the_module(three_scans, a_panel, a_scene, tmp_path):
    ui = a_panel.ui
    ui.folderButton.click()
    a_panel.exit()
    a_panel.enter()
    assert [node.GetName() for node in ui.moreSelector.checkedNodes()] == ["Second", "Third"]
    a_scene.save(tmp_path / "case.mrb")
    a_scene.scene.Clear(False)
    assert ui.moreSelector.checkedNodes() == []
    a_scene.load(tmp_path / "case.mrb")
    assert sorted(node.GetName() for node in ui.moreSelector.checkedNodes()) == ["Second", "Third"]
    assert len(a_panel.controller.request.volumes()) == 3 and not ui.outputSelector.enabled
    ui.moreSelector.setCheckState(slicer.util.getNode("Second"), 0)
    a_scene.load(a_scene.save(tmp_path / "fewer.mrb"))
    assert [node.GetName() for node in ui.moreSelector.checkedNodes()] == ["Third"]


# --- the child dies ---------------------------------------------------------------------------------------------
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    "part, words",
    [
        ("killed", "killed by the system, probably for lack of memory. Found: allocating 40 GB. Next: close other"),
        ("crashed", "crashed by an invalid memory access. Found: libtorch_cpu.so: fault. Next: check the environment"),
    ],
)
def test_a_dead_child_is_told_in_words_and_leaves_the_scene_as_it_was(a_panel, fake_child, an_app, part, words):
    fake_child(part)
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert words in a_panel.ui.messageLabel.text
    assert a_panel.ui.copyButton.visible and a_panel.ui.applyButton.enabled
    assert volumes() == ["Scan"] and left_behind(an_app) == [] and an_app.popups == []


@pytest.mark.skipif(sys.platform == "win32", reason="reads /proc")
def test_cancel_ends_a_deaf_child_and_its_own_children(a_panel, fake_child, an_app):
    fake_child("deaf")
    a_panel.ui.applyButton.click()
    note = a_panel.controller.jobs.run.folder / "grandchild"
    run_until(a_panel, lambda: note.exists() and note.read_text())
    pids = [a_panel.controller.jobs.run._child.pid, int(note.read_text())]
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert launcher.GRACE_S < 1.5  # a deaf child is killed then; a user waits two seconds at most
    for pid in pids:
        assert_gone(pid)
    assert volumes() == ["Scan"] and left_behind(an_app) == []


# --- environment ------------------------------------------------------------------------------------------------
def test_check_environment_tells_device_and_memory(a_panel):
    a_panel.ui.checkButton.click()
    assert a_panel.ui.environmentLabel.text.startswith("Checking")
    run_until(a_panel, lambda: not a_panel.controller.check_run.busy)
    assert "Device cuda: works (Card, 24.0 GB)" in a_panel.ui.environmentLabel.text


# --- save and reload --------------------------------------------------------------------------------------------
def test_results_parameters_and_readout_come_back_with_a_saved_scene(a_panel, a_scene, tmp_path):
    ui = a_panel.ui
    ui.targetComboBox.setCurrentText("z-scale")
    ui.zScaleSpinBox.value = 2.5
    ui.applyButton.click()
    finish(a_panel)
    figures = rows(ui.readoutTable)
    ui.noiseButton.click()
    a_scene.save(tmp_path / "case.mrb")
    a_scene.scene.Clear(False)
    assert rows(ui.readoutTable) == {} and not ui.resultCollapsibleButton.visible
    a_scene.load(tmp_path / "case.mrb")
    assert volumes() == ["Scan", "Scan z2"]
    assert (ui.targetComboBox.currentText, ui.zScaleSpinBox.value) == ("z-scale", 2.5)
    assert rows(ui.readoutTable) == figures and ui.compareButton.enabled
    ui.noiseButton.click()
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")) == 1  # the saved one
