"""The noise of each slice as table and plot nodes of a real scene, from what a result keeps of its report."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")

from CycleINRLib.errors import RequestError  # noqa: E402
from CycleINRLib.scene.charts import noise_chart  # noqa: E402
from CycleINRLib.scene.volumes import node_from_result, provenance, report_of, volume_from_node  # noqa: E402

REPORT = {
    "version": "0.1.0",
    "model": {"name": "light", "trained_on": ["a; b: c", "d"]},
    "output": {"dimensions": [5, 6, 5], "spacing_mm": [0.7, 2.0, 0.7], "slice_axis": "j"},
    "z_scale": 2.5,
    "noise_per_slice": {"input": [10.0, None, 12.0], "output": [10.0, 9.0, None, 9.5, 11.0, 12.0]},
    "warnings": ["one"],
    "gain": 0.5,
    "job": {"task": "upsample", "z_scale": 2.5},
}


@pytest.fixture
def a_result(a_scene):
    values = np.random.default_rng(0).normal(40, 20, (5, 6, 5)).astype(np.int16)
    scan = slicer.util.addVolumeFromArray(values, np.diag([0.7, 5.0, 0.7, 1.0]), name="CT")
    return node_from_result(a_scene.scene, volume_from_node(scan), REPORT, scan)


def curve(chart, n: int) -> list[tuple[float, ...]]:
    table = chart.GetNthPlotSeriesNode(n).GetTableNode().GetTable()
    columns = range(table.GetNumberOfColumns())
    return [tuple(table.GetValue(r, c).ToDouble() for c in columns) for r in range(table.GetNumberOfRows())]


def test_a_result_gives_its_report_back(a_result):
    assert report_of(a_result) == REPORT
    assert report_of(a_result.GetNodeReference("CycleINR.source")) == {}


def test_words_that_read_like_figures_are_kept_apart_from_words():
    assert provenance({"device": "cpu", "seconds": 1.5}) == {"device": "cpu", "seconds": "1.5"}


def test_each_curve_has_slice_position_and_noise_and_leaves_out_what_is_unknown(a_scene, a_result):
    chart = noise_chart(a_scene.scene, a_result)
    assert curve(chart, 0) == [(0, 0, 10), (2, 10, 12)]  # the scan: slices 5 mm apart along j
    assert curve(chart, 1) == [(0, 0, 10), (1, 2, 9), (3, 6, 9.5), (4, 8, 11), (5, 10, 12)]
    assert chart.GetTitle() == "Noise by slice: CT z2.5"
    assert chart.GetXAxisTitle() == "Position (mm)"


def test_the_chart_is_made_once_and_comes_back_with_the_scene(a_scene, a_result, tmp_path):
    chart = noise_chart(a_scene.scene, a_result)
    assert noise_chart(a_scene.scene, a_result) is chart
    before = curve(chart, 1)
    a_scene.load(a_scene.save(tmp_path / "case.mrb"))
    back = noise_chart(a_scene.scene, slicer.util.getNode("CT z2.5"))
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")) == 1
    assert curve(back, 1) == before


def test_a_volume_without_figures_is_refused_and_leaves_no_node(a_scene, a_result):
    with pytest.raises(RequestError, match="no noise figures. Found: CT"):
        noise_chart(a_scene.scene, a_result.GetNodeReference("CycleINR.source"))
    assert slicer.util.getNodesByClass("vtkMRMLPlotChartNode") == []
