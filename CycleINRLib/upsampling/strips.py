"""The signal of acquired slices, split from their noise a strip of rows at a time (floor 3).

A slab needs the signal of its rows alone. Small scans are one strip; of large ones no more is held than a strip or two,
so that memory does not grow with the rows. What lies around a strip is split with it, so strips are not to be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..imaging.lazy import part_of_slices
from ..imaging.pieces import multiplied
from .noisemodel import NoiseModel, weights_at
from .split import SHARE_CELL, SLICES_AROUND, SPLIT_HALO, take

Region = tuple[tuple[int, int], ...]  # first and last + 1 along each of three axes

STRIP_BYTES = 3e8  # that a strip may hold
LEAST_STRIP = 64  # rows, beside twice `SPLIT_HALO` that are split with them
LONG_STRIP = 128  # slices that are split at once


@dataclass(frozen=True, eq=False)
class Strip:
    """What was taken from some rows of all slices.

    first, last : the rows, last one exclusive; noise (N, rows, I) float32 and rest (N, rows, I) as in `Taken`
    share : as in `Taken`, of these rows and of those around, from row and column `origin` of the whole scan on
    corner : first row and column of the strip in the whole scan
    """

    first: int
    last: int
    noise: np.ndarray
    rest: np.ndarray
    share: np.ndarray
    origin: tuple[int, int]
    corner: tuple[int, int]

    def kept(self, rows: slice, columns: slice) -> np.ndarray:
        """(N, rows, columns) float32 part of the noise's variance that the signal of each slice holds.

        Rows and columns are counted from the corner of the strip.
        """
        down, across = (
            weights_at(count, (np.arange(some.start, some.stop) + corner - origin + 0.5) / SHARE_CELL - 0.5)
            for count, some, corner, origin in zip(self.share.shape[1:], (rows, columns), self.corner, self.origin)
        )
        counting = np.flatnonzero(down.any(0))  # rows of cells
        near = slice(counting[0], counting[-1] + 1)
        down, across = np.ascontiguousarray(down[:, near], np.float32), across.T.astype(np.float32)
        slices, _, cells = self.share.shape
        wide = multiplied(self.share[:, near].reshape(-1, cells), across).reshape(slices, -1, across.shape[1])
        kept = np.empty((slices, len(down), across.shape[1]), np.float32)
        for one, of, rest in zip(kept, wide, self.rest[:, rows, columns]):  # one at a time: within the cache
            multiplied(down, of, one)
            left = rest * np.float32(1 / 255)
            one *= left
            one *= np.subtract(2, left, out=left)  # the amplitude that stays is 1 - rest
            np.subtract(1, one, out=one)
        return kept


class Signal:
    """Slices without their noise, as an array of which some rows are read: `signal[:, first:last]`.

    shape : (N, J, I) of the part of the scan that it is
    """

    def __init__(
        self,
        values: np.ndarray,
        model: NoiseModel,
        limits: Region,
        halo: tuple[int, int] = (SPLIT_HALO, SPLIT_HALO),
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """values : (N, J, I), the whole scan; limits : the part of it
        halo : rows and columns around the part that are split with it; fewer than `SPLIT_HALO` where the outer ones of
            the part need not be those of the whole
        tick : called while noise is split; may raise
        """
        self._values, self._model, self._limits, self._halo, self._tick = values, model, limits, halo, tick
        self.acquired = part_of_slices(values, limits)
        self.shape = self.acquired.shape
        self._edges = _edges(self.shape, limits[1][0])
        self._held: dict[int, Strip] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        """(N, rows, I) float32."""
        _, rows = key
        first, last, _ = rows.indices(self.shape[1])
        signal = self.acquired[:, first:last].astype(np.float32)
        for strip, some in self.strips(first, last):
            signal[:, strip.first + some.start - first : strip.first + some.stop - first] -= strip.noise[:, some]
        return signal

    def min(self) -> float:
        """A value that is as low as the lowest of the scan."""
        return float(self.acquired.min())

    def strips(self, first: int, last: int) -> Iterator[tuple[Strip, slice]]:
        """The strips of these rows, from above; and where in each the rows lie. Those above are held no longer."""
        for n, (begin, end) in enumerate(zip(self._edges[:-1], self._edges[1:])):
            if end <= first:
                self._held.pop(n, None)
            elif begin < last:
                if n not in self._held:
                    self._held[n] = self._split(begin, end)
                yield self._held[n], slice(max(begin, first) - begin, min(end, last) - begin)

    def noise(self) -> np.ndarray:
        """(N, J, I) float32, all that is taken."""
        output = np.empty(self.shape, np.float32)
        for strip, some in self.strips(0, self.shape[1]):
            output[:, strip.first : strip.last] = strip.noise[:, some]
        return output

    def forget(self) -> None:
        """Holds nothing; what is asked for again is split again."""
        self._held.clear()

    def _split(self, first: int, last: int) -> Strip:
        slices, (row, _), columns = self._limits
        limits = (row + first, row + last), columns
        wide = [
            (max(0, a - halo) // SHARE_CELL * SHARE_CELL, min(n, b + halo))
            for (a, b), n, halo in zip(limits, self._values.shape[1:], self._halo)
        ]
        (top, _), (left, _) = wide
        around = tuple(slice(*pair) for pair in wide)
        inside = tuple(slice(a - w, b - w) for (a, b), (w, _) in zip(limits, wide))
        noise, rest = (np.empty((len(self), *(b - a for a, b in limits)), kind) for kind in (np.float32, np.uint8))
        shares = []
        for front in range(*slices, LONG_STRIP):
            back = min(front + LONG_STRIP, slices[1])
            before, after = max(0, front - SLICES_AROUND), min(len(self._values), back + SLICES_AROUND)
            taken = take(self._values[before:after, around[0], around[1]], self._model, (before, top, left), self._tick)
            own = slice(front - before, back - before)
            at = slice(front - slices[0], back - slices[0])
            noise[at], rest[at] = (of[own, inside[0], inside[1]] for of in (taken.noise, taken.rest))
            shares.append(taken.share[own])
        return Strip(first, last, noise, rest, np.concatenate(shares), (top, left), (limits[0][0], columns[0]))


def _edges(shape: tuple[int, ...], row: int) -> list[int]:
    """First rows of the strips of (N, J, I), and J: they begin at cells of the whole scan, whose row the first one is.

    From the scan alone, not from what is free.
    """
    held = np.dtype(np.float32).itemsize + 1  # bytes
    most = max(LEAST_STRIP, int(STRIP_BYTES / (held * shape[0] * shape[2])))
    count = -(-shape[1] // most)
    size = -(-shape[1] // count)
    starts = [(row + n * size) // SHARE_CELL * SHARE_CELL - row for n in range(1, count)]
    return [0, *(start for start in starts if start > 0), shape[1]]
