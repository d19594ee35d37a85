"""Smoothing within slices: what it takes away, what it keeps, and that a part of an image is smoothed as the whole."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.upsampling.smoothing import smoothed, widened


def test_the_finest_pattern_vanishes_and_a_ramp_stays():
    rows, columns = np.mgrid[:9, :12]
    pattern = ((-1.0) ** (rows + columns)).astype(np.float32)[None]
    ramp = (3 * rows + 2 * columns).astype(np.float32)[None]
    assert np.abs(smoothed(pattern, 1.0)[:, 1:-1, 1:-1]).max() < 1e-6
    np.testing.assert_allclose(smoothed(pattern, 0.25)[:, 1:-1, 1:-1], 0.75 * pattern[:, 1:-1, 1:-1], atol=1e-6)
    np.testing.assert_allclose(smoothed(ramp, 1.0)[:, 1:-1, 1:-1], ramp[:, 1:-1, 1:-1], rtol=1e-6)


def test_a_pixel_is_spread_by_its_weights_and_slices_do_not_mix():
    pixel = np.zeros((3, 5, 5), np.float32)
    pixel[1, 2, 2] = 16
    found = smoothed(pixel, 1.0)
    np.testing.assert_array_equal(found[1, 1:4, 1:4], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert not found[[0, 2]].any()


def test_nothing_changes_at_amount_0(mr_thin):
    values = mr_thin.values.astype(np.float32)
    np.testing.assert_array_equal(smoothed(values, 0.0), values)


@pytest.mark.parametrize("wanted", [slice(0, 4), slice(3, 8), slice(6, 10)])
def test_a_part_is_smoothed_as_the_whole(wanted, mr_thin):
    values = mr_thin.values[:3, :10].astype(np.float32)
    read, inner = widened(wanted, 10)
    part = smoothed(values[:, read], 0.8)[:, inner]
    np.testing.assert_array_equal(part, smoothed(values, 0.8)[:, wanted])
