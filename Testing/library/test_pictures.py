"""Pictures: orientation, proportions, windows, and files that are whole or absent."""

from __future__ import annotations

import builtins
import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from CycleINRLib.errors import MissingPackageError, RequestError, ResourceError
from CycleINRLib.imaging.geometry import AXES, PLANES, Geometry
from CycleINRLib.imaging.noise import noise_readout
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.pictures import planes as pictures

SHAPE = (5, 6, 7)
SPACING_MM = (4.0, 0.9, 0.7)
ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def placed(order: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.0) -> Geometry:
    """Array axes i, j, k along the RAS axes `order`, up or down, turned by `tilt` radians about S."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, order] * np.array(signs) * SPACING_MM[::-1]
    cos, sin = np.cos(tilt), np.sin(tilt)
    matrix[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ matrix[:3, :3]
    matrix[:3, 3] = (-20, 35, 60)
    return Geometry(SHAPE, matrix)


def coordinate(geometry: Geometry, ras: int) -> Volume:
    """A volume whose values are their own R, A or S in mm."""
    places = geometry.ras_of(np.stack(np.indices(geometry.shape), -1))
    return Volume(places[..., ras], geometry)


def linear_result(source: Volume, z_scale: int) -> Volume:
    fine = np.linspace(0, len(source.values) - 1, (len(source.values) - 1) * z_scale + 1)
    low = np.minimum(fine.astype(int), len(source.values) - 2)
    f = (fine - low)[:, None, None]
    return source.with_values(
        (1 - f) * source.values[low] + f * source.values[low + 1], source.geometry.resliced(z_scale)
    )


# --- planes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("order, signs", ORIENTATIONS)
def test_a_plane_is_turned_right_from_any_orientation(order: tuple[int, ...], signs: tuple[int, ...], plane: str):
    geometry = placed(order, signs)
    across, up = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}[plane]
    over_columns = pictures.extract_plane(coordinate(geometry, across), plane)
    over_rows = pictures.extract_plane(coordinate(geometry, up), plane)
    left, right, bottom, top = over_rows.extent_mm
    rows, columns = over_rows.values.shape
    assert over_columns.values == pytest.approx(
        np.tile(-(left + (np.arange(columns) + 0.5) * (right - left) / columns), (rows, 1))
    )
    assert over_rows.values == pytest.approx(
        np.tile((top - (np.arange(rows) + 0.5) * (top - bottom) / rows)[:, None], (1, columns))
    )


@pytest.mark.parametrize("plane", PLANES)
def test_a_plane_goes_through_the_point_that_was_asked_for(plane: str):
    geometry = placed((0, 1, 2), (-1, -1, 1))
    fixed = PLANES.index(plane)
    wanted = geometry.ras_of(np.array([3, 1, 5]))
    shown = pictures.extract_plane(coordinate(geometry, fixed), plane, wanted)
    assert shown.values == pytest.approx(wanted[fixed])


@pytest.mark.parametrize("axis, plane", [("k", "coronal"), ("j", "sagittal"), ("i", "coronal")])
def test_the_plane_across_shows_the_slice_axis_with_superior_up(axis: str, plane: str):
    assert pictures.plane_showing(placed((0, 1, 2), (-1, -1, 1)), axis) == plane


def test_a_coordinate_is_met_on_the_center_line_of_a_tilted_scan():
    geometry = placed((0, 1, 2), (-1, -1, 1), tilt=0.3)
    point = geometry.on_center_line("coronal", at_mm=34.0)
    assert point[1] == pytest.approx(34.0)
    indices = geometry.kji_of(point)
    assert indices[[0, 2]] == pytest.approx([2.0, 3.0])


def test_planes_of_source_and_result_lie_on_one_another():
    source = coordinate(placed((0, 1, 2), (-1, -1, 1), tilt=0.2), 2)
    planes = [pictures.extract_plane(volume, "coronal") for volume in (source, linear_result(source, 4))]
    common = pictures.common_extent(planes)
    assert common[3] - common[2] == pytest.approx(17 * 1.0)  # first to last center and one fine slice
    assert planes[0].extent_mm[:2] == pytest.approx(planes[1].extent_mm[:2])
    assert planes[1].cut(common).shape == planes[1].values.shape
    assert planes[0].cut(common)[0, 0] == pytest.approx(planes[1].cut(common)[0, 0])


# --- what is shown --------------------------------------------------------------------------------------------
def test_windows_follow_modality_and_lung():
    soft = np.concatenate([np.full(500, -1000.0), np.linspace(-100, 100, 500)])
    chest = np.concatenate([soft, np.full(300, -820.0)])
    assert pictures.window_of(soft, "CT") == pictures.SOFT_TISSUE_HU
    assert pictures.window_of(chest, "CT") == pictures.LUNG_HU
    low, high = pictures.window_of(np.linspace(0, 1000, 2001), "MR")
    assert (low, high) == pytest.approx((10, 995))


def test_one_gray_is_a_window_too():
    low, high = pictures.window_of(np.full(50, 7.0), "MR")
    assert low < high


@pytest.mark.parametrize("rows, columns", [(90, 90), (300, 40), (40, 300)])
def test_the_zoomed_part_holds_the_detail_and_stays_inside(rows: int, columns: int):
    values = np.full((rows, columns), 0.5)
    at_row, at_column = int(0.7 * rows), int(0.3 * columns)
    values[at_row - 3 : at_row + 3, at_column - 3 : at_column + 3] = np.indices((6, 6)).sum(0) % 2
    extent = (10.0, 10.0 + columns, -5.0, -5.0 + rows)
    left, right, bottom, top = pictures.detailed_part(
        pictures.PicturePlane(values, extent, "coronal"), extent, (0.0, 1.0)
    )
    assert extent[0] <= left <= 10 + at_column - 3 and 10 + at_column + 3 <= right <= extent[1] + 1e-9
    assert extent[2] - 1e-9 <= bottom <= extent[3] - at_row - 3 and extent[3] - at_row + 3 <= top <= extent[3]


# --- files ----------------------------------------------------------------------------------------------------
@pytest.fixture
def result(thick_mr: Volume) -> Volume:
    return linear_result(thick_mr, 4)


def picture_of(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)


def test_a_comparison_is_one_png_and_nothing_else(thick_mr: Volume, result: Volume, tmp_path: Path):
    report = noise_readout(thick_mr.values, result.values, 4, "MR")
    written = pictures.coronal_comparison(tmp_path / "out.png", thick_mr, result, report)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    image = picture_of(written)
    assert image.shape[1] >= 3 * pictures.COLUMN_INCHES * pictures.DPI
    assert image[..., :3].std() > 0.1


def test_titles_carry_name_spacing_and_snli(thick_ct: Volume):
    title = pictures._title("Input", thick_ct, 0.1234)
    assert title == "Input\n0.488 × 0.488 × 2.5 mm, SNLI 0.12"


@pytest.mark.parametrize("axis", ["k", "j", "i"])
def test_the_cubic_panel_is_the_plane_of_the_whole_cubic_volume(thick_mr: Volume, axis: str):
    from scipy.interpolate import make_interp_spline

    source = thick_mr.slices_back(axis)
    target = source.geometry.resliced(3.5, axis)
    at = AXES.index(axis)
    places = np.arange(target.shape[at]) / 3.5
    spline = make_interp_spline(np.arange(source.values.shape[at]), source.values.astype(float), k=3, axis=at)
    whole = replace(source, values=spline(places), geometry=target)
    plane = pictures.plane_showing(source.geometry, axis)
    middle = target.on_center_line(plane)
    row = pictures._cubic_row(source, target, axis, plane, middle)
    assert sorted(row.values.shape)[0] == 1
    expected = pictures.extract_plane(whole, plane, middle)
    found = pictures.extract_plane(row, plane, middle)
    assert found.values == pytest.approx(expected.values, abs=1e-2)
    assert found.extent_mm == pytest.approx(expected.extent_mm)


def test_the_cubic_panel_is_left_out_on_another_in_plane_grid(thick_mr: Volume, result: Volume, tmp_path: Path):
    moved = np.array(result.geometry.ijk_to_ras)
    moved[:3, 3] += 0.4
    elsewhere = replace(result, geometry=Geometry(result.geometry.shape, moved))
    middle = elsewhere.geometry.on_center_line("coronal")
    assert pictures._cubic_row(thick_mr, elsewhere.geometry, "k", "coronal", middle) is None
    two = picture_of(pictures.coronal_comparison(tmp_path / "two.png", thick_mr, elsewhere))
    three = picture_of(pictures.coronal_comparison(tmp_path / "three.png", thick_mr, result))
    assert two.shape[1] < 0.75 * three.shape[1]


def test_proportions_are_those_of_the_body(tmp_path: Path):
    ball = np.indices((21, 60, 60), dtype=float)
    squared = ((ball[0] - 10) * 3) ** 2 + (ball[1] - 29.5) ** 2 + (ball[2] - 29.5) ** 2
    values = np.where(squared < 25**2, 1000.0, 0.0)
    volume = Volume(values, Geometry.from_spacing(values.shape, (3.0, 1.0, 1.0)), "MR")
    row = replace(volume, values=values[:, 30:31], geometry=volume.geometry.cropped((0, 30, 0), (21, 1, 60)))
    bright = picture_of(pictures.plane_picture(tmp_path / "ball.png", row))[..., 0] > 0.5
    height, width = np.ptp(np.nonzero(bright), axis=1)
    assert height == pytest.approx(width, rel=0.07)  # a sphere is round although its slices are 3 mm apart


def test_a_name_without_png_is_refused(thick_mr: Volume, tmp_path: Path):
    with pytest.raises(RequestError, match=r"ends in \.png"):
        pictures.comparison(tmp_path / "out.jpg", [("Input", thick_mr)], "k", "MR")


def test_a_missing_folder_is_refused(thick_mr: Volume, tmp_path: Path):
    with pytest.raises(RequestError, match="does not exist"):
        pictures.comparison(tmp_path / "none" / "out.png", [("Input", thick_mr)], "k", "MR")


def test_without_matplotlib_the_extra_is_named(thick_mr: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest):
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"CycleINR\[pictures\]"):
        pictures.comparison(tmp_path / "out.png", [("Input", thick_mr)], "k", "MR")


def test_a_failed_picture_leaves_the_old_one(thick_mr: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResourceError, match="No space left"):
        pictures.comparison(path, [("Input", thick_mr)], "k", "MR")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("out.png", b"old")]
