"""The filters of the split give what scipy's give, and blocks of a slice add up to it again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("torch")

from CycleINRLib.upsampling.blocks import SHIFTS, Blocks, as_image, as_planes  # noqa: E402
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


def test_blocks_of_a_slice_in_parts_add_up_to_it_as_often_as_they_overlap():
    import torch

    image = np.random.default_rng(7).integers(0, 100, (32, 26)).astype(np.float32)
    planes = as_planes(image)
    np.testing.assert_array_equal(as_image(planes), image)
    rows, columns = (n - SHIFTS + 1 for n in planes.shape[2:])
    before = torch.zeros(2, 2, SHIFTS - 1, planes.shape[3]), torch.zeros(SHIFTS - 1, planes.shape[3])
    sums, weights = [], []
    for first, count in ((0, 1), (1, 5), (6, rows - 6)):
        blocks = Blocks(count, columns)
        blocks.take(planes[:, :, first : first + count + SHIFTS - 1])
        made = blocks.add(torch.full((count, columns), 0.5), before)
        some = slice(0, count if first + count < rows else None)
        sums.append(made[0][:, :, some].clone())
        weights.append(made[1][some].clone())
    whole, of_weights = torch.cat(sums, 2), torch.cat(weights)
    np.testing.assert_array_equal(as_image(whole / (2 * of_weights)), image)
    assert of_weights[8, 8] == SHIFTS**2 / 2 and of_weights[0, 0] == 0.5
