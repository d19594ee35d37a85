"""Slices that are thicker than they are apart: interpolated by the scanner, or overlapping."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, ndimage

torch = pytest.importorskip("torch", reason="the network needs torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.profile import believed_ratio, profile_weights  # noqa: E402

THICK = 4  # fine slices


def at(values: np.ndarray, positions: np.ndarray, order: int) -> np.ndarray:
    """(N, J, I) at positions along the slices, linear (1) or cubic (3)."""
    grid = np.meshgrid(positions, *map(np.arange, values.shape[1:]), indexing="ij")
    return ndimage.map_coordinates(values, grid, order=order, mode="mirror")


def zero_filled(slices: np.ndarray) -> np.ndarray:
    """Twice as many slices from the same band, as a scanner's zero-filling makes them."""
    n = len(slices)
    coefficients = fft.dct(slices, axis=0) / (2 * n)
    waves = 2 * np.cos(np.pi * np.outer(np.arange(2 * n - 1) / 2 + 0.5, np.arange(n)) / n)
    waves[:, 0] = 1
    return np.tensordot(waves, coefficients, 1)


def averaged_twice(slices: np.ndarray) -> np.ndarray:
    return at(slices, np.arange(2 * len(slices) - 1) / 2, 1)


@pytest.mark.parametrize("scan", ["mr_thin", "ct_thin"])
@pytest.mark.parametrize("kind", ["zero-filled", "averaged", "overlapping"])
def test_such_slices_are_never_behind_cubic_interpolation(scan, kind, request):
    thin = request.getfixturevalue(scan)
    truth = thin.values[:, 8:56, 8:56].astype(np.float32)
    profile = "box" if thin.modality == "CT" else "gaussian"
    step = THICK / 2 if kind == "overlapping" else THICK
    centers = np.arange((THICK - 1) / 2, len(truth) - (THICK - 1) / 2, step)
    slices = np.tensordot(profile_weights(centers, THICK, len(truth), profile), truth, 1)
    slices = {"zero-filled": zero_filled, "averaged": averaged_twice}.get(kind, np.asarray)(slices)
    stored = np.rint(slices).astype(np.int16)
    geometry = Geometry.from_spacing(stored.shape, (THICK / 2, 1, 1))
    volume = cycleinr.Volume(stored, geometry, thin.modality, slice_axis="k", thickness_mm=float(THICK))
    result = cycleinr.upsample(volume, z_scale=2, profile=profile, noise="acquired", precision="float32")
    positions = np.arange(len(result.volume.values)) / 2
    fine = centers[0] + positions * THICK / 2
    inside = (fine > THICK) & (fine < len(truth) - 1 - THICK)
    expected = at(truth, fine[inside], 1)

    def error(found: np.ndarray) -> float:
        return float(np.sqrt(np.mean((found[inside] - expected) ** 2)))

    assert error(result.volume.values) <= 1.003 * error(at(slices, positions, 3))  # 0.03 dB
    assert result.report["consistency_error"] <= 0.35
    assert any("perhaps the scanner interpolated" in warning for warning in result.report["warnings"])


def test_no_more_than_the_spacing_of_a_thickness_is_believed():
    assert [believed_ratio(ratio) for ratio in (0.0, 0.4, 1.0, 1.3, 2.0)] == [0.0, 0.4, 1.0, 1.0, 1.0]
