"""One click shows what was taken from a scan as noise, beside the scan."""

from __future__ import annotations

import numpy as np
import pytest
from driving import finish, volumes

from CycleINRLib.errors import RequestError

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
vtk = pytest.importorskip("vtk")
pytest.importorskip("slicer.util")


@pytest.fixture
def a_result(a_panel):
    """Of the scan, with new noise."""
    a_panel.ui.applyButton.click()
    finish(a_panel)
    return slicer.util.getNode("Scan z2")


def test_one_click_makes_a_volume_beside_the_scan_and_shows_both(a_panel, a_result, a_scan):
    ui = a_panel.ui
    assert ui.differenceButton.enabled and "noise alone" in ui.differenceButton.toolTip
    ui.differenceButton.click()
    finish(a_panel)
    made = slicer.util.getNode("Scan taken as noise")
    scan = slicer.util.arrayFromVolume(a_scan).astype(float)
    np.testing.assert_allclose(slicer.util.arrayFromVolume(made), scan - scan.mean((1, 2), keepdims=True), atol=1e-3)
    matrices = [slicer.util.arrayFromVTKMatrix(matrix_of(node)) for node in (made, a_scan)]
    np.testing.assert_array_equal(*matrices)
    assert a_panel.controller.results.views.shown and "what was taken from it as noise" in ui.messageLabel.text
    windows = [node.GetDisplayNode().GetWindow() for node in (made, a_scan)]
    assert made.GetDisplayNode().GetLevel() == 0 and windows[0] != windows[1]
    assert a_panel.logic.getParameterNode().resultVolume is a_result


def matrix_of(node):
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def test_a_second_click_shows_the_same_volume_and_one_after_it_was_removed_makes_it_anew(a_panel, a_result):
    for _ in range(2):
        a_panel.ui.differenceButton.click()
        finish(a_panel)
    assert volumes().count("Scan taken as noise") == 1 and len(volumes()) == 3
    slicer.mrmlScene.RemoveNode(slicer.util.getNode("Scan taken as noise"))
    a_panel.ui.differenceButton.click()
    finish(a_panel)
    assert len(volumes()) == 3


def test_where_nothing_was_taken_the_button_says_so(a_panel):
    ui = a_panel.ui
    a_panel.logic.getParameterNode().noise = "as acquired"
    ui.applyButton.click()
    finish(a_panel)
    assert not ui.differenceButton.enabled and "as acquired" in ui.differenceButton.toolTip
    with pytest.raises(RequestError, match="Nothing was taken"):
        a_panel.logic.difference(slicer.util.getNode("Scan z2"))


def test_a_result_filled_anew_forgets_what_was_taken_before(a_panel, a_result):
    a_panel.ui.differenceButton.click()
    finish(a_panel)
    a_panel.logic.getParameterNode().outputVolume = a_result
    a_panel.ui.applyButton.click()
    finish(a_panel)
    assert a_result.GetNodeReference("CycleINR.difference") is None
