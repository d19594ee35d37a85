"""Whose noise the result shows: of the acquired slices, new in each slice, or none (floor 3; design section 5.1).

The noise of an acquired slice belongs to that slice. Drawn along the slice axis it is a streak in the other views. So
slices are split into signal and noise (`split`), the signal is upsampled, and the result gets noise that is new in each
slice (`noisefield`), of the spectrum and local strength of the scan's. Averaged over the slice profile it is
nothing, so the result still agrees with the acquired slices, but for their own noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..imaging.consistency import Grid, along_z, gate, projection
from ..imaging.geometry import AXES
from ..imaging.intensity import step_of
from ..imaging.interpolation import weighted
from ..imaging.lazy import part_of_slices
from ..imaging.noise import Flatness, gradient_parts
from ..jobs import UpsampleJob
from ..network.workers import divided
from .memory import rows_at_once
from .noisefield import NoiseField, seed_of
from .noisekept import NoiseFound, keep_noise, kept_noise, noise_checksum
from .noisemodel import BLOCK, NoiseModel, finest, wave_amplitudes
from .plan import Plan
from .protocols import Rows
from .split import SHARE_CELL, SPLIT_HALO, take
from .strips import Region, Signal, Strip

SAMPLE = (9, 192, 192)  # slices, rows and columns, from the middle, on which the split is examined
_LEAST_PIXELS, _LEAST_SLICES = 1000, 5  # flat ones from which the noise is known
HALVES = 1.2  # times that it may differ between two halves of the slices
_ALIKE = 0.35  # correlation of the noise of neighboring slices above which the scanner interpolated them
FINE = 0.05  # size of its finest waves / that of its broadest, below which pixels were interpolated
LEAST_SHARE = 0.03  # part of the noise's variance on flat places that must be told from structure
MOST_TAKEN = 1.1  # noise taken / noise there is
MOST_STRUCTURE = 0.02  # correlation of what was taken with the gradient magnitude
MOST_BLOCKS = 0.01  # share of 8 x 8 blocks whose mean is beyond 3 of its standard errors
MOST_EDGE = 0.05  # mean of what was taken along edges, in standard deviations of the noise
DRAWN = {"keep": 0.4, "project": 1.0}  # part of the variance of noise left in the signal that generated slices show
BROAD_DRAWN = 0.5  # at most, the same of broad waves, which interpolation between slices weakens
REACH = 5  # pixels on each side of the field's kernel
SLICES_TOGETHER = 8  # output slices from which what is not free is taken at once
LEAST_FREE = 0.5  # standard deviation, of 1, that the null space of the profile must leave; below, less noise is made


@dataclass(frozen=True, eq=False)
class NoiseTreatment:
    """What happens to the noise of a scan.

    mode : "renew", "acquired" or "remove"
    model : of the noise; None for "acquired"
    taken_rms, taken_ratio : what the split takes on the flat places of a sample, in the scan's unit and in standard
        deviations of the noise there; None where nothing is taken
    """

    mode: str
    model: NoiseModel | None = None
    seed: int = 0
    taken_rms: float | None = None
    taken_ratio: float | None = None


def settle_noise(
    values: np.ndarray,
    spacing_mm: tuple[float, ...],
    plan: Plan,
    job: UpsampleJob,
    warn: Callable[[str], None],
    derivatives: Mapping[int, np.ndarray] | None = None,
) -> NoiseTreatment:
    """What the job asks for; where it leaves the choice, "renew" if the split is believed for this scan (N, J, I).

    The same scan and job give the same answer, whatever part of the scan is then computed. What speaks against the
    split is told by `warn`: of "auto" it makes "acquired". `derivatives` as for `NoiseModel.of`.
    """
    if job.noise == "acquired" or (job.noise == "auto" and plan.consistency in ("none", "exact")):
        return NoiseTreatment("acquired")
    found = _found(values, spacing_mm, plan, derivatives)
    if found.model is None:
        warn("The noise stays as acquired: there are too few flat places to measure it.")
        return NoiseTreatment("acquired")
    if job.noise == "auto" and found.doubts:
        warn(f"The noise stays as acquired: {found.doubts[0]}.")
        return NoiseTreatment("acquired")
    for doubt in found.doubts:
        warn(f"Signal and noise are hard to tell apart in this scan: {doubt}.")
    mode = "renew" if job.noise == "auto" else job.noise
    return NoiseTreatment(mode, found.model, seed_of(values), found.taken_rms, found.taken_ratio)


def _found(
    values: np.ndarray,
    spacing_mm: tuple[float, ...],
    plan: Plan,
    derivatives: Mapping[int, np.ndarray] | None,
) -> NoiseFound:
    """As an earlier run found it, or measured now."""
    key = noise_checksum(values, spacing_mm, plan.modality)
    known = kept_noise(key)
    if known is None:
        model = NoiseModel.of(values, spacing_mm, plan.modality, derivatives)
        known = NoiseFound(None)
        if model is not None:
            rms, ratio, doubts = judged(values, model, plan)
            known = NoiseFound(model, rms, ratio, tuple(doubts))
        keep_noise(key, known)
    return known


def judged(values: np.ndarray, model: NoiseModel, plan: Plan) -> tuple[float, float, list[str]]:
    """What the split takes on flat places (in the scan's unit, and in deviations of the noise), and what speaks against
    it, as parts of sentences."""
    first = [max(0, (n - m) // 2) for n, m in zip(values.shape, SAMPLE)]
    first = [first[0], *(n - n % SHARE_CELL for n in first[1:])]
    block = values[tuple(slice(f, f + m) for f, m in zip(first, SAMPLE))]
    taken = take(block, model, (first[0], first[1], first[2]))
    flatness = Flatness.of(values, plan.modality)
    parts: list[tuple[np.ndarray, ...]] = []
    outliers: list[np.ndarray] = []
    flat_share: list[float] = []
    for k, (one, noise, share) in enumerate(zip(block, taken.noise, taken.share)):
        one = np.asarray(one, np.float32)
        gradient = np.hypot(*gradient_parts(one))
        mask = flatness.mask(one, gradient)
        level = model.level_at(first[0] + k, first[1], one.shape[0], first[2], one.shape[1]) * np.float32(model.total)
        body = (ndimage.gaussian_filter(one, 2.0) > max(flatness.low, 2 * flatness.low)) & (noise != 0)
        if mask is None or not mask.any() or not body.any():
            continue
        ratio = noise / level
        edges = body & (gradient > np.quantile(gradient[body], 0.95))
        parts.append((noise[mask], ratio[mask], ratio[body], gradient[body], ratio[edges]))
        flat_share.append(float(np.mean(share[mask[::SHARE_CELL, ::SHARE_CELL]])))
        outliers.append(_block_means(ratio, mask))
    if not parts:
        return 0.0, 0.0, ["there are too few flat places to measure it"]
    noise, on_flat, in_body, gradients, on_edges = (np.concatenate(each) for each in zip(*parts))
    ratio = float(np.sqrt(np.mean(on_flat**2)))
    means = np.concatenate(outliers)
    lowest = model.spectrum[:3, :3].max() or model.spectrum.max()
    spread = lowest / (BLOCK * model.total)  # of such a mean, as the spectrum gives it
    beyond = float(np.mean(np.abs(means) > 3 * spread)) if means.size else 0.0
    structure = float(np.corrcoef(in_body, gradients)[0, 1]) if np.ptp(gradients) else 0.0
    broad, fine = (model.spectrum[half, half] for half in (slice(BLOCK // 2), slice(BLOCK // 2, None)))
    found = {
        "there are too few flat places to measure it": model.flat_pixels < _LEAST_PIXELS
        or model.flat_slices < min(_LEAST_SLICES, len(values)),
        "its level differs between halves of the scan": not 1 / HALVES < model.halves < HALVES,
        "it is below one stored step": model.sigma < step_of(block),
        "neighboring slices share it, as the scanner interpolated them": abs(model.neighbors) > _ALIKE,
        "pixels share it, as they were interpolated": fine.mean() < FINE * broad.mean(),
        "it cannot be told from structure": float(np.mean(flat_share)) < LEAST_SHARE,
        "more would be taken than there is": ratio > MOST_TAKEN,
        "structure would be taken with it": abs(structure) > MOST_STRUCTURE
        or beyond > MOST_BLOCKS
        or abs(float(on_edges.mean())) > MOST_EDGE,
    }
    doubts = [text for text, true in found.items() if true]
    return float(np.sqrt(np.mean(noise**2))), ratio, doubts


def _block_means(ratio: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Means over 8 x 8 pixels of flat places."""
    rows, columns = (n - n % BLOCK for n in ratio.shape)

    def blocks(of: np.ndarray) -> np.ndarray:
        return of[:rows, :columns].reshape(rows // BLOCK, BLOCK, -1, BLOCK)

    return blocks(ratio).mean((1, 3))[blocks(mask).all((1, 3))]


@dataclass(frozen=True, eq=False)
class Part:
    """Slices (N, J, I), all of the scan or some of its slices, rows and columns, and what is done with their noise.

    acquired : as acquired; signal : what the network gets; split : the same, where noise is taken from it
    """

    acquired: np.ndarray
    signal: Rows
    split: Signal | None
    renewal: Renewal | None


def part_of(
    values: np.ndarray,
    noise: NoiseTreatment,
    plan: Plan,
    spacing_mm: tuple[float, ...],
    limits: Region | None = None,
    tick: Callable[[], None] = lambda: None,
    halo: tuple[int, int] = (SPLIT_HALO, SPLIT_HALO),
) -> Part:
    """The part of the scan (N, J, I) within `limits` of its slices, rows and columns (None: all), and its signal.

    Noise is split with what lies around, and made as in the whole scan; `halo` and `tick` as for `Signal`.
    """
    limits = limits or tuple((0, n) for n in values.shape)
    if noise.model is None:
        acquired = part_of_slices(values, limits)
        return Part(acquired, acquired, None, None)
    signal = Signal(values, noise.model, limits, halo, tick)
    renewal = None
    if noise.mode == "renew":
        kernel, alike, strength = _kernel(noise.model, min(DRAWN[plan.consistency], BROAD_DRAWN))
        step = plan.grid.step
        mm = spacing_mm[0] * step / np.sqrt(spacing_mm[1] * spacing_mm[2])  # of a target slice, in pixels
        correlation = float(np.interp(mm, np.arange(len(alike)), alike))
        field = NoiseField(noise.seed, (values.shape[1], values.shape[2]), kernel, correlation, step)
        (first, _), (row, _), (column, _) = limits
        renewal = Renewal(signal, noise.model, field, (first, row, column), strength)
    return Part(signal.acquired, signal, signal, renewal)


def slices_first_region(region: Region | None, axis: str) -> Region | None:
    """A region along (k, j, i) in the order of a volume's `slices_first`."""
    if region is None:
        return None
    at = AXES.index(axis)
    return (region[at], *(pair for n, pair in enumerate(region) if n != at))


@dataclass(frozen=True, eq=False)
class Strength:
    """Standard deviation of new noise beside what is left of the old, for some rows and columns.

    variance : (N, rows, columns) float32 in acquired slices, linear between them; level : of the noise there, where
        what is touched depends on it
    """

    variance: np.ndarray
    level: np.ndarray | None
    model: NoiseModel

    def add(self, x: np.ndarray, unit: np.ndarray, positions: np.ndarray, spread: np.ndarray) -> None:
        """To the signal x (M, rows, columns) noise of the deviations `spread` (M,), as strong as it is to be."""

        def add_some(some: slice) -> None:
            for one, new, t, left in zip(x[some], unit[some], positions[some], spread[some]):
                self.scale(new, one, float(t), float(left))
                one += new

        divided(add_some, len(x))

    def scale(self, new: np.ndarray, x: np.ndarray, t: float, unit: float = 1.0) -> None:
        """Makes noise (rows, columns) of deviation `unit` as strong as it is to be in the signal x at position `t` in
        slices."""
        deviation = self._between(self.variance, t)
        new *= np.sqrt(deviation, out=deviation)
        if unit != 1:
            new *= np.float32(1 / unit)
        self.model.touch(new, x, None if self.level is None else self._between(self.level, t))

    def _between(self, slices: np.ndarray, t: float) -> np.ndarray:
        below = int(np.clip(np.floor(t), 0, len(slices) - 1))
        above, part = min(below + 1, len(slices) - 1), np.float32(t - below)
        found = slices[below] * (1 - part)
        if part:
            found += part * slices[above]
        return found


@dataclass(frozen=True, eq=False)
class Renewal:
    """Noise that is new in each output slice.

    signal : of the acquired slices, and what was taken from them
    origin : first slice, row and column of these in the whole scan, whose noise it is
    strength : of new noise in units of the level
    """

    signal: Signal
    model: NoiseModel
    field: NoiseField
    origin: tuple[int, int, int]
    strength: float

    def add(self, x, beside, grid: Grid, wanted: np.ndarray, plan: Plan, rows: slice, columns: slice) -> None:
        """To output x (M, rows, columns) on the target part of `grid`, and to that at acquired positions `wanted`.

        Rows and columns are those of the signal. With "keep", acquired slices get back their own noise, bit for bit,
        and old and new are mixed through the gate at constant variance.
        """
        inside = np.clip(grid.positions, 0, grid.count - 1)
        null = None if plan.consistency == "keep" else NullSpace.of(grid, wanted, plan, self.field.correlation)
        size = 2 * rows_at_once(x.shape[2], len(inside))  # with half as many copies as elsewhere
        for strip, of_strip in self.signal.strips(rows.start, rows.stop):
            for first in range(of_strip.start, of_strip.stop, size):
                some = slice(first, min(first + size, of_strip.stop))
                at = slice(strip.first + some.start - rows.start, strip.first + some.stop - rows.start)
                near = slice(0, x.shape[2]) if null is None else self._touched(x[:, at], beside[:, at])
                across = slice(columns.start + near.start, columns.start + near.stop)
                whole = [(corner + of.start, corner + of.stop) for corner, of in zip(strip.corner, (some, across))]
                if near.stop == near.start:
                    continue
                strength = self._strength(strip, some, across, plan.consistency)
                if null is None:
                    unit = self.field.at(self.origin[0] + inside[grid.crop], *whole)
                    self._mix(x[:, at], unit, inside[grid.crop], strength, strip, some, columns)
                    continue
                unit = self.field.at(self.origin[0] + np.concatenate([grid.positions, wanted]), *whole)
                null.reduce(unit)
                for out, of, places in (
                    (x[:, at, near], grid.crop, inside[grid.crop]),
                    (beside[:, at, near], slice(len(inside), None), wanted),
                ):
                    strength.add(out, unit[of], places, null.spread[of])
        if plan.consistency == "keep" and len(wanted):
            beside[:] = self.signal.acquired[wanted, rows, columns]

    def _touched(self, x: np.ndarray, beside: np.ndarray) -> slice:
        """The columns that any place lies in where noise is made: around them is air or nothing."""
        low = self.model.low[0]
        seen = [of.max(0) > low for of in (x, beside) if len(of)]
        occupied = np.flatnonzero(np.any(seen, axis=(0, 1)))
        return slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(0, 0)

    def _mix(self, x, unit, positions, strength: Strength, strip: Strip, rows: slice, columns: slice) -> None:
        """Rows are those of the strip."""
        acquired = self.signal.acquired[:, strip.first + rows.start : strip.first + rows.stop, columns]
        for one, new, t, g in zip(x, unit, positions, gate(positions)):
            k = int(np.round(t))
            if abs(t - k) < 1e-6:
                one[:] = acquired[k]
                continue
            strength.scale(new, one, float(t))
            one += new if g == 1 else new * np.float32(g)
            if g < 1:
                one += np.float32(np.sqrt(1 - g * g)) * strip.noise[k, rows, columns]

    def _strength(self, strip: Strip, rows: slice, columns: slice, consistency: str) -> Strength:
        """For some rows and columns of the strip."""
        (row, column), down, across = strip.corner, rows.stop - rows.start, columns.stop - columns.start
        at = row + rows.start, down, column + columns.start, across
        level_of = self.model.level_within(*at)
        level = np.stack([level_of(self.origin[0] + k) for k in range(len(self.signal))])
        variance = strip.kept(rows, columns)
        for one, of in zip(variance, level):
            one *= -np.float32(DRAWN[consistency] * self.strength**2)
            one += np.float32(self.strength**2)
            one *= of
            one *= of
        return Strength(variance, level if self.model.is_rician else None, self.model)


@dataclass(frozen=True, eq=False)
class NullSpace:
    """How noise becomes one whose mean over the slice profile is nothing.

    profile : (N, M) float32, of slices over a grid
    back : (M + n, N) float32, its inverse at the places of the grid and at wanted ones beside them
    spread : (M + n,) standard deviation that is left of unit noise there
    """

    profile: np.ndarray
    back: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, grid: Grid, wanted: np.ndarray, plan: Plan, correlation: float) -> NullSpace:
        A = grid.profile(plan.ratio, plan.profile)
        P = projection(A, "exact")
        away = np.abs(np.subtract.outer(grid.positions, grid.positions)) / grid.step
        correlated = np.maximum(correlation, 1e-6) ** (away**2)
        Q = np.eye(len(grid.positions)) - P @ A
        spread = np.maximum(np.sqrt(np.einsum("ij,ij->i", Q @ correlated, Q)), LEAST_FREE)
        beside = along_z(grid, P[:, :, None], wanted)[:, :, 0]
        both = np.concatenate([spread, np.full(len(wanted), np.median(spread))])
        return cls(A.astype(np.float32), np.concatenate([P, beside]).astype(np.float32), both)

    def reduce(self, unit: np.ndarray) -> None:
        """(M + n, rows, columns) unit noise becomes one of deviation `spread`, in its own memory."""
        means = weighted(self.profile, unit[: self.profile.shape[1]])
        for first in range(0, len(unit), SLICES_TOGETHER):
            some = slice(first, first + SLICES_TOGETHER)
            unit[some] -= weighted(self.back[some], means)


def _kernel(model: NoiseModel, drawn: float) -> tuple[np.ndarray, np.ndarray, float]:
    """(11, 11) kernel that gives white noise the spectrum of what the signal lacks, where it shows `drawn` of the
    variance of what is always left; the correlation of such noise at 0, 1, 2, ... pixels; and the
    strength of such noise of unit variance whose finest detail is that of the level."""
    amplitude = wave_amplitudes(model.spectrum * np.sqrt(1 - np.float32(drawn) * model.left**2))
    size = len(amplitude)
    whole = np.fft.fftshift(np.fft.ifft2(amplitude).real)
    middle = slice(size // 2 - REACH, size // 2 + REACH + 1)
    away = np.hypot(*np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]) / (REACH + 1)
    kernel = whole[middle, middle] * np.cos(np.clip(away, 0, 1) * np.pi / 2)
    alike = np.fft.ifft2(amplitude**2).real
    fine = finest(np.pad(kernel, 4))
    strength = float(np.sqrt(np.sum(kernel**2) / np.sum(fine**2)))
    return kernel, 0.5 * (alike[0] + alike[:, 0])[: size // 2] / alike[0, 0], strength
