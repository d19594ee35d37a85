"""Pictures of a result: one plane of several volumes side by side (floor 4).

`extract_plane` and what it rests on need NumPy alone; matplotlib is loaded when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingPackageError, RequestError, ResourceError
from ..imaging.geometry import AXES, Geometry
from ..imaging.interpolation import cubic_weights
from ..imaging.volume import Volume, choose_slice_axis, guess_modality
from ..wholefile import write_whole

ROLES = {  # the planes cut by the axes that run through the plane, down it, and across it
    "sagittal": ("sagittal", "axial", "coronal"),
    "coronal": ("coronal", "axial", "sagittal"),
    "axial": ("axial", "coronal", "sagittal"),
}
SIDES = {"sagittal": "AS", "coronal": "RS", "axial": "RA"}  # what is left, what is up
SOFT_TISSUE_HU, LUNG_HU = (-160.0, 240.0), (-1350.0, 150.0)
LUNG_BETWEEN_HU, LUNG_SHARE = (-950.0, -500.0), 0.2  # of what is no air: more of it is a chest
MR_WINDOW_PERCENTILES = (1.0, 99.5)
ZOOM = 3.0  # the second row shows 1 / ZOOM^2 of the first
ZOOM_SHAPES = (0.75, 1.8)  # width / height of the second row: even a long spine gets a useful one
_ON_GRID = 0.01  # voxels: the in-plane grids of source and result are one

DPI = 150
PANEL_INCHES = (3.6, 3.8)  # a panel of the first row is at most so wide and high
COLUMN_INCHES = 2.7  # a title needs it
PLANE_INCHES = 5.0  # the longer side of a plane alone
TITLE_INCHES, GAP_INCHES = 0.52, 0.1
ACCENT = "#ffb000"


@dataclass(frozen=True, eq=False)
class PicturePlane:
    """One row of voxels as a picture: values (rows, columns), top left first, and where its edges lie.

    extent_mm : (left, right, bottom, top) of the outer pixel edges; left < right, bottom < top
    name : "sagittal", "coronal" or "axial"
    """

    values: np.ndarray
    extent_mm: tuple[float, float, float, float]
    name: str

    def cut(self, extent_mm: tuple[float, float, float, float]) -> np.ndarray:
        """The pixels whose centers lie inside `extent_mm`."""
        left, right, bottom, top = self.extent_mm
        rows, columns = self.values.shape
        x = left + (np.arange(columns) + 0.5) * (right - left) / columns
        y = top - (np.arange(rows) + 0.5) * (top - bottom) / rows
        inside_y, inside_x = (y > extent_mm[2]) & (y < extent_mm[3]), (x > extent_mm[0]) & (x < extent_mm[1])
        return self.values[np.ix_(inside_y, inside_x)]


# --- planes ---------------------------------------------------------------------------------------------------
def plane_showing(geometry: Geometry, axis: str) -> str:
    """The plane that shows the slice axis with superior up: coronal, or sagittal where the slices are coronal."""
    return "sagittal" if geometry.plane_across(axis) == "coronal" else "coronal"


def extract_plane(volume: Volume, plane: str, at_ras: np.ndarray | None = None) -> PicturePlane:
    """The row of voxels nearest to a point, turned as radiologists expect it.

    Parameters
    ----------
    volume : Volume of any orientation; its rows are shown as they are, nothing is resampled
    plane : "sagittal", "coronal" or "axial"
    at_ras : (3,) RAS in mm of a point on the plane; None: the middle of the volume

    Returns
    -------
    PicturePlane; superior (axial: anterior) is up, the patient's right (sagittal: anterior) is on the left. Its edges
    are measured along the array axes, so planes of volumes that share directions lie on one another.
    """
    geometry = volume.geometry
    normal, down, across = (geometry.axis_across(one) for one in ROLES[plane])
    at_ras = geometry.on_center_line(plane) if at_ras is None else at_ras
    row = round(float(geometry.kji_of(at_ras)[AXES.index(normal)]))
    row = min(max(row, 0), geometry.shape[AXES.index(normal)] - 1)
    values = np.take(volume.values, row, axis=AXES.index(normal))
    if AXES.index(across) < AXES.index(down):
        values = values.T
    x_low, x_high, x_falls = _edges(geometry, across)
    y_low, y_high, y_falls = _edges(geometry, down)
    # the picture's x runs to the left or posterior, its rows run downward: both against RAS
    values = values[:: 1 if y_falls else -1, :: 1 if x_falls else -1]
    return PicturePlane(values, (-x_high, -x_low, y_low, y_high), plane)


def _edges(geometry: Geometry, name: str) -> tuple[float, float, bool]:
    """Lowest and highest voxel edge in mm along an array axis, and whether RAS falls with its index."""
    at = AXES.index(name)
    direction, spacing = geometry.directions[:, 2 - at], geometry.spacing_mm[at]
    falls = bool(direction[np.argmax(np.abs(direction))] < 0)
    first = float(direction @ geometry.ras_of(np.zeros(3)))
    ends = np.array([first - spacing / 2, first + spacing * (geometry.shape[at] - 0.5)])
    low, high = sorted(-ends if falls else ends)
    return float(low), float(high), falls


def window_of(values: np.ndarray, modality: str) -> tuple[float, float]:
    """Black and white: CT soft tissue, or lung where much of the body is lung; MR 1st to 99.5th percentile."""
    if modality.upper() != "CT":
        low, high = np.percentile(values, MR_WINDOW_PERCENTILES)
        return float(low), float(max(high, low + 1e-6))
    body = values[values > LUNG_BETWEEN_HU[0]]
    share = np.mean(body < LUNG_BETWEEN_HU[1]) if body.size else 0.0
    return LUNG_HU if share > LUNG_SHARE else SOFT_TISSUE_HU


def common_extent(planes: Sequence[PicturePlane]) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) in mm of what all planes show."""
    left, right, bottom, top = np.array([plane.extent_mm for plane in planes]).T
    return float(left.max()), float(right.min()), float(bottom.max()), float(top.min())


