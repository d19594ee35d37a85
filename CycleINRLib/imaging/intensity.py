"""Intensities between the scan's unit and the network's range (floor 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CT_SCALE_HU = 1000.0
CT_RANGE_HU = (-1000.0, 1000.0)  # where CT is measured, in detail and in PSNR, so that metal does not rule it
MIN_DETAIL = 1e-4  # of the normalized range; a scan without any change along z
BODY_CT_HU = -900.0  # what is above is body
BODY_MR = 0.05  # of the range
MR_PERCENTILE = 99.9  # its value is the range of an MR scan
ROWS = 32  # rows of each slice that are looked at


@dataclass(frozen=True)
class IntensityScale:
    """normalized = value / scale; the network's correction is in units of `detail` (normalized).

    CT has one fixed scale, 1000 HU; MR its 99.9th percentile. `detail` is the RMS of the second difference along z
    in the body: it makes loss and correction comparable between noisy and smooth scans. `through` and `within` are
    log(RMS of second / first differences) along z and in-plane: near log(1.7) for noise, far below zero where
    neighbors hardly differ, so they tell how finely the scan samples what it shows. Nothing is clipped here.
    """

    scale: float
    detail: float
    through: float
    within: float

    @classmethod
    def of(cls, values: np.ndarray, modality: str, scale: float | None = None) -> IntensityScale:
        """From source slices (N, J, I), in HU for "CT", stored units else; `scale` where it is known already."""
        sample = np.asarray(values[:, :: max(1, values.shape[1] // ROWS)], np.float32)
        if modality == "CT":
            scale, sample = CT_SCALE_HU, np.clip(sample, *CT_RANGE_HU)
            body = sample > BODY_CT_HU
        else:
            scale = scale or float(max(np.percentile(sample, MR_PERCENTILE), np.abs(sample).max() * 1e-3, 1e-30))
            body = sample > BODY_MR * scale
        bend, through = _roughness(sample, body)
        _, within = _roughness(np.moveaxis(sample, 2, 0), np.moveaxis(body, 2, 0))
        return cls(float(scale), max(bend / scale, MIN_DETAIL), through, within)


def _roughness(sample: np.ndarray, body: np.ndarray) -> tuple[float, float]:
    """RMS of the second difference along the first axis in the body, and the log of its ratio to the first's."""
    step = np.diff(sample, axis=0)
    inside = body[1:-1] if body[1:-1].any() else np.ones_like(body[1:-1])
    first = _rms(0.5 * (np.abs(step[1:]) + np.abs(step[:-1]))[inside])
    second = _rms(np.diff(step, axis=0)[inside])
    return second, float(np.clip(np.log(max(second, 1e-9) / max(first, 1e-9)), -2.0, 1.0))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


# --- against a truth ------------------------------------------------------------------------------------------
def value_range(values: np.ndarray, modality: str) -> float:
    """The fixed range of PSNR and SSIM: 2000 HU for CT, the 99.9th percentile of `values` for MR."""
    if modality.upper() == "CT":
        return CT_RANGE_HU[1] - CT_RANGE_HU[0]
    return float(np.percentile(_sample(values), MR_PERCENTILE))


def body_mask(truth: np.ndarray, modality: str, peak: float) -> np.ndarray:
    """Where PSNR and SSIM count: CT above -900 HU, MR above 5 % of `peak`; shape of `truth`."""
    return truth > (BODY_CT_HU if modality.upper() == "CT" else BODY_MR * peak)


_SAMPLE = 4_000_000  # voxels that are enough for a percentile


def is_whole(values: np.ndarray) -> bool:
    """Whether the values are whole numbers, by type or (a sample of a float array) by value."""
    if not np.issubdtype(values.dtype, np.floating):
        return True
    sample = _sample(values)
    return bool((sample == np.rint(sample)).all())


def _sample(values: np.ndarray) -> np.ndarray:
    """All values, or every n-th row and column of a large volume: percentiles do not need more."""
    step = int(np.ceil(np.sqrt(max(1.0, values.size / _SAMPLE))))
    return values[..., ::step, ::step]


TISSUE_HU = (-200.0, 300.0)
LEAST_IN_RANGE = 1e-3  # of the voxels


def doubtful_values(values: np.ndarray, modality: str) -> list[str]:
    """What tells that values are not in the unit that models go by, in sentences for the user.

    CT is taken for HU, MR for magnitudes whose background lies near 0; a scan to which something was added, or that was
    multiplied (CT), gets another result.
    """
    sample = np.asarray(values[:, ::4, ::4], np.float64).ravel()
    low, high = np.percentile(sample, [0.1, MR_PERCENTILE])
    if modality != "CT":
        if low < -0.02 * abs(high):
            return [f"The MR holds values below 0, from {low:.4g}: where something was added, the result differs."]
        if low > 0.4 * high:
            return [
                f"The values of the MR begin at {low:.4g}, not at 0: where something was added, the result differs."
            ]
        return []
    if high - low < 50 or high - low > 5e4:
        return [f"The values of the CT reach from {low:.4g} to {high:.4g}: they are no HU, by which models go."]
    if np.mean(sample < -20) < LEAST_IN_RANGE:
        return ["The CT holds nothing below -20 HU: where air is 0, its values are no HU, by which models go."]
    tissue = np.mean((sample > TISSUE_HU[0]) & (sample < TISSUE_HU[1]))
    if np.percentile(sample, 1) < -1500 and tissue < LEAST_IN_RANGE:  # padding alone lies as low, beside tissue
        return ["The CT holds no tissue of about 0 HU but values below air: are they HU, by which models go?"]
    return []
