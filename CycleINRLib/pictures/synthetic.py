"""The picture of a synthetic volume beside the scan that it was made from (floor 4).

Above: two acquired slices, the synthetic one halfway between them, and how it differs from their mean. In the middle
the same in detail. Below: what `adapting.realism` measures, as curves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..adapting.realism import PATCH_FEATURES, draw_sample
from ..imaging.intensity import value_range
from ..imaging.noise import target_positions
from .planes import save_picture, window_of

_PANEL_INCHES, _GAP_INCHES, _TITLE_INCHES, CURVE_INCHES = 2.9, 0.1, 0.3, 2.6
DETAIL_SHARE = 0.3  # of rows and columns that the detail shows
DIFFERENCE_SHARE = 0.25  # of the window: the differences' own range
_COLORS = {"acquired": "black", "between": "C3", "at_acquired": "C0"}
_NAMES = {"acquired": "acquired", "between": "synthetic, between", "at_acquired": "synthetic, at acquired"}
SHOWN_FEATURE = "log Laplacian"
_BINS = 24


def realism_picture(
    path: str | Path,
    acquired: np.ndarray,
    synthetic: np.ndarray,
    z_scale: float,
    modality: str,
    facts: Mapping[str, Any],
    *,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    at: int | None = None,
) -> Path:
    """Writes the picture to `path`, a PNG file.

    Parameters
    ----------
    acquired, synthetic, z_scale, modality : as for `adapting.realism.realism`
    facts : what that gave
    spacing_mm : (j, i) of the pixels
    at : the acquired slice below the synthetic one that is shown; None: the middle

    Raises
    ------
    RequestError : `path` is no PNG in a folder that exists
    MissingPackageError : matplotlib is not installed
    """
    k = min((len(acquired) - 1) // 2 if at is None else at, len(acquired) - 2)
    j = int(np.argmin(np.abs(target_positions(len(synthetic), z_scale) - (k + 0.5))))
    below, above = (np.asarray(acquired[n], np.float32) for n in (k, k + 1))
    share = j / z_scale - k
    planes = [below, np.asarray(synthetic[j], np.float32), above]
    difference = planes[1] - ((1 - share) * below + share * above)
    titles = [f"acquired, slice {k}", f"synthetic, at {j / z_scale:.2f}", f"acquired, slice {k + 1}"]
    tall = _PANEL_INCHES * spacing_mm[0] * below.shape[0] / (spacing_mm[1] * below.shape[1])
    layout = _Layout(tall)

    def draw(figure: Any) -> None:
        window = window_of(np.stack([below, above]), modality)
        for row, part in enumerate((np.s_[:, :], _detail(difference))):
            for n, (plane, title) in enumerate(zip(planes, titles)):
                _image(figure, layout.image(row, n), plane[part], title if row == 0 else "detail", window, "gray")
            reach = DIFFERENCE_SHARE * (window[1] - window[0])
            title = f"synthetic - linear, ±{reach:.3g}" if row == 0 else "detail"
            _image(figure, layout.image(row, 3), difference[part], title, (-reach, reach), "RdBu_r")
        _spectra(figure.add_axes(layout.curve(0)), facts)
        _noise(figure.add_axes(layout.curve(1)), facts, z_scale)
        _patches(figure.add_axes(layout.curve(2)), acquired, synthetic, z_scale, modality, facts)

    return save_picture(path, layout.inches, draw)


class _Layout:
    """Two rows of four images above three curves, in shares of the figure."""

    def __init__(self, tall: float) -> None:
        self.tall = tall
        self.row = tall + _TITLE_INCHES + _GAP_INCHES
        self.inches = 4 * (_PANEL_INCHES + _GAP_INCHES) + _GAP_INCHES, 2 * self.row + CURVE_INCHES + 0.2

    def image(self, row: int, column: int) -> tuple[float, float, float, float]:
        left = _GAP_INCHES + column * (_PANEL_INCHES + _GAP_INCHES)
        bottom = self.inches[1] - (row + 1) * self.row
        return self._shares(left, bottom, _PANEL_INCHES, self.tall)

    def curve(self, column: int) -> tuple[float, float, float, float]:
        wide = self.inches[0] / 3
        return self._shares(0.65 + column * wide, 0.5, wide - 0.85, CURVE_INCHES - 0.95)

    def _shares(self, left: float, bottom: float, wide: float, tall: float) -> tuple[float, float, float, float]:
        return left / self.inches[0], bottom / self.inches[1], wide / self.inches[0], tall / self.inches[1]


def _detail(difference: np.ndarray) -> tuple[slice, slice]:
    """The part of a slice where the synthetic one differs most from the linear one."""
    size = [max(8, int(DETAIL_SHARE * n)) for n in difference.shape]
    sums = np.pad(np.cumsum(np.cumsum(np.abs(difference), 0), 1), ((1, 0), (1, 0)))
    boxes = sums[size[0] :, size[1] :] - sums[: -size[0], size[1] :] - sums[size[0] :, : -size[1]]
    boxes = boxes + sums[: -size[0], : -size[1]]
    j, i = np.unravel_index(int(np.argmax(boxes)), boxes.shape)
    return slice(int(j), int(j) + size[0]), slice(int(i), int(i) + size[1])


def _image(figure: Any, box: tuple, values: np.ndarray, title: str, window: tuple[float, float], colors: str) -> None:
    axes = figure.add_axes(box)
    axes.imshow(values, cmap=colors, vmin=window[0], vmax=window[1], interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


def _spectra(axes: Any, facts: Mapping[str, Any]) -> None:
    spectra = facts["spectra"]
    for name, color in _COLORS.items():
        if spectra[name] is not None:
            axes.semilogy(spectra["frequency"], spectra[name], color=color, label=_NAMES[name], linewidth=1.2)
    _dress(
        axes, "in-plane frequency, cycles a pixel", "power", _told("sharpness between", facts["sharpness"]["between"])
    )


def _noise(axes: Any, facts: Mapping[str, Any], z_scale: float) -> None:
    kinds = (("between", "output", z_scale, 2), ("acquired", "input", 1.0, 5))
    for name, key, scale, size in kinds:
        sigmas = np.array([np.nan if value is None else value for value in facts["noise_per_slice"][key]], float)
        label = "acquired" if key == "input" else "synthetic"
        look = {"color": _COLORS[name], "label": label, "markersize": size, "fillstyle": "none"}
        axes.plot(np.arange(len(sigmas)) / scale, sigmas, "o", **look)
    axes.set_ylim(bottom=0)
    _dress(axes, "acquired slice", "noise of the slice", _told("noise ratio", facts["noise_ratio"]))


def _patches(
    axes: Any, acquired: np.ndarray, synthetic: np.ndarray, z_scale: float, modality: str, facts: Mapping[str, Any]
) -> None:
    """One feature of random patches of both kinds, and what the test says of all of them."""
    places, peak = target_positions(len(synthetic), z_scale), value_range(acquired, modality)
    between = synthetic[np.abs(places - np.round(places)) > 1e-3]
    random, column = np.random.default_rng(0), PATCH_FEATURES.index(SHOWN_FEATURE)
    samples = {"acquired": acquired, "between": between}
    drawn = {name: draw_sample(values, modality, peak, random) for name, values in samples.items()}
    known = {name: sample.features[:, column] for name, sample in drawn.items() if sample is not None}
    if known:
        low, high = np.percentile(np.concatenate(list(known.values())), [0.5, 99.5])
        edges = np.linspace(low, high, _BINS + 1)
        for name, values in known.items():
            axes.hist(values, edges, histtype="step", color=_COLORS[name], label=_NAMES[name], linewidth=1.2)
    test = facts["two_sample"]
    title = "" if test is None else f"two-sample AUC {test['auc']:.2f} (acquired {test['acquired']['auc']:.2f})"
    _dress(axes, f"{SHOWN_FEATURE} of 8 x 8 patches", "patches", title)


def _told(name: str, value: float | None) -> str:
    return f"{name} {value:.2f}" if value is not None else f"{name} not measurable"


def _dress(axes: Any, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.legend(frameon=False, fontsize=7)
