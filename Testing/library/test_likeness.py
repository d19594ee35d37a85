"""SSIM in space and in planes, and the gradient error, against second opinions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from CycleINRLib.imaging import accuracy as likeness
from CycleINRLib.imaging import intensity
from CycleINRLib.imaging.accuracy import Likeness
from CycleINRLib.imaging.volume import Volume


def plain_ssim(output: np.ndarray, truth: np.ndarray, modality: str, peak: float, mask: np.ndarray) -> float:
    """3D, Gaussian 1.5 voxels, 11 taps, K = (0.01, 0.03), population moments, mean over `mask`, as it is written down.

    Source: Wang et al., IEEE TIP 13 (2004), its window in three dimensions.
    """
    output, truth = output.astype(float), truth.astype(float)
    if modality == "CT":
        output, truth = np.clip(output, -1000, 1000), np.clip(truth, -1000, 1000)

    def blurred(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 1.5, truncate=3.5)

    a, b = blurred(output), blurred(truth)
    aa, bb, ab = blurred(output * output) - a * a, blurred(truth * truth) - b * b, blurred(output * truth) - a * b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    similarity = (2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (aa + bb + c2))
    return float(np.mean(similarity[mask]))


@pytest.fixture
def noisy(ct_thin: Volume) -> np.ndarray:
    return ct_thin.values + np.random.default_rng(0).normal(0, 60, ct_thin.values.shape)


def test_ssim_in_space_is_that_of_the_measures(ct_thin: Volume, noisy: np.ndarray):
    seen = Likeness(ct_thin.values, "CT", ct_thin.spacing_mm).figures(noisy)["ssim"]
    body = intensity.body_mask(ct_thin.values, "CT", 2000)
    assert seen == pytest.approx(plain_ssim(noisy, ct_thin.values, "CT", 2000, body), abs=2e-5)


@pytest.mark.parametrize("plane, axis", [("ji", 0), ("ki", 1), ("kj", 2)])
def test_ssim_of_a_plane_looks_at_that_plane_alone(mr_thin: Volume, plane: str, axis: int):
    noisy = mr_thin.values + np.random.default_rng(1).normal(0, 8, mr_thin.values.shape)
    seen = Likeness(mr_thin.values, "MR", mr_thin.spacing_mm).figures(noisy)["ssim_planes"][plane]
    peak = intensity.value_range(mr_thin.values, "MR")
    body = intensity.body_mask(mr_thin.values, "MR", peak)
    total = 0.0
    for n in range(mr_thin.values.shape[axis]):
        part, true, mask = (np.take(values, [n], axis) for values in (noisy, mr_thin.values, body))
        if mask.any():  # one slice: a window in space sees this plane alone
            total += plain_ssim(part, true, "MR", peak, mask) * mask.sum()
    assert seen == pytest.approx(total / body.sum(), abs=2e-5)


def test_long_axes_are_filtered_to_the_same_figures(ct_thin: Volume, noisy: np.ndarray, monkeypatch):
    dense = Likeness(ct_thin.values, "CT", ct_thin.spacing_mm).figures(noisy)
    monkeypatch.setattr(likeness, "DENSE", 0)
    filtered = Likeness(ct_thin.values, "CT", ct_thin.spacing_mm).figures(noisy)
    assert filtered["ssim"] == pytest.approx(dense["ssim"], abs=2e-5)
    assert filtered["ssim_planes"] == pytest.approx(dense["ssim_planes"], abs=2e-5)


def test_the_gradient_error_of_ramps_is_the_difference_of_their_slopes():
    k, j, i = np.meshgrid(*(np.arange(12.0),) * 3, indexing="ij")
    spacing_mm = (2.0, 0.5, 1.0)
    truth = 100 + 3 * 2.0 * k + 4 * 0.5 * j  # 5 HU/mm
    flatter = 100 + 3 * 2.0 * k
    figures = Likeness(truth, "CT", spacing_mm).figures(flatter)
    assert figures["gradient_error"] == pytest.approx(100 * (5 - 3) / 2000, rel=1e-3)


def test_nothing_is_told_where_there_is_no_body():
    air = np.full((4, 8, 8), -1000, np.int16)
    figures = Likeness(air, "CT", (1.0, 1.0, 1.0)).figures(air)
    assert figures == {"ssim": None, "ssim_planes": {"ji": None, "ki": None, "kj": None}, "gradient_error": None}