def detailed_part(
    plane: PicturePlane,
    extent_mm: tuple[float, float, float, float],
    window: tuple[float, float],
    zoom: float = ZOOM,
) -> tuple[float, float, float, float]:
    """The part of `extent_mm`, 1 / zoom^2 of its area, where gray changes most from pixel to pixel, air left out."""
    values = np.clip((plane.cut(extent_mm).astype(float) - window[0]) / (window[1] - window[0]), 0, 1)
    left, right, bottom, top = extent_mm
    mm_per_column, mm_per_row = (right - left) / values.shape[1], (top - bottom) / values.shape[0]
    width, height = _part_size(right - left, top - bottom, zoom)
    rows, columns = max(1, int(height / mm_per_row)), max(1, int(width / mm_per_column))
    change = np.abs(np.diff(values, axis=0, append=values[-1:])) + np.abs(
        np.diff(values, axis=1, append=values[:, -1:])
    )
    score = _box_sums(change, rows, columns) * _box_sums((values > 0.02).astype(float), rows, columns) ** 2
    row, column = np.unravel_index(np.argmax(score), score.shape)
    x, y = left + float(column) * mm_per_column, top - float(row) * mm_per_row
    return x, x + width, y - height, y


def _part_size(width: float, height: float, zoom: float) -> tuple[float, float]:
    """Width and height of the zoomed part, inside the whole."""
    shape = min(max(width / height, ZOOM_SHAPES[0]), ZOOM_SHAPES[1])
    area = width * height / zoom**2
    part = min(width, np.sqrt(area * shape), height * shape)
    return float(part), float(part / shape)


