"""Smoothing within slices: what takes the finest detail from a correction (floor 3)."""

from __future__ import annotations

import numpy as np

REACH = 1  # pixels on each side that one smoothed pixel depends on


def smoothed(slices: np.ndarray, amount: float) -> np.ndarray:
    """(1 - amount) * slices + amount * their mean over 3 x 3 pixels with the weights (1, 2, 1) / 4 of each axis.

    Detail at the pixels' Nyquist frequency is taken away in full at `amount` 1, slow changes are kept. The image goes
    on beyond its edge as it ends there.

    Parameters
    ----------
    slices : (M, J, I) float32
    amount : in [0, 1]
    """
    padded = np.pad(slices, ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
    along = 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]
    mean = 0.25 * along[:, :, :-2] + 0.5 * along[:, :, 1:-1] + 0.25 * along[:, :, 2:]
    return slices + np.float32(amount) * (mean - slices)


def widened(wanted: slice, count: int) -> tuple[slice, slice]:
    """The rows (or columns), of `count`, that the smoothed `wanted` ones depend on, and where those lie among them."""
    first, last = max(0, wanted.start - REACH), min(count, wanted.stop + REACH)
    return slice(first, last), slice(wanted.start - first, wanted.stop - first)
