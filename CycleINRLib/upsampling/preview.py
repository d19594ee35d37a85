"""Single planes of the result across its slices, each computed alone: its rows and their halo (floor 3).

`Planes` are those of one scan and job: what is settled for them is settled once, and the codes of the rows around a
plane may be kept, so that a plane that is moved among them costs the decoder alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..imaging.body import Rectangle, body_of
from ..imaging.geometry import AXES
from ..imaging.volume import Volume
from ..jobs import UpsampleJob
from .codes import HeldCodes, bytes_of_codes, codes_for
from .grain import Part, part_of, slices_first_region
from .memory import slab_for_rows
from .plan import plan
from .planes import plane_at, row_of
from .settings import Settled, settle
from .speed import note_speed
from .split import SPLIT_HALO
from .strips import Region

AT_HAND = 32  # rows around a plane whose codes are kept: 22 mm of 0.7 mm pixels
AT_HAND_BYTES = 4e8  # that may be held while they are made


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
    yield from Planes(volume, UpsampleJob(z_scale=z_scale, **fields)).at(planes, cancelled)


@dataclass(eq=False)
class _Band:
    """Rows `first` to before `last` across an in-plane axis, of the region, and all that they depend on.

    begin : of the rows that are read; body : of these, see `imaging.body`
    codes : of the rows, where they are kept
    """

    first: int
    last: int
    begin: int
    part: Part
    body: Rectangle | None
    codes: HeldCodes | None = None


class Planes:
    """Planes of one scan and job, one after another, as `preview` gives them.

    What is settled for the scan, and the rows that were last at hand across each axis, are kept from one to the next.
    """

    def __init__(self, volume: Volume, job: UpsampleJob) -> None:
        self._scan, self._volume, self._job = volume, volume.part(job.region), job
        self._plan = plan(volume, job)
        self._cancelled: Callable[[], bool] | None = None
        self._bands: dict[str, _Band] = {}

    def at(
        self, planes: Mapping[str, float | None], cancelled: Callable[[], bool] | None = None
    ) -> Iterator[tuple[str, Volume]]:
        """The planes by name, each as it is made.

        Parameters
        ----------
        planes : place in mm of each plane, None: the middle
        cancelled : asked between layers; true stops with Cancelled
        """
        rows = self._rows(planes)
        self._cancelled = cancelled
        for plane, (name, row) in rows.items():
            values = self._settled.engine.stored(self._values(name, row))
            yield plane, plane_at(self._volume, self._plan, (name, row), values)

    def make_ready(self, planes: Mapping[str, float | None], cancelled: Callable[[], bool]) -> None:
        """What `at` will need for these planes but the decoder: settings, noise, and codes of their rows.

        Raises
        ------
        Cancelled : where `cancelled` says so; RequestError, ResourceError and more, as `at` would
        """
        rows = self._rows(planes)
        self._cancelled = cancelled
        _ = self._settled
        for name, row in rows.values():
            self._band_at(name, row)

    def look_around(self, cancelled: Callable[[], bool]) -> None:
        """Encodes the rows around the planes that were given last, so that those among them cost the decoder alone.

        Raises
        ------
        Cancelled : where `cancelled` says so; what is at hand stays
        """
        self._cancelled = cancelled
        for name, band in list(self._bands.items()):
            count, rows = self._count(name), self._at_hand(name)
            if band.codes is not None and rows and band.last - band.first < min(rows, count):
                first = max(0, min((band.first + band.last - rows) // 2, count - rows))
                first -= first % 2
                self._bands[name] = self._band(name, first, min(first + rows, count))

    def note_speed(self) -> None:
        """For `speed.known_speed`, where this machine's is not known; a Cancelled where it is to stop."""
        note_speed(self._settled.engine, self._settled.source.values, self._settled.timed)

    # --- what is kept -----------------------------------------------------------------------------------------
    @cached_property
    def _settled(self) -> Settled:
        return settle(self._scan, self._job, self._plan, None, self._stops)

    @cached_property
    def _body(self) -> Rectangle | None:
        return body_of(self._settled.source.values)

    @cached_property
    def _limits(self) -> Region:
        shape = self._settled.source.values.shape
        return slices_first_region(self._job.region, self._plan.axis) or tuple((0, n) for n in shape)

    def _stops(self) -> bool:
        return self._cancelled is not None and self._cancelled()

    def _rows(self, planes: Mapping[str, float | None]) -> dict[str, tuple[str, int]]:
        """In-plane axis and row of each plane."""
        return {plane: row_of(self._volume.geometry, self._plan.axis, plane, mm) for plane, mm in planes.items()}

    def _band_at(self, name: str, row: int) -> _Band:
        """The rows at hand across the in-plane axis `name`, this one among them."""
        band = self._bands.get(name)
        if band is None or not band.first <= row < band.last:
            first = row - row % 2  # two rows are folded to one
            band = self._bands[name] = self._band(name, first, min(first + 2, self._count(name)))
        return band

    def _values(self, name: str, row: int) -> np.ndarray:
        """(M, 1, I) or (M, J, 1) float32: the row across the in-plane axis `name`."""
        band = self._band_at(name, row)
        settled, part, at = self._settled, band.part, row - band.begin
        rows, column = ((at, at + 1), None) if self._is_row(name) else (None, at)
        brightness = settled.engine.brightness and settled.engine.brightness.part(self._limits)
        known = part.renewal, band.body, brightness, band.codes
        return settled.engine.run(part.signal, self._plan.grid, settled.settings, rows, column, *known)[0]

    def _band(self, name: str, first: int, last: int) -> _Band:
        """Rows across the in-plane axis `name`, their signal split from noise, and their codes."""
        settled, limits = self._settled, self._limits
        engine, source, is_row = settled.engine, settled.source, self._is_row(name)
        slab = slab_for_rows(first, last, self._count(name), engine.halo)
        begin, _ = limits[1 if is_row else 2]
        read = begin + slab.read_first, begin + slab.read_last
        near = (limits[0], read, limits[2]) if is_row else (limits[0], limits[1], read)
        fewer = max(SPLIT_HALO // 2, SPLIT_HALO - engine.halo)  # enough: the ends of the network's halo tell on nothing
        halo = (fewer, SPLIT_HALO) if is_row else (SPLIT_HALO, fewer)
        part = part_of(source.values, settled.noise, engine.plan, source.spacing_mm, near, engine.check_cancelled, halo)
        body = self._body and self._body.seen_from(near[1][0], near[2][0])
        made = _Band(first, last, slab.read_first, part, body)
        if settled.settings.gain and self._bytes(name, last - first) <= AT_HAND_BYTES:
            rows, across = slice(first - made.begin, last - made.begin), slice(0, part.signal.shape[2 if is_row else 1])
            wanted = Rectangle(rows, across) if is_row else Rectangle(across, rows)
            made.codes = codes_for(engine, part.signal, wanted, body)
        return made

    def _at_hand(self, name: str) -> int:
        """How many rows may be kept; 0: none."""
        return next((n for n in (AT_HAND, AT_HAND // 2, AT_HAND // 4) if self._bytes(name, n) <= AT_HAND_BYTES), 0)

    def _bytes(self, name: str, rows: int) -> float:
        """What `rows` at hand take."""
        shape = tuple(last - first for first, last in self._limits)
        size = (rows, shape[2]) if self._is_row(name) else (shape[1], rows)
        return bytes_of_codes(self._settled.engine, shape, *size)

    def _is_row(self, name: str) -> bool:
        return name == next(axis for axis in AXES if axis != self._plan.axis)

    def _count(self, name: str) -> int:
        """Rows across the axis that there are."""
        return self._volume.geometry.shape[AXES.index(name)]
