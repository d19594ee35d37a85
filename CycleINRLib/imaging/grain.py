"""Grain: whether the noise of a volume looks alike in every view (floor 1; design section 6).

Measures that look at slices cannot see streaks: noise of an acquired slice that is drawn along the slice axis. Grain is
the noise of second differences across slices over the same within slices, on the places where sigma_k is measured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .robust import median

NORMAL_MAD = 0.6745  # median |x| of standard normal noise
LEAST = 300  # differences along each axis that a grain needs
_SAMPLE = 1_000_000  # differences along each axis that are kept for the median

Picked = Callable[[np.ndarray], np.ndarray]


class GrainSample:
    """Second differences along the three axes, gathered slice by slice; `grain` of what was gathered."""

    def __init__(self, voxels: int) -> None:
        """voxels : of the volume; of large ones every n-th measured place is kept"""
        self.every = max(1, voxels // (4 * _SAMPLE))
        self.found: tuple[list[np.ndarray], ...] = ([], [], [])

    def add(self, mask: np.ndarray, values: np.ndarray, before: Picked | None, after: Picked | None) -> None:
        """One slice (J, I) and its neighbors, None beyond the ends; mask (J, I) bool, its border False.

        before, after : give the values of a neighbor at flat numbers of pixels
        """
        at = np.flatnonzero(mask)[:: self.every]
        width, center = values.shape[1], 2 * values.take(at)
        self.found[1].append(np.abs(values.take(at - width) - center + values.take(at + width)))
        self.found[2].append(np.abs(values.take(at - 1) - center + values.take(at + 1)))
        if before is not None and after is not None:
            self.found[0].append(np.abs(before(at) - center + after(at)))

    def grain(self) -> float | None:
        """Noise across slices / geometric mean of that along rows and columns; None where too little was gathered."""
        along = [np.concatenate(parts) if parts else np.zeros(0) for parts in self.found]
        if min(map(len, along)) < LEAST:
            return None
        across, rows, columns = (float(median(one)) / NORMAL_MAD for one in along)
        within = float(np.sqrt(rows * columns))
        return round(across / within, 6) if within > 0 else None


def grain(values: np.ndarray, mask: np.ndarray) -> float | None:
    """Grain of a volume (M, J, I) over a bool mask of the same shape; 1: alike in every view, 0: streaks.

    None for fewer than 300 places. It depends on spacing and reconstruction, so compare it on one grid and mask only.
    """
    sample = GrainSample(values.size)
    inner = np.zeros(mask.shape[1:], bool)
    inner[1:-1, 1:-1] = True
    for n, one in enumerate(values):
        around = (values[n - 1].take, values[n + 1].take) if 0 < n < len(values) - 1 else (None, None)
        sample.add(mask[n] & inner, one, *around)
    return sample.grain()
