"""From noise levels of slices to figures of a volume: SNLI, generated gap, noise ratio (floor 1; design section 6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

LEAST_SLICES = 4  # measured slices that an SNLI needs
LEAST_ACQUIRED = 5  # slices at acquired positions that a generated gap needs


def snli(sigmas: Sequence[float] | np.ndarray) -> float | None:
    """Slice-wise noise level inconsistency: population std / mean of the measured sigma_k; 0 is best.

    sigmas : one a slice, NaN or 0 where not measured. None where fewer than 4 are measured.
    """
    measured = measured_levels(np.asarray(sigmas, float))
    if len(measured) < LEAST_SLICES:
        return None
    return float(measured.std() / measured.mean())


def snli_detrended(sigmas: Sequence[float] | np.ndarray, z_scale: float) -> float | None:
    """SNLI of sigma_k / trend_k: the trend is sigma smoothed twice by a box of round(z_scale) slices.

    It removes what anatomy and dose do over many slices and keeps what repeats with each source slice. One source
    spacing is dropped at each end where more than four are measured. None where fewer than 4 slices are measured or
    round(z_scale) < 2: a box of one slice leaves nothing.
    """
    period = round(z_scale)
    measured = measured_levels(np.asarray(sigmas, float))
    if len(measured) < LEAST_SLICES or period < 2:
        return None
    trend = measured
    for _ in range(2):
        trend = ndimage.uniform_filter1d(trend, period, mode="nearest")
    ratio = measured / trend
    return snli(ratio[period:-period] if len(ratio) > 4 * period else ratio)


def generated_gap(generated: np.ndarray, acquired: np.ndarray) -> float | None:
    """1 - mean sigma of generated slices / mean sigma of the output at acquired positions.

    0: generated slices cannot be told by their noise; above 0: they are smoother. None where fewer than 5 acquired
    positions or no generated slice is measured.
    """
    acquired, generated = measured_levels(np.asarray(acquired, float)), measured_levels(np.asarray(generated, float))
    if len(acquired) < LEAST_ACQUIRED or not len(generated):
        return None
    return float(1 - generated.mean() / acquired.mean())


def noise_ratio(output: np.ndarray, source: np.ndarray) -> float | None:
    """Mean sigma of the output / mean sigma of the acquired slices; 1: the texture was kept.

    SNLI alone is blind to uniform smoothing. None where fewer than 4 slices of either are measured.
    """
    output, source = measured_levels(np.asarray(output, float)), measured_levels(np.asarray(source, float))
    if min(len(output), len(source)) < LEAST_SLICES:
        return None
    return float(output.mean() / source.mean())


def mean_noise(sigmas: np.ndarray) -> float | None:
    """Mean of the measured sigma_k; None where fewer than 4 are measured."""
    measured = measured_levels(np.asarray(sigmas, float))
    return six_digits(float(measured.mean())) if len(measured) >= LEAST_SLICES else None


def per_slice(sigmas: np.ndarray) -> list[float | None]:
    """sigma_k ready for JSON: four digits are more than a slice is worth, None where it was left out."""
    return [float(f"{value:.4g}") if np.isfinite(value) and value > 0 else None for value in sigmas]


def measured_levels(sigmas: np.ndarray) -> np.ndarray:
    """Those of slices that could be measured."""
    return sigmas[np.isfinite(sigmas) & (sigmas > 0)]


def six_digits(value: float | None) -> float | None:
    """Six digits behind the point, for JSON."""
    return None if value is None else round(value, 6)
