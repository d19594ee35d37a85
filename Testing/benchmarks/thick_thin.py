"""A thick and a thin scan of one acquisition as a case of the evaluator, and what a result is worth there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from CycleINRLib.evaluation.case import ON_GRID, Acquisition, Case
from CycleINRLib.imaging import accuracy, intensity, noise
from CycleINRLib.imaging.accuracy import Likeness
from CycleINRLib.imaging.intensity import CT_RANGE_HU
from CycleINRLib.imaging.profile import profile_weights
from CycleINRLib.imaging.volume import Volume


def pair_case(thick: Volume, thin: Volume, thickness_mm: float, profile: str) -> Case:
    """The two scans as a case of the evaluator: thin slices, thick slices, and the profile that should join them."""
    z_scale = thick.spacing_mm[0] / thin.spacing_mm[0]
    center = float(thin.geometry.kji_of(thick.geometry.ras_of(np.zeros(3)))[0])
    ratio = thickness_mm / thick.spacing_mm[0]
    centers = center + z_scale * np.arange(len(thick.values))
    weights = profile_weights(centers, ratio * z_scale, len(thin.values), profile)
    source = replace(thick, thickness_mm=thickness_mm)
    first = int(np.ceil(center - ON_GRID))
    return Case(thin, source, Acquisition(z_scale, profile, ratio), "CT", weights, center, first)


def agreement(averaged: np.ndarray, thick: np.ndarray) -> dict[str, float]:
    """How far the thick scan is the mean of the thin one: another kernel shows here, and limits every method."""
    x, y = averaged[1:-1].astype(np.float64).ravel(), thick[1:-1].astype(np.float64).ravel()
    slope, offset = np.polyfit(x, y, 1)
    return {
        "thick_minus_mean_of_thin_rms_hu": round(float(np.sqrt(np.mean((y - x) ** 2))), 2),
        "after_line_rms_hu": round(float(np.sqrt(np.mean((y - slope * x - offset) ** 2))), 2),
        "line_slope": round(float(slope), 4),
        "line_offset_hu": round(float(offset), 2),
    }


class ThinScorer:
    """Figures on generated slices against the thin scan; what depends on the thin scan alone is done once."""

    def __init__(self, case: Case) -> None:
        t = case.positions
        inner = (t >= 1 - 1e-6) & (t <= case.count - 2 + 1e-6)
        self.generated = inner & (np.abs(t - np.round(t)) >= noise.ACQUIRED_TOLERANCE)
        self.inner, self.modality = inner, case.modality
        self.truth = np.clip(case.wanted, *CT_RANGE_HU).astype(np.float64)
        self.peak = intensity.value_range(case.truth.values, case.modality)
        self.body = intensity.body_mask(self.truth, case.modality, self.peak)
        self.likeness = Likeness(self.truth[inner], case.modality, case.truth.spacing_mm, peak=self.peak)
        self.steepness = self._steepness(self.truth)

    def __call__(self, values: np.ndarray) -> dict[str, float]:
        values, chosen = np.clip(values, *CT_RANGE_HU).astype(np.float64), self.generated[:, None, None] & self.body
        slope, offset = np.polyfit(values[chosen], self.truth[chosen], 1)
        found = self.likeness.figures(values[self.inner])
        return {
            "psnr": self._psnr(values),
            "psnr_line": self._psnr(slope * values + offset),
            "ssim": found["ssim"],
            "gradient_error": found["gradient_error"],
            "sharpness": self._steepness(values) / self.steepness,
        }

    def _psnr(self, values: np.ndarray) -> float:
        at = self.generated
        return accuracy.psnr(values[at], self.truth[at], self.modality, peak=self.peak, mask=self.body[at]) or 0.0

    def _steepness(self, values: np.ndarray) -> float:
        """Root mean square step from slice to slice in the body."""
        steps = np.diff(values, axis=0)[self.inner[1:]]
        return float(np.sqrt(np.mean(steps[self.body[1:][self.inner[1:]]] ** 2)))
