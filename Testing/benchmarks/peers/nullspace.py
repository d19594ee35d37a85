"""Mixed splines in null-space form: every acquired slice is met exactly, splines fill in what no slice tells.

    x = P y + (I - P A) S y,   P = A^+ the least-norm answer,   S = sum of w_o S_o

A is the slice profile of the acquired slices over the thin ones, S_o the interpolating B-spline of order o. The form is
that of DP-NSL (arXiv 2606.26716), which learns what goes into the null space and how the orders are mixed; here there
is no network, and the shares w_o (their sum is 1) are those that best predict every second acquired slice of the scan
from the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.interpolate import make_interp_spline

from CycleINRLib.evaluation.case import Case
from CycleINRLib.evaluation.interpolators import Attempt

ORDERS = (1, 3, 5)


def spline_weights(at: np.ndarray, count: int, order: int) -> np.ndarray:
    """(M,) places in slices -> (M, N) weights of the B-spline of `order` through N slices; constant beyond the ends."""
    order = min(order, 2 * ((count - 1) // 2) - 1) if count > 2 else 1  # odd, and no more than the slices allow
    return make_interp_spline(np.arange(count), np.eye(count), k=order)(np.clip(at, 0, count - 1))


def shares(thick: np.ndarray) -> np.ndarray:
    """Of each order, by predicting the odd slices of `thick` (N, pixels) from the even ones."""
    even, odd = thick[::2], thick[1::2]
    odd = odd[: len(even) - 1]
    at = np.arange(len(odd)) + 0.5
    guesses = np.stack([(spline_weights(at, len(even), order) @ even).ravel() for order in ORDERS])
    # the sum is 1: what the first order misses is told by the others' differences to it
    others = guesses[1:] - guesses[0]
    found, *_ = np.linalg.lstsq(others.T, odd.ravel() - guesses[0], rcond=None)
    return np.array([1 - found.sum(), *found])


def mixed_splines(case: Case) -> Iterator[Attempt]:
    """The mixed splines on the target slices of a case, exact on its acquired slices (before rounding)."""
    thick = case.source.values.reshape(case.count, -1).astype(np.float64)
    mixed = np.tensordot(shares(thick), [spline_weights(case.thin_places, case.count, order) for order in ORDERS], 1)
    exact = mixed + np.linalg.pinv(case.weights) @ (np.eye(case.count) - case.weights @ mixed)
    rows = exact[case.first : case.first + len(case.positions)]
    yield Attempt((rows @ thick).reshape(-1, *case.source.values.shape[1:]).astype(np.float32))
