"""Training samples: thick slices made from thin ones as a scanner would have measured them (floor 3).

A sample is a function of scans, config, seed, step and place in the batch: a resumed run sees the same data.
Only numpy and torch. How thick slices come about stands in `degradation`.

What the network is told of a thick scan as a whole (IntensityScale) takes longer than to make one patch of it. So each
axis of each scan is made thick in `SETTINGS` ways, which the seed chooses; what is found in one of these thick scans
is remembered, and patches show different places of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np

from ..errors import VolumeError
from ..imaging.consistency import KEEP_RATIO
from ..imaging.intensity import IntensityScale
from .batch import LEAST_BODY_SHARE, OUTSIDE, Batch, Places, Sample, SampleConfig, Told, base_of, batch_of, sample_of
from .degradation import Contrast, Noise, ScanProtocol, Smooth
from .scans import LazyValues, Scan

__all__ = ["Batch", "Places", "SampleConfig", "Told", "base_of", "draw_batch"]


KNOWN = 0.2  # chance of an acquired slice that consistency keeps, relative to that of another place
_ON_GRID = 1e-6  # in slices
SETTINGS = 64  # of one axis of one scan
_FOUND: WeakKeyDictionary[Scan, dict[tuple, IntensityScale]] = WeakKeyDictionary()  # in the settings used so far


def draw_batch(
    scans: Sequence[Scan], config: SampleConfig, size: int, seed: int, step: int, share: Sequence[int] | None = None
) -> Batch:
    """The batch of `step`, or the samples of it that `share` numbers: the same for the same arguments."""
    numbers = range(size) if share is None else share
    rows = [_draw(scans, config, seed, np.random.default_rng([seed, step, n])) for n in numbers]
    return batch_of(rows, config.margin)


def _draw(scans: Sequence[Scan], config: SampleConfig, seed: int, rng: np.random.Generator) -> Sample:
    for _ in range(200):
        scan = _choose_scan(scans, config, rng)
        if scan.acquired is not None and asks_acquired(config, rng):
            if (sample := acquired_patch(scan, config, rng)) is not None:
                return sample
            continue
        in_plane = [axis for axis in scan.axes if axis > 0]
        go_in_plane = in_plane and (0 not in scan.axes or rng.random() < config.in_plane_share)
        axis = in_plane[int(rng.integers(len(in_plane)))] if go_in_plane else scan.axes[0]
        setting = _Setting.drawn(scan, axis, config, seed, int(rng.integers(SETTINGS)))
        if (sample := _patch(setting, config, rng)) is not None:
            return sample
    raise VolumeError("No patch of body was found in the scans", f"{len(scans)} scans", "train on scans of bodies")


def _choose_scan(scans: Sequence[Scan], config: SampleConfig, rng: np.random.Generator) -> Scan:
    wanted = "CT" if rng.random() < config.ct_share else "MR"
    choice = [scan for scan in scans if scan.modality == wanted] or list(scans)
    shares = np.cumsum([scan.share for scan in choice])
    return choice[int(np.searchsorted(shares[:-1], rng.random() * shares[-1], "right"))]


@dataclass(frozen=True)
class _Changes:
    """What is done to a scan before it is degraded; each part may be missing."""

    contrast: Contrast | None
    smooth: Smooth | None
    noise: Noise | None

    @classmethod
    def drawn(cls, scan: Scan, config: SampleConfig, rng: np.random.Generator) -> _Changes:
        contrast = Contrast.drawn(scan.modality, rng) if rng.random() < config.contrast_share else None
        smooth = Smooth.drawn(scan.modality, rng) if rng.random() < config.smooth_share else None
        noise = Noise.drawn(scan.modality, scan.scale, rng) if rng.random() < config.noise_share else None
        return cls(contrast, smooth, noise)

    def noisy_anew(self, rng: np.random.Generator) -> _Changes:
        """The same with noise of its own."""
        return self if self.noise is None else replace(self, noise=replace(self.noise, seed=int(rng.integers(2**31))))

    def of(self, block: np.ndarray, scale: float, places, columns_only: bool = False, kept: slice = slice(None)):
        """Of a block (L, J, I), the slices `kept`."""
        if self.contrast is not None:
            block = self.contrast.of(block, scale, places)
        block = block[kept] if self.smooth is None else self.smooth.of(block, columns_only, kept)
        return block if self.noise is None else self.noise.of(block)


@dataclass(frozen=True, eq=False)
class _Setting:
    """One way to make one axis of a scan thick; `first` is where its acquired slices begin, in thin ones."""

    scan: Scan
    axis: int
    protocol: ScanProtocol
    changes: _Changes
    first: float
    key: tuple  # tells the settings of one scan apart

    @classmethod
    def drawn(cls, scan: Scan, axis: int, config: SampleConfig, seed: int, number: int) -> _Setting:
        rng = np.random.default_rng([seed, zlib.crc32(scan.name.encode()), axis, number])
        protocol = _protocol(scan, config, rng)
        changes, first = _Changes.drawn(scan, config, rng), _begun(protocol.z_scale * rng.random(), protocol, rng)
        return cls(scan, axis, protocol, changes, first, (axis, config, seed, number))

    @property
    def spacing_mm(self) -> list[float]:
        """Of the thin slices, and within them."""
        mm = self.scan.spacing_mm
        return [mm[self.axis], *(s for n, s in enumerate(mm) if n != self.axis)]

    def found(self, values: LazyValues) -> IntensityScale:
        """What IntensityScale finds in the whole thick scan, from some of its rows; `values` are all the thin ones."""
        known = _FOUND.setdefault(self.scan, {})
        if self.key not in known:
            step = max(1, values.shape[1] // 16)
            L, J, width = values.shape
            along = [np.arange(L) / L, np.arange(0, J, step) / J, np.arange(width) / width]
            sparse = self.changes.of(values[:, ::step], self.scan.scale, along, columns_only=True)
            centers = np.arange(self.first, L - 0.999, self.protocol.z_scale)
            thick = self.protocol.thicken(sparse, centers)
            known[self.key] = IntensityScale.of(thick, self.scan.modality, self.scan.scale)
        return known[self.key]


def _begun(first: float, protocol: ScanProtocol, rng: np.random.Generator) -> float:
    """`first`, or the thin slice below it: acquired slices lie at thin ones in scans that skip, and in most others."""
    return float(np.floor(first)) if rng.random() < 0.6 or protocol.profile == "skip" else float(first)


def _asked(
    inside: np.ndarray, z: np.ndarray, protocol: ScanProtocol, count: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` of the thin slices `inside`, which lie at `z` in thick ones. Where consistency keeps the acquired slices,
    few of these: nothing can be learned there."""
    known = (protocol.ratio <= KEEP_RATIO) & (np.abs(z - np.rint(z)) < _ON_GRID)
    chance = np.where(known, KNOWN, 1.0)
    return np.sort(rng.choice(inside, count, replace=len(inside) < count, p=chance / chance.sum()))


