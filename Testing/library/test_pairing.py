"""Two scans of one body: the movement is found, slice profiles average, and likeness ignores what it should."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import pairing  # noqa: E402

ROW = (1.0, 1.0, 1.0)


def texture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Smooth structure of about 3 voxels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (noise - noise.min()) * 1000


def moved(geometry: Geometry, shift_mm: tuple[float, float, float], turn_deg: float) -> Geometry:
    """Turned about z through its middle, then shifted, in RAS."""
    middle = geometry.ras_of((np.array(geometry.shape) - 1) / 2)
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    motion = np.eye(4)
    motion[:2, :2] = (c, -s), (s, c)
    motion[:3, 3] = middle - motion[:3, :3] @ middle + shift_mm
    return Geometry(geometry.shape, motion @ geometry.ijk_to_ras)


def test_a_known_movement_is_found_and_undone(mr_thin: Volume):
    elsewhere = replace(mr_thin, geometry=moved(mr_thin.geometry, (1.5, -2.0, 1.0), 2.0))
    motion = pairing.Motion.between(mr_thin, elsewhere)
    assert motion.accepted
    corners = np.array([(0, 0, 0), (59, 63, 63), (0, 63, 0), (59, 0, 63)])
    there = motion.of(mr_thin.geometry).ras_of(corners)
    assert np.abs(there - elsewhere.geometry.ras_of(corners)).max() < 0.5  # mm; it was up to 4
    assert motion.turn_deg == pytest.approx(2.0, abs=0.5)


def test_a_movement_too_far_to_be_true_is_not_used(mr_thin: Volume, monkeypatch: pytest.MonkeyPatch):
    far = np.eye(4)
    far[0, 3] = 30
    monkeypatch.setattr(pairing, "_registered", lambda *_: far)
    motion = pairing.Motion.between(mr_thin, mr_thin)
    assert not motion.accepted and motion.shift_mm == pytest.approx(30)
    assert motion.of(mr_thin.geometry).same_place_as(mr_thin.geometry)


def test_a_block_around_a_place_keeps_every_voxel_where_it_was(mr_thin: Volume):
    middle = mr_thin.geometry.ras_of(np.array([30, 20, 40]))
    block = pairing.around(mr_thin, middle, (5.0, 6.0, 7.0))
    assert block.values.shape == (11, 13, 17)  # 0.9 and 0.859 mm
    np.testing.assert_allclose(block.geometry.ras_of(np.array([5, 6, 8])), middle, atol=1e-6)
    assert block.values[5, 6, 8] == mr_thin.values[30, 20, 40]


def test_sub_slices_average_to_the_slices_of_a_thick_reference():
    reference = Geometry.from_spacing((5, 4, 4), (4.0, 1.0, 1.0))
    fine = pairing.SubSlices.of(reference, 3.0)
    assert fine.geometry.spacing_mm[0] <= 0.7
    at = fine.geometry.ras_of(np.argwhere(np.ones(fine.geometry.shape)))[:, 2].reshape(fine.geometry.shape)
    wanted = reference.ras_of(np.argwhere(np.ones(reference.shape)))[:, 2].reshape(reference.shape)
    np.testing.assert_allclose(fine.averaged(at)[1:-1], wanted[1:-1], atol=1e-4)  # a ramp stays where it is
    wave = np.cos(2 * np.pi * at / 6)  # a Gaussian of FWHM 3 mm damps a wave of 6 mm by exp(-2 (pi s / 6)^2)
    damped = np.exp(-2 * (np.pi * 3 / 2.3548 / 6) ** 2)
    np.testing.assert_allclose(fine.averaged(wave)[1:-1], damped * np.cos(2 * np.pi * wanted / 6)[1:-1], atol=0.02)


def test_a_thin_reference_is_not_averaged():
    reference = Geometry.from_spacing((5, 4, 4), (1.0, 1.0, 1.0))
    fine = pairing.SubSlices.of(reference, None)
    assert fine.geometry.same_place_as(reference)
    values = texture((5, 4, 4))
    np.testing.assert_allclose(fine.averaged(values), values, rtol=1e-6)


def test_covered_are_voxels_with_source_slices_on_both_sides():
    source = Geometry.from_spacing((6, 20, 20), (4.0, 1.0, 1.0))
    reference = Geometry.from_spacing((24, 20, 20), (1.0, 1.0, 1.0))
    inside = pairing.covered(reference, source, (1, 2, 2))
    assert np.flatnonzero(inside.any((1, 2))).tolist() == list(range(4, 17))
    assert np.flatnonzero(inside.any((0, 2))).tolist() == list(range(2, 18))


def test_the_upsampled_axis_is_the_reference_axis_along_the_source_slices():
    axial = Geometry.from_spacing((10, 10, 10), (4.0, 1.0, 1.0))
    sagittal = Geometry((10, 10, 10), np.array([[0, 0, 4, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]))
    assert pairing.upsampled_axis(sagittal, axial) == 1  # its rows run along z
    assert pairing.upsampled_axis(axial, sagittal) == 2  # its columns run along x


def test_one_contrast_ignores_brightness_and_shading_and_sees_blur():
    reference = texture((4, 48, 48)) + 200
    mask = np.ones(reference.shape, bool)
    shading = np.linspace(0.85, 1.15, 48)
    same = pairing.same_contrast(reference * shading * 3 + 50, reference, mask, ROW, 2)
    blurred = pairing.same_contrast(ndimage.gaussian_filter1d(reference, 2, axis=2), reference, mask, ROW, 2)
    assert same["local_ncc"] > 0.97 and same["gradient_correlation"] > 0.95
    assert same["psnr_local_fit"] > same["psnr_line"] + 5  # one line for all does not undo a shading
    assert blurred["local_ncc"] < same["local_ncc"] - 0.03
    assert blurred["sharpness"] < 0.7 and blurred["gradient_correlation"] < same["gradient_correlation"]
    perfect = pairing.same_contrast(reference * 2 + 7, reference, mask, ROW, 1)
    assert perfect["local_ncc"] == pytest.approx(1, abs=1e-6) and perfect["sharpness"] == pytest.approx(1, abs=1e-6)


def test_two_contrasts_ignore_inversion_and_see_blur_along_the_axis():
    reference = texture((4, 48, 48))
    mask = np.ones(reference.shape, bool)
    inverted = pairing.other_contrast(-(reference**2), reference, mask, ROW, 2)
    blurred = pairing.other_contrast(-ndimage.gaussian_filter1d(reference**2, 2.5, axis=2), reference, mask, ROW, 2)
    unrelated = pairing.other_contrast(texture((4, 48, 48), 1), reference, mask, ROW, 2)
    assert inverted["mutual_information"] > 1.5 > blurred["mutual_information"] > unrelated["mutual_information"]
    assert inverted["gradient_alignment"] > 0.99 and unrelated["gradient_alignment"] == pytest.approx(0.5, abs=0.1)
    assert inverted["edge_sharpness"] == pytest.approx(1, abs=0.15) and blurred["edge_sharpness"] < 0.85


def test_body_has_no_holes_and_no_air():
    values = np.zeros((2, 30, 30))
    values[:, 5:25, 5:25] = 500
    values[:, 12:15, 12:15] = 0
    assert pairing.body(values)[:, 13, 13].all() and not pairing.body(values)[:, 2, 2].any()
