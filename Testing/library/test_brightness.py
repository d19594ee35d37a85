"""Slices that are brighter and darker by turns: told from anatomy, and not sharpened to bands."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import CycleINRLib as cycleinr
from CycleINRLib.imaging.brightness import SliceBrightness
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.interpolation import linear_weights, weighted
from CycleINRLib.imaging.lazy import LazySlices
from CycleINRLib.imaging.profile import profile_weights
from CycleINRLib.upsampling.difference import noise_taken
from CycleINRLib.upsampling.plan import plan
from CycleINRLib.upsampling.stored import evened, slices_from_zero

TURNS = np.where(np.arange(18) % 2, 0.97, 1.03).astype(np.float32)
ASKED = {"z_scale": 2.0, "device": "cpu", "precision": "float32", "gain": 1.0}


@pytest.fixture
def brain(mr_thin):
    """Eighteen thick slices of a real brain, as thick as they are apart."""
    weights = profile_weights(np.arange(3, 57, 3), 3, 60, "gaussian")
    values = np.rint(np.tensordot(weights, mr_thin.values, 1)).astype(mr_thin.values.dtype)
    matrix = mr_thin.geometry.ijk_to_ras.copy()
    matrix[:3, 2] *= 3
    return dataclasses.replace(
        mr_thin, values=values, geometry=Geometry(values.shape, matrix), modality="MR", thickness_mm=2.7, slice_axis="k"
    )


@pytest.fixture
def interleaved(brain):
    return brain.with_values(np.rint(brain.values * TURNS[:, None, None]).astype(brain.values.dtype))


def alternation(slices: np.ndarray) -> float:
    """By how much even slices are brighter than their neighbors, in the mean of the body."""
    log = np.log(np.maximum(slices.astype(float), 1))[:, slices.min(0) > 0.1 * slices.max()].mean(1)
    return float(np.mean((log[1:-1] - (log[:-2] + log[2:]) / 2) * np.where(np.arange(1, len(log) - 1) % 2, -0.5, 0.5)))


def test_brightness_that_alternates_is_measured_and_what_does_not_is_let_be(brain, interleaved):
    found = SliceBrightness.of(interleaved.values, "MR")
    np.testing.assert_allclose(found.factors[1:-1], TURNS[1:-1], atol=0.015)
    assert found.difference == pytest.approx(0.06, abs=0.015)
    assert SliceBrightness.of(brain.values, "MR") is None
    assert SliceBrightness.of(interleaved.values, "CT") is None
    rising = brain.values * np.linspace(0.7, 1.4, 18)[:, None, None]
    assert SliceBrightness.of(rising, "MR") is None, "the sensitivity of a coil is no interleaving"
    one = brain.values.astype(float)
    one[9] *= 1.1
    assert SliceBrightness.of(one, "MR") is None, "one bright slice is no interleaving"


def test_the_unit_of_the_values_does_not_matter(interleaved):
    found, again = (SliceBrightness.of(interleaved.values * scale, "MR") for scale in (1.0, 37.5))
    np.testing.assert_allclose(found.factors, again.factors, rtol=1e-5)


def test_few_slices_small_ones_and_those_without_body_are_let_be(interleaved):
    for values in (
        interleaved.values[:9],
        interleaved.values[:, :12],
        np.zeros((18, 64, 64)),
        interleaved.values[:, :3],
    ):
        assert SliceBrightness.of(values, "MR") is None


@pytest.mark.parametrize("noise", ["acquired", "renew"])
def test_what_alternates_is_linear_between_slices_instead_of_sharpened(brain, interleaved, noise, monkeypatch):
    even = cycleinr.upsample(brain, noise=noise, **ASKED)
    result = cycleinr.upsample(interleaved, noise=noise, **ASKED)
    assert even.report["slice_brightness"] is None
    assert result.report["slice_brightness"] == pytest.approx(0.06, abs=0.015)
    assert any("by turns" in message for message in result.report["warnings"])
    assert result.report["consistency"] == "project" and result.report["consistency_error"] <= 0.35
    without = alternation(even.volume.values[::2])
    given_back = alternation(result.volume.values[::2]) - without
    asked = alternation(interleaved.values) - alternation(brain.values)
    assert given_back == pytest.approx(asked, rel=0.1)
    monkeypatch.setattr(SliceBrightness, "of", classmethod(lambda *_: None))
    sharpened = alternation(cycleinr.upsample(interleaved, noise=noise, **ASKED).volume.values[::2]) - without
    assert sharpened > 1.3 * asked, "what the slice profile weakens is sharpened, if it is taken for anatomy"


def test_a_scan_without_it_has_the_same_bytes_as_if_nothing_was_looked_for(brain, monkeypatch):
    found = cycleinr.upsample(brain, noise="acquired", **ASKED).volume.values
    monkeypatch.setattr(SliceBrightness, "of", classmethod(lambda *_: None))
    np.testing.assert_array_equal(cycleinr.upsample(brain, noise="acquired", **ASKED).volume.values, found)


@pytest.mark.parametrize("noise", ["acquired", "renew"])
def test_kept_slices_are_copied_bit_for_bit_at_their_own_brightness(interleaved, noise):
    result = cycleinr.upsample(interleaved, noise=noise, consistency="keep", **ASKED)
    assert result.report["slice_brightness"] and result.report["consistency_error"] == 0
    np.testing.assert_array_equal(result.volume.values[::2], interleaved.values)


@pytest.mark.parametrize("consistency", ["exact", "none"])
def test_where_agreement_is_to_be_exact_or_none_brightness_is_let_be(interleaved, consistency):
    result = cycleinr.upsample(interleaved, noise="acquired", consistency=consistency, **ASKED)
    assert result.report["slice_brightness"] is None


def test_a_preview_and_a_region_have_the_brightness_of_the_whole(interleaved):
    whole = cycleinr.upsample(interleaved, noise="renew", **ASKED).volume.values
    plane = cycleinr.preview(interleaved, "coronal", noise="renew", **ASKED)
    axis = 1 + int(np.argmin(plane.values.shape[1:]))
    assert plane.values.shape[axis] == 1
    row = np.take(whole, [whole.shape[axis] // 2], axis)
    assert np.abs(plane.values.astype(float) - row).max() <= 1
    region = ((3, 16), (8, 56), (8, 64))
    part = cycleinr.upsample(interleaved, noise="acquired", region=region, **ASKED).volume.values
    whole = cycleinr.upsample(interleaved, noise="acquired", **ASKED).volume.values[6:31, 8:56, 8:64]
    inner = slice(6, -6), slice(20, -20), slice(20, -20)  # what lies around a region is not seen in it
    off = part[inner].astype(float) - whole[inner]
    assert np.abs(off.mean((1, 2))).max() < 0.003 * whole[inner].mean()


def test_what_is_taken_as_noise_has_the_brightness_of_its_slice(interleaved):
    job = cycleinr.UpsampleJob(noise="remove", **ASKED)
    taken = noise_taken(interleaved, job).values
    np.testing.assert_array_equal(cycleinr.upsample(interleaved, job).taken.values, taken)
    planned = plan(interleaved, job)
    source, found = evened(slices_from_zero(interleaved, planned)[0], planned)
    even = noise_taken(interleaved.with_values(source.values[:]), job).values
    off = taken - even * found.factors[:, None, None]
    assert np.sqrt(np.mean(off**2)) < 1e-5 * np.sqrt(np.mean(taken**2))
    assert np.sqrt(np.mean((taken - even) ** 2)) > 0.02 * np.sqrt(np.mean(taken**2))


def test_even_slices_are_no_second_scan_in_memory(interleaved):
    asked = cycleinr.UpsampleJob(**ASKED)
    source, found = evened(interleaved, plan(interleaved, asked))
    assert found is not None and isinstance(source.values, LazySlices)
    np.testing.assert_array_equal(source.values[:, 5:9], found.evened(interleaved.values)[:, 5:9])


def test_brightness_given_back_at_the_slices_is_that_of_the_slices(interleaved):
    found = SliceBrightness.of(interleaved.values, "MR")
    again = found.evened(interleaved.values)
    found.give_back(again, np.arange(18))
    np.testing.assert_allclose(again, interleaved.values, rtol=1e-6)
    between = np.ones((35, 1, 1), np.float32)
    found.give_back(between, np.arange(35) / 2)
    np.testing.assert_allclose(between[:, 0, 0], weighted(linear_weights(np.arange(35) / 2, 18), found.factors))
    part = found.part(((4, 9), (0, 5), (0, 5)))
    np.testing.assert_array_equal(part.factors, found.factors[4:9])
