"""What a training step works on: patches, the places asked for in them, and how they are drawn (floor 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..imaging.intensity import IntensityScale
from ..imaging.interpolation import base_weights
from ..network.model import Conditions
from .degradation import ScanProtocol

LEAST_BODY_SHARE = 0.25  # of a patch
OUTSIDE = 0.15  # weight of what is not body

Sample = dict[str, Any]  # of one patch, what `Batch` holds of many


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
    cycle: float = 0.0  # weight of going there and back in samples made from thin slices; 0: they do not
    cycle_share: float = 0.5  # of these, the samples that do, each for all: two more passes take their time
    acquired_share: float = 0.0  # of scans with acquired slices, samples of these: no truth, for the cycle alone
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

    def every(self, step: int) -> Places:
        """Every `step`-th place."""
        return Places(**{name: value[:, ::step] for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Told:
    """What the network is told of B patches beside their images."""

    detail: Tensor  # (B,), IntensityScale
    condition: Tensor  # (B, 5), Conditions.of_scan

    def __getitem__(self, rows: Tensor) -> Told:
        return Told(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Batch:
    """B patches of N source slices, P output places each; all intensities normalized."""

    source: Tensor  # (B, N, H, W)
    detail: Tensor  # (B,)
    condition: Tensor  # (B, 5), Conditions.of_scan
    cycle: Tensor  # (B,): weight of the cycle: 0, cycle / cycle_share, or 1 for acquired slices without a truth
    places: Places
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
        return Told(self.detail, self.condition)

    @property
    def base(self) -> Tensor:
        """(B, P, h, w): the closed-form interpolation that the network corrects."""
        return base_of(self.source, self.places, self.margin)


def base_of(source: Tensor, places: Places, margin: int) -> Tensor:
    """Source (B, N, H, W) -> the base at each place without the rim, (B, P, H - 2 margin, W - 2 margin)."""
    rim = slice(margin, source.shape[-1] - margin)
    return torch.einsum("bpn,bnhw->bphw", places.weights, source[..., slice(margin, source.shape[-2] - margin), rim])


def batch_of(samples: Sequence[Sample], margin: int) -> Batch:
    """The samples of one step together."""
    return Batch(**{name: _stacked([one[name] for one in samples]) for name in samples[0]}, margin=margin)


def _stacked(column: list):
    if isinstance(column[0], dict):
        return Places(**{name: _stacked([part[name] for part in column]) for name in column[0]})
    return torch.from_numpy(np.stack(column))


def sample_of(
    images: Sequence[np.ndarray],
    z: np.ndarray,
    protocol: ScanProtocol,
    mm: Sequence[float],
    whole: IntensityScale,
    cycle: float,
    config: SampleConfig,
    rng: np.random.Generator,
) -> Sample:
    """What `Batch` holds of one patch: normalized source, truth and weight, `z` of the truth in source slices.

    `mm` is the spacing of the thin slices and that within them, `whole` what IntensityScale finds in the thick scan.
    """
    source, truth, weight = _turn(list(images), rng)
    if rng.random() < 0.5:  # the mirror image along z: the order of slices is reversed
        source, truth, weight, z = source[::-1], truth[::-1], weight[::-1], config.slices - 1 - z[::-1]
    delay = float(rng.uniform(0.15, 0.85))
    z_scale = protocol.z_scale
    told = Conditions(protocol.ratio, protocol.form, z_scale * mm[0] / min(mm[1:]), whole.through, whole.within)
    return {
        "source": np.ascontiguousarray(source, np.float32),
        "detail": np.float32(whole.detail),
        "condition": np.array(told.of_scan(), np.float32),
        "cycle": np.float32(cycle),
        "places": _places(z, config.slices, told, z_scale),
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


def _cycle(count: int, delay: float, protocol: ScanProtocol, told: Conditions) -> dict:
    """There and back: slices made at k + delay, thick again, and from these the inner acquired slices k + 1."""
    offsets, nodes = protocol.nodes()
    there = (np.arange(count - 1)[:, None] + delay + offsets).ravel()
    back = (np.arange(1, count - 3)[:, None] + 1 - delay + offsets).ravel()
    return {
        "nodes": nodes.astype(np.float32),
        "first": _places(there, count, told, protocol.z_scale),
        "second": _places(back, count - 1, told, protocol.z_scale),
    }


def _turn(images: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The same random in-plane flips and transpose for all."""
    flips = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
    images = [np.flip(image, flips) for image in images]
    return [image.transpose(0, 2, 1) for image in images] if rng.random() < 0.5 else images
