"""The noise of each slice as table and plot nodes of the scene (floor 2; slicer and vtk). Main thread only."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util

from ..errors import RequestError
from .volumes import report_of

CHART_ROLE = "CycleINR.noise"  # node reference from a result to its chart
POSITION, NOISE = "Position (mm)", "Noise"
COLORS = {"input": (0.85, 0.37, 0.01), "output": (0.0, 0.45, 0.70)}  # told apart by every kind of color vision
WORDS = {"input": "scan", "output": "result"}


def noise_chart(scene: Any, result_node: Any) -> Any:
    """The chart of a result: noise over position along the slice axis, one curve for the scan and one for the result.

    Parameters
    ----------
    scene : vtkMRMLScene
    result_node : a volume that CycleINR made; its attributes hold the figures, so this works after a reload too

    Returns
    -------
    vtkMRMLPlotChartNode with two vtkMRMLPlotSeriesNode, each of a vtkMRMLTableNode of its own (position in mm from the
    first slice, noise in the unit of the scan; slices that could not be measured are left out). Made once.

    Raises
    ------
    RequestError : the volume has no such figures
    """
    there = result_node.GetNodeReference(CHART_ROLE)
    if there is not None:
        return there
    report = report_of(result_node)
    noise, facts = report.get("noise_per_slice") or {}, report.get("output") or {}
    if not isinstance(noise, dict) or not noise.get("output"):
        raise RequestError("The volume has no noise figures", result_node.GetName(), "choose a result of CycleINR")
    spacing = dict(zip("ijk", facts["spacing_mm"]))[facts["slice_axis"]]
    steps = {"input": spacing * report["z_scale"], "output": spacing}
    chart = scene.AddNewNodeByClass(
        "vtkMRMLPlotChartNode", scene.GenerateUniqueName(f"{result_node.GetName()} noise by slice")
    )
    chart.SetTitle(f"Noise by slice: {result_node.GetName()}")
    chart.SetXAxisTitle(POSITION)
    chart.SetYAxisTitle(NOISE)
    for kind, step in steps.items():
        if noise.get(kind):
            series = _series(scene, f"{result_node.GetName()} noise, {WORDS[kind]}", noise[kind], step)
            series.SetColor(*COLORS[kind])
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
    result_node.SetNodeReferenceID(CHART_ROLE, chart.GetID())
    return chart


def _series(scene: Any, name: str, noise: list[float | None], step_mm: float) -> Any:
    """One curve and its table."""
    known = [(n, sigma) for n, sigma in enumerate(noise) if sigma is not None]
    numbers = np.array([n for n, _ in known], np.int32)
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(name))
    columns = (numbers, numbers * step_mm, np.array([sigma for _, sigma in known], np.float64))
    slicer.util.updateTableFromArray(table, columns, ["Slice", POSITION, NOISE])
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", scene.GenerateUniqueName(name))
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(POSITION)
    series.SetYColumnName(NOISE)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
    return series
