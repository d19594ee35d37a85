"""Closed-form interpolation along z."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import make_interp_spline

from CycleINRLib.imaging.interpolation import base_weights, cubic_weights, histospline_weights, linear_weights


@pytest.mark.parametrize("count", [3, 4, 5, 9, 40])
def test_cubic_is_scipys_not_a_knot_spline(count):
    y = np.random.default_rng(count).normal(size=count)
    positions = np.linspace(0, count - 1, 53)
    expected = make_interp_spline(np.arange(count), y, k=min(3, count - 1))(positions)
    np.testing.assert_allclose(cubic_weights(positions, count) @ y, expected, atol=1e-12)


@pytest.mark.parametrize("weights", [linear_weights, cubic_weights])
def test_interpolation_passes_through_the_acquired_slices(weights):
    np.testing.assert_allclose(weights(np.arange(7.0), 7), np.eye(7), atol=1e-12)


@pytest.mark.parametrize("z_scale", [2, 3, 4, 5])
def test_histospline_keeps_the_mean_of_every_inner_slice(z_scale):
    count = 9
    y = np.random.default_rng(1).normal(size=count)
    cells = (np.arange(z_scale) + 0.5) / z_scale - 0.5
    for k in range(1, count - 1):
        weights = histospline_weights(k + cells, count, 1 / z_scale)
        assert (weights @ y).mean() == pytest.approx(y[k], abs=1e-12)


@pytest.mark.parametrize("ratio", [0.0, 0.4, 0.6, 1.2])
def test_a_ramp_along_z_stays_the_same_ramp(ratio):
    positions = np.linspace(0, 11, 45)
    np.testing.assert_allclose(base_weights(positions, 12, ratio, 0.25) @ np.arange(12.0), positions, atol=1e-9)


def test_places_beyond_the_ends_take_the_value_of_the_end():
    for ratio in (0.0, 1.0):
        weights = base_weights(np.array([-0.4, 0.0, 5.0, 5.3]), 6, ratio, 0.25)
        np.testing.assert_array_equal(weights[0], weights[1])
        np.testing.assert_array_equal(weights[3], weights[2])
