"""Masks that are formulas: the rules find them, and the agreement of two masks is what geometry says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import structures  # noqa: E402

SPACING = (1.0, 0.5, 0.5)


def ball(radius_mm: float, middle_mm: tuple[float, float, float] = (16, 16, 16)) -> np.ndarray:
    """(33, 65, 65) bool at `SPACING`."""
    places = np.stack(np.meshgrid(*[np.arange(n) * mm for n, mm in zip((33, 65, 65), SPACING)], indexing="ij"))
    return ((places - np.reshape(middle_mm, (3, 1, 1, 1))) ** 2).sum(0) <= radius_mm**2


def test_dice_of_masks_that_share_half_is_one_half():
    one, other = np.zeros((2, 1, 4, 4), bool)
    one[:, :2], other[:, 1:3] = True, True
    assert structures.dice(one, other) == 0.5
    assert structures.dice(one, one) == 1.0
    assert structures.dice(one, ~one) == 0.0
    assert structures.dice(one & False, other & False) is None


def test_dice_per_slice_leaves_out_slices_without_either_mask():
    one, other = np.zeros((2, 3, 4, 4), bool)
    one[:2], other[1:2] = True, True
    assert structures.dice_per_slice(one, other) == 0.5  # 0 on the first, 1 on the second, the third is empty


def test_volume_error_has_a_sign():
    assert structures.volume_error_percent(ball(5), ball(6)) == pytest.approx(100 * ((5 / 6) ** 3 - 1), abs=2)
    assert structures.volume_error_percent(ball(6), ball(5)) > 0
    assert structures.volume_error_percent(ball(6), ball(5) & False) is None


def test_surfaces_of_two_balls_are_their_difference_of_radius_apart_in_mm():
    one, other = (structures.Surface.of(ball(radius), SPACING) for radius in (8, 11))
    mean, worst = structures.surface_distances(one, other)
    assert mean == pytest.approx(3, abs=0.3)
    assert 2.9 <= worst <= 4.1  # a voxel is 1 mm thick
    assert structures.surface_distances(one, one) == (0.0, 0.0)
    assert structures.surface_distances(one, None) == (None, None)


def test_the_cut_end_of_a_structure_is_no_surface():
    rod = np.zeros((9, 20, 20), bool)
    rod[:, 5:15, 5:15] = True
    assert len(structures.Surface.of(rod, SPACING).points) == 9 * 36
    assert structures.Surface.of(rod & False, SPACING) is None


def test_small_components_and_those_at_the_sides_are_left_out():
    mask = ball(6) | ball(2, (16, 3, 3)) | ball(6, (16, 32, 32))
    large = structures.of_at_least(mask, SPACING, 0.2)
    assert large[16, 32, 32] and large[16, 64, 64] and not large[16, 6, 6]
    inner = structures.of_at_least(mask, SPACING, 0.2, touching_sides=False)
    assert inner[16, 32, 32] and not inner[16, 64, 64]


def test_closing_fills_a_gap_of_its_width_and_keeps_the_outside():
    mask = ball(8)
    holed = mask & ~ball(2)
    assert (structures.closed(holed, SPACING, 3.0) >= mask).all()
    assert structures.volume_error_percent(structures.closed(mask, SPACING, 3.0), mask) < 8
    assert not structures.closed(mask & False, SPACING, 3.0).any()


def test_three_classes_are_parted_between_their_means():
    random = np.random.default_rng(3)
    values = np.concatenate([random.normal(mean, 20, 5000) for mean in (0, 200, 500, 800)]).reshape(20, 10, 100)
    low, high = structures.three_classes(values.astype(np.float32))
    assert 250 < low < 450 and 550 < high < 750


def test_lung_is_found_and_outside_air_is_not():
    values = np.full((33, 65, 65), 40.0, np.float32)
    values[ball(11)] = -850
    values[ball(3)] = 30  # a nodule
    values[:, :8] = -1000
    found = structures.chest(values, SPACING)(values)
    assert found["lung"][16, 20, 32] and not found["lung"][:, :8].any()
    assert structures.dice(found["lung"], ball(11) & ~ball(3)) > 0.99
    assert structures.dice(found["lung vessels"], ball(3)) > 0.99  # the wall is no vessel
    assert not found["bone"].any()


def test_air_cells_are_air_within_bone_alone():
    values = np.full((33, 65, 65), 40.0, np.float32)
    values[ball(12)] = 900
    values[ball(3)] = -700
    values[:, :, :8] = -1000
    found = structures.head(values, SPACING)(values)
    assert structures.dice(found["air cells"], ball(3)) == 1.0
    assert structures.dice(found["bone"], ball(12) & ~ball(3)) > 0.99


def test_csf_is_dark_within_the_bright():
    random = np.random.default_rng(5)
    values = np.full((33, 65, 65), 10.0, np.float32)
    values[ball(15)], values[ball(13)], values[ball(5)] = 300, 700, 120
    values += random.normal(0, 5, values.shape).astype(np.float32)
    found = structures.brain(values, SPACING, values[::3])(values)
    assert structures.dice(found["CSF"], ball(5)) > 0.98
    assert structures.dice(found["bright tissue"], ball(13) & ~ball(5)) > 0.98


def test_a_contour_follows_the_values_between_the_slices_it_was_drawn_on():
    truth = ball(10)
    values = np.where(truth, 300.0, 100.0).astype(np.float32)
    positions = np.arange(25) / 3  # rows 4 to 28, each third acquired
    find = structures.contour(values[4:29:3], truth[4:29:3], positions, SPACING)
    assert structures.dice(find(values[4:29])["contour"], truth[4:29]) > 0.99
    flat = find(np.full((25, 65, 65), 300.0))["contour"]  # nothing to follow: everything near counts
    assert flat[truth[4:29]].mean() > 0.99 and 0.7 < structures.dice(flat, truth[4:29]) < 0.95


def test_the_two_lungs_are_parted_where_they_are_thinnest():
    values = np.full((33, 65, 65), 0.0, np.float32)
    values[ball(9, (16, 16, 6)) | ball(9, (16, 16, 26))] = -800
    values[:, 28:37, 26:38] = -800  # they touch
    values[ball(2.5, (16, 26, 16))] = -1000
    found = structures.phantom(values, SPACING)(values)
    assert found["left lung"][16, 32, 55] and not found["left lung"][:, :, :20].any()
    assert found["right lung"][16, 32, 10] and not (found["left lung"] & found["right lung"]).any()
