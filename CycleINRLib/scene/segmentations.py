"""A segmentation that was drawn on a scan, carried to its result (floor 2; slicer and vtk). Main thread only."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util

from ..errors import RequestError
from ..imaging.masks import mask_between
from .volumes import matrix_of, put_beside

LABELS, SURFACE = "Binary labelmap", "Closed surface"  # as vtkSegmentationConverter names the representations
CARRIED_ROLE = "CycleINR.segmentation"  # node reference from a carried segmentation to the one that was drawn
ALIGNED = 1e-3  # voxels; the result's rows and columns are those of the scan to that


def segmentations_of(scene: Any, source_node: Any) -> list[Any]:
    """The segmentations that were drawn on a volume: those whose reference geometry it is."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene)
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    return [node for node in nodes if node.GetNodeReference(role) is source_node]


def carry(scene: Any, segmentation_node: Any, source_node: Any, result_node: Any) -> Any:
    """A segmentation on the voxels of the result; the one that was drawn is not changed.

    Each segment keeps name, color, tags and what was drawn on the acquired slices, pixel for pixel; between them its
    outline is interpolated (`imaging.masks`). Segments that are surfaces stay so. Where the drawn one shows a closed
    surface, the new one does, made of the finer voxels.

    Parameters
    ----------
    segmentation_node : vtkMRMLSegmentationNode
    source_node : the volume that it was drawn on
    result_node : what CycleINR made of that volume, or of a part of it

    Returns
    -------
    vtkMRMLSegmentationNode, new, under the transform and beside the hierarchy item of the drawn one

    Raises
    ------
    RequestError : the result does not lie on the grid of the scan; nothing was made
    """
    steps = _steps(source_node, result_node)
    name = f"{segmentation_node.GetName()} on {result_node.GetName()}"
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    try:
        node.GetSegmentation().DeepCopy(segmentation_node.GetSegmentation())
        node.CreateDefaultDisplayNodes()
        if segmentation_node.GetDisplayNode() is not None:
            node.GetDisplayNode().CopyContent(segmentation_node.GetDisplayNode())
        node.SetAndObserveTransformNodeID(segmentation_node.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(result_node)
        node.SetNodeReferenceID(CARRIED_ROLE, segmentation_node.GetID())
        _carry_segments(node, segmentation_node, source_node, result_node, steps)
        put_beside(scene, node, segmentation_node)
    except Exception:
        scene.RemoveNode(node)
        raise
    return node


def _carry_segments(node: Any, drawn_node: Any, source_node: Any, result_node: Any, steps: Any) -> None:
    segmentation, drawn = node.GetSegmentation(), drawn_node.GetSegmentation()
    had_surface = drawn.ContainsRepresentation(SURFACE)
    if drawn.GetSourceRepresentationName() == SURFACE:  # it has no voxels of its own: only those of the grid are new
        if segmentation.ContainsRepresentation(LABELS):
            segmentation.RemoveRepresentation(LABELS)
            segmentation.CreateRepresentation(LABELS)
        return
    for n in range(drawn.GetNumberOfSegments()):
        segment = drawn.GetNthSegmentID(n)
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(drawn_node, segment, source_node) > 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            _on_result(mask, steps).astype(np.uint8), node, segment, result_node
        )
    if had_surface:
        node.RemoveClosedSurfaceRepresentation()
        node.CreateClosedSurfaceRepresentation()


def _steps(source_node: Any, result_node: Any) -> list[np.ndarray]:
    """For each array axis (k, j, i): the places of the result's voxels in voxels of the source."""
    to_source = np.linalg.inv(matrix_of(source_node.GetIJKToRASMatrix)) @ matrix_of(result_node.GetIJKToRASMatrix)
    shape = slicer.util.arrayFromVolume(result_node).shape
    scale = np.diag(to_source[:3, :3])
    extent = np.abs(to_source[:3, :3] - np.diag(scale)) * np.array(shape[::-1])
    whole = [abs(one - 1) * count < ALIGNED * 10 for one, count in zip(scale, shape[::-1])]
    if extent.max() > ALIGNED * 10 or sum(whole) < 2:
        found = f"{result_node.GetName()} on {source_node.GetName()}"
        raise RequestError("The result does not lie on the grid of the scan", found, "make the result anew")
    return [to_source[axis, 3] + scale[axis] * np.arange(count) for axis, count in zip((2, 1, 0), shape)]


def _on_result(mask: np.ndarray, steps: list[np.ndarray]) -> np.ndarray:
    """(K', J', I') bool on the voxels of the result."""
    for axis, places in enumerate(steps):
        nearest = np.rint(places)
        if np.abs(places - nearest).max() < ALIGNED * 10 and np.array_equal(np.diff(nearest), np.ones(len(places) - 1)):
            mask = np.take(mask, np.clip(nearest, 0, mask.shape[axis] - 1).astype(int), axis)
        else:
            snapped = np.where(np.abs(places - nearest) < ALIGNED, nearest, places)
            mask = mask_between(mask, axis, snapped)
    return mask
