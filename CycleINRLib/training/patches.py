"""Training samples: thick slices made from thin ones as a scanner would have measured them (floor 3).

A sample is a function of scans, config, seed, step and place in the batch: a resumed run sees the same data.
Only numpy and torch. How thick slices come about stands in `degradation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import VolumeError
from ..imaging.intensity import IntensityScale
from .batch import LEAST_BODY, OUTSIDE, Batch, Places, Sample, SampleConfig, Told, base_of, batch_of, sample_of
from .degradation import Contrast, Noise, Protocol, Smooth
from .scans import Scan, View

__all__ = ["Batch", "Places", "SampleConfig", "Told", "base_of", "draw_batch"]


def draw_batch(
    scans: Sequence[Scan], config: SampleConfig, size: int, seed: int, step: int, share: Sequence[int] | None = None
) -> Batch:
    """The batch of `step`, or the samples of it that `share` numbers: the same for the same arguments."""
    numbers = range(size) if share is None else share
    rows = [_draw(scans, config, np.random.default_rng([seed, step, n])) for n in numbers]
    return batch_of(rows, config.margin)


def _draw(scans: Sequence[Scan], config: SampleConfig, rng: np.random.Generator) -> Sample:
    for _ in range(200):
        scan = _choose_scan(scans, config, rng)
        if scan.acquired is not None and asks_acquired(config, rng):
            if (sample := acquired_patch(scan, config, rng)) is not None:
                return sample
            continue
        in_plane = [axis for axis in scan.axes if axis > 0]
        go_in_plane = in_plane and (0 not in scan.axes or rng.random() < config.in_plane_share)
        axis = in_plane[int(rng.integers(len(in_plane)))] if go_in_plane else scan.axes[0]
        values = scan.along(axis)
        mm = [scan.spacing_mm[axis], *(s for n, s in enumerate(scan.spacing_mm) if n != axis)]
        sample = _patch(scan, values, mm, config, rng)
        if sample is not None:
            return sample
    raise VolumeError("No patch of body was found in the scans", f"{len(scans)} scans", "train on scans of bodies")


def _choose_scan(scans: Sequence[Scan], config: SampleConfig, rng: np.random.Generator) -> Scan:
    wanted = "CT" if rng.random() < config.ct_share else "MR"
    choice = [scan for scan in scans if scan.modality == wanted] or list(scans)
    return choice[int(rng.integers(len(choice)))]


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

    def of(self, block: np.ndarray, scale: float, places, columns_only: bool = False) -> np.ndarray:
        if self.contrast is not None:
            block = self.contrast.of(block, scale, places)
        if self.smooth is not None:
            block = self.smooth.of(block, columns_only)
        return block if self.noise is None else self.noise.of(block)


def _protocol(scan: Scan, config: SampleConfig, rng: np.random.Generator) -> Protocol:
    if scan.protocols:
        return scan.protocols[int(rng.integers(len(scan.protocols)))]
    return Protocol.drawn(config.z_scale, config.ratio, config.skip_share, config.full_share, rng)


def _patch(scan: Scan, values: View, mm, config: SampleConfig, rng: np.random.Generator) -> Sample | None:
    """One patch of `values` (slices first), or None where it does not fit or holds too little body."""
    protocol = _protocol(scan, config, rng)
    z_scale = protocol.z_scale
    shape = L, J, width = values.shape
    tail = max(1.0, 1.5 * protocol.thickness if protocol.profile == "trapezoid" else protocol.thickness)
    room = L - 1 - (config.slices - 1) * z_scale - 2 * tail
    if room < 0 or min(J, width) < config.crop:
        return None
    first = tail + rng.random() * room
    if rng.random() < 0.6 or protocol.profile == "skip":  # acquired slices at thin slices, as in a scan that skips
        first = float(np.floor(first))
    j, i = (int(rng.integers(n - config.crop + 1)) for n in (J, width))
    block = values[:, j : j + config.crop, i : i + config.crop]
    if np.mean(block[:: max(1, L // 16)] > scan.body_floor) < LEAST_BODY:
        return None
    changes = _Changes.drawn(scan, config, rng)
    along = [np.arange(a, b) / n for a, b, n in zip((0, j, i), (L, j + config.crop, i + config.crop), shape)]
    block = changes.of(block, scan.scale, along)
    centers = first + z_scale * np.arange(config.slices)
    source = protocol.thicken(block, centers)
    whole = _whole_scan(scan, values, changes, first, protocol)

    inside = np.arange(int(np.ceil(centers[0])), int(np.floor(centers[-1])) + 1)
    at = np.sort(rng.choice(inside, config.places, replace=len(inside) < config.places))
    rim = slice(config.margin, config.crop - config.margin)
    truth = np.asarray(block[at][:, rim, rim], np.float32)
    weight = np.where(truth > scan.body_floor, 1.0, OUTSIDE).astype(np.float32)
    cycles = config.texture / config.cycle_share if rng.random() < config.cycle_share else 0.0
    images = (source / scan.scale, truth / scan.scale, weight)
    return sample_of(images, (at - first) / z_scale, protocol, mm, whole, cycles, config, rng)


def _whole_scan(scan: Scan, values: View, changes: _Changes, first: float, protocol: Protocol) -> IntensityScale:
    """What IntensityScale finds in the whole thick scan, from some of its rows."""
    step = max(1, values.shape[1] // 16)
    sparse = values[:, ::step]
    L, J, width = values.shape
    along = [np.arange(L) / L, np.arange(0, J, step) / J, np.arange(width) / width]
    sparse = changes.of(sparse, scan.scale, along, columns_only=True)
    centers = np.arange(first % protocol.z_scale, len(sparse) - 0.999, protocol.z_scale)
    return IntensityScale.of(protocol.thicken(sparse, centers), scan.modality, scan.scale)


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
    return None if body < LEAST_BODY else (k, rows, columns)


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