def _protocol(scan: Scan, config: SampleConfig, rng: np.random.Generator) -> ScanProtocol:
    if scan.protocols:
        return scan.protocols[int(rng.integers(len(scan.protocols)))]
    return ScanProtocol.drawn(config.z_scale, config.ratio, config.skip_share, config.full_share, rng)


def _patch(setting: _Setting, config: SampleConfig, rng: np.random.Generator) -> Sample | None:
    """One patch of the scan so made, or None where it does not fit or holds too little body."""
    scan, protocol, values = setting.scan, setting.protocol, setting.scan.along(setting.axis)
    z_scale = protocol.z_scale
    shape = L, J, width = values.shape
    tail = max(1.0, 1.5 * protocol.thickness if protocol.profile == "trapezoid" else protocol.thickness)
    room = L - 1 - (config.slices - 1) * z_scale - 2 * tail
    if room < 0 or min(J, width) < config.crop:
        return None
    first = _begun(tail + rng.random() * room, protocol, rng)
    centers = first + z_scale * np.arange(config.slices)
    window = protocol.window(centers, L)
    changes = setting.changes.noisy_anew(rng)
    seen = window if changes.smooth is None else slice(0, L)  # what is smoothed along z looks far
    j, i = (int(rng.integers(n - config.crop + 1)) for n in (J, width))
    block = values[seen, j : j + config.crop, i : i + config.crop]
    kept = slice(window.start - seen.start, window.stop - seen.start)
    if np.mean(block[kept][::4] > scan.body_floor) < LEAST_BODY_SHARE:
        return None
    ends = zip((seen.start, j, i), (seen.stop, j + config.crop, i + config.crop), shape)
    block = changes.of(block, scan.scale, [np.arange(a, b) / n for a, b, n in ends], kept=kept)
    source = protocol.thicken(block, centers - window.start)

    inside = np.arange(int(np.ceil(centers[0])), int(np.floor(centers[-1])) + 1)
    at = _asked(inside, (inside - first) / z_scale, protocol, config.places, rng)
    rim = slice(config.margin, config.crop - config.margin)
    truth = np.asarray(block[at - window.start][:, rim, rim], np.float32)
    weight = np.where(truth > scan.body_floor, 1.0, OUTSIDE).astype(np.float32)
    cycles = config.cycle / config.cycle_share if rng.random() < config.cycle_share else 0.0
    images = (source / scan.scale, truth / scan.scale, weight)
    whole = setting.found(values)
    return sample_of(images, (at - first) / z_scale, protocol, setting.spacing_mm, whole, cycles, config, rng)


