"""The split of acquired slices into signal and noise (floor 3; design section 5.1).

Within each slice, blocks of 8 x 8 pixels at every second place are written as cosines. A coefficient whose size is that
of noise, in this slice alone and together with its neighbors (whose noise is independent), is noise; any other is
signal. Then matched filters look for what blocks divide badly, small round things: where one stands out, what was
taken there is given back. What is broader than two slice spacings is never taken: drawn along the slice axis it is no
streak.

The size of the noise is measured on the flat places of the scan: its spectrum, and its level place by place.

Sources: thresholds of overlapping block cosines, Yu and Sapiro (IPOL 2011); independent noise of neighbors as evidence
is our own; detection at several scales, Starck and Murtagh (Astronomical Image and Data Analysis, 2006).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ..imaging.grain import NORMAL_MAD
from ..imaging.intensity import BODY_MR, value_range
from ..imaging.noise import LAPLACIAN_GAIN, Flatness, gradient_parts

BLOCK, STRIDE = 8, 2  # pixels of a block, and from block to block
KEPT = (2.2, 2.8)  # standard deviations of the noise from which a coefficient counts as signal: in part, in full
BLOBS = (2.2, 4.0)  # full width at half maximum, in pixels, of the matched filters
SURROUND = 1.8  # how many times wider their negative part is
FOUND = (3.0, 3.6)  # standard deviations from which a filter has found something
GIVEN_BACK = (0.0, 0.5)  # width of the smoothing of what is given back, in widths of the filter
BROAD = 2.0  # slice spacings: a longer wave within slices is no noise to be taken
SLICES = 12  # of the scan, at most, on which the noise is measured
CELL = 16  # pixels of a cell in which the level is one number
SHARE_CELL = 4  # pixels of a cell of `Taken.share`
THREADS = 2  # slices at a time
_CACHED = 60_000  # coefficients of a slice that are looked at at once, so that they stay in the cache
SPLIT_HALO = 24  # pixels on each side that the split of one pixel depends on; a multiple of SHARE_CELL
LEAST_LEVEL = 0.2  # of the scan's own level: what no cell falls below
CT_AIR_HU, CT_METAL_HU = (-960.0, -920.0), (1500.0, 2500.0)  # nothing is taken beyond; a part between
RICIAN = (1.5, 3.0)  # signal / noise below which MR noise is no longer Gaussian, and nothing is taken


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """The noise of a scan as measured on its flat places.

    spectrum : (8, 8) standard deviation of each cosine's coefficient in units of the level; 0 where nothing is taken
    level : (n, j, i) the scan's unit, for `at` (n,) slices and cells of `CELL` pixels
    blobs : what each matched filter gives for the noise, in units of the level
    low, high : intensities between which noise is taken, each as (nothing, all)
    flat_pixels, flat_slices : that were measured
    halves : level in even / in odd ones of the measured slices
    neighbors : correlation of the finest noise in neighboring slices
    """

    spectrum: np.ndarray
    level: np.ndarray
    at: np.ndarray
    blobs: tuple[float, ...]
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
        cells = between(self.level, self.at, np.array([k]))[0]
        down = weights_at(cells.shape[0], (np.arange(first_row, first_row + rows) + 0.5) / CELL - 0.5)
        across = weights_at(cells.shape[1], (np.arange(first_column, first_column + columns) + 0.5) / CELL - 0.5)
        return (down @ cells @ across.T).astype(np.float32)

    def touched(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """(J, I) in [0, 1]: 1 where noise is taken and made; 0 in air, metal, and where MR noise is not Gaussian."""
        smooth = ndimage.gaussian_filter(values, 1.0)
        touched = _ramp(smooth, *self.low) * (1 - _ramp(smooth, *self.high))
        if self.modality != "CT":
            touched *= _ramp(smooth / (level * np.float32(self.total)), *RICIAN)
        return touched

    @classmethod
    def of(cls, values: np.ndarray, spacing_mm: tuple[float, ...], modality: str) -> NoiseModel | None:
        """From acquired slices (N, J, I) with `spacing_mm` (slices, rows, columns); None without flat places."""
        flatness = Flatness.of(values, modality)
        chosen = np.unique(np.linspace(0, len(values) - 1, SLICES).round().astype(int))
        measured_ones = (_flat(values, int(k), flatness) for k in chosen)
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
            np.ones((BLOCK, BLOCK), np.float32), level, at, (), low, high, modality,
            sum(one.pixels for one in seen), len(seen), _ratio(measured),
            float(np.mean(neighbors)) if neighbors else 0.0,
        )  # fmt: skip
        return model._measured(values, seen, spacing_mm)

    def _measured(self, values: np.ndarray, seen: list[_Flat], spacing_mm: tuple[float, ...]) -> NoiseModel | None:
        """The same with its spectrum and what matched filters give."""
        coefficients: list[np.ndarray] = []
        filtered: list[list[np.ndarray]] = [[] for _ in BLOBS]
        for one in seen:
            level = self.level_at(one.k, 0, values.shape[1], 0, values.shape[2])
            ratio = np.asarray(values[one.k], np.float32) / level
            found = _cosines(ratio, 2 * STRIDE).numpy()
            whole = ndimage.minimum_filter(one.mask, BLOCK, origin=-1)  # block that ends 3 before to 4 after
            start = np.arange(found.shape[1]) * 2 * STRIDE - BLOCK, np.arange(found.shape[2]) * 2 * STRIDE - BLOCK
            inside = [(s >= 0) & (s + BLOCK <= n) for s, n in zip(start, ratio.shape)]
            centers = np.ix_(start[0][inside[0]] + BLOCK // 2 - 1, start[1][inside[1]] + BLOCK // 2 - 1)
            coefficients.append(found[:, inside[0]][:, :, inside[1]][:, whole[centers]])
            for kept, width in zip(filtered, BLOBS):
                kept.append(_blob(ratio, width)[one.mask])
        blocks = np.concatenate(coefficients, axis=1)
        if blocks.shape[1] < 64:
            return None
        spectrum = np.median(np.abs(blocks), axis=1).reshape(BLOCK, BLOCK) / NORMAL_MAD
        u = np.arange(BLOCK) / (2 * BLOCK)
        waves = np.hypot(u[:, None] / spacing_mm[1], u[None] / spacing_mm[2])  # per mm
        spectrum[waves < 1 / (BROAD * spacing_mm[0])] = 0
        spectrum[0, 0] = 0
        if not spectrum.any():
            return None
        blobs = tuple(float(np.median(np.abs(np.concatenate(parts))) / NORMAL_MAD) for parts in filtered)
        return dataclasses.replace(self, spectrum=spectrum.astype(np.float32), blobs=blobs)


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


def _flat(values: np.ndarray, k: int, flatness: Flatness) -> _Flat | None:
    one = np.asarray(values[k], np.float32)
    mask = flatness.mask(one, np.hypot(*gradient_parts(one)))
    if mask is None:
        return None
    mask &= ~constant(one)
    pixels = int(np.count_nonzero(mask))
    if pixels < 300:
        return None
    finest = _finest(one)
    sigma = float(np.median(np.abs(finest[mask])) / NORMAL_MAD)
    if not sigma > 0:
        return None
    size = np.minimum(np.abs(finest), 3 * sigma) * mask / 0.7979  # mean |x| of a standard normal
    beside = k + 1 if k + 1 < len(values) else k - 1
    other = _finest(np.asarray(values[beside], np.float32))
    small = mask & (np.abs(finest) < 3 * sigma) & (np.abs(other) < 3 * sigma)
    alike = float(np.corrcoef(finest[small], other[small])[0, 1]) if np.count_nonzero(small) > 300 else None
    return _Flat(k, mask, _cells(size, CELL), _cells(mask.astype(np.float32), CELL), sigma, pixels, alike)


def _finest(one: np.ndarray) -> np.ndarray:
    """Second mixed difference, whose standard deviation is that of white noise."""
    mixed = ndimage.convolve1d(ndimage.convolve1d(one, [1.0, -2.0, 1.0], axis=0), [1.0, -2.0, 1.0], axis=1)
    return mixed / np.float32(LAPLACIAN_GAIN)


@dataclass(frozen=True, eq=False)
class Taken:
    """noise : (N, J, I) float32, what was taken; signal = values - noise
    share : (N, j, i) part of the noise's variance that was taken, for cells of `SHARE_CELL` pixels
    """

    noise: np.ndarray
    share: np.ndarray


def take(
    values: np.ndarray,
    model: NoiseModel,
    origin: tuple[int, int] = (0, 0),
    tick: Callable[[], None] = lambda: None,
) -> Taken:
    """The noise of acquired slices.

    Parameters
    ----------
    values : (N, J, I), all slices, or some rows and columns of them that begin at `origin` of the whole ones (multiples
        of 4). The outer `SPLIT_HALO` pixels of a part differ from those of the whole
    tick : called after each slice; may raise
    """
    noise = np.empty(values.shape, np.float32)
    shares: list[Any] = [None] * len(values)

    def some(slices: np.ndarray) -> None:
        for k, level, coefficients, weights, found in _evidence(values, model, origin, slices):
            taken, share = _of_slice(model, level, coefficients, 1 - weights, values.shape[1:])
            before = _power(taken)
            for width, smoothed, back in zip(BLOBS, GIVEN_BACK, found):
                sigma = width / 2.3548
                spread = ndimage.gaussian_filter(ndimage.maximum_filter(back, 2 * round(sigma) + 1), 0.4 * sigma)
                taken -= spread * (ndimage.gaussian_filter(taken, smoothed * sigma) if smoothed else taken)
            shares[k] = share * np.minimum(1, _power(taken) / np.maximum(before, 1e-12))
            one = np.asarray(values[k], np.float32)
            np.multiply(taken, model.touched(one, level) * ~constant(one), out=noise[k])
            tick()

    parts = [part for part in np.array_split(np.arange(len(values)), THREADS) if len(part)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(some, parts))
    return Taken(noise, np.stack(shares))


def _of_slice(model: NoiseModel, level: np.ndarray, coefficients: Any, share: Any, shape: tuple[int, ...]):
    """What is taken of a slice, (J, I), and by cell the part of the noise's variance that this is."""
    import torch

    power = np.ravel(model.spectrum**2)
    part = np.tensordot(power / power.sum(), share.numpy() ** 2, 1)
    coefficients *= share
    coefficients *= torch.from_numpy(model.spectrum.reshape(-1, 1, 1))
    return _from_cosines(coefficients, shape) * level, _share_cells(part, shape)


