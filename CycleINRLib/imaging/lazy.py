"""Slices that are computed where they are read, so that no second scan is held beside the first (floor 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .intensity import from_zero


class LazySlices:
    """(N, J, I) values that follow from a scan's, slice by slice: read as an array is, never written.

    `lazy[k]`, `lazy[:, first:last]`, `lazy[..., ::4]` give arrays; `part` gives another of these.
    """

    ndim = 3

    def __init__(
        self,
        of: Any,
        make: Callable[[np.ndarray, np.ndarray], np.ndarray],
        kind: np.dtype | type,
        numbers: np.ndarray | None = None,
    ) -> None:
        """of : (N, J, I), an array, which may be mapped, or another of these
        make : gives values (n, ...) from those of some slices and the numbers (n,) of these; keeps the shape
        kind : type of what it gives
        numbers : (N,) of the slices in the scan; None: from 0 on
        """
        self._of, self._make, self.dtype, self.shape = of, make, np.dtype(kind), tuple(of.shape)
        self._numbers = np.arange(len(of)) if numbers is None else numbers

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, key: Any) -> np.ndarray:
        first = key[0] if isinstance(key, tuple) else key
        numbers = np.asarray(self._numbers[slice(None) if first is Ellipsis else first])
        part = self._of[key]
        if numbers.ndim:
            return self._make(part, numbers)
        return self._make(part[None], numbers[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def min(self) -> Any:
        return min(one.min() for one in self)

    def part(self, limits: tuple[tuple[int, int], ...]) -> LazySlices:
        """Those within limits of slices, rows and columns."""
        some = tuple(slice(*pair) for pair in limits)
        of = part_of_slices(self._of, limits)
        return LazySlices(of, self._make, self.dtype, self._numbers[some[0]])


def part_of_slices(values: Any, limits: tuple[tuple[int, int], ...]) -> Any:
    """(N, J, I) `values` within limits of slices, rows and columns, without a copy."""
    if isinstance(values, LazySlices):
        return values.part(limits)
    return values[tuple(slice(*pair) for pair in limits)]


def read_from_zero(values: Any, zero: float) -> Any:
    """`from_zero` of (N, J, I) slices, computed where they are read."""
    if zero == 0:
        return values
    ends = np.array([values.min(), values.max()])[:, None, None]
    kind = from_zero(ends, zero).dtype  # one part of the scan may fit into a smaller one
    return LazySlices(values, lambda part, _: from_zero(part, zero).astype(kind, copy=False), kind)