def asks_acquired(config: SampleConfig, rng: np.random.Generator) -> bool:
    """Whether the next sample is made of acquired slices; else thick slices are made from thin ones."""
    return config.direct or rng.random() < config.acquired_share


def acquired_patch(scan: Scan, config: SampleConfig, rng: np.random.Generator) -> Sample | None:
    """A sample of the acquired slices of `scan`; None where they have no room for it, or hold too little body."""
    acquired = scan.acquired
    assert acquired is not None  # the caller asks scans that have some
    found = _window(scan, acquired, config, rng)
    if found is None:
        return None
    k, rows, columns = found
    if config.direct:
        z, truth = _thin_between(scan, k, rows, columns, config, rng)
    else:
        z, truth = np.sort(rng.random(config.places)) * (config.slices - 1), None
    source = acquired[k : k + config.slices, rows, columns]
    return _of_slices(scan, acquired, source, z, truth, config, rng)


def _thin_between(
    scan: Scan, k: int, rows: slice, columns: slice, config: SampleConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Places (P,) between the acquired slices k .. k + slices - 1, and the thin slices (P, crop, crop) there."""
    z_scale = scan.protocols[0].z_scale
    inside = np.arange(np.ceil(k * z_scale), np.floor((k + config.slices - 1) * z_scale) + 1)
    at = np.sort(rng.choice(inside, config.places, replace=len(inside) < config.places))
    return at / z_scale - k, scan.along(0)[:, rows, columns][at.astype(int)]


def _window(
    scan: Scan, acquired: np.ndarray, config: SampleConfig, rng: np.random.Generator
) -> tuple[int, slice, slice] | None:
    """(first slice, rows, columns) of a patch; None: no room, or too little body."""
    size = (config.slices, config.crop, config.crop)
    if any(n < m for n, m in zip(acquired.shape, size)):
        return None
    k, j, i = (int(rng.integers(n - m + 1)) for n, m in zip(acquired.shape, size))
    rows, columns = slice(j, j + config.crop), slice(i, i + config.crop)
    body = np.mean(acquired[k : k + config.slices, rows, columns] > scan.body_floor)
    return None if body < LEAST_BODY_SHARE else (k, rows, columns)


def _of_slices(
    scan: Scan,
    acquired: np.ndarray,
    source: np.ndarray,
    z: np.ndarray,
    truth: np.ndarray | None,
    config: SampleConfig,
    rng: np.random.Generator,
) -> Sample:
    """A sample of `source`, some of those `acquired`, with its truth (P, crop, crop) at `z`; without one it cycles."""
    rim = slice(config.margin, config.crop - config.margin)
    shown = np.zeros((config.places, config.crop, config.crop), np.float32) if truth is None else truth
    shown = np.asarray(shown[:, rim, rim], np.float32)
    weight = np.where(shown > scan.body_floor, 1.0, OUTSIDE).astype(np.float32) * np.float32(truth is not None)
    whole = IntensityScale.of(acquired[:, :: max(1, acquired.shape[1] // 16)], scan.modality, scan.scale)
    images = (np.asarray(source, np.float32) / scan.scale, shown / scan.scale, weight)
    cycle = 1.0 if truth is None else 0.0
    return sample_of(images, np.asarray(z, float), scan.protocols[0], scan.spacing_mm, whole, cycle, config, rng)
