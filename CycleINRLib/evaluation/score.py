"""How good a result is, where the truth is known: thin slices are thickened, upsampled again and compared (floor 4).

Volumes in, figures out. The thick slices, the slices that count and the interpolators are those of design section 6. A
`Case` is one thin scan and the thick one made of it; its `Ruler` measures every method on it, so that masks, the
moments of the truth and the noise of source and truth are computed once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import CycleINRError
from ..imaging import intensity, noise
from ..imaging.accuracy import Likeness
from ..imaging.intensity import CT_RANGE_HU
from .case import ON_GRID, Case
from .interpolators import Attempt

SECOND_DIFFERENCE = math.sqrt(6.0)  # standard deviation of [1, -2, 1] of unit white noise
Method = Callable[[Case], Iterable["Attempt | np.ndarray"]]  # one or more results; the truth picks the best


@dataclass(frozen=True)
class Score:
    """Figures of one method in one case; None where not measurable. PSNR in dB, see `PROTOCOL` for the others."""

    method: str
    psnr_generated: float | None
    psnr_all: float | None
    ssim: float | None
    ssim_planes: dict[str, float | None]
    gradient_error: float | None
    snli: float | None
    snli_detrended: float | None
    generated_gap: float | None
    noise_ratio: float | None
    seconds: float | None  # on the clock
    cpu_seconds: float | None  # of all threads of this process: what a busy machine does not distort
    noise_per_slice: list[float | None] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def product(**job_fields: Any) -> Method:
    """CycleINR as users get it; `job_fields` are those of `UpsampleJob` (model, noise, consistency, ...)."""

    def run(case: Case) -> Iterator[Attempt]:
        from ..upsampling.upsample import upsample

        protocol = case.protocol
        physics = {"profile": protocol.profile, "thickness_mm": case.source.thickness_mm}
        asked = {"axis": "k", "modality": case.modality.lower(), **physics, **job_fields}
        if abs(case.center - case.first) < ON_GRID:
            result = upsample(case.source, z_scale=protocol.z_scale, **asked)
        else:
            result = upsample(case.source, like=case.target, **asked)
        report = result.report
        kept = ("noise", "noise_taken", "consistency", "consistency_error", "gain", "device", "precision", "warnings")
        facts = {name: report[name] for name in kept if name in report}
        yield Attempt(result.volume.values, readout=report, facts=facts)

    return run


# --- figures --------------------------------------------------------------------------------------------------
class Ruler:
    """Measures every method on one case; what depends on source and truth alone is computed once."""

    def __init__(self, case: Case, threads: int = 2) -> None:
        self.case = case
        t = case.positions
        self.inner = (t >= 1 - 1e-6) & (t <= case.count - 2 + 1e-6)
        self.generated = self.inner & (np.abs(t - np.round(t)) >= noise.ACQUIRED_TOLERANCE)
        self.peak = intensity.value_range(case.truth.values, case.modality)
        truth = np.asarray(case.wanted[self.inner], np.float32)
        self.body = intensity.body_mask(truth, case.modality, self.peak)
        self.truth = self._clipped(truth)
        self.likeness = Likeness(truth, case.modality, case.truth.spacing_mm, peak=self.peak, body=self.body)
        self.gauge = noise.NoiseGauge(
            case.source.values, case.protocol.z_scale, case.modality, threads=threads, remember=True
        )

    def score(self, name: str, method: Method) -> tuple[Score, np.ndarray]:
        """Runs one method and measures its best result; PSNR on generated and on all slices each pick their own."""
        best, on_generated, on_all, spent = None, None, None, np.zeros(2)
        for attempt, taken in _timed(method(self.case)):
            spent += taken
            decibels, everywhere = self.psnr(attempt.values)
            if best is None or _above(decibels, on_generated):
                best, on_generated = attempt, decibels
            on_all = everywhere if _above(everywhere, on_all) else on_all
        if best is None:
            raise CycleINRError(f"The method {name} gave no result", f"{self.case.protocol}", "report this")
        readout = best.readout or self.gauge.readout(best.values, self.case.positions, best.acquired)
        if "seconds" in best.facts:  # of another program, which says itself how long it took
            spent = np.array([np.nan if best.facts["seconds"] is None else best.facts["seconds"], np.nan])
        score = Score(
            method=name,
            psnr_generated=_rounded(on_generated, 3),
            psnr_all=_rounded(on_all, 3),
            **self.likeness.figures(best.values[self.inner]),
            **_noise(readout),
            seconds=_rounded(_known(spent[0]), 2),
            cpu_seconds=_rounded(_known(spent[1]), 2),
            facts={name: value for name, value in best.facts.items() if name != "seconds"},
        )
        return score, best.values

    def psnr(self, values: np.ndarray) -> tuple[float | None, float | None]:
        """On generated slices and on all inner ones, in dB."""
        errors, counts = np.zeros(len(self.truth)), np.zeros(len(self.truth))
        for n, at in enumerate(np.flatnonzero(self.inner)):
            difference = (self._clipped(np.asarray(values[at], np.float32)) - self.truth[n])[self.body[n]]
            errors[n], counts[n] = np.dot(difference, difference), difference.size
        generated = self.generated[self.inner]
        return self._decibels(errors[generated], counts[generated]), self._decibels(errors, counts)

    def _decibels(self, errors: np.ndarray, counts: np.ndarray) -> float | None:
        total = errors.sum()
        return float(10 * np.log10(self.peak**2 * counts.sum() / total)) if total > 0 else None

    def truth_figures(self) -> dict[str, Any]:
        """SNLI, snli_detrended, generated_gap and noise_ratio of the truth itself, and its noise by slice."""
        case = self.case
        return _noise(self.gauge.readout(case.wanted[self.inner], case.positions[self.inner]))

    def noise_ceiling(self) -> dict[str, float | None]:
        """PSNR that the truth's own noise allows on generated slices; see `PROTOCOL` for what each assumes.

        Returns
        -------
        psnr_db, averages_db, through_db in dB; sigma, sigma_through in the unit of the values
        """
        at = [int(n) for n in np.flatnonzero(self.generated)]
        masks = [(n, self.gauge.mask(float(self.case.positions[n]))) for n in at]
        in_plane = _rms([noise.sigma(self.case.wanted[n], mask) for n, mask in masks if mask is not None])
        through = _rms([self._through(n, mask) for n, mask in masks if mask is not None])
        unknown = 1 - self._known_share(at)
        return {
            "psnr_db": self._ceiling(in_plane),
            "averages_db": self._ceiling(in_plane, unknown),
            "through_db": self._ceiling(through),
            "sigma": None if in_plane is None else float(f"{in_plane:.4g}"),
            "sigma_through": None if through is None else float(f"{through:.4g}"),
        }

    def _through(self, n: int, mask: np.ndarray) -> float:
        """Noise of target slice `n` from its two neighbors; NaN where fewer pixels than a slice needs."""
        if np.count_nonzero(mask) < noise.LEAST_FLAT:
            return float("nan")
        below, here, above = (self.case.wanted[n + step][mask].astype(np.float32) for step in (-1, 0, 1))
        return float(np.median(np.abs(below - 2 * here + above))) / (noise.NORMAL_MAD * SECOND_DIFFERENCE)

    def _known_share(self, at: Sequence[int]) -> float:
        """How much of the white noise of target slices `at` the thick ones still carry, mean: A^+ A on its diagonal."""
        if self.case.protocol.profile == "skip" or not at:
            return 0.0
        weights = self.case.weights
        share = np.einsum("kn,nk->k", np.linalg.pinv(weights), weights)
        return float(share[[self.case.first + n for n in at]].mean())

    def _ceiling(self, sigma: float | None, unknown: float = 1.0) -> float | None:
        if not sigma or unknown <= 0:
            return None
        return round(-10 * math.log10(unknown * sigma**2 / self.peak**2), 2)

    def _clipped(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, *CT_RANGE_HU) if self.case.modality == "CT" else values


def case_record(ruler: Ruler, results: dict[str, Any]) -> dict[str, Any]:
    """One case of the table: what it is, its first and last inner target slice, its truth, its ceiling, its results."""
    return {
        **ruler.case.facts(),
        "inner_slices": [int(n) for n in np.flatnonzero(ruler.inner)[[0, -1]]],
        "truth": ruler.truth_figures(),
        "noise_ceiling": ruler.noise_ceiling(),
        "results": results,
    }


def _noise(readout: dict[str, Any]) -> dict[str, Any]:
    """The figures of the output alone, of a noise readout or a report."""
    return {
        "snli": readout["snli"]["output"],
        "snli_detrended": readout["snli_detrended"]["output"],
        "generated_gap": readout["generated_gap"],
        "noise_ratio": readout["noise_ratio"],
        "noise_per_slice": readout["noise_per_slice"]["output"],
    }


def _timed(results: Iterable[Attempt | np.ndarray]) -> Iterator[tuple[Attempt, np.ndarray]]:
    """Each result with the seconds that it took, clock and CPU; the measuring between them is left out."""
    waiting = iter(results)
    while True:
        start = np.array([time.monotonic(), time.process_time()])
        found = next(waiting, None)
        if found is None:
            return
        taken = np.array([time.monotonic(), time.process_time()]) - start
        yield found if isinstance(found, Attempt) else Attempt(found), taken


def _rms(sigmas: Sequence[float]) -> float | None:
    known = np.array([value for value in sigmas if np.isfinite(value)])
    return float(np.sqrt(np.mean(known**2))) if len(known) else None


def _above(value: float | None, other: float | None) -> bool:
    return value is not None and (other is None or value > other)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
