"""The part of a scan inside a region of interest of the scene (floor 2; slicer and vtk). Main thread only."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk

from ..errors import RequestError
from ..imaging.volume import Volume

INSIDE = 1e-6  # voxels; a center this far out still counts as inside


def limits_inside(volume: Volume, volume_node: Any, region_node: Any) -> tuple[tuple[int, int], ...] | None:
    """The voxels of `volume` whose centers lie in the box around a region of interest, as jobs name a region.

    Parameters
    ----------
    volume : what `volume_from_node(volume_node)` gave
    volume_node : vtkMRMLScalarVolumeNode, for its parent transform
    region_node : vtkMRMLMarkupsROINode, any rotation; None: no region

    Returns
    -------
    first and last + 1 along (k, j, i); None without a region

    Raises
    ------
    RequestError : the region has no size yet, or lies outside the volume
    """
    if region_node is None:
        return None
    corners = np.array([to_frame_of(volume_node, corner) for corner in _world_corners(region_node)])
    kji = volume.geometry.kji_of(corners)
    first = np.ceil(np.maximum(kji.min(axis=0), 0) - INSIDE).astype(int)
    last = np.floor(np.minimum(kji.max(axis=0), np.array(volume.geometry.shape) - 1) + INSIDE).astype(int)
    if (last < first).any():
        raise RequestError(
            "The region of interest holds nothing of the scan", region_node.GetName(), "move it, or choose no region"
        )
    return tuple((int(a), int(b) + 1) for a, b in zip(first, last))


def give_size(region_node: Any, volume_node: Any) -> None:
    """Lets a region that has no size yet hold the whole volume, so that there is something to drag."""
    if region_node is None or volume_node is None or volume_node.GetImageData() is None:
        return
    size = [0.0, 0.0, 0.0]
    region_node.GetSizeWorld(size)
    if min(size) > 0:
        return
    bounds = [0.0] * 6
    volume_node.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    region_node.SetCenterWorld(*((low + high) / 2))
    region_node.SetSizeWorld(*(high - low))


def to_frame_of(volume_node: Any, world: Any) -> np.ndarray:
    """(3,) place in mm of the world (RAS) in the volume's own frame, before its parent transform.

    Through non-linear transforms too: the general transform inverts them point by point.
    """
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, volume_node.GetParentTransformNode(), transform)
    return np.array(transform.TransformPoint([float(mm) for mm in world]))


def _world_corners(region: Any) -> np.ndarray:
    """(8, 3) corners of the box in the world."""
    size = [0.0, 0.0, 0.0]
    region.GetSizeWorld(size)
    if min(size) <= 0:
        raise RequestError("The region of interest has no size", region.GetName(), "draw it, or choose no region")
    matrix = slicer.util.arrayFromVTKMatrix(region.GetObjectToWorldMatrix())
    signs = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T
    return (signs * size) @ matrix[:3, :3].T + matrix[:3, 3]
