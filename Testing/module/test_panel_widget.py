"""The panel from Apply to result: the real module file, a real scene, child processes that play a part."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from CycleINRLib import launcher
from CycleINRLib.errors import Cancelled, CycleINRError, RequestError, ResourceError, VolumeError
from CycleINRLib.panel import State

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")

FAKE = Path(__file__).with_name("fake_job.py")


@pytest.fixture
def fake_child(monkeypatch):
    """The child is fake_job.py; returns a function that chooses its part."""
    monkeypatch.setattr(launcher, "own_command", lambda folder: [sys.executable, str(FAKE), str(folder)])
    return lambda part: monkeypatch.setenv("CYCLEINR_TEST_PART", part)


@pytest.fixture
def a_scan(a_scene):
    """A CT of 6 slices, 4 mm apart, 1 mm pixels."""
    values = np.random.default_rng(0).normal(40, 20, (6, 8, 7)).astype(np.int16)
    node = slicer.util.addVolumeFromArray(values, np.diag([1.0, 1.0, 4.0, 1.0]), name="Scan")
    node.SetAttribute("DICOM.Modality", "CT")
    return node


@pytest.fixture
def a_panel(the_module, a_scan, fake_child):
    """The module's widget on a scene with a scan, as a user finds it after opening the module."""
    widget = the_module.CycleINRWidget(types.SimpleNamespace(isEntered=True))
    widget.setup()
    yield widget
    widget.cleanup()


def tick_until(widget, condition, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain; the panel says {widget.ui.messageLabel.text!r}"
        widget._timer.tick()
        time.sleep(0.02)


def finish(widget) -> None:
    tick_until(widget, lambda: widget._run is None)


def volumes() -> list[str]:
    return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]


def left_behind(app) -> list[Path]:
    return list(Path(app.temporaryPath).iterdir())


# --- before Apply -----------------------------------------------------------------------------------------------
def test_the_panel_opens_with_the_scan_chosen_and_says_what_it_would_give(a_panel, a_scan):
    ui = a_panel.ui
    assert ui.inputSelector.node is a_scan
    assert ui.applyButton.enabled and ui.applyButton.text == "Apply"
    assert ui.messageLabel.text.startswith("Result: 7 × 8 × 21 voxels of 1 × 1 × 1 mm (z-scale 4)")
    assert "thickness is unknown" in ui.warningsLabel.text
    assert not ui.zScaleSpinBox.enabled and not ui.progressBar.visible
    assert ui.modelComboBox.items[0] == "auto" and ui.modelComboBox.currentText == "auto"


def test_without_a_scan_apply_is_disabled_and_says_why(the_module, a_scene, fake_child):
    widget = the_module.CycleINRWidget(types.SimpleNamespace(isEntered=True))
    widget.setup()
    assert not widget.ui.applyButton.enabled
    assert widget.ui.applyButton.toolTip == widget.ui.messageLabel.text
    assert widget.ui.messageLabel.text.startswith("No volume is chosen")
    widget.cleanup()


def test_a_label_map_is_not_chosen_by_itself(the_module, a_scene, fake_child):
    a_scene.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    widget = the_module.CycleINRWidget(types.SimpleNamespace(isEntered=True))
    widget.setup()
    assert widget.ui.inputSelector.node is None
    widget.cleanup()


def test_every_change_of_the_request_is_judged_at_once(a_panel, a_scan):
    ui = a_panel.ui
    ui.isotropicCheckBox.checked = False
    ui.zScaleSpinBox.value = 2.5
    assert ui.zScaleSpinBox.enabled
    assert "(z-scale 2.5)" in ui.messageLabel.text
    ui.thicknessSpinBox.value = 3.0
    assert ui.warningsLabel.text == ""
    ui.outputSelector.node = a_scan
    assert not ui.applyButton.enabled
    assert ui.applyButton.toolTip.startswith("The output is the input. Found: Scan.")
    assert ui.messageLabel.text == ui.applyButton.toolTip
    ui.outputSelector.node = None
    assert ui.applyButton.enabled


