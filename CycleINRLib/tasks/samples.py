"""Training samples: thick slices made from thin ones as a scanner would have measured them (floor 3).

A sample is a function of scans, config, seed, step and place in the batch: a resumed run sees the same data.
Only numpy and torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import VolumeError
from ..imaging.baselines import base_weights
from ..imaging.intensity import BODY_CT_HU, BODY_MR, IntensityScale
from ..imaging.profile import SKIP_RATIO, profile_weights
from ..imaging.volume import Volume, guess_modality
from ..network.model import encoder_condition, query_condition

WHOLE_Z_SCALES = (2.0, 3.0, 4.0, 5.0, 6.0, 2.5, 3.5)


@dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn; lengths along z in slices, in-plane in pixels."""

    slices: int = 8  # source slices of a patch
    crop: int = 40  # rows and columns of a patch
    margin: int = 4  # rim of the patch that is encoded but not scored
    places: int = 8  # output places scored in a patch
    z_scale: tuple[float, float] = (1.5, 6.0)
    ratio: tuple[float, float] = (0.0, 1.2)  # thickness / spacing
    skip_share: float = 0.3  # samples whose thickness is one thin slice
    full_share: float = 0.3  # samples whose thickness equals the spacing
    smooth_share: float = 0.35  # samples whose truth was made smooth along z, half of them in-plane too
    in_plane_share: float = 0.4  # samples whose slice axis is an in-plane axis of the scan
    ct_share: float = 0.5


@dataclass(frozen=True, eq=False)
class Scan:
    """A thin-slice scan ready for drawing: values (K, J, I), spacing (k, j, i) in mm, intensity scale."""

    name: str
    values: np.ndarray
    spacing_mm: tuple[float, float, float]
    modality: str
    scale: float

    @classmethod
    def of(cls, volume: Volume) -> Scan:
        modality = guess_modality(volume)
        values = np.ascontiguousarray(volume.values)
        scale = IntensityScale.of(values, modality).scale
        return cls(volume.name, values, volume.spacing_mm, modality, scale)

    @property
    def body_floor(self) -> float:
        return BODY_CT_HU if self.modality == "CT" else BODY_MR * self.scale


@dataclass(frozen=True, eq=False)
class Batch:
    """B patches of N source slices, P output places each; all intensities normalized."""

    source: Tensor  # (B, N, H, W)
    detail: Tensor  # (B,)
    encoder_condition: Tensor  # (B, 5)
    below: Tensor  # (B, P) int64, the source slice below each place
    t: Tensor  # (B, P)
    query: Tensor  # (B, P, 7)
    base: Tensor  # (B, P, h, w), h = H - 2 margin
    truth: Tensor  # (B, P, h, w)
    weight: Tensor  # (B, P, h, w), 1 in the body

    def to(self, device: str) -> Batch:
        return Batch(**{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})


def draw_batch(scans: Sequence[Scan], config: SampleConfig, size: int, seed: int, step: int) -> Batch:
    """The batch of `step`: the same for the same arguments."""
    rng = np.random.default_rng([seed, step])
    rows = [_draw(scans, config, rng) for _ in range(size)]
    stacked = [torch.from_numpy(np.stack(column)) for column in zip(*rows)]
    return Batch(*stacked)


