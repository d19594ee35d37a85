"""Products in pieces are the products, and no piece is larger than what one thread makes."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.imaging import pieces
from CycleINRLib.imaging.pieces import LARGEST_PIECE, multiplied, summed


@pytest.mark.parametrize("shape", [(5, 7, 9), (32, 28, 40_000), (9000, 60, 200), (1, 1, 300_000), (3, 0, 4)])
def test_pieces_make_the_whole_product_and_none_is_larger_than_one_thread_makes(shape, monkeypatch):
    m, k, n = shape
    rng = np.random.default_rng(4)
    left, right = rng.integers(-9, 9, (m, k)).astype(np.float32), rng.integers(-9, 9, (k, n)).astype(np.float32)
    whole, sizes, real = left @ right, [], np.matmul

    def seen(a, b, out):
        sizes.append(a.shape[0] * a.shape[1] * b.shape[1])
        return real(a, b, out=out)

    monkeypatch.setattr(pieces.np, "matmul", seen)
    np.testing.assert_array_equal(multiplied(left, right), whole)
    assert max(sizes) <= LARGEST_PIECE


def test_planes_are_summed_by_weights_in_their_own_type():
    planes = np.random.default_rng(5).standard_normal((6, 4, 5))
    weights = np.eye(3, 6) + np.eye(3, 6, 1)
    found = summed(weights, planes)
    np.testing.assert_allclose(found, np.tensordot(weights, planes, 1))
    assert found.dtype == np.float64
