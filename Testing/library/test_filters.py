"""The filters of the split give what scipy's give, and blocks of a slice add up to it again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("torch")

from CycleINRLib.upsampling.blocks import AROUND, Blocks, as_image, as_planes, nothing_before  # noqa: E402
from CycleINRLib.upsampling.filters import constant, largest_near, smoothed  # noqa: E402
from CycleINRLib.upsampling.noisemodel import finest  # noqa: E402


@pytest.fixture(params=[(40, 57), (33, 64), (9, 7)])
def one(request) -> np.ndarray:
    return np.random.default_rng(3).normal(50, 20, request.param).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_smoothing_is_that_of_scipy(one, sigma):
    np.testing.assert_allclose(smoothed(one, sigma), ndimage.gaussian_filter(one, sigma), atol=1e-4)


def test_a_difference_of_two_gaussians_is_made_at_once(one):
    wanted = ndimage.gaussian_filter(one, 0.9, truncate=3) - ndimage.gaussian_filter(one, 1.7, truncate=3)
    np.testing.assert_allclose(smoothed(one, 0.9, 1.7, truncate=3), wanted, atol=1e-4)


def test_the_largest_nearby_and_the_finest_detail_are_those_of_scipy(one):
    np.testing.assert_array_equal(largest_near(one), ndimage.maximum_filter(one, 3))
    mixed = ndimage.convolve1d(ndimage.convolve1d(one, [1.0, -2.0, 1.0], axis=0), [1.0, -2.0, 1.0], axis=1)
    np.testing.assert_allclose(finest(one), mixed / 6, atol=1e-4)


def test_constant_are_those_pixels_whose_neighbors_are_all_alike():
    drawn = np.random.default_rng(5).integers(0, 8, (60, 50)) // 7
    found = constant(drawn)
    np.testing.assert_array_equal(found, ndimage.maximum_filter(drawn, 3) == ndimage.minimum_filter(drawn, 3))
    assert found.any() and not found.all()


def test_blocks_of_a_slice_in_parts_average_to_it_wherever_they_reach():
    import torch

    image = np.random.default_rng(7).integers(0, 100, (32, 28)).astype(np.float32)
    planes = as_planes(image)
    rows, columns = 32 // 4 - AROUND, 28 // 4

    def averaged(*parts: tuple[int, int]) -> np.ndarray:
        before, made = nothing_before(columns), []
        for first, count in parts:
            blocks = Blocks(count, columns)
            blocks.take(planes, first)
            blocks.weights.fill_(0.5)
            whole = blocks.add(before)
            made.append(whole[:, :, : count if first + count < rows else None].clone())
        return as_image(torch.cat(made, 2))

    together, in_parts = averaged((0, rows)), averaged((0, 1), (1, 3), (4, rows - 4))
    np.testing.assert_array_equal(in_parts, together)
    np.testing.assert_array_equal(together[:28, :24], image[:28, :24])  # the last blocks end there
