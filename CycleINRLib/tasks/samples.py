"""Training samples: thick slices made from thin ones as a scanner would have measured them (floor 3).

A sample is a function of scans, config, seed, step and place in the batch: a resumed run sees the same data.
Only numpy and torch. How thick slices come about stands in `degradation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import VolumeError
from ..imaging.baselines import base_weights
from ..imaging.consistency import KEEP_RATIO, gate
from ..imaging.intensity import IntensityScale
from ..network.model import Conditions
from .degradation import Contrast, Noise, Protocol, Smooth
from .scans import Scan, View

LEAST_BODY = 0.25  # of a patch
OUTSIDE = 0.15  # weight of what is not body


@dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn; lengths along z in slices, in-plane in pixels."""

    slices: int = 8  # source slices of a patch
    crop: int = 40  # rows and columns of a patch
    margin: int = 4  # rim of the patch that is encoded but not scored
    places: int = 8  # output places scored in a patch
    z_scale: tuple[float, float] = (1.5, 6.0)
    ratio: tuple[float, float] = (0.0, 1.3)  # thickness / spacing
    skip_share: float = 0.3  # samples whose thickness is one thin slice
    full_share: float = 0.3  # samples whose thickness equals the spacing
    smooth_share: float = 0.35  # samples whose truth was made smooth along z, half of them in-plane too
    contrast_share: float = 0.3  # samples of another calibration (CT) or contrast and field (MR)
    noise_share: float = 0.15  # samples with noise added to the thin slices
    in_plane_share: float = 0.4  # samples whose slice axis is an in-plane axis of the scan
    ct_share: float = 0.5
    texture: float = 0.0  # that is asked for
    cycle_share: float = 0.5  # samples that go there and back where it is, each for all: a pass takes its time
    acquired_share: float = 0.0  # of scans with acquired slices, samples of these: no truth, for the cycle alone
    dropped_share: float = 0.0  # of such scans, samples whose truth is every second acquired slice
    direct: bool = False  # acquired slices are paired with the thin ones of their scan, not with thickened ones


