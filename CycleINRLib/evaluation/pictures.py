"""Pictures of an evaluation: crops with their errors and the noise by slice (floor 4).

The planes of one case of each scan are kept as `cases/NAME.npz` when the case is computed, so that drawing needs no
volume again.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.volume import Volume
from ..pictures.planes import PicturePlane, detailed_part, extract_plane, plane_showing, save_picture, window_of
from ..wholefile import write_whole
from .case import Case
from .tables import Facts, figure_of, names_of, profile_of

TRUTH = "truth"
MOST_INTERPOLATORS, MOST_OURS, MOST_ADDED = 2, 3, 2
WHOLE_COLUMNS = 96  # a plane so narrow is shown whole
CROP_ZOOM = 2.0  # of wider ones, a quarter of the area
ERROR_SHARE = 0.12  # of the window: the errors' own range
_PANEL_INCHES, _TITLE_INCHES, NOISE_INCHES, _GAP_INCHES = 2.6, 0.45, 2.3, 0.08


def keep_planes(path: Path, case: Case, results: Mapping[str, np.ndarray]) -> None:
    """The middle coronal plane (sagittal where the slices are coronal) of truth and results, added to `path`.

    path : the .npz; planes of other methods that it holds already stay
    results : method to (M, J, I) on the target slices
    """
    known: dict[str, np.ndarray] = {}
    if path.exists():
        with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile), np.load(path) as stored:
            known = dict(stored)  # a damaged one is made anew
    plane = plane_showing(case.target, "k")
    at_ras = case.target.on_center_line(plane)
    for name, values in {TRUTH: case.wanted, **results}.items():
        shown = extract_plane(Volume(np.asarray(values), case.target), plane, at_ras)
        known[f"plane {name}"] = np.asarray(shown.values, np.float32)
        known["extent_mm"] = np.array(shown.extent_mm)

    def write(partial: Path) -> None:
        with open(partial, "wb") as stream:  # a name without .npz would get one
            np.savez_compressed(stream, allow_pickle=False, **known)

    write_whole(path, write)


def draw_all(folder: Path, record: Facts) -> list[Path]:
    """A picture of each scan whose planes were kept."""
    written = []
    for case in record["cases"]:
        planes = folder / "cases" / f"{case['case']}.npz"
        if planes.exists():
            written.append(_draw_case(folder / f"{case['case']}.png", planes, case, record))
    return written


def chosen(case: Facts, record: Facts) -> list[str]:
    """What a picture has room for: the best interpolators, the best added ones, then ours, default first."""
    results = case["results"]

    def best(kind: str, most: int) -> list[str]:
        names = [name for name in names_of(record, kind) if name in results]
        return sorted(names, key=lambda name: -(figure_of(case, name, "psnr_generated") or 0))[:most]

    ours = [name for name in names_of(record, "model") if name in results]
    ours.sort(key=lambda name: record["methods"][name]["noise"] != "auto")
    return [*best("interpolator", MOST_INTERPOLATORS), *best("added", MOST_ADDED), *ours[:MOST_OURS]]


# --- one case -------------------------------------------------------------------------------------------------
def _draw_case(path: Path, kept: Path, case: Facts, record: Facts) -> Path:
    """Truth and methods as crops, their errors below, the noise of each slice at the bottom."""
    with np.load(kept) as stored:
        extent = tuple(stored["extent_mm"].tolist())
        planes = {
            name[6:]: PicturePlane(stored[name], extent, "") for name in stored.files if name.startswith("plane ")
        }
    names = [TRUTH, *(name for name in chosen(case, record) if name in planes)]
    window = window_of(planes[TRUTH].values, case["modality"])
    small = planes[TRUTH].values.shape[1] <= WHOLE_COLUMNS
    part = extent if small else detailed_part(planes[TRUTH], extent, window, CROP_ZOOM)
    tall = _PANEL_INCHES * (part[3] - part[2]) / (part[1] - part[0])
    width = len(names) * (_PANEL_INCHES + _GAP_INCHES) + _GAP_INCHES
    height = 2 * (tall + _GAP_INCHES) + _TITLE_INCHES + NOISE_INCHES

    def draw(figure: Any) -> None:
        for n, name in enumerate(names):
            left = (_GAP_INCHES + n * (_PANEL_INCHES + _GAP_INCHES)) / width
            boxes = [(left, (NOISE_INCHES + row * (tall + _GAP_INCHES)) / height) for row in (1, 0)]
            size = _PANEL_INCHES / width, tall / height
            _crops(figure, [(*box, *size) for box in boxes], planes, name, part, window, _title(case, name))
        axes = figure.add_axes((0.7 / width, 0.5 / height, 1 - 0.8 / width, (NOISE_INCHES - 0.75) / height))
        _noise(axes, case, names)

    return save_picture(path, (width, height), draw)


def _crops(
    figure: Any,
    boxes: Sequence[tuple[float, ...]],
    planes: Mapping[str, PicturePlane],
    name: str,
    part: tuple[float, float, float, float],
    window: tuple[float, float],
    title: str,
) -> None:
    """The crop and its difference from the truth; the truth has no error, its lower panel is empty."""
    values, truth = planes[name].cut(part), planes[TRUTH].cut(part)
    reach = ERROR_SHARE * (window[1] - window[0])
    looks = [(values, {"cmap": "gray", "vmin": window[0], "vmax": window[1]})]
    if name != TRUTH:
        looks.append((values - truth, {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}))
    for box, (shown, look) in zip(boxes, looks):
        axes = figure.add_axes(box)
        axes.imshow(shown, interpolation="nearest", aspect="auto", **look)
        axes.set(xticks=[], yticks=[])
    figure.axes[-len(looks)].set_title(title, fontsize=8, linespacing=1.3)
    if name == TRUTH:
        axes = figure.add_axes(boxes[1])
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"error, blue -{reach:.3g}\nto red +{reach:.3g}", ha="center", va="center", fontsize=9)


def _title(case: Facts, name: str) -> str:
    if name == TRUTH:
        return f"{case['scan']}\ntruth, x{case['z_scale']:g} {profile_of(case)}"
    decibels, gap = (figure_of(case, name, figure) for figure in ("psnr_generated", "generated_gap"))
    figures = [f"{decibels:.2f} dB" if decibels is not None else "", f"gap {gap:+.2f}" if gap is not None else ""]
    return f"{name}\n{', '.join(text for text in figures if text)}"


def _noise(axes: Any, case: Facts, names: Sequence[str]) -> None:
    """sigma of each slice; the truth's begins one source slice later."""
    for name in names:
        sigmas = case["truth"]["noise_per_slice"] if name == TRUTH else case["results"][name]["noise_per_slice"]
        values = np.array([np.nan if value is None else value for value in sigmas], float)
        places = np.arange(len(values)) / case["z_scale"]
        if name == TRUTH:
            places += case["inner_slices"][0] / case["z_scale"]
        axes.plot(places, values, "k-" if name == TRUTH else ".-", label=name, linewidth=1.0, markersize=3)
    axes.set_xlabel("source slice", fontsize=8)
    axes.set_ylabel("noise of the slice" + (", HU" if case["modality"] == "CT" else ""), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=7, ncols=min(4, len(names)))
