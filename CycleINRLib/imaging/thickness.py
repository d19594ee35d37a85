"""The slice thickness of a scan that does not tell it, from the scan itself (floor 1).

In-plane lines that are averaged over the right slice profile and sampled at the slice spacing look like lines through
the slices: their power falls with frequency alike. The thickness whose spectrum fits best is the estimate.

Source: the idea is that of ESPRESO (Han et al., 2023), which learns the profile by patches; here it is a search over
one number. It assumes that anatomy is alike along all axes and that slices are equally bright. On thick slices made
from thin ones it is right to 0.2 of the spacing, mostly too low; on clinical scans it is a hint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import dct

from .profile import profile_weights

RATIOS = np.round(np.arange(0.0, 1.51, 0.1), 2)  # thickness / spacing that are tried
_LEAST_SLICES = 8
SKIPPED = 1  # lowest frequencies left out: the fields of view differ


@dataclass(frozen=True)
class ThicknessEstimate:
    """thickness_mm : the best fit; misfit : for each thickness / spacing tried, RMS in log power (1 is a factor e)."""

    thickness_mm: float
    misfit: dict[float, float]

    @property
    def certain(self) -> float:
        """How much worse the other thicknesses fit: misfit of the median one tried over the best, 1 is no evidence."""
        return float(np.median(list(self.misfit.values())) / max(min(self.misfit.values()), 1e-9))


def estimate_thickness(
    values: np.ndarray, spacing_mm: tuple[float, float, float], body: np.ndarray, profile: str
) -> ThicknessEstimate | None:
    """The slice thickness that makes in-plane lines look like lines through the slices.

    Parameters
    ----------
    values : (N, J, I) acquired slices
    spacing_mm : (k, j, i) in mm
    body : (N, J, I) bool, what counts
    profile : "box" or "gaussian"

    Returns
    -------
    None where there are fewer than 8 slices, or in-plane lines are too short to be made as coarse
    """
    through = _power(values, body, 0, None)
    if through is None:
        return None
    z_scales = [spacing_mm[0] / mm for mm in spacing_mm[1:]]
    misfit = {}
    for ratio in RATIOS.tolist():
        within = [_power(values, body, axis, (z, ratio, profile)) for axis, z in zip((1, 2), z_scales)]
        found = [one for one in within if one is not None]
        if not found:
            return None
        differences = [_difference(through, one) for one in found]
        misfit[ratio] = round(float(np.sqrt(np.mean(np.square(differences)))), 4)
    best = min(misfit, key=lambda ratio: misfit[ratio])
    return ThicknessEstimate(round(best * spacing_mm[0], 3), misfit)


def _power(
    values: np.ndarray, body: np.ndarray, axis: int, thick: tuple[float, float, str] | None
) -> np.ndarray | None:
    """Mean power of each frequency along an axis, up to the slices' Nyquist; averaged and sampled first if `thick`."""
    lines = np.moveaxis(values, axis, 0).astype(np.float32)
    inside = np.moveaxis(body, axis, 0).mean(0) > 0.7
    if thick is not None:
        z, ratio, profile = thick
        centers = np.arange(0.5 * z * ratio, len(lines) - 1 - 0.5 * z * ratio, z)
        weights = profile_weights(centers, ratio * z, len(lines), profile if ratio else "skip")
        lines = np.tensordot(weights.astype(np.float32), lines, 1)
    if len(lines) < _LEAST_SLICES or np.count_nonzero(inside) < 100:
        return None
    columns = lines[:, inside]
    return np.mean(dct(columns - columns.mean(0), axis=0, norm="ortho") ** 2, axis=1)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """RMS difference of the logarithms over common frequencies; a constant factor does not count."""
    at = np.linspace(0.1, 0.95, 40)
    level = [np.interp(at, np.arange(len(p))[SKIPPED:] / len(p), np.log(p[SKIPPED:])) for p in (a, b)]
    difference = level[0] - level[1]
    return float(np.std(difference))
