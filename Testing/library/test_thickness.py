"""The slice thickness that a scan does not tell, from its spectra."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.imaging.profile import profile_weights
from CycleINRLib.imaging.thickness import RATIOS, estimate_thickness


def thick(thin: np.ndarray, z_scale: int, ratio: float) -> np.ndarray:
    centers = np.arange(z_scale, len(thin) - z_scale, z_scale)
    weights = profile_weights(centers, ratio * z_scale, len(thin), "gaussian" if ratio else "skip")
    return np.tensordot(weights, thin.astype(float), 1)


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """Isotropic structure with the falling spectrum of anatomy."""
    rng = np.random.default_rng(3)
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in (96, 80, 80)), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in frequencies))
    waves = np.fft.fftn(rng.standard_normal(radius.shape)) / (radius + 0.02) ** 1.5
    return 500 + 100 * np.real(np.fft.ifftn(waves)) / np.real(np.fft.ifftn(waves)).std()


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.3])
def test_the_thickness_of_isotropic_structure_is_found(texture, ratio):
    slices = thick(texture, 4, ratio)
    found = estimate_thickness(slices, (4.0, 1.0, 1.0), np.ones(slices.shape, bool), "gaussian")
    assert found is not None and found.thickness_mm == pytest.approx(4 * ratio, abs=0.9)
    assert found.certain > 1.1


def test_slices_that_skip_are_thinner_than_slices_that_average(texture):
    stacks = [thick(texture, 4, ratio) for ratio in (0.0, 1.0)]
    found = [estimate_thickness(one, (4.0, 1.0, 1.0), np.ones(one.shape, bool), "gaussian") for one in stacks]
    assert found[0].thickness_mm < 0.5 * found[1].thickness_mm


def test_a_real_scan_is_told_by_its_own_lines(mr_thin):
    slices = thick(mr_thin.values, 3, 1.0)
    k, j, i = mr_thin.spacing_mm
    body = slices > 0.05 * np.percentile(slices, 99.9)
    found = estimate_thickness(slices, (3 * k, j, i), body, "gaussian")
    assert found is not None and 0.5 <= found.thickness_mm / (3 * k) <= 1.3
    assert set(found.misfit) == set(RATIOS.tolist())


def test_too_few_slices_tell_nothing(texture):
    slices = thick(texture, 4, 1.0)[:7]
    assert estimate_thickness(slices, (4.0, 1.0, 1.0), np.ones(slices.shape, bool), "box") is None