def _evidence(values: np.ndarray, model: NoiseModel, origin: tuple[int, int], slices: np.ndarray) -> Iterator[Any]:
    """For each of consecutive `slices`: its number and level; its coefficients in units of their noise, and how far
    each is signal, in [0, 1]; and how far each matched filter has found something, (J, I) in [0, 1]."""
    import torch

    count, rows, columns = values.shape
    spectrum = torch.from_numpy(np.where(model.spectrum > 0, model.spectrum, 1).reshape(-1, 1, 1))
    never = torch.from_numpy(model.spectrum.reshape(-1) == 0)
    window: dict[int, tuple[np.ndarray, list[Any]]] = {}

    def seen(k: int) -> tuple[np.ndarray, list[Any]]:
        level = model.level_at(k, origin[0], rows, origin[1], columns)
        ratio = np.asarray(values[k], np.float32) / level
        blobs = [torch.from_numpy(_blob(ratio, width) / np.float32(s)) for width, s in zip(BLOBS, model.blobs)]
        return level, [_cosines(ratio, STRIDE) / spectrum, *blobs]

    for k in map(int, slices):
        window = {m: window[m] if m in window else seen(m) for m in range(max(0, k - 2), min(count, k + 3))}
        level, own = window[k]
        kept = _stands_out([window[m][1][0] if m in window else None for m in range(k - 2, k + 3)], KEPT)
        kept[never] = 1
        found = [
            _stands_out([window[m][1][n + 1] if m in window else None for m in range(k - 2, k + 3)], FOUND).numpy()
            for n in range(len(BLOBS))
        ]
        yield k, level, own[0].clone(), kept, found


