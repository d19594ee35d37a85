"""Each scan is its own examiner: acquired slices are dropped, predicted from the others and compared (floor 3).

Every second acquired slice of a central block is dropped. With y the dropped slices, b the closed-form base and c the
network's correction at their places, computed from the slices that are left,

    gain = <c, y - b> / <c, c> in the body, clipped to [0, 1.5],

the least squares fit: 1 where the network is right on this scan, 0 where the base alone is better, above 1 where it is
too careful, as it is on most scans unlike those that it learned from. Noise of y does not bias it. The correction of
the whole scan is multiplied by it, so that a scan unlike all that was trained on falls back to the base.

The dropped slices lie half-way between the others, as the new ones do at z-scale 2. What exceeds 1 is believed there,
fades up to z-scale 3 (MR: 2.5), and counts for slices no thicker than half their spacing alone: elsewhere, scans that
the scanner interpolated seem to ask for more of a correction of which they can bear less.

The experiment sees slices twice as far apart as the scan's own. It is blind to a scan whose band ends at its slices'
Nyquist frequency (zero-filled by the scanner): dropping slices folds the band, as skipping does, while nothing lies
between the scan's own slices. The spectrum along z tells such scans (`imaging.spectrum`); for them the experiment is
made with half of the band removed first, so that nothing is folded there either. The gain is the mean of both by their
probability.

It is fitted once per scan: preview, volume and panel share what an earlier run fitted. That is kept under the checksum
of all that it depends on: the voxels that are looked at, what was measured of the whole scan, weights, plan, what the
job asks for, device and version; so only time depends on what is kept.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..events import Stopwatch
from ..imaging.accuracy import psnr
from ..imaging.consistency import KEEP_RATIO, Grid
from ..imaging.intensity import BODY_CT_HU, BODY_MR, CT_RANGE_HU
from ..imaging.interpolation import base_weights, cubic_weights
from ..imaging.pieces import summed
from ..imaging.profile import profile_weights
from ..imaging.spectrum import half_band, probability_of_detail, spectrum_along_z
from ..jobs import MOST_GAIN, UpsampleJob, is_number
from ..machine import recall, remember
from .engine import Engine, Settings
from .plan import CYCLE_BLOCK, GAIN_BLOCK

LEAST_KNOWN = 3  # slices that are left after dropping
_LEAST_BODY = 300  # voxels of body among the dropped ones
LOW = 0.5  # gain below which it is said
FADES = {"CT": 1.0, "MR": 0.5}  # from z-scale 2 on, until no gain above 1 is believed: MR is interpolated more often
THICKEST = 1.3  # thickness / spacing in training
SURE = 0.7  # fitted gain from which thick slices of CT bear out all of the correction
THICK_CT = ((3.0, 4.0), (1.2, 1.05))  # z-scale, and the gain there; 1.1 to 1.6 is right on a scan that is held out
REDUCED_OFF = 0.02  # of the correction (rms), that reduced precision changes at most: up to 0.0078 on ten scans
PLANNED = {  # fields of a job that the plan, the engine or the voxels hold already, as what they came to
    "z_scale", "spacing_mm", "like", "axis", "model", "modality", "series", "frame", "thickness_mm", "profile",
    "consistency", "device", "precision", "region",
}  # fmt: skip
NEGLIGIBLE = 0.01  # probability of a band that ends at Nyquist, below which the second experiment is not made


@dataclass(frozen=True, eq=False)
class Dropped:
    """Dropped slices (M, J, I) and what is known of them from the others, in the scan's unit.

    truth : as acquired; base : closed-form interpolation; correction : the network's; cubic : B-spline interpolation
    body : bool, the voxels that count; for CT without what is beyond its range
    """

    truth: np.ndarray
    base: np.ndarray
    correction: np.ndarray
    cubic: np.ndarray
    body: np.ndarray

    @classmethod
    def of(cls, engine: Engine, block: np.ndarray) -> Dropped | None:
        """Drops every second slice of `block` (N, J, I); None for fewer than 5 slices."""
        known, truth = block[::2], block[1::2]
        if len(known) < LEAST_KNOWN:
            return None
        truth = truth[: len(known) - 1]
        places = np.arange(len(truth)) + 0.5
        grid = Grid(places, slice(0, len(places)), len(known), 0.5)
        other = engine.of_every_second(known)
        found = other.run(known, grid, Settings(), rows=(0, known.shape[1]))[0]
        weights = base_weights(places, len(known), other.plan.ratio, grid.step)
        base = summed(weights.astype(np.float32), known)
        cubic = summed(cubic_weights(places, len(known)).astype(np.float32), known)
        return cls(truth, base, found - base, cubic, _body(engine, truth))

    def gain(self, off: float = 0.0) -> float:
        """The least squares gain on the correction, in [0, 1.5]; 1 where there is nothing to fit.

        off : the least gain of all corrections that differ by so great a part of this one (root mean square)
        """
        correction = self.correction[self.body].astype(np.float64)
        power = float(correction @ correction)
        if np.count_nonzero(self.body) < _LEAST_BODY or power == 0:
            return 1.0 if not off or power else 0.0
        missing = (self.truth - self.base)[self.body].astype(np.float64)
        fitted = missing @ correction / power
        if off:  # the error lies along what is missing, and makes the correction larger
            fitted = (fitted - off * np.sqrt(missing @ missing / power)) / (1 + off) ** 2
        return float(np.clip(fitted, 0, MOST_GAIN))

    def decibels(self, gain: float, modality: str) -> dict[str, float | None]:
        """PSNR of the dropped slices as predicted with `gain`, and by cubic B-spline, in dB."""
        predicted = self.base + np.float32(gain) * self.correction
        return {
            "psnr_db": _rounded(psnr(predicted, self.truth, modality)),
            "psnr_cubic_db": _rounded(psnr(self.cubic, self.truth, modality)),
        }


@dataclass(frozen=True, eq=False)
class GainFit:
    """The gain in use, what the dropped slices of the scan said (None: not asked), and the seconds it took."""

    gain: float
    dropped: Dropped | None
    seconds: float


def settle_gain(engine: Engine, values: np.ndarray, job: UpsampleJob) -> GainFit:
    """The gain for the scan (N, J, I): as the job asks, as an earlier run fitted it, or as fitted now.

    The experiment is made only where the gain is to be fitted, or the job asks for the self-check, which needs the
    dropped slices themselves. The same scan, job and kind of processor give the same gain, whatever part of the scan is
    then computed.
    """
    asked = 0.0 if job.gain is None and engine.plan.interpolated else job.gain
    if job.self_check:
        return fit_gain(engine.in_float32(), values, asked)
    if asked is not None:
        return GainFit(float(asked), None, 0.0)
    key = _checksum(engine, values, job)
    known = kept_gain(engine, key)
    if known is not None:
        return GainFit(known, None, 0.0)
    said = len(engine.warnings)
    found = fit_gain(engine, values)
    remember("fits", key, {"gain": found.gain, "warnings": engine.warnings[said:]})
    return found


def kept_gain(engine: Engine, key: str) -> float | None:
    """What an earlier run fitted under this checksum, its warnings said again; None where it is not known."""
    try:
        known = recall("fits", key) or {}
        gain, warnings = known["gain"], list(known["warnings"])
    except (KeyError, TypeError):  # not known, or damaged
        return None
    if not is_number(gain) or not all(isinstance(message, str) for message in warnings):
        return None
    for message in warnings:
        engine.warn(message)
    return float(gain)


def _checksum(engine: Engine, values: np.ndarray, job: UpsampleJob) -> str:
    """Of all that the fits of (N, J, I) `values` depend on."""
    from .. import __version__

    plan = engine.plan
    asked = {name: value for name, value in job.computing().items() if name not in PLANNED}
    told: list[Any] = [
        __version__, engine.device, asdict(engine.scale), list(engine.spacing_mm), plan.z_scale, plan.modality,
        plan.ratio, plan.profile, plan.consistency, plan.interpolated, asked, values.shape, str(values.dtype),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    digest.update(middle_block(values).tobytes())
    for weight in engine.loaded.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def fit_gain(engine: Engine, values: np.ndarray, asked: float | None = None) -> GainFit:
    """What the dropped slices of the scan (N, J, I) say, and the gain from them, or the one that is `asked`.

    Fitted in float32; in the engine's own precision where float32 is sure to give the same gain, since no more than
    that is believed. Warns where the fitted one is below 0.5.
    """
    start = time.monotonic()
    watch = Stopwatch("self_check", 1, engine.progress)
    block = middle_block(values)
    dropped = Dropped.of(engine, block) if engine.precision == "float32" or _is_thick_ct(engine) else None
    if engine.precision != "float32" and (dropped is None or dropped.gain(REDUCED_OFF) < SURE):
        dropped = Dropped.of(engine.in_float32(), block)
    gain = float(asked) if asked is not None else round(_fitted(engine, block, dropped), 4)
    if asked is None and gain < LOW:
        engine.warn(
            f"Only {gain:.0%} of the network's correction is used: on this scan it is no better than "
            "interpolation, perhaps since the scanner interpolated the slices."
        )
    watch.step()
    return GainFit(gain, dropped, time.monotonic() - start)


def self_check(engine: Engine, values: np.ndarray, settings: Settings, dropped: Dropped | None) -> dict[str, Any]:
    """How far the scan itself bears out the network; no ground truth is needed.

    Returns
    -------
    dict, None where the scan has too few slices:
    psnr_db, psnr_cubic_db : every second acquired slice predicted from the others, by the network with
        the gain in use, and by cubic B-spline; at twice the spacing of the scan, so both are lower than for the result
    cycle_psnr_db : the cycle (`cycled`) against the acquired slices, without two at each end: what two passes leave of
        them, at the gain in use. Low where the result does not agree with itself. No measure of accuracy:
        interpolation, which undoes itself almost, scores high whatever lies between the slices
    """
    block = middle_block(values, CYCLE_BLOCK)
    modality = engine.plan.modality
    if dropped is None:
        return dict.fromkeys(("psnr_db", "psnr_cubic_db", "cycle_psnr_db"))
    again = cycled(engine, block, settings)[1:-1]
    cycle = _rounded(psnr(again, block[2:-2], modality))
    return {**dropped.decibels(settings.gain, modality), "cycle_psnr_db": cycle}


def cycled(engine: Engine, block: np.ndarray, settings: Settings) -> np.ndarray:
    """(N - 2, J, I): slices half-way between those of `block`, and from these alone the slices half-way again.

    They lie where the inner slices of `block` lie. The remainder y - A x of one pass would be zero by construction
    where acquired slices are kept; here no acquired slice meets itself again. Slices thicker than half their spacing
    are averaged over the slice profile before the second pass, which the network expects.

    Source: the cycle of CycleINR (Fang et al., CVPR 2024), at offset 1/2.
    """
    once = _half_way(engine.of_block(block), block, settings)
    return _half_way(engine.of_block(once), once, settings)


def _half_way(engine: Engine, values: np.ndarray, settings: Settings) -> np.ndarray:
    """(N - 1, J, I): slices between those of `values`, as thick as those."""
    plan, count, rows = engine.plan, len(values), (0, values.shape[1])
    if plan.ratio <= KEEP_RATIO:
        grid = Grid(np.arange(count - 1) + 0.5, slice(0, count - 1), count, 0.5)
        return engine.run(values, grid, settings, rows=rows)[0]
    extend = plan.consistency in ("project", "exact")
    grid = Grid.of(count, 2.0, 2 * count - 1, plan.ratio, extend=extend)
    thin = engine.run(values, grid, settings, rows=rows)[0]
    weights = profile_weights(2.0 * np.arange(count - 1) + 1, 2 * plan.ratio, len(thin), plan.profile)
    return summed(weights.astype(np.float32), thin)


def _fitted(engine: Engine, block: np.ndarray, dropped: Dropped | None) -> float:
    """The gain from one experiment, or from two where the band of the scan may end at its Nyquist frequency."""
    if dropped is None:
        return 1.0
    most = _most(engine)
    detail = 1.0
    if engine.plan.ratio <= KEEP_RATIO:  # a thick slice's profile makes the spectrum fall by itself
        columns = np.mean(_body(engine, block), axis=0) > 0.5
        if columns.any():
            detail = probability_of_detail(spectrum_along_z(block, columns))
    if _is_thick_ct(engine):
        return _of_thick_ct(dropped.gain(), 1 / engine.plan.grid.step)
    if 1 - detail < NEGLIGIBLE:
        return min(dropped.gain(), most)
    without = Dropped.of(engine, half_band(block))
    assert without is not None  # as many slices as before
    return detail * min(dropped.gain(), most) + (1 - detail) * min(without.gain(), 1.0)


def _is_thick_ct(engine: Engine) -> bool:
    """CT of slices as thick as in training, of which `_of_thick_ct` tells the gain."""
    stated = engine.plan.thickness_mm / engine.spacing_mm[0]  # what is believed of it ends at 1
    return engine.plan.modality == "CT" and KEEP_RATIO < engine.plan.ratio and stated <= THICKEST


def _of_thick_ct(fitted: float, z_scale: float) -> float:
    """The gain for thick slices of CT, from the one that fits the dropped ones.

    Dropped, they are predicted from slices half as thick as their spacing, and nothing is projected. The projection
    takes away the part of the correction that the acquired slices settle. Of the part that is left, the finest, the
    network makes too little: its training counts the error before the projection.
    """
    return min(1.0, fitted / SURE) * float(np.interp(z_scale, *THICK_CT))


def _most(engine: Engine) -> float:
    """The largest gain that is believed: see above."""
    if engine.plan.ratio > KEEP_RATIO:
        return 1.0
    beyond = 1 / engine.plan.grid.step - 2
    return 1 + (MOST_GAIN - 1) * float(np.clip(1 - beyond / FADES[engine.plan.modality], 0, 1))


def middle_block(values: np.ndarray, most: tuple[int, int, int] = GAIN_BLOCK) -> np.ndarray:
    """The middle of (N, J, I) `values`, at most so large, as float32."""
    middle = (slice(max(0, (n - m) // 2), (n + min(n, m)) // 2) for n, m in zip(values.shape, most))
    return np.ascontiguousarray(values[tuple(middle)], np.float32)


def _body(engine: Engine, values: np.ndarray) -> np.ndarray:
    """Bool of the shape of `values`: the body, and for CT no metal."""
    if engine.plan.modality == "CT":
        return (values > BODY_CT_HU) & (values < CT_RANGE_HU[1])
    return values > BODY_MR * engine.scale.scale


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 3)