def test_an_isotropic_scan_cannot_be_made_isotropic_but_can_be_scaled(a_panel, a_scan):
    a_scan.SetSpacing(1, 1, 1)
    a_panel._checkCanApply()
    assert "already isotropic" in a_panel.ui.applyButton.toolTip
    a_panel.ui.isotropicCheckBox.checked = False
    assert a_panel.ui.applyButton.enabled


def test_a_model_can_be_typed_and_comes_back_with_the_scene(a_panel):
    a_panel.ui.modelComboBox.setCurrentText("/models/mine.safetensors")
    assert a_panel._parameterNode.model == "/models/mine.safetensors"
    a_panel._parameterNode.model = "auto"
    assert a_panel.ui.modelComboBox.currentText == "auto"


# --- Apply ------------------------------------------------------------------------------------------------------
def test_apply_makes_a_node_and_shows_its_figures(a_panel, a_scan, an_app):
    before = slicer.util.arrayFromVolume(a_scan).copy()
    ui = a_panel.ui
    ui.applyButton.click()
    assert ui.applyButton.text == "Cancel" and ui.applyButton.enabled
    assert not ui.inputsCollapsibleButton.enabled and ui.progressBar.visible
    assert volumes() == ["Scan"]  # nothing before success
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]
    node = slicer.util.getNode("Scan z2")
    assert np.array_equal(slicer.util.arrayFromVolume(node)[::2], before)
    assert node.GetNodeReference("CycleINR.source") is a_scan
    assert np.array_equal(slicer.util.arrayFromVolume(a_scan), before)
    assert ui.messageLabel.text == "Done: Scan z2"
    assert "SNLI: input 0.100, result 0.200" in ui.readoutLabel.text
    assert ui.applyButton.text == "Apply" and ui.applyButton.enabled
    assert ui.inputsCollapsibleButton.enabled and not ui.progressBar.visible
    assert an_app.shown == [node]
    assert left_behind(an_app) == [] and not a_panel._timer.active


def test_apply_twice_makes_two_nodes(a_panel):
    for _ in range(2):
        a_panel.ui.applyButton.click()
        finish(a_panel)
    assert volumes() == ["Scan", "Scan z2", "Scan z2_1"]


def test_a_chosen_output_is_filled(a_panel):
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
    a_panel.ui.outputSelector.node = output
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert volumes() == ["Scan", "Mine"]
    assert slicer.util.arrayFromVolume(output).shape == (11, 8, 7)


def test_what_the_panel_asks_reaches_the_child(a_panel):
    ui = a_panel.ui
    ui.isotropicCheckBox.checked = False
    ui.zScaleSpinBox.value = 2.5
    ui.thicknessSpinBox.value = 3.0
    for box, text in ((ui.consistencyComboBox, "keep"), (ui.deviceComboBox, "cpu"), (ui.modelComboBox, "light")):
        box.setCurrentText(text)
    ui.applyButton.click()
    finish(a_panel)
    import json

    job = json.loads(slicer.util.getNode("Scan z2").GetAttribute("CycleINR.job"))
    asked = {key: job[key] for key in ("z_scale", "thickness_mm", "consistency", "device", "model")}
    assert asked == {"z_scale": 2.5, "thickness_mm": 3.0, "consistency": "keep", "device": "cpu", "model": "light"}


def test_progress_is_shown_and_cancel_leaves_the_scene_as_it_was(a_panel, fake_child, an_app):
    fake_child("slow")
    ui = a_panel.ui
    ui.applyButton.click()
    tick_until(a_panel, lambda: ui.progressBar.value == 25)
    assert ui.messageLabel.text == "Upsampling: 1 of 4, 3 s left"
    pid = a_panel._run._child.pid
    ui.applyButton.click()
    assert ui.applyButton.text == "Cancel" and not ui.applyButton.enabled
    finish(a_panel)
    assert ui.messageLabel.text.startswith("Stopped; the scene is as it was.")
    assert a_panel._panel.state is State.IDLE and ui.applyButton.enabled
    assert volumes() == ["Scan"] and an_app.errors == [] and left_behind(an_app) == []
    assert_gone(pid)


