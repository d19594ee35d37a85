"""Grain tells streaks along the slice axis from noise that is alike in every view."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.imaging.figures import grain
from CycleINRLib.imaging.interpolation import cubic_weights
from CycleINRLib.imaging.noise import noise_readout


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((41, 64, 64)).astype(np.float32)


def test_white_noise_has_grain_one(noise):
    assert grain(noise, np.ones(noise.shape, bool)) == pytest.approx(1, abs=0.03)


def test_noise_drawn_along_the_slice_axis_has_little_grain(noise):
    positions = np.arange(161) / 4
    streaks = np.tensordot(cubic_weights(positions, 41).astype(np.float32), noise, 1)
    assert grain(streaks, np.ones(streaks.shape, bool)) < 0.3


def test_too_few_places_give_no_grain(noise):
    assert grain(noise, np.zeros(noise.shape, bool)) is None


def test_the_readout_measures_grain_on_the_flat_places_of_the_source(noise):
    source = 1000 + 10 * noise[:11]
    output = 1000 + 10 * noise
    found = noise_readout(source, output, 4.0, "MR")["grain"]
    assert found["output"] == pytest.approx(1, abs=0.05)
    assert found["input"] == pytest.approx(1, abs=0.05)
    assert found["linear"] < 0.05  # straight lines between acquired slices have no second difference


def test_the_readout_is_the_same_from_one_and_two_threads(noise):
    source, output = 1000 + 10 * noise[:11], 1000 + 10 * noise
    one, two = (noise_readout(source, output, 4.0, "MR", threads=n)["grain"] for n in (1, 2))
    assert one == two
