"""Intensities between the scan's unit and the network's range."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.imaging.intensity import IntensityScale


def test_ct_has_one_fixed_scale(thick_ct):
    assert IntensityScale.of(thick_ct.values, "CT").scale == 1000
    assert IntensityScale.of(thick_ct.values + 200, "CT").scale == 1000


def test_one_metal_voxel_changes_nothing_that_matters(thick_ct):
    values = thick_ct.values.copy()
    before = IntensityScale.of(values, "CT").detail
    values[7, 32, 32] = 32767
    assert IntensityScale.of(values, "CT").detail == pytest.approx(before, rel=0.05)


def test_mr_detail_does_not_depend_on_the_unit(thick_mr):
    one, ten = (IntensityScale.of(thick_mr.values.astype(np.float32) * f, "MR") for f in (1, 10))
    assert ten.scale == pytest.approx(10 * one.scale, rel=1e-5)
    assert (ten.detail, ten.through, ten.within) == pytest.approx((one.detail, one.through, one.within), rel=1e-4)


def test_roughness_tells_a_smooth_scan_from_noise():
    rng = np.random.default_rng(0)
    k, j, i = np.meshgrid(np.arange(40), np.arange(64), np.arange(64), indexing="ij")
    smooth = 500 + 100 * np.sin(k / 6) * np.cos(i / 7)
    noise = 500 + rng.normal(size=smooth.shape) * 50
    assert IntensityScale.of(smooth, "MR").through < IntensityScale.of(noise, "MR").through - 0.5
    assert IntensityScale.of(smooth, "MR").within < IntensityScale.of(noise, "MR").within - 0.5


def test_a_scan_without_change_along_z_has_a_usable_scale():
    scale = IntensityScale.of(np.full((5, 20, 20), 300.0), "MR")
    assert scale.detail > 0 and np.isfinite([scale.scale, scale.detail, scale.through, scale.within]).all()
