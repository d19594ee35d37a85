"""Geometry: there and back through every frame, axis and target grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from CycleINRLib.errors import VolumeError
from CycleINRLib.imaging.geometry import AXES, PLANES, Geometry, coarsest_axis, isotropic_z_scale

finite = st.floats(-1, 1, allow_nan=False)
spacings = st.tuples(*[st.floats(0.1, 12.0)] * 3)
shapes = st.tuples(*[st.integers(1, 40)] * 3)


@st.composite
def geometries(draw) -> Geometry:
    """Oblique, left-handed and sheared geometries of any shape."""
    rotation, _ = np.linalg.qr(np.reshape(draw(st.lists(finite, min_size=9, max_size=9)), (3, 3)) + 2 * np.eye(3))
    shear = np.eye(3)
    shear[1, 2] = draw(st.sampled_from([0.0, 0.0, 0.3, -0.2]))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ shear * draw(spacings) * draw(st.sampled_from([(1, 1, 1), (1, 1, -1), (-1, 1, 1)]))
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return Geometry(draw(shapes), matrix)


@settings(max_examples=60)
@given(geometries(), st.tuples(*[st.floats(-50, 50)] * 3))
def test_a_place_goes_to_ras_and_back(geometry, kji):
    assert np.allclose(geometry.kji_of(geometry.ras_of(np.array(kji))), kji, atol=1e-7)


@settings(max_examples=60)
@given(geometries())
def test_lps_leaves_and_returns_to_the_same_bytes(geometry):
    assert np.array_equal(Geometry.from_lps(geometry.shape, geometry.to_lps()).ijk_to_ras, geometry.ijk_to_ras)


@settings(max_examples=60)
@given(geometries(), st.sampled_from(AXES))
def test_slices_first_keeps_every_voxel_in_place(geometry, axis):
    moved = geometry.slices_first(axis)
    kji = np.array([3.0, 1.0, 2.0])
    kji_moved = np.insert(np.delete(kji, AXES.index(axis)), 0, kji[AXES.index(axis)])
    assert np.allclose(moved.ras_of(kji_moved), geometry.ras_of(kji), atol=1e-9)
    assert moved.slices_back(axis).same_place_as(geometry, 0)


@settings(max_examples=60)
@given(geometries(), st.floats(1.01, 16), st.sampled_from(AXES))
def test_a_target_grid_keeps_the_first_slice_and_extrapolates_nothing(geometry, z_scale, axis):
    at = AXES.index(axis)
    target = geometry.resliced(z_scale, axis)
    last = np.zeros(3)
    last[at] = target.shape[at] - 1
    there = geometry.kji_of(target.ras_of(last))[at]
    assert np.allclose(target.ras_of(np.zeros(3)), geometry.ras_of(np.zeros(3)))
    assert there <= geometry.shape[at] - 1 + 1e-5
    assert there + 1 / z_scale > geometry.shape[at] - 1
    assert np.allclose(target.directions, geometry.directions)
    assert target.is_left_handed == geometry.is_left_handed


@given(st.integers(2, 16), st.integers(3, 40))
def test_a_whole_z_scale_visits_every_acquired_slice(z_scale, slices):
    source = Geometry.from_spacing((slices, 2, 2), (5.0, 1.0, 1.0))
    assert source.resliced(z_scale).shape[0] == (slices - 1) * z_scale + 1


def test_a_crop_starts_where_its_first_voxel_was():
    source = Geometry.from_spacing((9, 8, 7), (5.0, 1.0, 2.0))
    crop = source.cropped((3, 2, 1), (2, 2, 2))
    assert np.allclose(crop.ras_of(np.zeros(3)), source.ras_of(np.array([3, 2, 1])))
    assert crop.spacing_mm == source.spacing_mm


@pytest.mark.parametrize(
    ("spacing", "axis", "z_scale"),
    [((5, 1, 1), "k", 5), ((1, 5, 2), "j", 5), ((1, 0.5, 4), "i", 8), ((1, 1, 1), "k", 1), ((1, 1.005, 1), "k", 1)],
)
def test_the_coarsest_axis_is_the_slice_axis_and_ties_go_to_k(spacing, axis, z_scale):
    geometry = Geometry.from_spacing((4, 4, 4), spacing)
    assert coarsest_axis(geometry) == axis
    assert isotropic_z_scale(geometry, axis) == pytest.approx(z_scale)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ((0, 0, 0), "spacing of an axis is zero"),
        ((2, 0, 0), "singular"),
        ((np.nan, 0, 1), "not a finite"),
        ((np.inf, 0, 0), "not a finite"),
    ],
)
def test_a_matrix_that_is_none_is_refused(column, message):
    matrix = np.eye(4)
    matrix[:3, 2] = column
    with pytest.raises(VolumeError, match=message):
        Geometry((3, 3, 3), matrix)


def test_a_matrix_cannot_be_changed_under_ones_hands():
    geometry = Geometry.from_spacing((3, 3, 3), (1, 1, 1))
    with pytest.raises(ValueError, match="read-only"):
        geometry.ijk_to_ras[0, 0] = 2


def test_shear_is_told_from_rotation():
    tilted = np.eye(4)
    tilted[1, 2] = np.tan(np.deg2rad(15))
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    assert Geometry((2, 2, 2), tilted).is_sheared
    assert not Geometry((2, 2, 2), turned).is_sheared
    assert Geometry((2, 2, 2), np.diag([1, 1, -1, 1])).is_left_handed


# --- planes -----------------------------------------------------------------------------------------------------
@st.composite
def rotations(draw) -> Geometry:
    """Any rotation, far beyond 45 degrees, of at least three voxels a side."""
    a, b, c, d = draw(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(x * x for x in q) > 0.01))
    quaternion = np.array([a, b, c, d]) / np.linalg.norm([a, b, c, d])
    w, v = quaternion[0], quaternion[1:]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) + 2 * w * cross + 2 * cross @ cross) * draw(spacings)
    return Geometry(draw(st.tuples(*[st.integers(3, 40)] * 3)), matrix)


@settings(max_examples=200)
@given(rotations(), st.data())
def test_every_rotation_has_one_axis_for_each_plane_and_a_coordinate_for_each_row(geometry, data):
    assert {geometry.plane_across(axis) for axis in AXES} == set(PLANES)
    for plane in PLANES:
        axis = geometry.axis_across(plane)
        assert geometry.plane_across(axis) == plane
        row = data.draw(st.integers(0, geometry.shape[AXES.index(axis)] - 1))
        met = geometry.kji_of(geometry.on_center_line(plane, geometry.coordinate_of(plane, row)))
        middle = (np.array(geometry.shape) - 1) / 2
        middle[AXES.index(axis)] = row
        assert np.allclose(met, middle, atol=1e-6)


def test_an_axis_nearest_to_a_direction_runs_along_it():
    straight = Geometry.from_spacing((3, 4, 5), (1, 1, 1))
    assert straight.ras_axes == {"k": 2, "j": 1, "i": 0}
    assert straight.slices_first("j").ras_axes == {"k": 1, "j": 2, "i": 0}
