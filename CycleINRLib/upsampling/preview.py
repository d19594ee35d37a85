"""Single planes of the result across its slices, each computed alone: its rows and their halo (floor 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import RequestError
from ..imaging.body import body_seen
from ..imaging.geometry import AXES, PLANES, Geometry
from ..imaging.volume import Volume
from ..jobs import UpsampleJob
from .grain import part_of, slices_first_region
from .memory import slab_for_rows
from .plan import plan
from .settings import Settled, settle
from .split import SPLIT_HALO
from .strips import Region


def preview(
    volume: Volume, plane: str, at_mm: float | None = None, z_scale: float | None = None, **fields: Any
) -> Volume:
    """One plane of the result across its slices, alone: a Volume one row (or column) thick.

    Parameters
    ----------
    plane : "coronal", "sagittal" or "axial", meaning the in-plane axis nearest to anterior-posterior, left-right or
        superior-inferior; axial where the slices themselves are coronal or sagittal
    at_mm : RAS coordinate of the plane along that direction, None: the middle
    z_scale : as for `upsample`; further job fields as keywords

    Raises
    ------
    RequestError : the plane is none of the three, lies outside the volume, or is parallel to the slices
    """
    ((_, made),) = previews(volume, {plane: at_mm}, z_scale, **fields)
    return made


def previews(
    volume: Volume,
    planes: Mapping[str, float | None],
    z_scale: float | None = None,
    *,
    cancelled: Callable[[], bool] | None = None,
    **fields: Any,
) -> Iterator[tuple[str, Volume]]:
    """Several planes as `preview` gives them, by name; gain and noise are settled once for all of them.

    Parameters
    ----------
    planes : place in mm of each plane, None: the middle
    cancelled : asked between layers; true stops with Cancelled
    """
    job = UpsampleJob(z_scale=z_scale, **fields)
    planned = plan(volume, job)
    scan, volume = volume, volume.part(job.region)
    rows = {plane: _row_of(volume.geometry, planned.axis, plane, at_mm) for plane, at_mm in planes.items()}
    settled = settle(scan, job, planned, None, cancelled)
    limits = slices_first_region(job.region, planned.axis) or tuple((0, n) for n in settled.source.values.shape)
    for plane, (name, row) in rows.items():
        found = settled.engine.stored(_plane(settled, limits, name, row))
        stored = np.moveaxis(found, 0, AXES.index(planned.axis))
        first = [0, 0, 0]
        first[AXES.index(name)] = row
        geometry = planned.target.cropped((first[0], first[1], first[2]), stored.shape)
        yield plane, dataclasses.replace(volume, values=stored, geometry=geometry, slice_axis=planned.axis)


def _plane(settled: Settled, limits: Region, name: str, row: int) -> np.ndarray:
    """(M, 1, I) or (M, J, 1) float32: the row across the in-plane axis `name` of what lies within `limits` of the scan
    (N, J, I)."""
    engine, source = settled.engine, settled.source
    along_rows = name == _in_plane(engine.plan.axis)[0]
    first, last = limits[1 if along_rows else 2]
    slab = slab_for_rows(row, row + 1, last - first, engine.halo)
    read = first + slab.read_first, first + slab.read_last
    near = (limits[0], read, limits[2]) if along_rows else (limits[0], limits[1], read)
    fewer = max(SPLIT_HALO // 2, SPLIT_HALO - engine.halo)  # enough: the ends of the network's halo tell on nothing
    halo = (fewer, SPLIT_HALO) if along_rows else (SPLIT_HALO, fewer)
    part = part_of(source.values, settled.noise, engine.plan, source.spacing_mm, near, engine.check_cancelled, halo)
    at = row - slab.read_first
    wanted = {"rows": (at, at + 1)} if along_rows else {"column": at}
    body = body_seen(source.values, near)
    brightness = engine.brightness and engine.brightness.part(limits)
    return engine.run(
        part.signal,
        engine.plan.grid,
        settled.settings,
        renewal=part.renewal,
        body=body,
        brightness=brightness,
        **wanted,
    )[0]


def _in_plane(axis: str) -> list[str]:
    return [name for name in AXES if name != axis]


def _row_of(geometry: Geometry, axis: str, plane: str, at_mm: float | None) -> tuple[str, int]:
    """The in-plane axis across a coronal, sagittal or axial plane, and the row there."""
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
