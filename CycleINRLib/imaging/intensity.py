"""Intensities between the scan's unit and the network's range (floor 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CT_SCALE_HU = 1000.0
CT_RANGE_HU = (-1000.0, 1000.0)  # where CT detail is measured, so that metal does not rule it
MIN_DETAIL = 1e-4  # of the normalized range; a scan without any change along z


@dataclass(frozen=True)
class IntensityScale:
    """normalized = value / scale; the network's correction is in units of `detail` (normalized).

    CT has one fixed scale, 1000 HU; MR its 99.9th percentile. `detail` is the RMS of the second difference along z
    in the body: it makes loss and correction comparable between noisy and smooth scans. Nothing is clipped here.
    """

    scale: float
    detail: float

    @classmethod
    def of(cls, values: np.ndarray, modality: str, scale: float | None = None) -> IntensityScale:
        """From source slices (N, J, I), in HU for "CT", stored units else; `scale` where it is known already."""
        step = tuple(slice(None, None, max(1, n // 96)) for n in values.shape[1:])
        sample = np.asarray(values[(slice(None), *step)], np.float32)
        if modality == "CT":
            scale, sample = CT_SCALE_HU, np.clip(sample, *CT_RANGE_HU)
            body = sample[1:-1] > -900
        else:
            scale = scale or float(max(np.percentile(sample, 99.9), np.abs(sample).max() * 1e-3, 1e-6))
            body = sample[1:-1] > 0.05 * scale
        bend = sample[2:] - 2 * sample[1:-1] + sample[:-2]
        inside = bend[body] if body.any() else bend.ravel()
        rms = float(np.sqrt(np.mean(np.square(inside, dtype=np.float64)))) if inside.size else 0.0
        return cls(float(scale), max(rms / scale, MIN_DETAIL))
