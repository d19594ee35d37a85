"""From the noise of slices to figures of a volume: SNLI, generated gap, noise ratio, grain (floor 1; design section 6).

Measures that look at slices cannot see streaks: noise of an acquired slice that is drawn along the slice axis. Grain is
the noise of second differences across slices over the same within slices, on the places where sigma_k is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

LEAST_SLICES = 4  # measured slices that an SNLI needs
LEAST_ACQUIRED = 5  # slices at acquired positions that a generated gap needs
NORMAL_MAD = 0.6745  # median |x| of standard normal noise
LEAST_DIFFERENCES = 300  # along each axis, that a grain needs
_SAMPLE = 1_000_000  # differences along each axis that are kept for the median


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
    """Mean sigma of the output / mean sigma of the acquired slices; 1: its grain was kept.

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


def noise_figures(
    source: np.ndarray, target: np.ndarray, beside: np.ndarray, at_acquired: np.ndarray, z_scale: float
) -> dict[str, Any]:
    """The readout from sigma_k: source (N,), target (M, 2) and beside (n, 2), both of them (output, linear)."""
    kinds = {"input": source, "output": target[:, 0], "linear": target[:, 1]}
    on_grid = target[at_acquired, 0]
    if len(measured_levels(on_grid)) < LEAST_ACQUIRED:
        on_grid = np.concatenate([on_grid, beside[:, 0]])
    return {
        "snli": {name: six_digits(snli(values)) for name, values in kinds.items()},
        "snli_detrended": {
            name: None if name == "input" else six_digits(snli_detrended(values, z_scale))
            for name, values in kinds.items()
        },
        "generated_gap": six_digits(generated_gap(target[~at_acquired, 0], on_grid)),
        "noise_ratio": six_digits(noise_ratio(target[:, 0], source)),
        "sigma_mean": {name: mean_noise(values) for name, values in kinds.items()},
        "noise_per_slice": {name: per_slice(values) for name, values in kinds.items()},
        "slices_measured": len(measured_levels(target[:, 0])),
    }


# --- grain ----------------------------------------------------------------------------------------------------
class GrainSample:
    """Second differences along the three axes, gathered slice by slice; `grain` of what was gathered."""

    def __init__(self, voxels: int) -> None:
        """voxels : of the volume; of large ones every n-th measured place is kept"""
        self.every = max(1, voxels // (4 * _SAMPLE))
        self.found: tuple[list[np.ndarray], ...] = ([], [], [])

    def places(self, mask: np.ndarray) -> np.ndarray:
        """Flat numbers of the pixels that are looked at, of a mask (J, I) whose border is False."""
        return np.flatnonzero(mask)[:: self.every]

    def add(self, at: np.ndarray, values: np.ndarray, around: tuple[np.ndarray, np.ndarray] | None) -> None:
        """One slice (J, I) at its `places`; `around`: what its neighbors have there, None beyond the ends."""
        width, center = values.shape[1], 2 * values.take(at)
        self.found[1].append(np.abs(values.take(at - width) - center + values.take(at + width)))
        self.found[2].append(np.abs(values.take(at - 1) - center + values.take(at + 1)))
        if around is not None:
            self.found[0].append(np.abs(around[0] - center + around[1]))

    def grain(self) -> float | None:
        """Noise across slices / geometric mean of that along rows and columns; None where too little was gathered."""
        along = [np.concatenate(parts) if parts else np.zeros(0) for parts in self.found]
        if min(map(len, along)) < LEAST_DIFFERENCES:
            return None
        across, rows, columns = (float(median(one)) / NORMAL_MAD for one in along)
        within = float(np.sqrt(rows * columns))
        return round(across / within, 6) if within > 0 else None


def grain(values: np.ndarray, mask: np.ndarray) -> float | None:
    """Grain of a volume (M, J, I) over a bool mask of the same shape; 1: alike in every view, 0: streaks.

    None for fewer than 300 places. It depends on spacing and reconstruction, so compare it on one grid and mask only.
    """
    sample = GrainSample(values.size)
    inner = np.zeros(mask.shape[1:], bool)
    inner[1:-1, 1:-1] = True
    for n, one in enumerate(values):
        at = sample.places(mask[n] & inner)
        sample.add(at, one, (values[n - 1].take(at), values[n + 1].take(at)) if 0 < n < len(values) - 1 else None)
    return sample.grain()


# --- the median -----------------------------------------------------------------------------------------------
def median(values: np.ndarray) -> np.floating:
    """As `numpy.median` of all `values`, float and finite, gives it; NaN where there are none.

    `numpy.median` asks for three elements at once and looks for NaN; NumPy finds a single one ten times as fast, with
    the vector units of the processor.
    """
    count = values.size
    if not count:
        return np.float64("nan")
    half = np.partition(values, count // 2, axis=None)
    above = half[count // 2]
    return above if count % 2 else np.mean((half[: count // 2].max(), above), dtype=values.dtype)