@dataclass(frozen=True, eq=False)
class Places:
    """P output places among N source slices, each between the slices `below` and `below` + 1."""

    below: Tensor  # (B, P) int64
    t: Tensor  # (B, P) in [0, 1]
    query: Tensor  # (B, P, 7), Conditions.of_place
    weights: Tensor  # (B, P, N): the closed-form base as weights of the source slices

    def to(self, device: str) -> Places:
        return Places(**{name: value.to(device) for name, value in vars(self).items()})

    def __getitem__(self, rows: Tensor) -> Places:
        return Places(**{name: value[rows] for name, value in vars(self).items()})

    def __add__(self, other: Places) -> Places:
        """The places of both, of the same patches."""
        return Places(**{name: torch.cat([value, getattr(other, name)], 1) for name, value in vars(self).items()})

    def every(self, step: int) -> Places:
        """Every `step`-th place."""
        return Places(**{name: value[:, ::step] for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Told:
    """What the network is told of B patches beside their images."""

    detail: Tensor  # (B,), IntensityScale
    condition: Tensor  # (B, 5), Conditions.of_scan
    texture: Tensor  # (B,)

    def __getitem__(self, rows: Tensor) -> Told:
        return Told(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Batch:
    """B patches of N source slices, P output places each; all intensities normalized."""

    source: Tensor  # (B, N, H, W)
    detail: Tensor  # (B,)
    condition: Tensor  # (B, 5), Conditions.of_scan
    texture: Tensor  # (B,)
    cycle: Tensor  # (B,): weight of the cycle: 0, texture / cycle_share, or 1 for acquired slices without a truth
    places: Places
    acquired: Places  # the N places of the source slices themselves
    keeps: Tensor  # (B,) bool: whether consistency keeps the acquired slices
    gate: Tensor  # (B, P): share of the correction that it lets pass
    truth: Tensor  # (B, P, h, w), h = H - 2 margin
    weight: Tensor  # (B, P, h, w), 1 in the body
    nodes: Tensor  # (B, 3): weights that average three places over the slice profile; (1, 0, 0) for thin slices
    first: Places  # cycle: the places around k + d, three for each k = 0 .. N - 2
    second: Places  # cycle: the places around the inner acquired slices k + 1, among the N - 1 slices made first
    margin: int

    def to(self, device: str) -> Batch:
        moved = {name: value.to(device) for name, value in vars(self).items() if name != "margin"}
        return Batch(**moved, margin=self.margin)

    @property
    def scan(self) -> Told:
        return Told(self.detail, self.condition, self.texture)

    @property
    def base(self) -> Tensor:
        """(B, P, h, w): the closed-form interpolation that the network corrects."""
        return base_of(self.source, self.places, self.margin)


def base_of(source: Tensor, places: Places, margin: int) -> Tensor:
    """Source (B, N, H, W) -> the base at each place without the rim, (B, P, H - 2 margin, W - 2 margin)."""
    rim = slice(margin, source.shape[-1] - margin)
    return torch.einsum("bpn,bnhw->bphw", places.weights, source[..., slice(margin, source.shape[-2] - margin), rim])


def draw_batch(
    scans: Sequence[Scan], config: SampleConfig, size: int, seed: int, step: int, share: Sequence[int] | None = None
) -> Batch:
    """The batch of `step`, or the samples of it that `share` numbers: the same for the same arguments."""
    numbers = range(size) if share is None else share
    rows = [_draw(scans, config, np.random.default_rng([seed, step, n])) for n in numbers]
    return Batch(**{name: _stacked([row[name] for row in rows]) for name in rows[0]}, margin=config.margin)


def _stacked(column: list):
    if isinstance(column[0], dict):
        return Places(**{name: _stacked([part[name] for part in column]) for name in column[0]})
    return torch.from_numpy(np.stack(column))


def _draw(scans: Sequence[Scan], config: SampleConfig, rng: np.random.Generator) -> dict:
    for _ in range(200):
        scan = _choose_scan(scans, config, rng)
        if scan.acquired is not None and (make := _of_acquired(config, rng)) is not None:
            if (sample := make(scan, scan.acquired, config, rng)) is not None:
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


def _patch(scan: Scan, values: View, mm, config: SampleConfig, rng: np.random.Generator) -> dict | None:
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
    return _sample(images, (at - first) / z_scale, protocol, mm, whole, cycles, config, rng)


def _of_acquired(config: SampleConfig, rng: np.random.Generator):
    """How a sample is made of acquired slices; None: it is not, thick slices are made from thin ones."""
    kind = rng.random()
    if config.direct:
        return _direct_patch
    if kind < config.acquired_share:
        return _untrue_patch
    return _dropped_patch if kind < config.acquired_share + config.dropped_share else None


def _untrue_patch(scan: Scan, acquired: np.ndarray, config: SampleConfig, rng: np.random.Generator) -> dict | None:
    """Slices as acquired, without a truth: for the cycle alone."""
    found = _window(scan, acquired, config.slices, config, rng)
    if found is None:
        return None
    k, rows, columns = found
    source = acquired[k : k + config.slices, rows, columns]
    protocol = scan.protocols[0]
    z = np.sort(rng.random(config.places)) * (config.slices - 1)
    truth = np.zeros((config.places, config.crop, config.crop), np.float32)
    return _of_slices(scan, acquired, source, truth, z, protocol, scan.spacing_mm, 1.0, config, rng, known=False)


def _dropped_patch(scan: Scan, acquired: np.ndarray, config: SampleConfig, rng: np.random.Generator) -> dict | None:
    """Every second acquired slice, and those between as the truth: what the self-check asks for.

    The source is told as there: as thick as the slices are, at twice their spacing, two of them to one.
    """
    found = _window(scan, acquired, 2 * config.slices - 1, config, rng)
    if found is None:
        return None
    k, rows, columns = found
    block = acquired[k : k + 2 * config.slices - 1, rows, columns]
    own = scan.protocols[0]
    protocol = Protocol(2.0, own.ratio / 2, own.profile)
    between = np.sort(rng.choice(config.slices - 1, config.places, replace=config.slices - 1 < config.places))
    mm = (own.z_scale * scan.spacing_mm[0], *scan.spacing_mm[1:])
    at = 2 * between + 1
    return _of_slices(scan, acquired[k % 2 :: 2], block[::2], block[at], at / 2, protocol, mm, 0.0, config, rng)


def _direct_patch(scan: Scan, acquired: np.ndarray, config: SampleConfig, rng: np.random.Generator) -> dict | None:
    """Slices as acquired, with the thin slices that the scan holds between them."""
    found = _window(scan, acquired, config.slices, config, rng)
    if found is None:
        return None
    k, rows, columns = found
    source = acquired[k : k + config.slices, rows, columns]
    protocol = scan.protocols[0]
    inside = np.arange(np.ceil(k * protocol.z_scale), np.floor((k + config.slices - 1) * protocol.z_scale) + 1)
    at = np.sort(rng.choice(inside, config.places, replace=len(inside) < config.places))
    truth = scan.along(0)[:, rows, columns][at.astype(int)]
    z = at / protocol.z_scale - k
    return _of_slices(scan, acquired, source, truth, z, protocol, scan.spacing_mm, 0.0, config, rng)


def _window(scan: Scan, acquired: np.ndarray, count: int, config: SampleConfig, rng: np.random.Generator):
    """(first slice, rows, columns) of `count` acquired slices of a patch; None: no room, or too little body."""
    size = (count, config.crop, config.crop)
    if any(n < m for n, m in zip(acquired.shape, size)):
        return None
    k, j, i = (int(rng.integers(n - m + 1)) for n, m in zip(acquired.shape, size))
    rows, columns = slice(j, j + config.crop), slice(i, i + config.crop)
    body = np.mean(acquired[k : k + count, rows, columns] > scan.body_floor)
    return None if body < LEAST_BODY else (k, rows, columns)


def _of_slices(
    scan: Scan,
    stack: np.ndarray,
    source,
    truth,
    z,
    protocol: Protocol,
    mm,
    cycle: float,
    config,
    rng,
    known: bool = True,
) -> dict:
    """A sample of acquired slices: `source` of the `stack`, `truth` (P, crop, crop) at `z`, if it is `known`."""
    rim = slice(config.margin, config.crop - config.margin)
    truth = np.asarray(truth[:, rim, rim], np.float32)
    weight = np.where(truth > scan.body_floor, 1.0, OUTSIDE).astype(np.float32) * np.float32(known)
    whole = IntensityScale.of(stack[:, :: max(1, stack.shape[1] // 16)], scan.modality, scan.scale)
    images = (np.asarray(source, np.float32) / scan.scale, truth / scan.scale, weight)
    return _sample(images, np.asarray(z, float), protocol, mm, whole, cycle, config, rng)


def _sample(images, z: np.ndarray, protocol: Protocol, mm, whole: IntensityScale, cycle: float, config, rng) -> dict:
    """What `Batch` holds of one patch: normalized source, truth and weight, `z` of the truth in source slices.

    `mm` is the spacing of the thin slices and that within them, `whole` what IntensityScale finds in the thick scan.
    """
    source, truth, weight = _turn(list(images), rng)
    if rng.random() < 0.5:  # the mirror image along z: the order of slices is reversed
        source, truth, weight, z = source[::-1], truth[::-1], weight[::-1], config.slices - 1 - z[::-1]
    delay = float(rng.uniform(0.15, 0.85))
    z_scale = protocol.z_scale
    told = Conditions(protocol.ratio, protocol.form, z_scale * mm[0] / min(mm[1:]), whole.through, whole.within)
    keeps = protocol.ratio <= KEEP_RATIO
    return {
        "source": np.ascontiguousarray(source, np.float32),
        "detail": np.float32(whole.detail),
        "condition": np.array(told.of_scan(), np.float32),
        "texture": np.float32(config.texture),
        "cycle": np.float32(cycle),
        "places": _places(z, config.slices, told, z_scale),
        "acquired": _places(np.arange(config.slices), config.slices, told, z_scale),
        "keeps": np.bool_(keeps),
        "gate": (gate(z) if keeps else np.ones(len(z))).astype(np.float32),
        "truth": np.ascontiguousarray(truth, np.float32),
        "weight": np.ascontiguousarray(weight, np.float32),
        **_cycle(config.slices, delay, protocol, told),
    }


def _places(z: np.ndarray, count: int, told: Conditions, z_scale: float) -> dict:
    """What `Places` holds, for the positions `z` in slices of a source of `count` slices."""
    z = np.clip(z, 0, count - 1)
    below = np.clip(np.floor(z).astype(np.int64), 0, count - 2)
    return {
        "below": below,
        "t": (z - below).astype(np.float32),
        "query": np.array([told.of_place(p - b, z_scale) for p, b in zip(z, below)], np.float32),
        "weights": base_weights(z, count, told.ratio, 1 / z_scale).astype(np.float32),
    }


def _cycle(count: int, delay: float, protocol: Protocol, told: Conditions) -> dict:
    """There and back: slices made at k + delay, thick again, and from these the inner acquired slices k + 1."""
    offsets, nodes = protocol.nodes()
    there = (np.arange(count - 1)[:, None] + delay + offsets).ravel()
    back = (np.arange(1, count - 3)[:, None] + 1 - delay + offsets).ravel()
    return {
        "nodes": nodes.astype(np.float32),
        "first": _places(there, count, told, protocol.z_scale),
        "second": _places(back, count - 1, told, protocol.z_scale),
    }


def _whole_scan(scan: Scan, values: View, changes: _Changes, first: float, protocol: Protocol) -> IntensityScale:
    """What IntensityScale finds in the whole thick scan, from some of its rows."""
    step = max(1, values.shape[1] // 16)
    sparse = values[:, ::step]
    L, J, width = values.shape
    along = [np.arange(L) / L, np.arange(0, J, step) / J, np.arange(width) / width]
    sparse = changes.of(sparse, scan.scale, along, columns_only=True)
    centers = np.arange(first % protocol.z_scale, len(sparse) - 0.999, protocol.z_scale)
    return IntensityScale.of(protocol.thicken(sparse, centers), scan.modality, scan.scale)


def _turn(images: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The same random in-plane flips and transpose for all."""
    flips = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
    images = [np.flip(image, flips) for image in images]
    return [image.transpose(0, 2, 1) for image in images] if rng.random() < 0.5 else images
