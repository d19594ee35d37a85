"""How good a result is, where the truth is known: thin slices are thickened, upsampled again and compared (floor 3).

Volumes in, figures out. The thick slices, the slices that count and the rivals are those of design section 6. A
`Case` is one thin scan and the thick one made of it; its `Ruler` measures every method on it, so that masks, the
moments of the truth and the noise of source and truth are computed once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import CycleINRError, RequestError, VolumeError
from ..imaging import metrics
from ..imaging.geometry import Geometry
from ..imaging.intensity import CT_RANGE_HU
from ..imaging.likeness import SSIM_VARIANT, Likeness
from ..imaging.profile import profile_weights
from ..imaging.volume import Volume, guess_modality
from .rivals import RIVALS, Attempt

LEAST_SOURCE = 6  # thick slices: fewer leave nothing inside the margin
ON_GRID = 1e-6  # thin slices: a center so near to one lies on it
SECOND_DIFFERENCE = math.sqrt(6.0)  # standard deviation of [1, -2, 1] of unit white noise
PRODUCT = "CycleINR"
PROTOCOL = {
    "thick slices": "slice n is centered at thin slice ceil(z-scale) + phase + n z-scale and averages thin slices by "
    "its profile; whole numbers are rounded. skip: the thin slice itself, at a center between two of them their mean "
    "by distance",
    "target": "the thin slices between the first and the last center; nothing is extrapolated",
    "margin": "one source slice at each end counts for noise alone, not for PSNR, SSIM and gradient",
    "generated": "target slices more than 0.001 source slices from each acquired one",
    "body": "CT above -900 HU, MR above 5 % of the range, in the truth",
    "range": "CT 2000 HU after clipping to [-1000, 1000], MR the 99.9th percentile of the truth",
    "psnr": "dB over the range, in the body",
    "ssim": SSIM_VARIANT + ", all inner slices: 3D, and in planes (ji are the slices)",
    "gradient_error": "RMS over the body of | |gradient of result| - |gradient of truth| |, central differences over "
    "mm, all inner slices, % of the range a mm (CT: 1 % is 20 HU/mm)",
    "noise": "design section 6, flat half of the body of the linear interpolation (CT -250 to 300 HU, MR above 5 %): "
    "SNLI, snli_detrended, generated_gap, noise_ratio; the truth on inner slices",
    "ceiling": "-10 log10(sigma^2 / range^2), sigma the RMS of the truth's own sigma_k on generated slices: what a "
    "result without any error but the noise that the truth itself holds would reach. It assumes white noise as strong "
    "all over the body. Correlated noise (soft kernels, interpolated pixels) makes sigma too small and this ceiling "
    "too high. averages: the same where the part of white noise that thick slices still carry is known. through: "
    "sigma from second differences along z at the same places, which in-plane correlation does not lower; change of "
    "anatomy from slice to slice raises it, correlation along z lowers it",
    "cubic + projection": "the truth picks the best of 12 back-projection steps, for PSNR of generated and of all "
    "slices each its own",
}


@dataclass(frozen=True)
class Protocol:
    """How thick slices are made: spacing z_scale thin slices, thickness ratio times that, by `profile`.

    profile : "box", "gaussian", or "skip" (each thick slice is one thin slice; ratio does not matter)
    phase : offset of the first thick slice in thin slices, 0 <= phase < z_scale; skip takes whole ones alone
    """

    z_scale: float
    profile: str = "box"
    ratio: float = 1.0
    phase: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.z_scale) and self.z_scale > 1):
            raise RequestError("The z-scale must be above 1", repr(self.z_scale), "give a number such as 4 or 3.5")
        if self.profile not in ("box", "gaussian", "skip"):
            raise RequestError("The profile is unknown", repr(self.profile), "choose one of box, gaussian, skip")
        if not (math.isfinite(self.ratio) and 0 <= self.ratio <= 3):
            raise RequestError("thickness / spacing must lie between 0 and 3", repr(self.ratio), "give 1 or 0.5")
        if not 0 <= self.phase < self.z_scale:
            raise RequestError("The phase must be below the z-scale", f"{self.phase:g}", "give 0, 0.5, 1, ...")
        if self.profile == "skip" and self.phase % 1:
            raise RequestError(
                "A skipped slice cannot lie between two thin ones", f"phase {self.phase:g}", "give a whole phase"
            )

    @property
    def thickness(self) -> float:
        """Slice thickness / spacing; 0 for skip."""
        return 0.0 if self.profile == "skip" else self.ratio

    def __str__(self) -> str:
        ratio = "" if self.profile == "skip" or self.ratio == 1 else f" ratio {self.ratio:g}"
        return f"x{self.z_scale:g} {self.profile}{ratio}" + (f" phase {self.phase:g}" if self.phase else "")


@dataclass(frozen=True, eq=False)
class Case:
    """One thin scan, slices first, and the thick one made of it.

    weights : (N, K) the slice profile of each thick slice over the thin ones
    center : place of the first thick slice, in thin slices
    first : the first target slice: the first thin one at or above `center`
    """

    truth: Volume
    source: Volume
    protocol: Protocol
    modality: str
    weights: np.ndarray
    center: float
    first: int

    @classmethod
    def of(cls, truth: Volume, protocol: Protocol) -> Case:
        """Thick slice n is centered at thin slice ceil(z) + phase + n z; whole numbers stay whole (rounded).

        Raises
        ------
        VolumeError : too few thin slices for six thick ones
        """
        z, thin = protocol.z_scale, truth.values
        center = math.ceil(z) + protocol.phase
        centers = center + z * np.arange(max(0, int((len(thin) - 1 - center + ON_GRID) // z) + 1))
        if len(centers) < LEAST_SOURCE:
            raise VolumeError(
                f"Too few thin slices to evaluate z-scale {z:g}",
                f"{len(thin)}",
                f"take a scan of at least {math.ceil(center + (LEAST_SOURCE - 1) * z) + 1} slices or a smaller z-scale",
            )
        weights = profile_weights(centers, protocol.ratio * z, len(thin), protocol.profile)
        thick = np.tensordot(weights, thin.astype(np.float32), 1)
        if np.issubdtype(thin.dtype, np.integer):
            thick = np.rint(thick)
        matrix = np.array(truth.geometry.ijk_to_ras)
        matrix[:3, 3] = truth.geometry.ras_of(np.array([center, 0, 0]))
        matrix[:3, 2] *= z
        source = replace(
            truth,
            values=thick.astype(thin.dtype),
            geometry=Geometry((len(thick), *thin.shape[1:]), matrix),
            thickness_mm=protocol.ratio * z * truth.spacing_mm[0] if protocol.thickness else None,
            slice_axis="k",
        )
        return cls(truth, source, protocol, guess_modality(truth), weights, center, math.ceil(center - ON_GRID))

    @property
    def name(self) -> str:
        """What files of this case are called: scan, z-scale, profile, and what is unusual of ratio and phase."""
        return f"{self.truth.name}_{self.protocol}".replace(" ", "_")

    @property
    def count(self) -> int:
        """Thick slices."""
        return len(self.source.values)

    @cached_property
    def thin_places(self) -> np.ndarray:
        """(K,) places of all thin slices, in source slices."""
        return (np.arange(len(self.truth.values)) - self.center) / self.protocol.z_scale

    @cached_property
    def positions(self) -> np.ndarray:
        """(M,) target slices in source slices; slice j of them is thin slice first + j."""
        places = self.thin_places[self.first :]
        return places[places <= self.count - 1 + ON_GRID]

    @property
    def target(self) -> Geometry:
        """Place of the target slices: thin slices first ... first + M - 1."""
        return self.truth.geometry.cropped((self.first, 0, 0), (len(self.positions), *self.truth.values.shape[1:]))

    @property
    def wanted(self) -> np.ndarray:
        """(M, J, I) the truth on the target slices."""
        return self.truth.values[self.first : self.first + len(self.positions)]

    def facts(self) -> dict[str, Any]:
        """What the case is, ready for JSON; thickness and spacing in mm, of the source."""
        return {
            "case": self.name,
            "scan": self.truth.name,
            "modality": self.modality,
            **asdict(self.protocol),
            "ratio": self.protocol.thickness,
            "source": {"dimensions": list(self.source.values.shape[::-1]), "spacing_mm": list(self.source.spacing_mm)},
            "thickness_mm": self.source.thickness_mm,
            "target_slices": len(self.positions),
        }


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
    """CycleINR as users get it; `job_fields` are those of `UpsampleJob` (model, texture, consistency, ...)."""

    def run(case: Case) -> Iterator[Attempt]:
        from .upsample import upsample

        protocol = case.protocol
        physics = {"profile": protocol.profile, "thickness_mm": case.source.thickness_mm}
        asked = {"axis": "k", "modality": case.modality.lower(), **physics, **job_fields}
        if abs(case.center - case.first) < ON_GRID:
            result = upsample(case.source, z_scale=protocol.z_scale, **asked)
        else:
            result = upsample(case.source, like=case.target, **asked)
        report = result.report
        kept = ("texture", "consistency", "consistency_error", "gain", "device", "precision", "warnings")
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
        self.generated = self.inner & (np.abs(t - np.round(t)) >= metrics.ACQUIRED_TOLERANCE)
        self.peak = metrics.value_range(case.truth.values, case.modality)
        truth = np.asarray(case.wanted[self.inner], np.float32)
        self.body = metrics.body_mask(truth, case.modality, self.peak)
        self.truth = self._clipped(truth)
        self.likeness = Likeness(truth, case.modality, case.truth.spacing_mm, peak=self.peak, body=self.body)
        self.gauge = metrics.NoiseGauge(
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
        in_plane = _rms([metrics.sigma(self.case.wanted[n], mask) for n, mask in masks if mask is not None])
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
        if np.count_nonzero(mask) < metrics.LEAST_FLAT:
            return float("nan")
        below, here, above = (self.case.wanted[n + step][mask].astype(np.float32) for step in (-1, 0, 1))
        return float(np.median(np.abs(below - 2 * here + above))) / (metrics.NORMAL_MAD * SECOND_DIFFERENCE)

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


def evaluate(
    truth: Volume,
    protocols: Sequence[Protocol],
    methods: Mapping[str, Method] | None = None,
    *,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Figures of every method for every protocol on one thin scan.

    Parameters
    ----------
    truth : Volume, thin slices along k (`Volume.slices_first` turns others); `central_block` cuts large ones
    protocols : how thick slices are made of it
    methods : name to method; None: the rivals and CycleINR at its default options
    progress : told each case when it is done

    Returns
    -------
    one dict for each protocol, ready for JSON: `Case.facts`, truth, noise_ceiling, results {name: Score as dict}
    """
    methods = {**RIVALS, PRODUCT: product()} if methods is None else methods
    cases = []
    for protocol in protocols:
        ruler = Ruler(Case.of(truth, protocol))
        results = {name: asdict(ruler.score(name, method)[0]) for name, method in methods.items()}
        cases.append(case_record(ruler, results))
        if progress is not None:
            progress(cases[-1])
    return cases


def case_record(ruler: Ruler, results: dict[str, Any]) -> dict[str, Any]:
    """One case of the table: what it is, its first and last inner target slice, its truth, its ceiling, its results."""
    return {
        **ruler.case.facts(),
        "inner_slices": [int(n) for n in np.flatnonzero(ruler.inner)[[0, -1]]],
        "truth": ruler.truth_figures(),
        "noise_ceiling": ruler.noise_ceiling(),
        "results": results,
    }


def central_block(volume: Volume, size: int) -> Volume:
    """The central `size` x `size` rows and columns of every slice, or the whole slice where it is smaller."""
    count, rows, columns = volume.values.shape
    j, i = max(0, (rows - size) // 2), max(0, (columns - size) // 2)
    values = volume.values[:, j : j + size, i : i + size]
    return volume.with_values(values, volume.geometry.cropped((0, j, i), (count, values.shape[1], values.shape[2])))


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