def _box_sums(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sum over each (rows, columns) box that lies inside."""
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    total[1:, 1:] = values.cumsum(0).cumsum(1)
    return total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]


# --- the comparison -------------------------------------------------------------------------------------------
def coronal_comparison(
    path: str | Path, source: Volume, result: Volume, report: dict[str, Any] | None = None, at_mm: float | None = None
) -> Path:
    """Input, cubic B-spline and CycleINR side by side (sagittal where the slices are coronal), SNLI in the titles.

    Parameters
    ----------
    path : the PNG to write
    source, result : what went into `upsample` and what came out
    report : its report, for slice axis, modality and SNLI; without it they are found or left out
    at_mm : A (sagittal: R) in mm of the plane; None: the middle

    The cubic panel is computed for this one plane; it is left out where source and result share no in-plane grid.
    """
    facts = report or {}
    axis = facts.get("input", {}).get("slice_axis") or choose_slice_axis(source)
    modality = facts.get("input", {}).get("modality") or guess_modality(source)
    plane = plane_showing(source.geometry, axis)
    at_ras = result.geometry.on_center_line(plane, at_mm)
    cubic = _cubic_row(source, result.geometry, axis, plane, at_ras)
    snli = facts.get("snli", {})
    panels = [("Input", source), ("Cubic B-spline", cubic), ("CycleINR", result)]
    kept = [(name, volume) for name, volume in panels if volume is not None]
    shown = {"Input": snli.get("input"), "CycleINR": snli.get("output")}
    return comparison(path, kept, axis, modality, at_ras=at_ras, snli=[shown.get(name) for name, _ in kept])


def _cubic_row(source: Volume, target: Geometry, axis: str, plane: str, at_ras: np.ndarray) -> Volume | None:
    """One row of the source, interpolated by a cubic B-spline along the slice axis onto the slices of `target`."""
    at = AXES.index(axis)
    corners = np.array([[0, 0, 0], np.array(target.shape) - 1])
    places = source.geometry.kji_of(target.ras_of(corners))
    in_plane = [n for n in range(3) if n != at]
    if np.abs(places - corners)[:, in_plane].max() > _ON_GRID:
        return None
    normal = AXES.index(source.geometry.axis_across(plane))
    row = min(max(round(float(source.geometry.kji_of(at_ras)[normal])), 0), source.geometry.shape[normal] - 1)
    values = np.moveaxis(np.take(source.values, [row], axis=normal), at, 0)
    positions = np.linspace(places[0, at], places[1, at], target.shape[at])
    cubic = np.tensordot(cubic_weights(positions, len(values)), values.astype(np.float64), 1)
    cubic = np.moveaxis(cubic, 0, at).astype(np.float32)
    k, j, i = (row if n == normal else 0 for n in range(3))
    rows, columns, depth = cubic.shape
    return source.with_values(cubic, target.cropped((k, j, i), (rows, columns, depth)))


def comparison(
    path: str | Path,
    panels: Sequence[tuple[str, Volume]],
    axis: str,
    modality: str,
    *,
    plane: str | None = None,
    at_ras: np.ndarray | None = None,
    snli: Sequence[float | None] | None = None,
) -> Path:
    """The same plane of several volumes side by side, in true proportions and one window, with a zoomed row below.

    Parameters
    ----------
    path : the PNG to write; an existing file is replaced
    panels : (title, Volume) pairs, all in one frame; the first is the source and sets the window, the last one sets
        the middle and the zoomed part. Voxels are drawn as they are, without smoothing
    axis : "i", "j" or "k", the slice axis of the first volume
    modality : "CT" or "MR"
    plane : "sagittal", "coronal", "axial"; None: `plane_showing`
    at_ras : (3,) RAS in mm of a point on the plane; None: the middle of the last volume
    snli : one for each panel, shown in its title; None is left out

    Raises
    ------
    RequestError : no .png, or its folder is missing
    MissingPackageError : matplotlib is not installed
    """
    plane = plane or plane_showing(panels[0][1].geometry, axis)
    at_ras = panels[-1][1].geometry.on_center_line(plane) if at_ras is None else at_ras
    planes = [extract_plane(volume, plane, at_ras) for _, volume in panels]
    titles = [_title(name, volume, value) for (name, volume), value in zip(panels, snli or [None] * len(panels))]
    window = window_of(planes[0].values, modality)
    whole = common_extent(planes)
    part = detailed_part(planes[-1], whole, window)

    layout = _Layout(whole, part)

    def draw(figure: Any) -> None:
        _draw_panels(figure, layout, planes, titles, window, (whole, part))

    return save_picture(path, layout.figure(len(planes)), draw)


def _title(name: str, volume: Volume, snli: float | None) -> str:
    spacing = " × ".join(f"{mm:.3g}" for mm in volume.spacing_mm[::-1])
    return f"{name}\n{spacing} mm" + ("" if snli is None else f", SNLI {snli:.2f}")


class _Layout:
    """Inches of everything: columns of a title, the whole plane and its part below, all in true proportions."""

    def __init__(self, whole: tuple[float, float, float, float], part: tuple[float, float, float, float]) -> None:
        width, height = whole[1] - whole[0], whole[3] - whole[2]
        scale = min(PANEL_INCHES[0] / width, PANEL_INCHES[1] / height)
        self.whole = width * scale, height * scale
        self.column = max(self.whole[0], COLUMN_INCHES)
        self.part = self.column, self.column * (part[3] - part[2]) / (part[1] - part[0])

    def figure(self, count: int) -> tuple[float, float]:
        height = self.whole[1] + self.part[1] + 2 * GAP_INCHES + TITLE_INCHES
        return count * (self.column + GAP_INCHES) + GAP_INCHES, height

    def boxes(self, n: int, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Places of the whole and the part of column `n`, as fractions (left, bottom, width, height) of the figure."""
        left = GAP_INCHES + n * (self.column + GAP_INCHES)
        whole = left + (self.column - self.whole[0]) / 2, self.part[1] + 2 * GAP_INCHES, *self.whole
        full = np.tile(self.figure(count), 2)
        return tuple(np.array(whole) / full), tuple(np.array((left, GAP_INCHES, *self.part)) / full)


def _draw_panels(
    figure: Any,
    layout: _Layout,
    planes: Sequence[PicturePlane],
    titles: Sequence[str],
    window: tuple[float, float],
    extents: Sequence[tuple[float, float, float, float]],
) -> None:
    whole, part = extents
    look = {"cmap": "gray", "vmin": window[0], "vmax": window[1], "interpolation": "nearest"}
    for n, (plane, title) in enumerate(zip(planes, titles)):
        for box, extent, color in zip(layout.boxes(n, len(planes)), (whole, part), ("black", ACCENT)):
            axes = figure.add_axes(box)
            axes.imshow(plane.values, extent=plane.extent_mm, aspect="auto", **look)
            axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], facecolor="black")
            for spine in axes.spines.values():
                spine.set(color=color, linewidth=1.0)
            if extent is whole:
                axes.set_title(title, fontsize=9, linespacing=1.3)
                _mark(axes, part, plane.name)


