"""What may be added to the output of the network before it is stored (floor 3)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..imaging.consistency import Grid
from .plan import Plan


class AddedNoise(Protocol):
    """Noise that is added to the output, see `grain`."""

    def add(
        self, x: np.ndarray, beside: np.ndarray, grid: Grid, wanted: np.ndarray, plan: Plan, rows: slice, columns: slice
    ) -> None: ...
