"""What the engine asks of slices and of noise, whoever makes them (floor 3)."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..imaging.body import Rectangle
from ..imaging.consistency import Grid
from .plan import Plan


class Rows(Protocol):
    """Slices (N, J, I) of which some rows are read, `rows[:, first:last]`: an array, or see `strips`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[slice, slice], /) -> np.ndarray: ...

    def min(self) -> float: ...


class AddedNoise(Protocol):
    """Noise that is added to the output, see `grain`."""

    def add(
        self, x: np.ndarray, beside: np.ndarray, grid: Grid, wanted: np.ndarray, plan: Plan, rows: slice, columns: slice
    ) -> None: ...


class KnownCodes(Protocol):
    """Codes that were encoded before, see `codes`."""

    def seen_from(self, row: int) -> KnownCodes: ...

    def of(self, part: Rectangle) -> Any: ...
