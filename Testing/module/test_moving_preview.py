"""The preview of the panel: a provisional picture at once, one process for all of a scan's, nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
from driving import assert_gone, finish, left_behind, run_until, volumes

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")


SAGITTAL = [[0, 0, 4.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]  # of slices


@pytest.fixture
def crosshair(a_scene):
    node = a_scene.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    node.SetCrosshairMode(node.ShowBasic)
    return node


def planes() -> dict:
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return {node.GetName(): node for node in nodes if "preview" in node.GetName()}


def child(widget) -> int:
    """The process that stays."""
    return widget.logic._running._resident.child.pid


def preview(widget) -> None:
    widget.ui.previewButton.click()
    finish(widget)
    assert widget.ui.messageLabel.text.startswith("Preview shown"), widget.ui.messageLabel.text


def test_a_provisional_picture_says_so_until_the_same_nodes_hold_the_planes(
    a_panel, a_scan, an_app, fake_child, monkeypatch
):
    fake_child("slow")
    a_panel.ui.previewButton.click()
    early = planes()
    assert set(early) == {"Scan preview coronal (provisional)", "Scan preview sagittal (provisional)"}
    assert a_panel.ui.messageLabel.text.startswith("Provisional picture, interpolated.")
    values = slicer.util.arrayFromVolume(early["Scan preview coronal (provisional)"])
    scan = slicer.util.arrayFromVolume(a_scan)
    off = [np.abs(values[::4, 0].astype(int) - scan[:, row]).mean() for row in range(scan.shape[1])]
    assert np.argmin(off) == 4 and off[4] < 5  # at z-scale 4; slices of 4 mm are averages, which it undoes
    assert a_panel.controller.results.views.shown
    run_until(a_panel, lambda: "Preview: " in a_panel.ui.messageLabel.text)
    assert a_panel.ui.messageLabel.text.startswith("Provisional picture, interpolated. Preview: ")
    a_panel.ui.applyButton.click()
    finish(a_panel)

    (left_behind(an_app)[0] / "part").write_text("success")  # of the process that stayed
    seen, panel = [], a_panel.controller.panel
    real = panel.preview_is_provisional
    monkeypatch.setattr(panel, "preview_is_provisional", lambda: seen.append(planes()) or real())
    preview(a_panel)
    nodes = planes()
    assert set(nodes.values()) == set(seen[0].values()) and all("provisional" in name for name in seen[0])
    assert set(nodes) == {"Scan preview coronal", "Scan preview sagittal"}
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(nodes["Scan preview coronal"]), scan[:, 4:5])


@pytest.mark.parametrize("part", ["slow", "failure"])
def test_a_provisional_picture_does_not_stay_where_there_is_no_other(a_panel, a_scan, an_app, fake_child, part):
    layout = an_app.manager.layoutLogic().GetLayoutNode()
    before = layout.GetViewArrangement()
    fake_child(part)
    a_panel.ui.previewButton.click()
    assert len(planes()) == 2
    if part == "slow":
        a_panel.ui.applyButton.click()
    finish(a_panel)
    assert volumes() == ["Scan"] and layout.GetViewArrangement() == before


def test_moving_the_crosshair_asks_the_same_process_and_fills_the_same_nodes_at_the_same_zoom(
    a_panel, a_scan, an_app, crosshair
):
    crosshair.SetCrosshairRAS(2, 6, 9)
    preview(a_panel)
    run_until(a_panel, lambda: a_panel.controller.results.views.fitted)
    pid, nodes, (folder,) = child(a_panel), set(planes().values()), left_behind(an_app)
    view = an_app.manager.sliceWidget("CycleINRCoronalResult").sliceLogic().GetSliceNode()
    view.SetFieldOfView(11, 12, 1)
    crosshair.SetCrosshairRAS(3, 2, 9)
    preview(a_panel)
    assert child(a_panel) == pid and set(planes().values()) == nodes and left_behind(an_app) == [folder]
    assert view.GetFieldOfView()[:2] == (11, 12) and abs(view.GetSliceOffset()) == pytest.approx(2, abs=0.5)


def test_another_slice_axis_shows_its_own_directions_and_leaves_no_other_plane(a_panel, a_scan):
    preview(a_panel)
    a_scan.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.array(SAGITTAL)))
    preview(a_panel)
    assert set(planes()) == {"Scan preview coronal", "Scan preview axial"}


def test_a_scan_that_was_changed_gets_another_process(a_panel, a_scan):
    preview(a_panel)
    pid = child(a_panel)
    slicer.util.arrayFromVolume(a_scan)[2, 3, 4] += 1
    slicer.util.arrayFromVolumeModified(a_scan)
    preview(a_panel)
    assert child(a_panel) != pid
    assert_gone(pid)


@pytest.mark.parametrize("how", ["apply", "scene", "scan", "panel", "idle"])
def test_the_process_ends_with_another_job_the_scene_the_scan_the_panel_and_when_nobody_asks(
    a_panel, a_scan, a_scene, an_app, fake_child, how
):
    if how == "idle":
        fake_child("idle")
    a_panel.ui.previewButton.click()
    pid = child(a_panel)
    finish(a_panel)
    if how == "apply":
        a_panel.ui.applyButton.click()
        finish(a_panel)
    elif how == "scene":
        a_scene.scene.Clear(0)
    elif how == "scan":
        a_scene.scene.RemoveNode(a_scan)
    elif how == "panel":
        a_panel.cleanup()
    run_until(a_panel, lambda: a_panel.logic._running._resident is None)
    assert_gone(pid)
    assert left_behind(an_app) == []


def test_a_script_gets_its_process_ended_unless_it_asks_for_one_that_stays(the_module, a_scan, fake_child, an_app):
    logic = the_module.CycleINRLogic()
    for node in (made := logic.preview(a_scan)).values():
        if hasattr(node, "GetScene") and node is not a_scan:
            slicer.mrmlScene.RemoveNode(node)
    assert left_behind(an_app) == [] and made["source"] is a_scan
    again = logic.preview(a_scan, stay=True)
    pid = logic._running._resident.child.pid
    filled = logic.preview(a_scan, into=again, stay=True)
    assert filled["Coronal"] is again["Coronal"] and logic._running._resident.child.pid == pid
    logic.stopAll("The script is done")
    assert_gone(pid)
    assert left_behind(an_app) == []
