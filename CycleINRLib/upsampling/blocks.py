"""Overlapping blocks of pixels, taken out of a slice and added up again (floor 3), in memory that is used again.

Blocks of 8 x 8 pixels begin at every fourth place, and as many others half-way between them, down and across: a
quincunx, which does half the work of all blocks at every second place, and takes the same. A slice is held as planes
(4, 4, j i): the pixels of every fourth row and column, 4 x 4 of them a cell, row after row. Then a block is 4 or 9 of
their shifts, each a copy of many rows in one; those that would go round at the end of a row get no weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .noisemodel import BLOCK, STRIDE

LATTICES = 2  # of blocks; the second is half a stride further down and across
HALF = STRIDE // LATTICES
AROUND = BLOCK // STRIDE  # cells that blocks reach beyond the one in which they begin


def cells_along(pixels: int) -> int:
    """Of a slice with what its blocks see around it, see `noisemodel.reflected`."""
    return -(-(pixels + BLOCK) // STRIDE) + AROUND


def nothing_before(columns: int) -> tuple[Any, Any]:
    """What `Blocks.add` takes as sums of blocks before the first ones, of so many columns."""
    import torch

    return torch.zeros(STRIDE, STRIDE, AROUND * columns), torch.zeros(LATTICES, LATTICES, AROUND * columns)


def as_planes(image: np.ndarray) -> Any:
    """(4 j, 4 i) to (4, 4, j i + 2), the last two of them 0."""
    import torch

    rows, columns = (n // STRIDE for n in image.shape)
    planes = np.zeros((STRIDE, STRIDE, rows * columns + AROUND), np.float32)
    cells = image.reshape(rows, STRIDE, columns, STRIDE).transpose(1, 3, 0, 2)
    planes[..., : rows * columns].reshape(cells.shape)[:] = cells
    return torch.from_numpy(planes)


def as_image(planes: Any) -> np.ndarray:
    """(4, 4, j, i) to (4 j, 4 i)."""
    return planes.permute(2, 0, 3, 1).flatten(2).flatten(0, 1).numpy()


def _parts(lattice: int) -> list[tuple[slice, slice, int]]:
    """Along rows or columns: the pixels of a block that lie in one cell, where in that cell, how many cells away."""
    ahead = lattice * HALF
    edges = [0, *range(STRIDE - ahead, BLOCK, STRIDE), BLOCK]
    starts = [(a + ahead) % STRIDE for a in edges[:-1]]
    return [
        (slice(a, b), slice(start, start + b - a), (a + ahead) // STRIDE)
        for a, b, start in zip(edges[:-1], edges[1:], starts)
    ]


class Blocks:
    """Blocks (64, 2 j i), of both lattices, that begin in j rows of i cells, and their weighted sums over the cells
    that they reach. Those of the last 2 columns go round.

    rows, columns : j; i, all that the slice has
    """

    def __init__(self, rows: int, columns: int) -> None:
        import torch

        self.shape = rows, columns
        count, reach = rows * columns, (rows + AROUND) * columns + AROUND
        self.pixels = torch.empty(BLOCK**2, LATTICES * count)
        self.weights = torch.empty(LATTICES * count)
        self._round = self.weights.view(-1, columns)[:, columns - AROUND :]
        self._sums = torch.empty(STRIDE, STRIDE, reach)
        self._all_weights = torch.empty(LATTICES, LATTICES, reach)  # alike within the quarters of a cell
        pixels = self.pixels.view(BLOCK, BLOCK, LATTICES, count)
        weights = self.weights.view(LATTICES, count)
        self._steps = []
        for n in range(LATTICES):
            for pixel_rows, cell_rows, y in _parts(n):
                for pixel_columns, cell_columns, x in _parts(n):
                    near = slice(y * columns + x, y * columns + x + count)
                    cell = cell_rows, cell_columns, near
                    quarters = *(slice(of.start // HALF, of.stop // HALF) for of in (cell_rows, cell_columns)), near
                    parts = pixels[pixel_rows, pixel_columns, n], weights[n]
                    self._steps.append((-y, n, *parts, cell, self._sums[cell], self._all_weights[quarters]))
        self._steps.sort(key=lambda step: step[:2])  # earlier blocks first

    def take(self, planes: Any, first: int) -> Any:
        """From (4, 4, ...) planes, from their row `first` on."""
        planes = planes[..., first * self.shape[1] :]
        for _, _, part, _, cell, _, _ in self._steps:
            part.copy_(planes[cell])
        return self.pixels

    def add(self, before: tuple[Any, Any]) -> Any:
        """The mean (4, 4, j + 2, i) of `pixels` by `weights`.

        before : sums of both in the first 2 rows, as the blocks before gave them; takes in those of the last ones
        """
        (rows, columns), carried = self.shape, AROUND * self.shape[1]
        self._round.zero_()
        for sums, held in zip((self._sums, self._all_weights), before):
            sums[..., :carried] = held
            sums[..., carried:] = 0
        for _, _, part, weights, _, near, near_weights in self._steps:
            near.addcmul_(part, weights)
            near_weights += weights
        for sums, held in zip((self._sums, self._all_weights), before):
            held.copy_(sums[..., rows * columns : rows * columns + carried])
        quarters = self._sums.view(LATTICES, HALF, LATTICES, HALF, -1) / self._all_weights[:, None, :, None]
        return quarters.view(STRIDE, STRIDE, -1)[..., :-AROUND].unflatten(-1, (-1, columns))


class Evidence:
    """What stands out of unit noise, looked at in a row of slices."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """shape : of what is looked at in one slice"""
        import torch

        self._held, self._pairs, self._threes = (torch.empty(3, *shape) for _ in range(3))
        self._most, self._part = (torch.empty(shape) for _ in range(2))

    def squares(
        self, see: Callable[[int, Any], None], slices: np.ndarray, count: int, around: bool
    ) -> Iterator[tuple[int, Any, Any]]:
        """For each of consecutive `slices` of `count`: its number, what `see` has put there of it, and the largest
        square there of it and of sums with neighbors, two and three slices, for unit noise. Both may be changed.

        around : of three, all that the slice is one of; else only those in whose middle it is
        """
        import torch

        nothing = torch.tensor(0.0)
        held: dict[int, Any] = {}
        pairs: dict[int, Any] = {}  # by their first slice
        threes: dict[int, Any] = {}  # by their middle one
        first, last = max(0, int(slices[0]) - 2), min(count, int(slices[-1]) + 3)
        for new in range(first, last + 2):
            k = new - 2
            pair, before = pairs.get(k), pairs.pop(k - 1, None)
            if new < last:
                held[new] = self._held[new % 3]
                see(new, held[new])
                if pair is not None:
                    three = threes[k + 1] = torch.add(pair, held[new], out=self._threes[new % 3])
                    torch.addcmul(nothing, three, three, value=1 / 3, out=three)
                if new - 1 in held:
                    pairs[new - 1] = torch.add(held[new - 1], held[new], out=self._pairs[new % 3])
            own = threes.get(k)
            if pair is not None:
                torch.addcmul(nothing, pair, pair, value=1 / 2, out=pair)
                for three in (own, threes.get(k + 1)) if around else ():
                    if three is not None:
                        torch.maximum(pair, three, out=pair)
            if slices[0] <= k <= slices[-1]:
                torch.mul(held[k], held[k], out=self._most)
                for squares in (before, pair, None if around else own):
                    if squares is not None:
                        torch.maximum(self._most, squares, out=self._most)
                yield k, held[k], self._most
            held.pop(k, None)
            threes.pop(k, None)

    def none(self, most: Any, low: float) -> Any:
        """1 where `most` is below the square of `low`, 0 from that of `low` + 1 on, linear between; in its memory."""
        import torch

        slope = 1 / (2 * low + 1)  # (low + 1)^2 - low^2
        return torch.add(torch.tensor((low + 1) ** 2 * slope), most, alpha=-slope, out=most).clamp_(0, 1)

    def total(self, share: Any) -> Any:
        """(c, n) to (n,): the sum over c, in an order that does not hang on n."""
        import torch

        count = len(share)
        while count > 1:
            half = count // 2
            torch.add(share[:half], share[count - half : count], out=self._part[:half])
            if share is not self._part and count % 2:
                self._part[half] = share[half]
            share, count = self._part, count - half
        return share[0]
