"""Where a plane across the slices lies, and what it looks like at once, before the network has a part in it (floor 3).

Needs no torch, so that the panel itself can draw the provisional picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from ..errors import RequestError
from ..imaging.geometry import AXES, PLANES, Geometry
from ..imaging.interpolation import base_weights, weighted
from ..imaging.volume import Volume
from .plan import Plan
from .stored import as_stored


def row_of(geometry: Geometry, axis: str, plane: str, at_mm: float | None) -> tuple[str, int]:
    """The in-plane axis across a coronal, sagittal or axial plane, and the row there; None: the middle.

    Raises
    ------
    RequestError : the plane is none of the three, lies outside the volume, or is parallel to the slices
    """
    if plane not in PLANES:
        raise RequestError("There is no such plane", plane, f"choose one of {', '.join(PLANES)}")
    name = geometry.axis_across(plane)
    if name == axis:
        raise RequestError(f"The slices themselves are {plane}", f"slice axis {axis}", "choose another plane")
    rows = geometry.shape[AXES.index(name)]
    if at_mm is None:
        return name, rows // 2
    row = np.rint(geometry.kji_of(geometry.on_center_line(plane, at_mm))[AXES.index(name)])
    if not 0 <= row < rows:
        raise RequestError("The plane lies outside the volume", f"{at_mm:g} mm", "choose a place inside")
    return name, int(row)


def plane_at(volume: Volume, planned: Plan, at: tuple[str, int], values: np.ndarray) -> Volume:
    """The plane of the result at an in-plane axis and row, from its values (M, 1, I) or (M, J, 1)."""
    name, row = at
    placed = np.moveaxis(values, 0, AXES.index(planned.axis))
    first = [0, 0, 0]
    first[AXES.index(name)] = row
    geometry = planned.target.cropped((first[0], first[1], first[2]), placed.shape)
    return dataclasses.replace(volume, values=placed, geometry=geometry, slice_axis=planned.axis)


def provisional_planes(
    volume: Volume, planned: Plan, planes: Mapping[str, float | None]
) -> Iterator[tuple[str, Volume]]:
    """The planes of a preview as they are before the network corrects them: interpolated between the slices.

    Parameters
    ----------
    volume : the scan, or the region of it that is asked for
    planes : place in mm of each plane, None: the middle
    """
    slices, grid = volume.slices_first(planned.axis).values, planned.grid
    places = np.clip(grid.positions[grid.crop], 0, grid.count - 1)
    weights = base_weights(places, grid.count, planned.ratio, grid.step)
    for plane, at_mm in planes.items():
        name, row = row_of(volume.geometry, planned.axis, plane, at_mm)
        is_row = name == next(axis for axis in AXES if axis != planned.axis)
        seen = slices[:, row : row + 1] if is_row else slices[:, :, row : row + 1]
        made, _ = as_stored(weighted(weights, seen), volume.values.dtype, 0.0, float(seen.min()), np.inf)
        yield plane, plane_at(volume, planned, (name, row), made)
