"""Slices that are thicker than they are apart: interpolated by the scanner, or overlapping."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, ndimage

torch = pytest.importorskip("torch", reason="the network needs torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.profile import believed_ratio, profile_weights  # noqa: E402
from CycleINRLib.imaging.spectrum import band_end  # noqa: E402
from CycleINRLib.upsampling.plan import plan  # noqa: E402

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
    said = "The scanner interpolated the slices" if kind == "zero-filled" else "perhaps the scanner interpolated"
    assert any(said in warning for warning in result.report["warnings"])


def test_no_more_than_the_spacing_of_a_thickness_is_believed():
    assert [believed_ratio(ratio) for ratio in (0.0, 0.4, 1.0, 1.3, 2.0)] == [0.0, 0.4, 1.0, 1.0, 1.0]


def cut(thin: np.ndarray, part: int, filled: float, tapered: bool = False) -> np.ndarray:
    """What a scanner makes of 1 / `part` of the band by its Fourier transform, with `filled` times as many slices."""
    count = len(thin) // (2 * part) * 2 * part
    waves = np.fft.fftshift(np.fft.fft(thin[:count], axis=0), axes=0)
    kept = count // part
    middle = waves[count // 2 - kept // 2 : count // 2 + kept // 2]
    if tapered:
        middle = middle * np.hanning(kept + 2)[1:-1, None, None]
    slices = round(kept * filled)
    wide = np.zeros((slices, *thin.shape[1:]), complex)
    wide[slices // 2 - kept // 2 : slices // 2 + kept // 2] = middle
    return np.fft.ifft(np.fft.ifftshift(wide, axes=0), axis=0).real * slices / count


@pytest.mark.parametrize("scan", ["mr_thin", "ct_thin"])
def test_a_band_that_the_scanner_cut_is_told_from_slices_that_overlap(scan, request):
    thin = request.getfixturevalue(scan).values[:, 8:56, 8:56].astype(np.float64)
    for slices in (cut(thin, 2, 2), cut(thin, 2, 1.5), cut(thin, 2, 2, tapered=True), zero_filled(thin[::2])):
        end = band_end(np.rint(slices))
        assert end is not None and 0.4 <= end <= 0.75
    for profile, thickness, step in [
        ("box", 4, 2),
        ("gaussian", 4, 2),
        ("gaussian", 5, 2),
        ("box", 6, 2),
        ("box", 2, 2),
    ]:
        centers = np.arange(3, len(thin) - 3, step)
        assert band_end(np.rint(np.tensordot(profile_weights(centers, thickness, len(thin), profile), thin, 1))) is None
    assert band_end(thin) is None and band_end(np.rint(averaged_twice(thin[::2]))) is None


def test_of_slices_whose_band_was_cut_nothing_is_undone(mr_thin):
    slices = np.rint(cut(mr_thin.values[:, 8:56, 8:56].astype(float), 2, 2)).astype(np.int16)
    geometry = Geometry.from_spacing(slices.shape, (2, 1, 1))
    volume = cycleinr.Volume(slices, geometry, "MR", slice_axis="k", thickness_mm=4.0)
    planned = plan(volume)
    assert (planned.consistency, planned.interpolated) == ("keep", True)
    result = cycleinr.upsample(volume, z_scale=2, noise="acquired", precision="float32")
    assert result.report["gain"] == 0
    found, cubic = (
        one[4:-4] for one in (result.volume.values, at(slices.astype(float), np.arange(2 * len(slices) - 1) / 2, 3))
    )
    assert np.abs(found - np.maximum(np.rint(cubic), slices.min())).max() <= 3
