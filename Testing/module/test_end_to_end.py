"""Node in, child process with the shipped weights, node out: real scans, real scene, nothing played."""

from __future__ import annotations

import os
import sys
import time
import types
import unittest
from pathlib import Path

import numpy as np
import pytest
from driving import cancelled
from standins import MODULE

from CycleINRLib.child import launcher
from CycleINRLib.errors import CycleINRError, ModelError, ResourceError
from CycleINRLib.events import Progress
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.panel.state import State

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")
pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("safetensors", reason="needs safetensors")

from CycleINRLib.scene.volumes import volume_from_node  # noqa: E402

ENDLESS = MODULE.parents[1] / "Testing" / "library" / "endless.py"


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    """Small blocks gain nothing from many threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def add_scan(volume: Volume, name: str, side: int = 40):
    """A node with the central block of a scan."""
    first = (0, *((n - side) // 2 for n in volume.values.shape[1:]))
    block = volume.values[:, first[1] : first[1] + side, first[2] : first[2] + side]
    matrix = volume.geometry.cropped(first, block.shape).ijk_to_ras
    node = slicer.util.addVolumeFromArray(np.ascontiguousarray(block), np.array(matrix), name=name)
    node.CreateDefaultDisplayNodes()
    node.SetAttribute("DICOM.Modality", volume.modality)
    return node


@pytest.fixture
def a_ct(a_scene, thick_ct):
    """15 slices of a head, 2.5 mm apart."""
    return add_scan(thick_ct, "CT")


@pytest.fixture
def an_mr(a_scene, thick_mr):
    """15 oblique sagittal slices of a brain, 3.6 mm apart, under a transform and a study."""
    node = add_scan(thick_mr, "MR")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    matrix = np.eye(4)
    matrix[:3, 3] = [1, 2, 10]
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(a_scene.scene)
    hierarchy.CreateItem(hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study"), node)
    return node


def test_a_ct_node_becomes_an_isotropic_node(the_module, a_ct, an_app):
    heard = []
    node, report = the_module.CycleINRLogic().upsample(a_ct, progress=heard.append)
    source, result = volume_from_node(a_ct), volume_from_node(node)
    assert node.GetName() == "CT z5.12"
    assert np.ptp(result.spacing_mm) < 1e-9 and result.values.dtype == np.int16
    expected = source.geometry.resliced(report["z_scale"])
    assert result.geometry.same_place_as(expected, 1e-6)
    assert report["input"]["modality"] == "CT" and 0 < report["snli"]["output"] < 1
    assert node.GetAttribute("CycleINR.model.sha256") == report["model"]["sha256"]
    assert abs(float(result.values.mean()) - float(source.values.mean())) < 60  # HU, not the network's range
    steps = [event for event in heard if isinstance(event, Progress)]
    assert steps and steps[-1].done == steps[-1].of
    assert list(Path(an_app.temporaryPath).iterdir()) == []


def test_an_oblique_mr_node_under_a_transform_comes_back_from_a_saved_bundle(the_module, an_mr, a_scene, tmp_path):
    node, report = the_module.CycleINRLogic().upsample(an_mr, zScale=3.5, consistency="project")
    values, source = slicer.util.arrayFromVolume(node).copy(), slicer.util.arrayFromVolume(an_mr).copy()
    assert values.shape == (50, 40, 40) and values.dtype == source.dtype
    a_scene.load(a_scene.save(tmp_path / "case.mrb"))
    back, scan = slicer.util.getNode("MR z3.5"), slicer.util.getNode("MR")
    assert np.array_equal(slicer.util.arrayFromVolume(back), values)
    assert np.array_equal(slicer.util.arrayFromVolume(scan), source)
    assert back.GetNodeReference("CycleINR.source") is scan
    assert back.GetParentTransformNode().GetName() == "Registration"
    assert float(back.GetAttribute("CycleINR.z_scale")) == 3.5
    assert back.GetAttribute("CycleINR.consistency") == "project"


def test_a_user_clicks_from_the_scan_to_a_saved_result(the_module, widgets, a_ct, a_scene, an_app, tmp_path):
    """Select, Preview, Apply, Cancel, Apply, save, reload; the voxels are those of the Python call."""
    import CycleINRLib as cycleinr

    widget = the_module.CycleINRWidget(types.SimpleNamespace(isEntered=True))
    widget.setup()
    ui = widget.ui
    before = slicer.util.arrayFromVolume(a_ct).copy()
    assert ui.inputSelector.currentNode() is a_ct
    ui.deviceComboBox.setCurrentText("cpu")
    ui.targetComboBox.setCurrentText("z-scale")
    ui.zScaleSpinBox.value = 2.0

    ui.previewButton.click()
    run(widget, lambda: widget.controller.jobs.run is None)
    assert ui.messageLabel.text.startswith("Preview shown"), ui.messageLabel.text
    plane = slicer.util.getNode("CT preview coronal")
    rows = slicer.util.arrayFromVolume(plane).copy()
    at = volume_from_node(plane).geometry.ras_of(np.zeros(3))
    j = round(volume_from_node(a_ct).geometry.kji_of(at)[1])

    with pytest.MonkeyPatch.context() as patch:  # its end cannot come before the click
        patch.setattr(launcher, "own_command", endless_command)
        ui.applyButton.click()
    run(widget, lambda: not ui.messageLabel.text.startswith(("Starting", "Reading")))
    ui.applyButton.click()
    run(widget, lambda: widget.controller.jobs.run is None)
    assert ui.messageLabel.text == "Stopped; the scene is as it was."
    assert scalar_volumes() == ["CT"]

    ui.applyButton.click()
    run(widget, lambda: widget.controller.jobs.run is None)
    assert widget.controller.panel.state is State.DONE, ui.messageLabel.text
    labels = [row.label for row in widget.controller.panel.view().readout]
    assert {"SNLI", "Noise of the result", "Generated gap", "Self-check", "Computed by"} <= set(labels)
    direct = cycleinr.upsample(volume_from_node(a_ct), z_scale=2.0, device="cpu").volume
    made = slicer.util.arrayFromVolume(slicer.util.getNode("CT z2")).copy()
    assert np.abs(made.astype(int) - direct.values).max() <= 1  # the child may choose another number of threads
    assert np.abs(rows[:, 0].astype(int) - made[:, j]).max() <= 1  # the preview showed what Apply gave
    assert np.array_equal(slicer.util.arrayFromVolume(a_ct), before)

    a_scene.load(a_scene.save(tmp_path / "case.mrb"))
    assert scalar_volumes() == ["CT", "CT z2"] and ui.zScaleSpinBox.value == 2.0
    assert [row.label for row in widget.controller.panel.view().readout] == labels
    assert np.array_equal(slicer.util.arrayFromVolume(slicer.util.getNode("CT z2")), made)
    widget.cleanup()
    assert list(Path(an_app.temporaryPath).iterdir()) == []


def endless_command(folder) -> list[str]:
    """The real child, whose first slab never ends."""
    return [sys.executable, str(ENDLESS), "run", str(folder)]


def run(widget, until, timeout_s: float = 400.0) -> None:
    """Qt's event loop."""
    from PySide6.QtWidgets import QApplication

    end = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < end, widget.ui.messageLabel.text
        QApplication.processEvents()
        time.sleep(0.01)