def _draw(scans: Sequence[Scan], config: SampleConfig, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    for _ in range(200):
        scan = _choose_scan(scans, config, rng)
        axis = int(rng.integers(1, 3)) if rng.random() < config.in_plane_share else 0
        values = np.moveaxis(scan.values, axis, 0)
        mm = [scan.spacing_mm[axis], *(s for n, s in enumerate(scan.spacing_mm) if n != axis)]
        sample = _patch(scan, values, mm, config, rng)
        if sample is not None:
            return sample
    raise VolumeError("No patch of body was found in the scans", f"{len(scans)} scans", "train on scans of bodies")


def _choose_scan(scans: Sequence[Scan], config: SampleConfig, rng: np.random.Generator) -> Scan:
    wanted = "CT" if rng.random() < config.ct_share else "MR"
    choice = [scan for scan in scans if scan.modality == wanted] or list(scans)
    return choice[int(rng.integers(len(choice)))]


def _draw_physics(config: SampleConfig, rng: np.random.Generator) -> tuple[float, float, str]:
    """z-scale, thickness / spacing and profile of one sample."""
    whole = [z for z in WHOLE_Z_SCALES if config.z_scale[0] <= z <= config.z_scale[1]]
    z_scale = float(rng.choice(whole)) if whole and rng.random() < 0.6 else float(rng.uniform(*config.z_scale))
    kind = rng.random()
    if kind < config.skip_share:
        return z_scale, 0.0, "skip"
    ratio = 1.0 if kind < config.skip_share + config.full_share else float(rng.uniform(*config.ratio))
    if ratio < SKIP_RATIO:
        return z_scale, 0.0, "skip"
    return z_scale, ratio, "gaussian" if rng.random() < 0.5 else "box"


def _patch(scan: Scan, values: np.ndarray, mm, config: SampleConfig, rng: np.random.Generator):
    """One patch of `values` (slices first), or None where it does not fit or holds too little body."""
    z_scale, ratio, profile = _draw_physics(config, rng)
    L, J, width = values.shape
    tail = max(1.0, ratio * z_scale)
    room = L - 1 - (config.slices - 1) * z_scale - 2 * tail
    if room < 0 or min(J, width) < config.crop:
        return None
    first = tail + rng.random() * room
    if rng.random() < 0.6 or profile == "skip":  # acquired slices at thin slices, as in a scan that skips
        first = float(np.floor(first))
    j, i = (int(rng.integers(n - config.crop + 1)) for n in (J, width))
    block = values[:, j : j + config.crop, i : i + config.crop]
    if np.mean(block[:: max(1, L // 16)] > scan.body_floor) < 0.25:
        return None
    smooth = _Smooth.drawn(scan.modality, rng) if rng.random() < config.smooth_share else None
    if smooth is not None:
        block = smooth.of(block)
    centers = first + z_scale * np.arange(config.slices)
    source = _thicken(block, centers, ratio * z_scale, profile)
    whole = _whole_scan(scan, values, smooth, first, z_scale, ratio, profile)

    inside = np.arange(int(np.ceil(centers[0])), int(np.floor(centers[-1])) + 1)
    at = np.sort(rng.choice(inside, config.places, replace=len(inside) < config.places))
    z = (at - first) / z_scale
    weights = base_weights(z, config.slices, ratio, 1 / z_scale).astype(np.float32)
    rim = slice(config.margin, config.crop - config.margin)
    base = np.tensordot(weights, source[:, rim, rim], 1)
    truth = block[at][:, rim, rim].astype(np.float32)
    weight = np.where(truth > scan.body_floor, 1.0, 0.15).astype(np.float32)

    below = np.clip(np.floor(z).astype(np.int64), 0, config.slices - 2)
    gaussian, seen = profile == "gaussian", (whole.through, whole.within)
    condition = np.array(encoder_condition(ratio, gaussian, z_scale * mm[0] / min(mm[1:]), *seen), np.float32)
    query = np.array([query_condition(p - b, z_scale, ratio, gaussian, *seen) for p, b in zip(z, below)], np.float32)
    images = _turn([source / scan.scale, base / scan.scale, truth / scan.scale, weight], rng)
    t = (z - below).astype(np.float32)
    if rng.random() < 0.5:  # the mirror image along z: slice order and t reversed
        images[0] = images[0][::-1]
        below, t = config.slices - 2 - below, 1 - t
        query[:, :2] = query[:, 1::-1]
    source, base, truth, weight = (np.ascontiguousarray(image, np.float32) for image in images)
    return source, np.float32(whole.detail), condition, below, t, query, base, truth, weight


def _thicken(block: np.ndarray, centers: np.ndarray, thickness: float, profile: str) -> np.ndarray:
    """Thick slices (N, H, W) of a thin block (L, H, W), rounded as stored."""
    weights = profile_weights(centers, thickness, len(block), profile).astype(np.float32)
    used = np.flatnonzero(weights.max(0) > 1e-7)
    low, high = used[0], used[-1] + 1
    return np.round(np.tensordot(weights[:, low:high], block[low:high].astype(np.float32), 1))


@dataclass(frozen=True)
class _Smooth:
    """A scan that was made smoother than its grid, as many are: slices that overlap, soft kernels, zero-filling.

    `through` and `within` are strengths along z and in-plane: the full width of a Gaussian in samples, or the inverse
    of the share of spatial frequencies that a zero-filled scan has kept; 0 leaves an axis alone.
    """

    zero_filled: bool
    through: float
    within: float

    @classmethod
    def drawn(cls, modality: str, rng: np.random.Generator) -> _Smooth:
        """CT overlaps and has soft kernels; MR is mostly zero-filled, often twofold and in all axes alike."""
        if modality == "CT" or rng.random() < 0.3:
            through, within = (float(rng.uniform(1.1, 2.5)) for _ in range(2))
            return cls(False, through, within if rng.random() < 0.5 else 0.0)
        through = 2.0 if rng.random() < 0.4 else float(rng.uniform(1.1, 2.2))
        return cls(True, through, through if rng.random() < 0.7 else 0.0)

    def of(self, values: np.ndarray, columns_only: bool = False) -> np.ndarray:
        """(L, J, I) values made smooth along z, and in-plane along columns or both axes."""
        values = np.tensordot(self._weights(len(values), self.through), values.astype(np.float32), 1)
        if self.within:
            values = values @ self._weights(values.shape[2], self.within).T
            if not columns_only:
                values = self._weights(values.shape[1], self.within) @ values
        return values

    def _weights(self, count: int, strength: float) -> np.ndarray:
        at = np.arange(count)
        if not self.zero_filled:
            return profile_weights(at, strength, count, "gaussian").astype(np.float32)
        basis = np.cos(np.pi / count * (at[None] + 0.5) * at[:, None])  # cosine transform: no wrap-around at the ends
        basis /= np.linalg.norm(basis, axis=1, keepdims=True)
        kept = np.clip((1 / strength + 0.05 - at / count) / 0.1, 0, 1)  # a tenth of the band fades out
        return ((basis.T * kept) @ basis).astype(np.float32)


def _whole_scan(
    scan: Scan,
    values: np.ndarray,
    smooth: _Smooth | None,
    first: float,
    z_scale: float,
    ratio: float,
    profile: str,
) -> IntensityScale:
    """What IntensityScale finds in the whole thick scan, from some of its rows."""
    sparse = values[:, :: max(1, values.shape[1] // 16)]
    if smooth is not None:
        sparse = smooth.of(sparse, columns_only=True)
    centers = np.arange(first % z_scale, len(sparse) - 0.999, z_scale)
    return IntensityScale.of(_thicken(sparse, centers, ratio * z_scale, profile), scan.modality, scan.scale)


def _turn(images: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The same random in-plane flips and transpose for all."""
    flips = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
    images = [np.flip(image, flips) for image in images]
    return [image.transpose(0, 2, 1) for image in images] if rng.random() < 0.5 else images
