"""The relation kept between output and acquired slices."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.imaging.consistency import GATE, Grid, gate, kept, projection, resolve_consistency
from CycleINRLib.imaging.interpolation import base_weights, cubic_weights, weighted


def _grid(count=10, z_scale=4.0, ratio=1.0, offset=0.0, extend=True):
    slices = int(np.floor((count - 1) * z_scale + 1e-6)) + 1
    return Grid.of(count, z_scale, slices, ratio, offset, extend=extend)


@pytest.mark.parametrize("z_scale", [2.0, 3.5, 4.0])
@pytest.mark.parametrize("profile", ["box", "gaussian"])
def test_exact_projection_leaves_no_remainder(z_scale, profile):
    grid = _grid(z_scale=z_scale)
    A = grid.profile(1.0, profile)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=len(grid.positions)), rng.normal(size=10)
    x = x + projection(A, "exact") @ (y - A @ x)
    np.testing.assert_allclose(A @ x, y, atol=1e-9)


def test_damped_projection_leaves_a_part_of_the_remainder():
    grid = _grid()
    A = grid.profile(1.0, "box")
    y = np.random.default_rng(0).normal(size=10)
    left = y - A @ (projection(A, "project") @ y)
    assert 0 < np.abs(left).max() < 0.35 * np.abs(y).max()


def test_the_grid_reaches_half_a_thickness_beyond_both_ends_and_crops_back():
    grid = _grid(count=6, z_scale=4.0, ratio=1.2)
    assert grid.positions[0] <= -0.6 < grid.positions[0] + grid.step
    assert grid.positions[-1] >= 5.6 > grid.positions[-1] - grid.step
    np.testing.assert_allclose(grid.positions[grid.crop], np.arange(21) / 4)


def test_a_grid_of_a_short_reference_still_covers_the_whole_source():
    grid = Grid.of(8, 2.0, 3, 1.0, offset=3.25, extend=True)
    np.testing.assert_allclose(grid.positions[grid.crop], [3.25, 3.75, 4.25])
    assert grid.positions[0] <= -0.5 and grid.positions[-1] >= 7.5


def test_the_gate_is_closed_at_acquired_slices_and_continuous():
    t = np.linspace(0, 3, 3001)
    g = gate(t)
    assert g[0] == g[1000] == 0 and g.min() >= 0 and g.max() == 1
    assert np.abs(np.diff(g)).max() < 0.02
    assert (g[np.abs(t - np.round(t)) >= GATE] == 1).all()


def test_keep_copies_acquired_slices_bit_for_bit_and_leaves_the_rest_alone():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(5, 3, 4)).astype(np.float32)
    positions = np.arange(17) / 4
    x = rng.normal(size=(17, 3, 4)).astype(np.float32)
    out = kept(x, y, positions)
    np.testing.assert_array_equal(out[::4], y)
    between = np.arange(17) % 4 != 0
    np.testing.assert_allclose(out[between], x[between], atol=1e-6)


def test_keep_passes_through_the_acquired_slice_from_both_sides():
    y = np.random.default_rng(0).normal(size=(5, 1)).astype(np.float32)
    positions = 2 + np.array([-1e-3, 1e-3])
    x = cubic_weights(positions, 5).astype(np.float32) @ y + 100
    assert np.abs(kept(x, y, positions) - y[2]).max() < 0.1


def test_auto_keeps_thin_slices_and_projects_thick_ones():
    assert resolve_consistency("auto", 0.5) == "keep"
    assert resolve_consistency("auto", 0.51) == "project"
    assert resolve_consistency("none", 1.0) == "none"


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0])
def test_a_product_along_z_takes_no_slice_that_does_not_count_and_gives_the_same(ratio):
    """Within what float32 sums differ by in another order, for interpolation, profile and projection."""
    count = 120
    grid = Grid.of(count, 3.0, 3 * count - 2, ratio, extend=True)
    A = grid.profile(ratio, "box")
    inside = np.clip(grid.positions, 0, count - 1)
    slices = np.random.default_rng(0).normal(-300, 500, (count, 2, 3)).astype(np.float32)
    for weights in (base_weights(inside, count, ratio, grid.step), A, projection(A, "project"), np.zeros((2, count))):
        values = slices if weights.shape[1] == count else np.repeat(slices, 4, 0)[: weights.shape[1]]
        whole = np.tensordot(weights, values.astype(np.float64), 1)
        most = np.abs(values).max() * np.abs(weights).sum(1).max()  # that a sum can come to
        assert np.abs(weighted(weights, values) - whole).max() <= 2e-6 * most


def test_slices_far_away_do_not_enter_a_product_along_z():
    count = 200
    slices = np.zeros((count, 4), np.float32)
    slices[150:] = np.inf  # inf * 0 would be no number
    assert np.isfinite(weighted(base_weights(np.arange(60.0), count, 1.0, 0.25), slices)).all()
