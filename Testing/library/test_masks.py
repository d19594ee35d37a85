"""Masks between their slices: exact where they were drawn, in between where they were not."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.imaging.masks import mask_between


def ball(shape=(9, 40, 36), spacing=4.0, radius=14.0):
    k, j, i = np.mgrid[: shape[0], : shape[1], : shape[2]]
    return (spacing * (k - 4)) ** 2 + (j - 19.5) ** 2 + (i - 17.5) ** 2 < radius**2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_at_its_slices_a_mask_is_what_was_drawn(axis):
    mask = np.moveaxis(ball(), 0, axis)
    fine = mask_between(mask, axis, np.arange(0, 8.01, 0.25))
    assert np.array_equal(np.take(fine, range(0, 33, 4), axis), mask)


def test_between_two_discs_the_area_lies_between_theirs_and_the_volume_is_nearly_that_of_the_ball():
    mask = ball()
    fine = mask_between(mask, 0, np.arange(0, 8.01, 0.25))
    areas = fine.sum(axis=(1, 2))
    assert all(min(areas[n], areas[n + 4]) <= areas[n + 2] <= max(areas[n], areas[n + 4]) for n in range(4, 28, 4))
    truth = 4 / 3 * np.pi * 14**3
    assert 0.94 * truth < fine.sum() < truth  # one voxel is one cubic millimeter; chords lie inside a ball


def test_a_mask_of_one_slice_tapers_off_half_way_and_an_empty_one_stays_empty():
    mask = np.zeros((5, 12, 12), bool)
    mask[2, 3:9, 3:9] = True
    fine = mask_between(mask, 0, np.arange(0, 4.01, 0.125))
    there = np.flatnonzero(fine.any(axis=(1, 2))) * 0.125
    assert there.min() > 1.5 and there.max() < 2.5
    assert not mask_between(np.zeros((5, 4, 4), bool), 0, np.array([0.5, 1.0])).any()


def test_outside_its_slices_nothing_is_inside():
    mask = np.ones((3, 4, 4), bool)
    fine = mask_between(mask, 0, np.array([-0.5, 0.0, 1.5, 2.0, 2.5]))
    assert fine.any(axis=(1, 2)).tolist() == [False, True, True, True, False]


def test_an_outline_that_moves_is_followed_across_its_way():
    mask = np.zeros((2, 20, 20), bool)
    mask[0, 4:10, 4:10] = mask[1, 6:12, 6:12] = True
    (middle,) = mask_between(mask, 0, np.array([0.5]))
    rows, columns = np.nonzero(middle)
    assert (rows.mean(), columns.mean()) == (pytest.approx(7.5), pytest.approx(7.5)) and 20 <= middle.sum() <= 36
