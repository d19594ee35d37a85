"""Closed-form interpolation along z, each as a small matrix: output = weights @ source (floor 1).

Positions are in source slice units: slice k sits at z = k. Positions outside [0, N - 1] take the end's value.
Only numpy: the trainer runs where scipy is not installed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .pieces import multiplied

HISTOSPLINE_RATIO = 0.5  # thickness / spacing above which slices are treated as averages
SLICES_AT_ONCE = 32  # slices that one product makes
COUNTING_WEIGHT = 1e-9  # of the largest one: what less adds is lost in float32


def weighted(weights: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """(M, ...) float32: the sums of `slices` (N, ...) by `weights` (M, N).

    Weights of interpolation and of slice profiles fall to nothing within some slices. Each product takes those alone
    that count, so that the cost of a long scan grows with its length, not with the square of it.
    """
    weights = np.asarray(weights, np.float32)
    counts = np.abs(weights) > COUNTING_WEIGHT * np.abs(weights).max(initial=0)
    flat = np.asarray(slices, np.float32).reshape(len(slices), -1)
    out = np.zeros((len(weights), flat.shape[1]), np.float32)
    for first in range(0, len(weights), SLICES_AT_ONCE):
        some = slice(first, first + SLICES_AT_ONCE)
        taken = np.flatnonzero(counts[some].any(0))
        if taken.size:
            near = slice(taken[0], taken[-1] + 1)
            multiplied(np.ascontiguousarray(weights[some, near]), flat[near], out[some])
    return out.reshape(len(weights), *slices.shape[1:])


def linear_weights(positions: np.ndarray, count: int) -> np.ndarray:
    """(M, count) weights of linear interpolation between the bracketing slices."""
    at = np.clip(np.asarray(positions, float), 0, count - 1)
    below = np.minimum(at.astype(int), max(count - 2, 0))
    weights = np.zeros((len(at), count))
    rows = np.arange(len(at))
    weights[rows, below] = 1 - (at - below)
    weights[rows, np.minimum(below + 1, count - 1)] += at - below
    return weights


def cubic_weights(positions: np.ndarray, count: int) -> np.ndarray:
    """(M, count) weights of cubic B-spline interpolation with not-a-knot ends.

    The same function as `scipy.interpolate.make_interp_spline(k=3)`; fewer than four slices: quadratic or linear.
    """
    at = np.clip(np.asarray(positions, float), 0, count - 1)
    if count < 4:
        powers = np.arange(count)
        inverse = np.linalg.inv(np.arange(count, dtype=float)[:, None] ** powers)
        return (at[:, None] ** powers) @ inverse
    curvature = _second_derivatives(count)
    below = np.minimum(at.astype(int), count - 2)
    t = (at - below)[:, None]
    rows = np.eye(count)
    return (
        (1 - t) * rows[below]
        + t * rows[below + 1]
        + ((1 - t) ** 3 - (1 - t)) / 6 * curvature[below]
        + (t**3 - t) / 6 * curvature[below + 1]
    )


@lru_cache(maxsize=64)
def _second_derivatives(count: int) -> np.ndarray:
    """(count, count): second derivatives of the not-a-knot spline at the knots, as weights of the values."""
    inner = np.arange(1, count - 1)
    left, right = np.zeros((count, count)), np.zeros((count, count))
    left[inner, inner - 1], left[inner, inner], left[inner, inner + 1] = 1 / 6, 4 / 6, 1 / 6
    right[inner, inner - 1], right[inner, inner], right[inner, inner + 1] = 1, -2, 1
    left[0, :3] = 1, -2, 1  # the third derivative is continuous at the second and last but one knot
    left[-1, -3:] = 1, -2, 1
    return np.linalg.solve(left, right)


def histospline_weights(positions: np.ndarray, count: int, cell: float) -> np.ndarray:
    """(M, count) weights of the histospline: means over cells of the function whose slice means are exact.

    Cubic spline through the cumulative sum over slices of width 1, then differenced over the cell around each position
    (methods 4.2). `cell` is the target spacing / source spacing.
    """
    at = np.clip(np.asarray(positions, float), 0, count - 1)
    cumulative = np.tril(np.ones((count + 1, count)), -1)  # sum of the slices below each of the count + 1 edges
    half = cell / 2
    upper, lower = at + 0.5 + half, at + 0.5 - half  # in edge units: edge 0 is half a slice below slice 0
    spline = cubic_weights(upper, count + 1) - cubic_weights(lower, count + 1)
    return spline @ cumulative / cell


def base_weights(positions: np.ndarray, count: int, ratio: float, cell: float) -> np.ndarray:
    """The base that the network corrects: histospline where thickness / spacing > 0.5, else cubic B-spline."""
    if ratio > HISTOSPLINE_RATIO:
        return histospline_weights(positions, count, cell)
    return cubic_weights(positions, count)


def sinc_weights(positions: np.ndarray, count: int, lobes: int = 3) -> np.ndarray:
    """(M, count) weights of the Lanczos-windowed sinc of `lobes` lobes; the end slices are repeated beyond both ends.

    It takes slices for samples: where they average over their thickness, what the average lost is not brought back.
    Weights are normalized to sum to one, without which a constant would ripple.

    Source: Duchon, J. Appl. Meteor. 18 (1979)
    """
    at = np.clip(np.asarray(positions, float), 0, count - 1)
    taps = np.floor(at).astype(int)[:, None] + np.arange(1 - lobes, lobes + 1)
    distance = at[:, None] - taps
    kernel = np.where(np.abs(distance) < lobes, np.sinc(distance) * np.sinc(distance / lobes), 0.0)
    weights = np.zeros((len(at), count))
    np.add.at(weights, (np.arange(len(at))[:, None], np.clip(taps, 0, count - 1)), kernel)
    return weights / weights.sum(1, keepdims=True)
