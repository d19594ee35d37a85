"""The slice profile."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.imaging.profile import FWHM_PER_SIGMA, profile_weights, resolve_profile


def test_a_box_of_whole_width_averages_its_slices_alike():
    weights = profile_weights(np.array([5.5]), 4.0, 12, "box")
    np.testing.assert_allclose(weights[0, 4:8], 0.25)
    assert weights.sum() == pytest.approx(1) and np.count_nonzero(weights) == 4


def test_a_box_of_broken_width_counts_overlaps():
    weights = profile_weights(np.array([5.0]), 2.0, 11, "box")
    np.testing.assert_allclose(weights[0, 4:7], [0.25, 0.5, 0.25])


def test_skip_takes_one_slice():
    np.testing.assert_array_equal(profile_weights(np.array([3.0]), 9.0, 8, "skip"), np.eye(8)[3:4])


def test_a_gaussian_has_half_its_height_at_half_its_thickness():
    weights = profile_weights(np.array([50.0]), 20.0, 101, "gaussian")[0]
    assert weights[60] / weights[50] == pytest.approx(0.5, rel=1e-4)
    spread = np.sqrt((weights * (np.arange(101) - 50) ** 2).sum())
    assert spread == pytest.approx(20 / FWHM_PER_SIGMA, rel=1e-3)


def test_a_profile_cut_by_the_end_of_the_grid_still_sums_to_one():
    for profile in ("box", "gaussian"):
        weights = profile_weights(np.array([0.0, 9.0]), 4.0, 10, profile)
        np.testing.assert_allclose(weights.sum(1), 1)


def test_averaging_white_noise_divides_it_by_the_root_of_the_slices():
    noise = np.random.default_rng(0).normal(size=(4000, 8))
    centers = np.arange(1.5, 3990, 4)
    assert (profile_weights(centers, 4.0, 4000, "box") @ noise).std() == pytest.approx(0.5, rel=0.03)


def test_auto_follows_modality_and_thickness():
    assert resolve_profile("auto", "CT", 1.0) == "box"
    assert resolve_profile("auto", "MR", 1.0) == "gaussian"
    assert resolve_profile("auto", "CT", 0.05) == "skip"
    assert resolve_profile("box", "MR", 0.05) == "box"
