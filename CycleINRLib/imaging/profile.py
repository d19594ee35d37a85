"""The slice profile: how a slice averages over z; one home for training, inference and evaluation (floor 1).

Places along z are in units of the fine grid's slices unless a name says otherwise.
"""

from __future__ import annotations

import numpy as np

FWHM_PER_SIGMA = 2.3548
MIN_SIGMA = 0.3  # fine slices; a narrower Gaussian cannot be sampled on the grid
SKIP_RATIO = 0.1  # thickness / spacing below which a slice is a sample, not an average


def believed_ratio(ratio: float) -> float:
    """Thickness / spacing as far as a scan is believed to bear it out: up to 1.

    Slices that are thicker than they are apart say either that they overlap or, far more often, that the scanner
    interpolated them (two spacings, say). Undoing an average that did not happen is worse than linear interpolation
    (measured on three of three such scans, by 0.4 to 0.9 dB); at the spacing it is ahead of cubic where slices overlap,
    if by less than it could be, and where they were interpolated from neighbors. Where the scanner cut the band, the
    spectrum tells (`spectrum.band_end`), and nothing is undone.
    """
    return min(ratio, 1.0)


def profile_weights(centers: np.ndarray, thickness: float, count: int, profile: str) -> np.ndarray:
    """Weights with which slices at `centers` average over a fine grid: the matrix A of the contract.

    Parameters
    ----------
    centers : (N,) slice centers, in fine slices; the fine grid is 0 .. count - 1
    thickness : full width at half maximum, in fine slices
    count : number of fine slices
    profile : "box" (by overlap with the fine cells), "gaussian" (sampled), "trapezoid" (by overlap; its top is half and
        its foot one and a half times the thickness), or "skip" (one fine slice wide)

    Returns
    -------
    (N, count) float64, rows sum to one; a profile cut by the end of the grid is renormalized
    """
    at = np.arange(count, dtype=float)[None]
    center = np.asarray(centers, float)[:, None]
    if profile == "gaussian" and thickness > 0:
        weights = np.exp(-0.5 * ((at - center) / max(thickness / FWHM_PER_SIGMA, MIN_SIGMA)) ** 2)
    elif profile == "trapezoid" and thickness > 1:
        edges = np.append(at[0] - 0.5, at[0, -1] + 0.5)[None] - center
        weights = np.diff(_trapezoid_integral(edges / thickness), axis=1)
    else:
        half = max(thickness if profile == "box" else 0.0, 1.0) / 2
        overlap = np.minimum(at + 0.5, center + half) - np.maximum(at - 0.5, center - half)
        weights = np.clip(overlap, 0, None)
    return weights / weights.sum(1, keepdims=True)


def _trapezoid_integral(x: np.ndarray) -> np.ndarray:
    """Integral up to x of the trapezoid of full width 1 at half maximum: ramps of width 1/2 around -1/2 and 1/2."""
    ramp = np.clip(0.75 - np.abs(x), 0, 0.5)  # from the foot at 3/4 to the top at 1/4
    tail = ramp**2  # area of the foot beyond |x|, on the ramp
    inner = np.clip(0.25 - np.abs(x), 0, None)
    area = np.where(np.abs(x) >= 0.25, tail, 0.25 + inner)
    return np.where(x < 0, area, 1 - area)


def resolve_profile(profile: str, modality: str, ratio: float) -> str:
    """The profile meant by "auto": CT box, MR Gaussian, skip where thickness / spacing < 0.1."""
    if profile != "auto":
        return profile
    if ratio < SKIP_RATIO:
        return "skip"
    return "box" if modality == "CT" else "gaussian"
