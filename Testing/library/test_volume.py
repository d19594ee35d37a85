"""Values and their geometry stay together, and what cannot be upsampled is refused with its reason."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.errors import VolumeError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume, check_usable, choose_slice_axis, guess_modality, rescaled, storable


def volume_of(values: np.ndarray, spacing=(5.0, 1.0, 1.0), **facts) -> Volume:
    return Volume(values, Geometry.from_spacing(values.shape, spacing), **facts)


def test_the_thick_fixtures_cover_the_same_millimeters_as_the_thin_ones(ct_thin, mr_thin, thick_ct, thick_mr):
    for thin, thick in ((ct_thin, thick_ct), (mr_thin, thick_mr)):
        assert thick.thickness_mm == thick.spacing_mm[0] == pytest.approx(4 * thin.spacing_mm[0])
        edges = [volume.geometry.ras_of(np.array([-0.5, 0, 0])) for volume in (thin, thick)]
        assert np.allclose(*edges, atol=1e-9)


def test_values_of_another_shape_are_refused():
    with pytest.raises(VolumeError, match="disagree"):
        Volume(np.zeros((2, 3, 4)), Geometry.from_spacing((2, 3, 5), (1, 1, 1)))


@pytest.mark.parametrize("axis", ["k", "j", "i"])
def test_slices_go_first_and_back_without_a_copy(thick_mr, axis):
    moved = thick_mr.slices_first(axis)
    back = moved.slices_back(axis)
    assert np.shares_memory(moved.values, thick_mr.values)
    assert np.array_equal(back.values, thick_mr.values)
    assert back.geometry.same_place_as(thick_mr.geometry, 0)
    assert back.slice_axis == axis


def test_the_slice_axis_is_the_asked_one_then_the_stated_one_then_the_coarsest():
    values = np.zeros((3, 4, 5))
    assert choose_slice_axis(volume_of(values), "i") == "i"
    assert choose_slice_axis(volume_of(values, slice_axis="j")) == "j"
    assert choose_slice_axis(volume_of(values, (1, 4, 1))) == "j"


def test_the_modality_is_guessed_from_air_in_whole_numbers(thick_ct):
    air = np.full((5, 8, 8), -1000, np.int16)
    air[:, 2:, 2:] = 40
    assert guess_modality(volume_of(air)) == "CT"
    assert guess_modality(volume_of(air + 0.5)) == "MR"
    assert guess_modality(volume_of(air + 1000)) == "MR"
    assert guess_modality(thick_ct) == "CT"  # stated


def test_a_block_from_inside_the_body_is_ct_by_its_fat():
    tissue = np.random.default_rng(0).normal(40, 15, (8, 30, 30)).round().astype(np.int16)
    assert guess_modality(volume_of(tissue)) == "MR"
    tissue[:, :, :3] -= 140  # fat
    assert guess_modality(volume_of(tissue)) == "CT"
    assert guess_modality(volume_of(tissue + 1024)) == "MR"


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "expected"),
    [
        (np.array([0, 4095], np.uint16), 1, -1024, np.int16),
        (np.array([0, 255], np.uint8), 1, 0, np.uint8),
        (np.array([0, 60000], np.uint16), 2, -1, np.int32),
        (np.array([0, 200], np.uint8), 0.5, 0, np.float32),
        (np.array([0, 200], np.float64), 0.5, 0, np.float64),
        (np.array([0, 2**31 - 1], np.int32), 4, 0, np.int64),
    ],
)
def test_a_rescale_keeps_whole_numbers_whole_and_loses_nothing(stored, slope, intercept, expected):
    result = rescaled(stored, slope, intercept)
    assert result.dtype == expected
    assert np.array_equal(result.astype(float), stored.astype(float) * slope + intercept)


def test_a_real_scan_is_usable(thick_ct, thick_mr):
    check_usable(thick_ct)
    check_usable(thick_mr)


def test_nan_and_infinity_are_counted(thick_mr):
    values = thick_mr.values.astype(np.float32)
    values[3, 4, 5] = np.nan
    values[4, 4, :3] = np.inf
    with pytest.raises(VolumeError, match="NaN or infinity. Found: 4 of 61440 voxels"):
        check_usable(thick_mr.with_values(values))


def test_two_slices_are_too_few_along_the_chosen_axis(thick_mr):
    two = volume_of(thick_mr.values[:2])
    with pytest.raises(VolumeError, match="too few slices. Found: 2 along k"):
        check_usable(two)
    check_usable(two, "j")


def test_a_constant_volume_is_refused():
    with pytest.raises(VolumeError, match="All voxels are equal. Found: 7"):
        check_usable(volume_of(np.full((4, 4, 4), 7)))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_a_label_map_is_refused_in_any_type(thick_ct, kind):
    labels = (thick_ct.values > 300).astype(kind) * 2
    with pytest.raises(VolumeError, match="label map. Found: 2 distinct"):
        check_usable(thick_ct.with_values(labels))


def test_sixteen_labels_are_a_label_map_and_seventeen_values_a_scan():
    ramp = np.arange(3 * 17).reshape(3, 17, 1)
    with pytest.raises(VolumeError, match="16 distinct"):
        check_usable(volume_of(ramp % 16))
    check_usable(volume_of(ramp % 17))
    check_usable(volume_of((ramp % 5) / 2))  # halves are no labels


@pytest.mark.parametrize(
    ("numbers", "kept"),
    [
        ([0, 5], "int16"),
        ([0, 60000], "uint16"),
        ([-1, 60000], "int32"),
        ([0, 2**32 - 1], "uint32"),
        ([2**40], "float64"),
    ],
)
def test_integers_of_64_bits_are_stored_in_the_smallest_type_that_holds_them(numbers, kept):
    stored = storable(np.array(numbers, np.int64))
    assert stored.dtype == kept and stored.tolist() == numbers


def test_what_is_no_number_is_not_stored():
    with pytest.raises(VolumeError):
        storable(np.zeros(3, complex))
