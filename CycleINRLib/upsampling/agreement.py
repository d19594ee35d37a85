"""What the network found, on its base and in agreement with the acquired slices of a slab (floor 3)."""

from __future__ import annotations

import numpy as np

from ..imaging.consistency import Agreement, Grid, Remainder
from ..imaging.interpolation import base_weights, weighted
from ..network.workers import divided
from .memory import rows_at_once
from .plan import Plan

SIDE_BY_SIDE = 2  # threads, each with half of the rows for which copies of all output slices are held
LEAST_ROWS_AGREED = 4  # rows


def places_of(grid: Grid, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted places, each once, of the grid within its acquired slices and of those `wanted` beside; where each is."""
    inside = np.clip(grid.positions, 0, grid.count - 1)
    places, where = np.unique(np.concatenate([inside, wanted]).round(9), return_inverse=True)
    return places, where


def agreed(
    found: np.ndarray, y: np.ndarray, grid: Grid, wanted: np.ndarray, plan: Plan, noise: float | None, errors: Remainder
) -> tuple[np.ndarray, np.ndarray]:
    """(M, rows, columns) float32 on the target part of the grid, and the slices `wanted` beside.

    found : the network's part at `places_of`, in the scan's unit; its memory is used for the result
    y : (N, rows, columns) float32, the acquired slices
    noise : level of the acquired slices, see `Agreement`
    errors : what is left over is added to it
    """
    places, where = places_of(grid, wanted)
    on_grid, beside_it = where[: len(grid.positions)], where[len(grid.positions) :]
    base = base_weights(places, grid.count, plan.ratio, grid.step)
    agreement = Agreement.of(plan.consistency, grid, wanted, plan.ratio, plan.profile, noise)
    targets, rows = grid.crop.stop - grid.crop.start, found.shape[1]
    x = found[:targets] if len(found) >= targets else np.empty((targets, *found.shape[1:]), np.float32)
    beside = np.empty((len(wanted), *found.shape[1:]), np.float32)
    size = max(LEAST_ROWS_AGREED, rows_at_once(found.shape[2], len(on_grid)) // SIDE_BY_SIDE)
    count = -(-rows // size)
    left = [Remainder() for _ in range(count)]

    def bring(parts: slice) -> None:
        for n in range(parts.start, parts.stop):
            some = slice(n * size, (n + 1) * size)
            made = weighted(base, y[:, some])
            made += found[:, some]
            asked = made[on_grid], made[beside_it]
            x[:, some], beside[:, some] = agreement.applied(*asked, y[:, some], left[n])

    divided(bring, count, max(1, count // SIDE_BY_SIDE))
    errors.join(left)
    return x, beside
