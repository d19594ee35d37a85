"""Overlapping blocks of pixels, taken out of a slice and added up again (floor 3), in memory that is used again.

Blocks of 8 x 8 pixels begin at every second place. A slice is held as planes (2, 2, j, i): the pixels of even and of
odd rows and columns, 2 x 2 of them a cell; then a block is 16 of their shifts, each a copy of whole rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .noisemodel import BLOCK, STRIDE

SHIFTS = BLOCK // STRIDE  # cells of a block, along rows or columns


def as_planes(image: np.ndarray) -> Any:
    """(2 j, 2 i) to (2, 2, j, i)."""
    import torch

    rows, columns = (n // STRIDE for n in image.shape)
    return torch.from_numpy(image.reshape(rows, STRIDE, columns, STRIDE).transpose(1, 3, 0, 2).copy())


def as_image(planes: Any) -> np.ndarray:
    """(2, 2, j, i) to (2 j, 2 i)."""
    return planes.permute(2, 0, 3, 1).flatten(2).flatten(0, 1).numpy()


class Blocks:
    """Blocks (64, j i) that begin in j x i cells of a slice, and their sums over the cells that they reach.

    rows, columns : j, i
    """

    def __init__(self, rows: int, columns: int) -> None:
        import torch

        self.shape = rows, columns
        self.pixels = torch.empty(BLOCK**2, rows * columns)
        self._weights = torch.empty(rows, columns)
        self._sums = torch.empty(STRIDE, STRIDE, rows + SHIFTS - 1, columns + SHIFTS - 1)
        self._all_weights = torch.empty(rows + SHIFTS - 1, columns + SHIFTS - 1)
        parts = self.pixels.view(SHIFTS, STRIDE, SHIFTS, STRIDE, rows, columns)
        steps = [(y, x) for y in reversed(range(SHIFTS)) for x in range(SHIFTS)]  # earlier blocks first
        self._parts = [(parts[y, :, x], y, x) for y, x in steps]

        def near(of: Any) -> list[Any]:
            return [of[..., y : y + rows, x : x + columns] for y, x in steps]

        self._near, self._near_weights = near(self._sums), near(self._all_weights)

    def take(self, planes: Any) -> Any:
        """From (2, 2, j + 3, i + 3) planes."""
        rows, columns = self.shape
        for part, y, x in self._parts:
            part.copy_(planes[:, :, y : y + rows, x : x + columns])
        return self.pixels

    def add(self, weights: Any, before: tuple[Any, Any]) -> tuple[Any, Any]:
        """Sums (2, 2, j + 3, i + 3) of the blocks, and (j + 3, i + 3) of their (j, i) weights.

        before : the same of the first 3 rows, as the blocks before gave them; takes in those of the last ones
        """
        for sums, parts, nears, carried in (
            (self._sums, [part for part, _, _ in self._parts], self._near, before[0]),
            (self._all_weights, [weights] * SHIFTS**2, self._near_weights, before[1]),
        ):
            sums[..., : SHIFTS - 1, :] = carried
            sums[..., SHIFTS - 1 :, :] = 0
            for near, part in zip(nears, parts):
                near += part
            carried.copy_(sums[..., self.shape[0] :, :])
        return self._sums, self._all_weights


class Evidence:
    """What stands out of unit noise, looked at in a row of slices."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """shape : of what is looked at in one slice"""
        import torch

        self._held, self._pairs, self._threes = (torch.empty(3, *shape) for _ in range(3))
        self._most, self._part = (torch.empty(shape) for _ in range(2))

    def sizes(
        self, see: Callable[[int, Any], None], slices: np.ndarray, count: int, around: bool
    ) -> Iterator[tuple[int, Any, Any]]:
        """For each of consecutive `slices` of `count`: its number, what `see` has put there of it, and the largest size
        there of it and of sums with neighbors, two and three slices, as deviations of unit noise. Both may be changed.

        around : of three, all that the slice is one of; else only those in whose middle it is
        """
        import torch

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
                    three = threes[k + 1] = self._threes[new % 3]
                    torch.add(pair, held[new], out=three).abs_().mul_(3**-0.5)
                if new - 1 in held:
                    pairs[new - 1] = torch.add(held[new - 1], held[new], out=self._pairs[new % 3])
            own = threes.get(k)
            if pair is not None:
                pair.abs_().mul_(2**-0.5)
                for three in (own, threes.get(k + 1)) if around else ():
                    if three is not None:
                        torch.maximum(pair, three, out=pair)
            if slices[0] <= k <= slices[-1]:
                torch.abs(held[k], out=self._most)
                for sizes in (before, pair, None if around else own):
                    if sizes is not None:
                        torch.maximum(self._most, sizes, out=self._most)
                yield k, held[k], self._most
            held.pop(k, None)
            threes.pop(k, None)

    def none(self, most: Any, low: float) -> Any:
        """1 where `most` is below `low`, 0 from `low` + 1 on, smooth between; in the memory of `most`."""
        import torch

        torch.sub(torch.tensor(low + 1), most.clamp_(low, low + 1), out=self._part)
        torch.mul(self._part, self._part, out=most)
        return most.mul_(torch.sub(torch.tensor(3.0), self._part, alpha=2, out=self._part))

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
