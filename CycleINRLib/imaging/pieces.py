"""Long thin matrix products, in pieces that one thread makes (floor 1).

A BLAS shares what is larger among all cores and waits for the slowest of them. These products are bound by memory, and
gain nothing by it; where another program holds one of the cores, they took 30 times as long.
"""

from __future__ import annotations

import numpy as np

LARGEST_PIECE = 2**18  # multiply-adds that OpenBLAS leaves to one thread
SHORTEST_PIECE = 16


def multiplied(left: np.ndarray, right: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(m, k) by (k, n): their product (m, n), in `out` where it is given; of the same type."""
    (m, k), n = left.shape, right.shape[1]
    if out is None:
        out = np.empty((m, n), np.result_type(left, right))
    if m <= n:
        size = max(SHORTEST_PIECE, LARGEST_PIECE // max(1, m * k))
        for first in range(0, n, size):
            np.matmul(left, right[:, first : first + size], out=out[:, first : first + size])
    else:
        size = max(SHORTEST_PIECE, LARGEST_PIECE // max(1, k * n))
        for first in range(0, m, size):
            np.matmul(left[first : first + size], right, out=out[first : first + size])
    return out


def summed(weights: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """(M, N) by (N, ...) of the same type: the sums (M, ...) of the planes by these weights."""
    return multiplied(weights, planes.reshape(len(planes), -1)).reshape(len(weights), *planes.shape[1:])
