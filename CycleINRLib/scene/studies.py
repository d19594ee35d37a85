"""The scans of a patient, a study or a folder of the subject hierarchy (floor 2; slicer and vtk)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk

from ..errors import CycleINRError
from .volumes import PREFIX


def series_below(scene: Any, item: int, check: Callable[[Any], Any]) -> tuple[list[Any], dict[str, str]]:
    """The volumes below an item, at any depth, that can be upsampled.

    Parameters
    ----------
    scene : vtkMRMLScene
    item : of its subject hierarchy: patient, study, folder, or the scene itself
    check : called with each volume node; a CycleINRError is the reason why it is left out

    Returns
    -------
    the nodes in the order of the hierarchy, and {name: reason} of the other volumes; results and previews of CycleINR
    are neither
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    children = vtk.vtkIdList()
    if hierarchy is not None and item:
        hierarchy.GetItemChildren(item, children, True)
    nodes, left = [], {}
    for node in (hierarchy.GetItemDataNode(children.GetId(n)) for n in range(children.GetNumberOfIds())):
        if node is None or not node.IsA("vtkMRMLVolumeNode") or is_made(node) or node.GetHideFromEditors():
            continue
        try:
            check(node)
        except CycleINRError as error:
            left[node.GetName()] = error.what
        else:
            nodes.append(node)
    return nodes, left


def is_made(node: Any) -> bool:
    """Whether CycleINR made the volume: a result or a plane of a preview."""
    return any(key.startswith(PREFIX) for key in node.GetAttributeNames() or ())
