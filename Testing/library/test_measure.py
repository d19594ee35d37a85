"""`measure`: the noise of one volume alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import CycleINRLib as cycleinr
from CycleINRLib.errors import RequestError
from CycleINRLib.imaging import noise
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.intensity import from_zero, zero_of
from CycleINRLib.imaging.interpolation import linear_weights
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.upsampling.measure import measure


@pytest.fixture(scope="module")
def noisy_slices() -> Volume:
    """(16, 96, 80) HU, slice k with white noise of 10 + k HU, 5 mm apart."""
    noise = np.random.default_rng(6).standard_normal((16, 96, 80))
    values = np.rint(40 + (10 + np.arange(16))[:, None, None] * noise).astype(np.int16)
    return Volume(values, Geometry.from_spacing(values.shape, (5.0, 0.7, 0.8)), "CT", "HU", 5.0)


def test_the_noise_of_each_slice_is_found(noisy_slices: Volume):
    report = measure(noisy_slices)
    known = 10 + np.arange(16.0)
    assert report["noise_per_slice"] == pytest.approx(known, rel=0.08)
    assert report["sigma_mean"] == pytest.approx(known.mean(), rel=0.03)
    assert report["snli"] == pytest.approx(known.std() / known.mean(), abs=0.02)
    assert report["slices_measured"] == report["slices"] == 16


def test_the_report_says_what_was_measured(noisy_slices: Volume):
    report = measure(noisy_slices)
    assert (report["modality"], report["sigma_unit"], report["slice_axis"]) == ("CT", "HU", "k")
    assert report["dimensions"] == [80, 96, 16]
    assert report["spacing_mm"] == [0.8, 0.7, 5.0]
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("axis", ["i", "j", "k"])
def test_slices_are_found_along_any_axis(noisy_slices: Volume, axis: str):
    turned = noisy_slices.slices_back(axis)
    report = measure(replace(turned, slice_axis=None))
    assert report["slice_axis"] == axis
    assert report["noise_per_slice"] == measure(noisy_slices)["noise_per_slice"]


def test_an_axis_that_is_asked_for_wins(noisy_slices: Volume):
    report = measure(noisy_slices, axis="j")
    assert report["slice_axis"] == "j" and report["slices"] == 96


def test_the_detrended_figure_needs_a_known_thickness(noisy_slices: Volume):
    source = noisy_slices.values.astype(float)
    fine = np.rint(np.tensordot(linear_weights(np.arange(61) / 4, 16), source, 1)).astype(np.int16)
    result = Volume(fine, noisy_slices.geometry.resliced(4), "CT", "HU", thickness_mm=5.0, slice_axis="k")
    report = measure(result)
    assert report["period_slices"] == 4
    assert report["snli_detrended"] == pytest.approx(0.125, abs=0.02)
    assert measure(replace(result, thickness_mm=None))["snli_detrended"] is None
    assert measure(noisy_slices)["snli_detrended"] is None  # thickness = spacing: no slices between


def test_the_figure_of_a_source_is_that_of_its_readout(thick_mr: Volume):
    values = from_zero(thick_mr.values, zero_of(thick_mr.values, "MR"))
    readout = noise.noise_readout(values, np.repeat(values, 2, axis=0), 2, "MR")
    report = cycleinr.measure(thick_mr)
    assert report["snli"] == readout["snli"]["input"]
    assert report["noise_per_slice"] == readout["noise_per_slice"]["input"]


def test_modality_is_guessed_unless_given(noisy_slices: Volume):
    unknown = replace(noisy_slices, modality=None, unit=None)
    assert measure(unknown)["modality"] == "MR"  # no air: nothing says CT
    assert measure(unknown, modality="ct")["noise_per_slice"] == measure(noisy_slices)["noise_per_slice"]


def test_a_volume_of_air_has_no_figures_and_says_why():
    values = np.full((6, 40, 40), -1000, np.int16)
    report = measure(Volume(values, Geometry.from_spacing(values.shape, (5.0, 1.0, 1.0)), "CT", "HU"))
    assert report["snli"] is None and report["sigma_mean"] is None
    assert report["noise_per_slice"] == [None] * 6
    assert "Only 0 of 6 slices" in report["warnings"][-1]
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("asked", [{"axis": "z"}, {"modality": "CT "}])
def test_an_unknown_word_is_refused(noisy_slices: Volume, asked: dict):
    with pytest.raises(RequestError, match="choose one of"):
        measure(noisy_slices, **asked)
