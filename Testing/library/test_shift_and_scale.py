"""A scan that somebody shifted or multiplied gets the same result, shifted or multiplied, or a warning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import CycleINRLib as cycleinr
from CycleINRLib.imaging.intensity import doubtful_values, from_zero, step_of, zero_of


@given(
    values=st.lists(st.integers(0, 1000), min_size=30, max_size=200),
    factor=st.sampled_from([1, 2, 7, 0.5, 0.01, 1e-9, 1e6]),
    shift=st.integers(-10_000, 10_000),
)
@settings(max_examples=60)
def test_zero_follows_the_scan(values, factor, shift):
    scan = np.array(values, np.float64).reshape(1, 1, -1)
    moved = (scan + shift) * factor
    assert zero_of(moved, "MR") == pytest.approx((zero_of(scan, "MR") + shift) * factor, rel=1e-12, abs=1e-12 * factor)
    assert zero_of(moved, "CT") == 0


def test_zero_is_0_where_magnitudes_begin_there_and_passes_over_padding_and_single_voxels():
    noise = np.abs(np.random.default_rng(1).normal(0, 300, (5, 60, 60)))
    noise[0, 0, 0] = 0
    assert zero_of(noise, "MR") == 0
    padded = np.pad(noise, ((0, 0), (10, 10), (10, 10)), constant_values=-32768)
    assert zero_of(padded, "MR") == 0
    noise[1, 1, 1] = -5000
    assert abs(zero_of(noise, "MR")) < 5


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_integers_stay_integers_and_none_wraps_around(kind):
    values = np.array([[[0, 100, 127]]]).astype(kind)
    for zero in (-100.0, 50.0):
        found = from_zero(values, zero)
        assert found.dtype.kind == np.dtype(kind).kind or (found.dtype.kind, np.dtype(kind).kind) == ("i", "u")
        assert np.array_equal(found.astype(float), values.astype(float) - zero)


def test_the_step_of_a_scan_is_multiplied_with_it():
    whole = np.arange(50).reshape(2, 5, 5)
    assert step_of(whole) == 1 and step_of(3 * whole - 7) == 3
    assert step_of((0.37 * whole).astype(np.float32)) == pytest.approx(0.37, rel=1e-4)


@pytest.fixture(scope="module")
def results(thick_mr):
    """scan -> its result at z-scale 2 with everything left to the program, noise included."""
    pytest.importorskip("torch", reason="the network needs torch")

    def of(values: np.ndarray, **fields):
        place = thick_mr.geometry.cropped((0, 8, 8), values.shape)
        scan = dataclasses.replace(thick_mr, values=values, geometry=place, **fields)
        return cycleinr.upsample(scan, z_scale=2, device="cpu", precision="float32")

    return of


@pytest.fixture(scope="module")
def plain(thick_mr, results):
    """Slices of 15 x 48 x 48 float64, and their result."""
    values = thick_mr.values[:, 8:56, 8:56].astype(np.float64)
    return values, results(values)


@pytest.mark.parametrize(
    ("factor", "shift", "kind"),
    [
        (1, -3, "int16"), (1, 50, "uint16"), (100, -7000, "int32"), (0.37, 7.7, "float32"), (1e-9, 0, "float64"),
        (1, 1e7, "float64"),
    ],
)  # fmt: skip
def test_an_mr_that_was_shifted_or_multiplied_gives_the_same_result(plain, results, factor, shift, kind):
    """No shift brings 0 just below the darkest tissue, where it would be a floor that the plain scan has not."""
    values, expected = plain
    moved = results((factor * values + shift).astype(kind))
    found = (moved.volume.values.astype(np.float64) - shift) / factor
    noise = expected.report["noise_per_slice"]["input"]
    level = np.mean([one for one in noise if one])
    rounding = 0.5 / factor if np.dtype(kind).kind in "iu" else 0
    assert np.abs(found - expected.volume.values).max() <= rounding + 0.02 * level
    assert (moved.report["noise"], moved.report["gain"]) == (expected.report["noise"], expected.report["gain"])


@pytest.mark.parametrize("shift", [0, -3, 50])
def test_nothing_falls_below_the_air_of_an_mr(plain, results, shift):
    values = plain[0] - plain[0].min()
    values[:, :12] = np.random.default_rng(1).integers(0, 3, values[:, :12].shape)
    assert results((values + shift).astype(np.int16)).volume.values.min() == shift


def test_kept_slices_of_a_shifted_scan_are_still_copied_bit_for_bit(plain, results):
    values = (plain[0] * 0.37 - 12.3).astype(np.float32)
    kept = results(values, thickness_mm=0.2)
    assert kept.report["consistency"] == "keep"
    assert np.array_equal(kept.volume.values[::2], values)


@pytest.mark.parametrize("shift", [-37, 200])
def test_the_noise_readout_does_not_see_a_shift(thick_mr, shift):
    one = cycleinr.measure(thick_mr)
    other = cycleinr.measure(thick_mr.with_values((thick_mr.values.astype(int) + shift).astype(np.int16)))
    assert other["noise_per_slice"] == one["noise_per_slice"] and any(one["noise_per_slice"])


def test_a_ct_that_is_no_longer_in_hu_is_told(thick_ct):
    scan = thick_ct.values.astype(np.float64)
    assert doubtful_values(scan, "CT") == []
    for factor, shift in [(1, 1024), (10, 0), (1e-3, 0), (1, 200), (1000, 0)]:
        assert len(doubtful_values(factor * scan + shift, "CT")) == 1, (factor, shift)