def _mark(axes: Any, part: tuple[float, float, float, float], plane: str) -> None:
    """The zoomed part as a frame, and what is left and up."""
    from matplotlib.patheffects import withStroke

    left, right, bottom, top = part
    axes.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], color=ACCENT, linewidth=1.0)
    outline = [withStroke(linewidth=2, foreground="black")]
    style = {"transform": axes.transAxes, "color": "white", "fontsize": 8, "path_effects": outline}
    axes.text(0.015, 0.5, SIDES[plane][0], ha="left", va="center", **style)
    axes.text(0.5, 0.985, SIDES[plane][1], ha="center", va="top", **style)


def plane_picture(path: str | Path, plane: Volume, modality: str | None = None) -> Path:
    """A plane alone (a Volume one row thick, as `preview` gives it) in true proportions, as PNG.

    modality : "CT" or "MR" for the window; None: `guess_modality`. Raises as `comparison` does
    """
    thin = AXES[int(np.argmin(plane.geometry.shape))]
    picture = extract_plane(plane, plane.geometry.plane_across(thin))
    left, right, bottom, top = picture.extent_mm
    scale = PLANE_INCHES / max(right - left, top - bottom)
    low, high = window_of(picture.values, modality or guess_modality(plane))

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(picture.values, cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect="auto")

    return save_picture(path, ((right - left) * scale, (top - bottom) * scale), draw)


# --- files ----------------------------------------------------------------------------------------------------
def save_picture(path: str | Path, inches: tuple[float, float], draw: Callable[[Any], None]) -> Path:
    """Draws on a figure of its own (no global backend) and moves the finished PNG to `path`."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise RequestError("Pictures are written as PNG", path.name, "give a name that ends in .png")
    if not path.parent.is_dir():
        raise RequestError("The folder of the picture does not exist", str(path.parent), "create it or choose another")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "Pictures need the package matplotlib",
            f"it cannot be imported ({error})",
            "install it with pip install 'CycleINR[pictures]'; all but pictures works without it",
        ) from error
    figure = Figure(figsize=inches, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    draw(figure)
    try:
        write_whole(path, lambda part: figure.savefig(part, format="png"))
    except OSError as error:
        raise ResourceError(
            "The picture cannot be written", str(error), "free space or choose another folder"
        ) from error
    return path