def scalar_volumes() -> list[str]:
    return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]


def test_a_bad_weight_file_is_told_by_the_real_child(the_module, a_ct, tmp_path, an_app):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ModelError, match="not safetensors"):
        the_module.CycleINRLogic().upsample(a_ct, model=str(bad))
    assert scalar_volumes() == ["CT"] and list(Path(an_app.temporaryPath).iterdir()) == []


NO_MEMORY = f"""
import sys
sys.path.insert(0, {str(MODULE.parents[1])!r})
from CycleINRLib.cli.main import entry
from CycleINRLib.upsampling.engine import Engine
def refuse(*_):
    raise MemoryError("Unable to allocate 9.0 GiB")
Engine._slab = refuse
sys.exit(entry())
"""


def test_memory_that_does_not_suffice_for_the_smallest_slab_is_told(the_module, a_ct, an_app, monkeypatch):
    """The real child, in which every slab asks for more than there is."""
    command = [sys.executable, "-c", NO_MEMORY, "run"]
    monkeypatch.setattr(launcher, "own_command", lambda folder: [*command, str(folder)])
    with pytest.raises(ResourceError, match="not enough memory.*close other programs, or crop the volume"):
        the_module.CycleINRLogic().upsample(a_ct, zScale=2.0)
    assert scalar_volumes() == ["CT"] and list(Path(an_app.temporaryPath).iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="limits of the shell")
def test_a_disk_that_is_full_when_the_child_writes_is_told(the_module, a_ct, an_app, monkeypatch):
    """No file of the child may grow beyond 10 blocks."""
    real = launcher.own_command
    limit = ["bash", "-c", 'ulimit -f 10; exec "$@"', "bash"]
    monkeypatch.setattr(launcher, "own_command", lambda folder: [*limit, *real(folder)])
    with pytest.raises(CycleINRError, match="(?i)too large|space") as caught:
        the_module.CycleINRLogic().upsample(a_ct, zScale=2.0)
    assert "Next:" in str(caught.value)
    assert scalar_volumes() == ["CT"] and list(Path(an_app.temporaryPath).iterdir()) == []


@pytest.mark.parametrize("moment", ["at the start", "while upsampling"])
def test_cancel_ends_the_real_child(the_module, a_ct, an_app, monkeypatch, moment):
    monkeypatch.setattr(launcher, "GRACE_S", 120.0)  # the child must stop by itself, by the file `cancel`
    monkeypatch.setattr(launcher, "own_command", endless_command)
    run = the_module.CycleINRLogic().upsample(a_ct, zScale=8.0, wait=False)
    while moment == "while upsampling" and not any(isinstance(event, Progress) for event in run.poll()):
        assert not run.done
        time.sleep(0.005)
    cancelled(run)
    assert list(Path(an_app.temporaryPath).iterdir()) == []
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")] == ["CT"]
    if os.name == "posix":
        with pytest.raises(ProcessLookupError):
            os.kill(run._child.pid, 0)


def test_a_missing_model_is_told_by_the_real_child(the_module, a_ct):
    with pytest.raises(ModelError, match="no such model"):
        the_module.CycleINRLogic().upsample(a_ct, model="heavy")
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")] == ["CT"]


def test_measure_in_the_real_child_agrees_with_python(the_module, a_ct):
    import CycleINRLib as cycleinr

    report = the_module.CycleINRLogic().measure(a_ct)
    assert report["snli"] == pytest.approx(cycleinr.measure(volume_from_node(a_ct))["snli"], rel=1e-6)


def test_the_tests_inside_slicer_pass(the_module):
    """CycleINRTest as Reload and Test runs it."""
    result = unittest.TestResult()
    the_module.CycleINRTest("runTest").run(result)
    assert result.testsRun == 1 and not result.failures and not result.errors, result.failures + result.errors