def _stands_out(around: list[Any], limits: tuple[float, float]) -> Any:
    """In [0, 1], how far the middle one of five slices stands out of unit noise: alone, or in sums with neighbors."""
    import torch

    out = torch.empty_like(around[2])
    step = max(1, _CACHED * len(out) // max(1, out.numel()))
    for first in range(0, len(out), step):
        at = slice(first, first + step)
        seen, most = [None if one is None else one[at] for one in around], out[at]
        torch.abs(seen[2], out=most)
        sums = torch.empty_like(most)
        for group in ((1, 2), (2, 3), (0, 1, 2), (1, 2, 3), (2, 3, 4)):
            parts = [seen[n] for n in group]
            if all(part is not None for part in parts):
                torch.add(parts[0], parts[1], out=sums)
                if len(parts) > 2:
                    sums += parts[2]
                torch.maximum(most, sums.abs_().mul_(len(parts) ** -0.5), out=most)
        most.sub_(limits[0]).mul_(1 / (limits[1] - limits[0])).clamp_(0, 1)
        torch.mul(most, -2, out=sums).add_(3)
        most.mul_(most).mul_(sums)
    return out


# --- cosines --------------------------------------------------------------------------------------------------
def _basis() -> Any:
    import torch

    x = np.arange(BLOCK)
    cosines = np.sqrt(2 / BLOCK) * np.cos(np.pi * (2 * x[None] + 1) * x[:, None] / (2 * BLOCK))
    cosines[0] /= np.sqrt(2)
    both = np.einsum("uy,vx->uvyx", cosines, cosines).reshape(BLOCK * BLOCK, 1, BLOCK, BLOCK)
    return torch.from_numpy(both.astype(np.float32))


def _cosines(one: np.ndarray, stride: int) -> Any:
    """(J, I) to (64, j, i) coefficients of blocks that begin at -8, -8 + stride, ...; reflected at the edges."""
    import torch

    after = [BLOCK + (-(n + BLOCK)) % stride for n in one.shape]
    padded = np.pad(one, ((BLOCK, after[0]), (BLOCK, after[1])), mode="reflect")
    return torch.nn.functional.conv2d(torch.from_numpy(padded)[None, None], _basis(), stride=stride)[0]


def _from_cosines(coefficients: Any, shape: tuple[int, ...]) -> np.ndarray:
    """(J, I) back from blocks at every `STRIDE`-th place."""
    blocks = (_basis().view(BLOCK**2, -1).T @ coefficients.flatten(1)).unflatten(1, coefficients.shape[1:])
    inner = _overlapped(blocks)[BLOCK : BLOCK + shape[0], BLOCK : BLOCK + shape[1]].numpy()
    return inner * np.float32((STRIDE / BLOCK) ** 2)


def _overlapped(blocks: Any) -> Any:
    """Sums (2 j + 6, 2 i + 6) of blocks (64, j, i); plane by plane, a tenth of a transposed convolution's time."""
    (rows, columns), shifts = blocks.shape[1:], BLOCK // STRIDE
    parts = blocks.unflatten(0, (shifts, STRIDE, shifts, STRIDE))
    sums = blocks.new_zeros(STRIDE, STRIDE, rows + shifts - 1, columns + shifts - 1)
    for y in range(shifts):
        for x in range(shifts):
            sums[:, :, y : y + rows, x : x + columns] += parts[y, :, x]
    return sums.permute(2, 0, 3, 1).flatten(2).flatten(0, 1)


def _power(taken: np.ndarray) -> np.ndarray:
    """(J, I) to (j, i): power around each cell of `SHARE_CELL` pixels."""
    return ndimage.uniform_filter(_cells(taken**2, SHARE_CELL), 3).astype(np.float32)


def _share_cells(part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(j, i) mean over the blocks that cover the middle of each cell."""
    each = SHARE_CELL // STRIDE
    covering = ndimage.uniform_filter(part, BLOCK // STRIDE)
    first = BLOCK // STRIDE - 1
    cells = [-(-n // SHARE_CELL) for n in shape]
    return covering[first::each, first::each][: cells[0], : cells[1]].astype(np.float32)


# --- small parts ----------------------------------------------------------------------------------------------
def _blob(ratio: np.ndarray, width: float) -> np.ndarray:
    """Difference of Gaussians: the matched filter of a round thing `width` pixels wide."""
    sigma = width / 2.3548
    return ndimage.gaussian_filter(ratio, sigma, truncate=3) - ndimage.gaussian_filter(
        ratio, SURROUND * sigma, truncate=3
    )


def constant(one: np.ndarray) -> np.ndarray:
    """(J, I) bool: pixels alike to all of their neighbors, as in padding, masks, clipped air and saturation."""
    return ndimage.maximum_filter(one, 3) == ndimage.minimum_filter(one, 3)


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between; 0 where both are infinite."""
    if np.isinf(low):
        return np.zeros_like(values)
    part = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return part * part * (3 - 2 * part)


def _cells(one: np.ndarray, size: int) -> np.ndarray:
    """(J, I) to (j, i): sums over cells of size x size pixels; the last ones may be smaller."""
    padded = np.pad(one, [(0, -n % size) for n in one.shape])
    return padded.reshape(padded.shape[0] // size, size, -1, size).sum((1, 3), dtype=np.float64)


def weights_at(count: int, at: np.ndarray) -> np.ndarray:
    """(n, count) weights of linear interpolation at `at`, held constant beyond both ends."""
    at = np.clip(at, 0, count - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count)))


def between(slices: np.ndarray, at: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(M, j, i): linear interpolation of (n, j, i) that lie `at` (n,), held constant beyond both ends."""
    index = np.interp(positions, at, np.arange(len(at)))
    return np.tensordot(weights_at(len(at), index), slices, 1)


def _ratio(measured: np.ndarray) -> float:
    """Mean of the even ones / of the odd ones."""
    return float(measured[::2].mean() / measured[1::2].mean()) if len(measured) > 1 else 1.0
