"""The noise of a scan as measured on its flat places (floor 3; design section 5.1): spectrum, level, limits.

Blocks of 8 x 8 pixels are written as cosines; the spectrum is the usual size of each cosine's coefficient, the level is
the size of the finest detail, place by place. `split` takes such noise out of slices, `grain` makes it anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ..imaging.figures import NORMAL_MAD
from ..imaging.intensity import BODY_MR, value_range
from ..imaging.noise import LAPLACIAN_GAIN, Flatness, gradient_parts
from .filters import constant, smoothed

BLOCK, STRIDE = 8, 4  # pixels of a block, and from block to block
BLOB = 2.2  # full width at half maximum, in pixels, of the matched filter
BLOB_SIGMA = BLOB / 2.3548  # the same as standard deviation of a Gaussian
SURROUND = 1.8  # how many times wider its negative part is
LEFT = 0.95  # part of the amplitude of broad waves that always stays
LEFT_BELOW = 0.45, 0.4  # waves per mm, and per pixel: where it is 1 / e of that, at the lower one of both
MOST_LEFT = 0.9  # part from which all stays, which is less work and no less grain
LEFT_STEEP = 5  # power of the wave number by which it falls
BROAD = 2.0  # slice spacings: a longer wave within slices is no noise to be taken
SLICES = 12  # of the scan, at most, on which the noise is measured
CELL = 16  # pixels of a cell in which the level is one number
LEAST_LEVEL = 0.2  # of the scan's own level: what no cell falls below
CT_AIR_HU, CT_METAL_HU = (-960.0, -920.0), (1500.0, 2500.0)  # nothing is taken beyond; a part between
SMOOTH, SMOOTH_REACH = 1.0, 4  # pixels of the Gaussian that tells where noise is touched, and how far it reaches
ONE_BY_ONE = 0.1  # part of the pixels that are looked at one by one
RICIAN = (1.5, 3.0)  # signal / noise below which MR noise is no longer Gaussian, and nothing is taken


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """The noise of a scan as measured on its flat places.

    spectrum : (8, 8) standard deviation of each cosine's coefficient in units of the level; 0 where nothing is taken
    left : (8, 8) part of its amplitude that always stays, 1 where nothing is taken: what is broad and too faint to be
        found loses less by it
    level : (n, j, i) the scan's unit, for `at` (n,) slices and cells of `CELL` pixels
    blob : standard deviation of what the matched filter gives for such noise, in units of the level
    low, high : intensities between which noise is taken, each as (nothing, all)
    flat_pixels, flat_slices : that were measured
    halves : level in even / in odd ones of the measured slices
    neighbors : correlation of the finest noise in neighboring slices
    """

    spectrum: np.ndarray
    left: np.ndarray
    level: np.ndarray
    at: np.ndarray
    blob: float
    low: tuple[float, float]
    high: tuple[float, float]
    modality: str
    flat_pixels: int
    flat_slices: int
    halves: float
    neighbors: float

    @property
    def total(self) -> float:
        """Standard deviation of the noise that may be taken, in units of the level."""
        return float(np.sqrt(np.mean(self.spectrum**2)))

    @property
    def sigma(self) -> float:
        """The same in the scan's unit, in the middle of its levels."""
        return self.total * float(np.median(self.level))

    def level_at(self, k: float, first_row: int, rows: int, first_column: int, columns: int) -> np.ndarray:
        """(rows, columns) float32 level at position `k` in slices."""
        return self.level_within(first_row, rows, first_column, columns)(k)

    def level_within(self, first_row: int, rows: int, first_column: int, columns: int) -> Callable[[float], np.ndarray]:
        """The same as a function of the position in slices."""
        across = weights_at(self.level.shape[2], (np.arange(first_column, first_column + columns) + 0.5) / CELL - 0.5)
        wide = (self.level @ across.T).astype(np.float32)  # (n, j, columns)
        down = np.clip((np.arange(first_row, first_row + rows) + 0.5) / CELL - 0.5, 0, self.level.shape[1] - 1)
        above = down.astype(int)
        part = (down - above).astype(np.float32)[:, None]

        def level(k: float) -> np.ndarray:
            at = float(np.interp(k, self.at, np.arange(len(self.at))))
            front = int(at)
            one = wide[front] + np.float32(at - front) * (wide[min(front + 1, len(wide) - 1)] - wide[front])
            steps = np.diff(one, axis=0, append=one[-1:])
            found = steps[above]
            found *= part
            found += one[above]
            return found

        return level

    @property
    def is_rician(self) -> bool:
        return self.modality != "CT"

    def touch(self, noise: np.ndarray, smooth: np.ndarray, level: np.ndarray | None) -> None:
        """Leaves of noise (J, I) what may be taken and made: nothing in air, metal, and where MR noise is not Gaussian.

        level : (J, I) of the noise; None where it is not Rician
        """
        limits = [(smooth, self.low, False), (smooth, self.high, True)]
        if level is not None:
            limits.append((smooth / (level * np.float32(self.total)), RICIAN, False))
        for values, (low, high), falls in limits:
            where = values > low if falls else values < high
            at: Any = np.flatnonzero(where)
            if not len(at):
                continue
            at = np.divmod(at, where.shape[1]) if len(at) < ONE_BY_ONE * where.size else ...
            part = _ramp(values[at], low, high)
            noise[at] *= 1 - part if falls else part

    def touch_smoothed(self, noise: np.ndarray, one: np.ndarray, level: np.ndarray | None) -> None:
        """The same by a slice (J, I) that is to be smoothed first: only where any value of it is beyond a limit."""
        least: Any = self.low[1]
        if level is not None:
            least = np.maximum(level * np.float32(RICIAN[1] * self.total), np.float32(least))
        beyond = np.flatnonzero(np.any((one < least) | (one > self.high[0]), axis=1))
        if not len(beyond):
            return
        wide, near = (slice(max(0, beyond[0] - n), beyond[-1] + 1 + n) for n in (2 * SMOOTH_REACH, SMOOTH_REACH))
        smooth = smoothed(one[wide], SMOOTH)[near.start - wide.start :][: len(one[near])]
        self.touch(noise[near], smooth, None if level is None else level[near])

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        spacing_mm: tuple[float, ...],
        modality: str,
        derivatives: Mapping[int, np.ndarray] | None = None,
    ) -> NoiseModel | None:
        """From acquired slices (N, J, I) with `spacing_mm` (slices, rows, columns); None without flat places.

        derivatives : the `gradient_parts` of some slices, by number, where they are known
        """
        known = derivatives or {}
        flatness = Flatness.of(values, modality)
        chosen = np.unique(np.linspace(0, len(values) - 1, SLICES).round().astype(int))
        measured_ones = (_flat(values, int(k), flatness, known.get(int(k))) for k in chosen)
        seen = [one for one in measured_ones if one is not None]
        if not seen or min(values.shape[1:]) < 4 * BLOCK:
            return None
        levels, weights = (np.stack([getattr(one, name) for one in seen]) for name in ("sums", "counts"))
        measured = np.array([one.sigma for one in seen])
        wide = (1.0, 1.5, 1.5)
        few = 0.02 * weights.mean()
        level = (ndimage.gaussian_filter(levels, wide) + few * levels.sum() / weights.sum()) / (
            ndimage.gaussian_filter(weights, wide) + few
        )
        level = np.maximum(level, LEAST_LEVEL * np.median(level)).astype(np.float32)
        at = np.array([one.k for one in seen])
        peak = value_range(values, modality)
        low = CT_AIR_HU if modality == "CT" else (0.5 * BODY_MR * peak, BODY_MR * peak)
        high = CT_METAL_HU if modality == "CT" else (np.inf, np.inf)
        neighbors = [one.neighbors for one in seen if one.neighbors is not None]
        model = cls(
            np.ones((BLOCK, BLOCK), np.float32), np.zeros((BLOCK, BLOCK), np.float32), level, at, 0.0, low, high,
            modality, sum(one.pixels for one in seen), len(seen), _ratio(measured),
            float(np.mean(neighbors)) if neighbors else 0.0,
        )  # fmt: skip
        return model._measured(values, seen, spacing_mm)

    def _measured(self, values: np.ndarray, seen: list[_Flat], spacing_mm: tuple[float, ...]) -> NoiseModel | None:
        """The same with its spectrum and what the matched filter gives, its level that of the median."""
        coefficients: list[np.ndarray] = []
        levels: list[float] = []
        for one in seen:
            level = self.level_at(one.k, 0, values.shape[1], 0, values.shape[2])
            ratio = np.asarray(values[one.k], np.float32) / level
            levels.append(float(np.median(np.abs(finest(ratio)[one.mask])) / NORMAL_MAD))
            found = cosines(ratio, STRIDE).numpy()
            whole = ndimage.minimum_filter(one.mask, BLOCK, origin=-1)  # block that ends 3 before to 4 after
            start = np.arange(found.shape[1]) * STRIDE - BLOCK, np.arange(found.shape[2]) * STRIDE - BLOCK
            inside = [(s >= 0) & (s + BLOCK <= n) for s, n in zip(start, ratio.shape)]
            centers = np.ix_(start[0][inside[0]] + BLOCK // 2 - 1, start[1][inside[1]] + BLOCK // 2 - 1)
            coefficients.append(found[:, inside[0]][:, :, inside[1]][:, whole[centers]])
        blocks = np.concatenate(coefficients, axis=1)
        if blocks.shape[1] < 64:
            return None
        middle = float(np.mean(levels))  # below 1, where details of the flat places raised the mean
        spectrum = np.median(np.abs(blocks), axis=1).reshape(BLOCK, BLOCK) / (NORMAL_MAD * middle)
        u = np.arange(BLOCK) / (2 * BLOCK)
        waves = np.hypot(u[:, None] / spacing_mm[1], u[None] / spacing_mm[2])  # per mm
        spectrum[waves < 1 / (BROAD * spacing_mm[0])] = 0
        spectrum[0, 0] = 0
        pixel_mm = float(np.sqrt(spacing_mm[1] * spacing_mm[2]))
        below = min(LEFT_BELOW[0], LEFT_BELOW[1] / pixel_mm)
        left = (LEFT * np.exp(-((waves / below) ** LEFT_STEEP))).astype(np.float32)
        left[left > MOST_LEFT] = 1
        if not spectrum[left < 1].any():
            return None
        found = blob_of(spectrum * (1 - left))
        level = self.level * np.float32(middle)
        return dataclasses.replace(self, spectrum=spectrum.astype(np.float32), left=left, level=level, blob=found)


@dataclass(frozen=True, eq=False)
class _Flat:
    """The flat places of one slice: (J, I) mask; sums and counts of |finest detail| by cell, as noise levels."""

    k: int
    mask: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    sigma: float
    pixels: int
    neighbors: float | None


def _flat(values: np.ndarray, k: int, flatness: Flatness, parts: np.ndarray | None) -> _Flat | None:
    one = np.asarray(values[k], np.float32)
    mask = flatness.mask(one, np.hypot(*(gradient_parts(one) if parts is None else parts)))
    if mask is None:
        return None
    mask &= ~constant(one)
    pixels = int(np.count_nonzero(mask))
    if pixels < 300:
        return None
    fine = finest(one)
    sigma = float(np.median(np.abs(fine[mask])) / NORMAL_MAD)
    if not sigma > 0:
        return None
    size = np.minimum(np.abs(fine), 3 * sigma) * mask / 0.7979  # mean |x| of a standard normal
    beside = k + 1 if k + 1 < len(values) else k - 1
    other = finest(np.asarray(values[beside], np.float32))
    small = mask & (np.abs(fine) < 3 * sigma) & (np.abs(other) < 3 * sigma)
    alike = float(np.corrcoef(fine[small], other[small])[0, 1]) if np.count_nonzero(small) > 300 else None
    return _Flat(k, mask, cells(size, CELL), cells(mask.astype(np.float32), CELL), sigma, pixels, alike)


def finest(one: np.ndarray) -> np.ndarray:
    """Second mixed difference, whose standard deviation is that of white noise."""
    padded = np.pad(one, 1, mode="edge")
    down = padded[:-2] - 2 * padded[1:-1]
    down += padded[2:]
    mixed = down[:, :-2] - 2 * down[:, 1:-1]
    mixed += down[:, 2:]
    mixed /= np.asarray(LAPLACIAN_GAIN, mixed.dtype)
    return mixed


# --- cosines --------------------------------------------------------------------------------------------------
def basis() -> Any:
    import torch

    x = np.arange(BLOCK)
    cosines = np.sqrt(2 / BLOCK) * np.cos(np.pi * (2 * x[None] + 1) * x[:, None] / (2 * BLOCK))
    cosines[0] /= np.sqrt(2)
    both = np.einsum("uy,vx->uvyx", cosines, cosines).reshape(BLOCK * BLOCK, 1, BLOCK, BLOCK)
    return torch.from_numpy(both.astype(np.float32))


def reflected(one: np.ndarray, stride: int) -> np.ndarray:
    """(J, I) with what blocks at every `stride`-th place see around it; the first block begins at -8."""
    after = [BLOCK + (-(n + BLOCK)) % stride for n in one.shape]
    return np.pad(one, ((BLOCK, after[0]), (BLOCK, after[1])), mode="reflect")


def cosines(one: np.ndarray, stride: int) -> Any:
    """(J, I) to (64, j, i) coefficients of blocks that begin at -8, -8 + stride, ...; reflected at the edges."""
    import torch

    return torch.nn.functional.conv2d(torch.from_numpy(reflected(one, stride))[None, None], basis(), stride=stride)[0]


def wave_amplitudes(spectrum: np.ndarray) -> np.ndarray:
    """(32, 32) amplitudes of the waves of noise whose cosines have the (8, 8) `spectrum`."""
    index = np.minimum(np.abs(np.fft.fftfreq(32)) * 2 * BLOCK, BLOCK - 1)
    places = np.stack(np.meshgrid(index, index, indexing="ij"))
    return ndimage.map_coordinates(spectrum.astype(float), places, order=1, mode="nearest")


# --- small parts ----------------------------------------------------------------------------------------------
def small_things(ratio: np.ndarray) -> np.ndarray:
    """Difference of Gaussians: the matched filter of a round thing `BLOB` pixels wide."""
    return smoothed(ratio, BLOB_SIGMA, SURROUND * BLOB_SIGMA, truncate=3)


def blob_of(spectrum: np.ndarray) -> float:
    """Standard deviation of `small_things` of noise whose cosines have the (8, 8) `spectrum`."""
    amplitudes = wave_amplitudes(spectrum)
    u = 2 * np.pi**2 * np.add.outer(*[np.fft.fftfreq(len(amplitudes)) ** 2] * 2)
    answers = amplitudes * (np.exp(-u * BLOB_SIGMA**2) - np.exp(-u * (SURROUND * BLOB_SIGMA) ** 2))
    return float(np.sqrt(np.mean(answers**2)))


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    part = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return part * part * (3 - 2 * part)


def cells(one: np.ndarray, size: int) -> np.ndarray:
    """(J, I) to (j, i): sums over cells of size x size pixels; the last ones may be smaller."""
    if any(n % size for n in one.shape):
        one = np.pad(one, [(0, -n % size) for n in one.shape])
    rows = one.reshape(-1, size, one.shape[1]).sum(1)  # along whole rows, which is faster
    return rows.reshape(len(rows), -1, size).sum(2, dtype=np.float64)


def weights_at(count: int, at: np.ndarray) -> np.ndarray:
    """(n, count) weights of linear interpolation at `at`, held constant beyond both ends."""
    at = np.clip(at, 0, count - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count)))


def _ratio(measured: np.ndarray) -> float:
    """Mean of the even ones / of the odd ones."""
    return float(measured[::2].mean() / measured[1::2].mean()) if len(measured) > 1 else 1.0
