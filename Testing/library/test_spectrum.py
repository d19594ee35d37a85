"""The spectrum along z: detail that is folded is told from a band that ends."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import idct

from CycleINRLib.imaging.spectrum import half_band, probability_of_detail, spectrum_along_z

BODY = np.ones((24, 24), bool)


@pytest.fixture(scope="module")
def fine() -> np.ndarray:
    """(96, 24, 24): random columns whose amplitude falls with frequency, a little steeper than anatomy's does."""
    rng = np.random.default_rng(3)
    amplitude = 1 / (1 + np.arange(96)) ** 1.5
    return idct(rng.standard_normal((96, 24, 24)) * amplitude[:, None, None], axis=0, norm="ortho")


def test_the_spectrum_of_a_cosine_is_one_line():
    wave = np.cos(np.pi / 32 * (np.arange(32) + 0.5) * 12)
    power = spectrum_along_z(np.tile(wave[:, None, None], (1, 24, 24)), BODY)
    assert np.argmax(power) == 12 and power[12] == pytest.approx(16)
    assert np.delete(power, 12).max() < 1e-20


def test_the_power_of_the_spectrum_is_that_of_the_columns(fine):
    power = spectrum_along_z(fine, BODY)
    assert power.sum() == pytest.approx(len(fine) * np.mean(np.var(fine, axis=0)))


def test_slices_that_skip_detail_are_told_from_slices_that_have_it_all(fine):
    """Twice as fine slices without the upper half of their band: every second one holds everything."""
    skipping = probability_of_detail(spectrum_along_z(fine[::2], BODY))
    complete = probability_of_detail(spectrum_along_z(half_band(fine)[::2], BODY))
    assert skipping > 0.99 and complete < 0.05


def test_white_noise_is_no_evidence_against_detail():
    noise = np.random.default_rng(4).standard_normal((40, 24, 24))
    assert probability_of_detail(spectrum_along_z(noise, BODY)) > 0.9


@pytest.mark.parametrize("power", [np.zeros(40), np.ones(5), np.exp(-np.arange(6.0))])
def test_no_signal_and_few_slices_are_no_evidence(power):
    assert probability_of_detail(power) == 1.0


def test_half_a_band_keeps_what_is_slow_and_drops_what_is_fast():
    at = np.pi / 32 * (np.arange(32) + 0.5)
    slow, fast = np.cos(at * 5), np.cos(at * 20)
    kept = half_band(np.tile((slow + fast + 7)[:, None, None], (1, 2, 3)))
    assert kept.dtype == np.float32
    np.testing.assert_allclose(kept, np.tile((slow + 7)[:, None, None], (1, 2, 3)), atol=1e-5)
