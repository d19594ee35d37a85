"""How good a result is, where the truth is known: thin slices are thickened, upsampled again and compared (floor 3).

Volumes in, figures out. The thick slices, the slices that count and the rivals are those of design section 6:
PSNR in the body, on generated slices, one source slice of margin, beside linear, cubic B-spline, histospline, and
cubic + projection at its best of 12 back-projection steps (which is generous to it: the truth picks the step).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import mean
from typing import Any

import numpy as np

from ..errors import CycleINRError, RequestError, VolumeError
from ..imaging import metrics
from ..imaging.baselines import cubic_weights, histospline_weights, linear_weights
from ..imaging.geometry import Geometry
from ..imaging.profile import profile_weights
from ..imaging.volume import Volume, guess_modality

BACK_PROJECTIONS = 12
LEAST_SOURCE = 6  # thick slices: fewer leave nothing inside the margin


@dataclass(frozen=True)
class Protocol:
    """How thick slices are made: spacing z_scale thin slices, thickness ratio times that, by `profile`.

    profile : "box", "gaussian", or "skip" (each thick slice is one thin slice; ratio does not matter)
    """

    z_scale: float
    profile: str = "box"
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.z_scale) and self.z_scale > 1):
            raise RequestError("The z-scale must be above 1", repr(self.z_scale), "give a number such as 4 or 3.5")
        if self.profile not in ("box", "gaussian", "skip"):
            raise RequestError("The profile is unknown", repr(self.profile), "choose one of box, gaussian, skip")

    def __str__(self) -> str:
        ratio = "" if self.profile == "skip" or self.ratio == 1 else f" {self.ratio:g}"
        return f"x{self.z_scale:g} {self.profile}{ratio}"


@dataclass(frozen=True, eq=False)
class Case:
    """One thin scan, slices first, and the thick one made of it.

    weights : (N, K) the slice profile of each thick slice over the thin ones
    first : thin slice at which the first thick slice, and so the first target slice, is centered
    """

    truth: Volume
    source: Volume
    protocol: Protocol
    modality: str
    weights: np.ndarray
    first: int

    @classmethod
    def of(cls, truth: Volume, protocol: Protocol) -> Case:
        """Thick slice n is centered at thin slice ceil(z) + n z; whole numbers stay whole (rounded).

        Raises
        ------
        VolumeError : too few thin slices for six thick ones
        """
        z, thin = protocol.z_scale, truth.values
        first = math.ceil(z)
        centers = first + z * np.arange(max(0, int((len(thin) - 1 - first) // z) + 1))
        if len(centers) < LEAST_SOURCE:
            raise VolumeError(
                f"Too few thin slices to evaluate z-scale {z:g}",
                f"{len(thin)}",
                f"take a scan of at least {first + math.ceil((LEAST_SOURCE - 1) * z) + 1} slices or a smaller z-scale",
            )
        weights = profile_weights(centers, protocol.ratio * z, len(thin), protocol.profile)
        thick = np.tensordot(weights, thin.astype(np.float32), 1)
        if np.issubdtype(thin.dtype, np.integer):
            thick = np.rint(thick).astype(thin.dtype)
        matrix = np.array(truth.geometry.ijk_to_ras)
        matrix[:3, 3] = truth.geometry.ras_of(np.array([first, 0, 0]))
        matrix[:3, 2] *= z
        skip = protocol.profile == "skip"
        source = replace(
            truth,
            values=thick.astype(thin.dtype),
            geometry=Geometry((len(thick), *thin.shape[1:]), matrix),
            thickness_mm=None if skip else protocol.ratio * z * truth.spacing_mm[0],
            slice_axis="k",
        )
        return cls(truth, source, protocol, guess_modality(truth), weights, first)

    @property
    def positions(self) -> np.ndarray:
        """(M,) target slices in source slices; slice j of them lies at thin slice first + j."""
        count = self.source.geometry.resliced(self.protocol.z_scale).shape[0]
        return metrics.target_positions(count, self.protocol.z_scale)


Method = Callable[[Case], Iterable[np.ndarray]]  # one or more results (M, J, I); the truth picks the best


@dataclass(frozen=True)
class Score:
    """Figures of one method in one case; None where not measurable. PSNR in dB."""

    scan: str
    modality: str
    z_scale: float
    profile: str
    ratio: float
    method: str
    psnr_generated: float | None
    psnr_all: float | None
    ssim: float | None
    snli: float | None
    snli_detrended: float | None
    generated_gap: float | None
    noise_ratio: float | None
    seconds: float


# --- rivals ---------------------------------------------------------------------------------------------------
def linear(case: Case) -> Iterator[np.ndarray]:
    """Linear interpolation between the thick slices."""
    yield _weighted(linear_weights(case.positions, len(case.source.values)), case.source.values)


def cubic(case: Case) -> Iterator[np.ndarray]:
    """Cubic B-spline interpolation of the thick slices."""
    yield _weighted(cubic_weights(case.positions, len(case.source.values)), case.source.values)


def histospline(case: Case) -> Iterator[np.ndarray]:
    """The spline whose means over the thick slices are exact: right for box slices without gap or overlap."""
    count = len(case.source.values)
    yield _weighted(histospline_weights(case.positions, count, 1 / case.protocol.z_scale), case.source.values)


def cubic_projection(case: Case) -> Iterator[np.ndarray]:
    """Cubic, then after each of 12 back-projection steps: x + cubic(y - A x)."""
    thick = case.source.values.astype(np.float64)
    thin_positions = (np.arange(len(case.truth.values)) - case.first) / case.protocol.z_scale
    spline = cubic_weights(thin_positions, len(thick))
    target = slice(case.first, case.first + len(case.positions))
    x = _weighted(spline, thick)
    yield x[target]
    for _ in range(BACK_PROJECTIONS):
        x = x + _weighted(spline, thick - _weighted(case.weights, x))
        yield x[target]


def product(**job_fields: Any) -> Method:
    """CycleINR as users get it; `job_fields` are those of `UpsampleJob` (model, texture, consistency, ...)."""

    def run(case: Case) -> Iterator[np.ndarray]:
        from .upsample import upsample

        protocol = case.protocol
        physics = {"profile": protocol.profile, "thickness_mm": case.source.thickness_mm}
        asked = {"z_scale": protocol.z_scale, "axis": "k", "modality": case.modality.lower(), **physics, **job_fields}
        yield upsample(case.source, **asked).volume.values

    return run


RIVALS: dict[str, Method] = {
    "linear": linear,
    "cubic": cubic,
    "histospline": histospline,
    "cubic + projection": cubic_projection,
}
PRODUCT = "CycleINR"


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.tensordot(weights, values.astype(np.float64), 1)


# --- figures --------------------------------------------------------------------------------------------------
def evaluate(
    truth: Volume,
    protocols: Sequence[Protocol],
    methods: Mapping[str, Method] | None = None,
    *,
    with_ssim: bool = False,
    progress: Callable[[Score], None] | None = None,
) -> list[Score]:
    """Scores of every method for every protocol on one thin scan.

    Parameters
    ----------
    truth : Volume, thin slices along k (`Volume.slices_first` turns others); `central_block` cuts large ones
    protocols : how thick slices are made of it
    methods : name to method; None: the rivals and CycleINR at its default options
    with_ssim : SSIM of all inner slices too, which takes longer than the interpolation itself
    progress : told each score when it is known

    Returns
    -------
    one Score for each protocol and method, in this order
    """
    methods = {**RIVALS, PRODUCT: product()} if methods is None else methods
    scores = []
    for protocol in protocols:
        case = Case.of(truth, protocol)
        for name, method in methods.items():
            scores.append(score(case, name, method, with_ssim=with_ssim))
            if progress is not None:
                progress(scores[-1])
    return scores


def score(case: Case, name: str, method: Method, *, with_ssim: bool = False) -> Score:
    """Runs one method and measures its best result; PSNR on generated and on all slices each pick their own."""
    t, last = case.positions, len(case.source.values) - 1
    inner = (t >= 1 - 1e-6) & (t <= last - 1 + 1e-6)
    generated = inner & (np.abs(t - np.round(t)) >= metrics.ACQUIRED_TOLERANCE)
    best, on_generated, on_all, seconds = None, None, None, 0.0
    for values, taken in _timed(method(case)):
        seconds += taken
        decibels = _psnr(case, values, generated)
        if best is None or _above(decibels, on_generated):
            best, on_generated = values, decibels
        everywhere = _psnr(case, values, inner)
        on_all = everywhere if _above(everywhere, on_all) else on_all
    if best is None:
        raise CycleINRError(f"The method {name} gave no result", f"{case.protocol}", "report this")
    readout = metrics.noise_readout(case.source.values, best, case.protocol.z_scale, case.modality)
    protocol = case.protocol
    return Score(
        scan=case.truth.name,
        modality=case.modality,
        z_scale=protocol.z_scale,
        profile=protocol.profile,
        ratio=0.0 if protocol.profile == "skip" else protocol.ratio,
        method=name,
        psnr_generated=_rounded(on_generated, 3),
        psnr_all=_rounded(on_all, 3),
        ssim=_ssim(case, best, inner) if with_ssim else None,
        snli=readout["snli"]["output"],
        snli_detrended=readout["snli_detrended"]["output"],
        generated_gap=readout["generated_gap"],
        noise_ratio=readout["noise_ratio"],
        seconds=round(seconds, 2),
    )


def _psnr(case: Case, values: np.ndarray, chosen: np.ndarray) -> float | None:
    truth = case.truth.values
    peak = metrics.value_range(truth, case.modality)
    return metrics.psnr(values[chosen], truth[case.first + np.flatnonzero(chosen)], case.modality, peak=peak)


def _ssim(case: Case, values: np.ndarray, chosen: np.ndarray) -> float | None:
    truth = case.truth.values
    peak = metrics.value_range(truth, case.modality)
    found = metrics.ssim(values[chosen], truth[case.first + np.flatnonzero(chosen)], case.modality, peak=peak)
    return _rounded(found, 4)


def _timed(results: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, float]]:
    """Each result with the seconds that it took, the measuring between them left out."""
    waiting = iter(results)
    while True:
        start = time.monotonic()
        values = next(waiting, None)
        if values is None:
            return
        yield values, time.monotonic() - start


def _above(value: float | None, other: float | None) -> bool:
    return value is not None and (other is None or value > other)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def central_block(volume: Volume, size: int) -> Volume:
    """The central `size` x `size` rows and columns of every slice, or the whole slice where it is smaller."""
    count, rows, columns = volume.values.shape
    j, i = max(0, (rows - size) // 2), max(0, (columns - size) // 2)
    values = volume.values[:, j : j + size, i : i + size]
    return volume.with_values(values, volume.geometry.cropped((0, j, i), (count, values.shape[1], values.shape[2])))


# --- tables ---------------------------------------------------------------------------------------------------
def markdown(scores: Sequence[Score], figure: str = "psnr_generated", digits: int = 2) -> str:
    """A table of one figure: scan and protocol down, methods across; PSNR tables add the lead over the best rival."""
    assert figure in {field.name for field in fields(Score)}, figure
    methods = list(dict.fromkeys(score.method for score in scores))
    with_lead = figure.startswith("psnr") and PRODUCT in methods and len(methods) > 1
    header = ["scan", "z-scale", "profile", *methods, *(["lead"] if with_lead else [])]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    leads = []
    for case in dict.fromkeys(_case_of(score) for score in scores):
        scan, z_scale, profile, ratio = case
        row = {score.method: getattr(score, figure) for score in scores if _case_of(score) == case}
        cells = [scan, f"{z_scale:g}", profile if ratio in (0, 1) else f"{profile} {ratio:g}"]
        cells += [_cell(row.get(name), digits) for name in methods]
        if with_lead:
            rivals = [value for name, value in row.items() if name != PRODUCT and value is not None]
            ours = row.get(PRODUCT)
            leads.append(None if ours is None or not rivals else ours - max(rivals))
            cells.append("-" if leads[-1] is None else f"{leads[-1]:+.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    known = [lead for lead in leads if lead is not None]
    if known:
        ahead = f"ahead in {sum(lead > 0 for lead in known)} of {len(known)}"
        lines += ["", f"Lead over the best rival: mean {mean(known):+.2f} dB, least {min(known):+.2f} dB, {ahead}."]
    return "\n".join(lines)


def _case_of(score: Score) -> tuple[str, float, str, float]:
    return score.scan, score.z_scale, score.profile, score.ratio


def _cell(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