def test_a_failure_is_told_once_with_the_log_and_apply_is_possible_again(a_panel, fake_child, an_app):
    fake_child("failure")
    a_panel.ui.applyButton.click()
    finish(a_panel)
    words = "Out of memory. Found: needs 9 GB. Next: crop the volume."
    assert a_panel.ui.messageLabel.text == words
    assert an_app.errors == [(words, "Traceback: somewhere deep")]
    assert a_panel.ui.applyButton.enabled and volumes() == ["Scan"] and left_behind(an_app) == []
    fake_child("success")
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]


# --- the scene changes meanwhile --------------------------------------------------------------------------------
def test_closing_the_scene_ends_the_job(a_panel, a_scene, fake_child, an_app):
    fake_child("slow")
    a_panel.ui.applyButton.click()
    pid = a_panel._run._child.pid
    a_scene.scene.Clear(False)
    assert_gone(pid)
    finish(a_panel)
    assert volumes() == [] and an_app.errors == [] and left_behind(an_app) == []
    assert not a_panel.ui.applyButton.enabled
    assert "No volume is chosen" in a_panel.ui.messageLabel.text


def test_removing_the_input_ends_the_job_and_removing_another_does_not(a_panel, a_scan, fake_child, an_app):
    fake_child("slow")
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other")
    a_panel.ui.applyButton.click()
    pid = a_panel._run._child.pid
    slicer.mrmlScene.RemoveNode(other)
    assert a_panel._run is not None and not a_panel._run.done
    slicer.mrmlScene.RemoveNode(a_scan)
    assert_gone(pid)
    finish(a_panel)
    assert volumes() == [] and left_behind(an_app) == []


def test_an_output_that_was_removed_meanwhile_becomes_a_new_node(a_panel, fake_child):
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
    a_panel.ui.outputSelector.node = output
    a_panel.ui.applyButton.click()
    slicer.mrmlScene.RemoveNode(output)
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]


def test_closing_the_module_ends_the_job(a_panel, fake_child, an_app):
    fake_child("slow")
    a_panel.ui.applyButton.click()
    pid = a_panel._run._child.pid
    a_panel.cleanup()
    assert_gone(pid)
    assert left_behind(an_app) == [] and not a_panel._timer.active


def test_another_module_may_be_opened_while_the_job_runs(a_panel):
    a_panel.ui.applyButton.click()
    a_panel.exit()
    finish(a_panel)
    assert volumes() == ["Scan", "Scan z2"]
    a_panel.enter()
    assert a_panel.ui.applyButton.enabled
    a_panel.enter()  # Slicer may call it twice
    assert a_panel.ui.readoutLabel.text


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


def test_without_consent_nothing_is_installed_and_nothing_runs(a_panel, without_torch, an_app):
    an_app.agrees = False
    a_panel.ui.applyButton.click()
    assert without_torch == [] and a_panel._run is None
    assert a_panel.ui.applyButton.text == "Apply" and a_panel.ui.applyButton.enabled


def test_without_the_pytorch_extension_the_user_is_told_to_install_it(a_panel, without_torch, an_app, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    a_panel.ui.applyButton.click()
    assert "install it by the Extensions Manager" in a_panel.ui.messageLabel.text
    assert len(an_app.errors) == 1 and an_app.questions == []


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
        pids.extend(run._child.pid for run in logic._runs)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logic.upsample(a_scan, progress=interrupt)
    assert_gone(pids[0])
    assert left_behind(an_app) == [] and logic._runs == {}


def test_a_full_disk_is_told_and_leaves_nothing(the_module, a_scan, an_app, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        the_module.CycleINRLogic().upsample(a_scan)
    assert left_behind(an_app) == []


def assert_gone(pid: int) -> None:
    """The child was ended and collected."""
    end = time.monotonic() + 90
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)
