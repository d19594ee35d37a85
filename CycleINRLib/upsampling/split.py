"""The split of acquired slices into signal and noise (floor 3; design section 5.1).

Within each slice, blocks of 8 x 8 pixels at every second place are written as cosines. A coefficient whose size is that
of noise, in this slice alone and together with its neighbors (whose noise is independent), is noise; any other is
signal. Blocks without much signal count more where they overlap with others, so that flat places beside an edge are
divided as well. What is broader than two slice spacings is never taken, and of waves of more than 2 mm hardly
anything: drawn along the slice axis they are no fine streaks, and faint things of 2 mm and more consist of them. Then a
matched filter looks at what was taken for what is finer and what blocks divide badly, small round things: where one
stands out, it is given back.

Sources: thresholds of overlapping block cosines, Yu and Sapiro (IPOL 2011); independent noise of neighbors as evidence
is our own; the weights of sparse blocks, Guleryuz (IEEE Trans. Image Process., 2007); detection in what is left,
Starck and Murtagh (Astronomical Image and Data Analysis, 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from .noisemodel import BLOCK, STRIDE, NoiseModel, basis, cells, constant, cosines, finest, small_things

KEPT = (3.0, 3.6)  # standard deviations of the noise from which a coefficient counts as signal: in part, in full
SPARSE = 12.0  # coefficients that are signal in a block whose weight is half of one without any
FOUND = (2.5, 3.1)  # standard deviations, of noise that was not yet divided, from which the filter has found something
GIVEN_BACK = 3, 0.4  # pixels around what was found that are given back, and the width by which they fade
TOGETHER = ((1, 2), (2, 3), (0, 1, 2), (1, 2, 3), (2, 3, 4))  # neighbors, of five slices, that are looked at at once
BESIDE = ((1, 2), (2, 3), (1, 2, 3))  # the same for what the filter finds, which is small
USUAL = 2.5  # standard deviations of the finest detail: what is beyond is structure
SHARE_CELL = 4  # pixels of a cell of `Taken.share`
THREADS = 2  # slices at a time
_CACHED = 60_000  # coefficients of a slice that are looked at at once, so that they stay in the cache
SLICES_AROUND = 3  # slices on each side that the split of one depends on
SPLIT_HALO = 24  # pixels on each side that the split of one pixel depends on; a multiple of SHARE_CELL


@dataclass(frozen=True, eq=False)
class Taken:
    """noise : (N, J, I) float32, what was taken; signal = values - noise
    share : (N, j, i) part of the noise's variance that is no signal, for cells of `SHARE_CELL` pixels
    rest : (N, J, I) uint8, 255 where the filter has found nothing, 0 where all was given back
    """

    noise: np.ndarray
    share: np.ndarray
    rest: np.ndarray


def take(
    values: np.ndarray,
    model: NoiseModel,
    origin: tuple[int, int, int] = (0, 0, 0),
    tick: Callable[[], None] = lambda: None,
) -> Taken:
    """The noise of acquired slices.

    Parameters
    ----------
    values : (N, J, I), all slices, or some slices, rows and columns that begin at `origin` of the whole ones (rows and
        columns: multiples of 4). The outer `SPLIT_HALO` pixels and `SLICES_AROUND` of a part differ from the whole
    tick : called after each slice; may raise
    """
    noise = np.empty(values.shape, np.float32)
    shares: list[Any] = [None] * len(values)
    rests = np.empty(values.shape, np.uint8)

    def divide(slices: np.ndarray) -> None:
        for k, level, coefficients, kept in _evidence(values, model, origin, slices):
            noise[k] = _of_slice(model, coefficients, 1 - kept, values.shape[1:])
            details = finest(noise[k]), finest(np.asarray(values[k], np.float32) / level)
            fine, whole = (np.clip(one, -USUAL, USUAL) for one in details)
            shares[k] = np.clip(_around(fine * (2 * whole - fine)), 0, 1)  # 1 - variance of the noise in the signal
            tick()

    def give_back(slices: np.ndarray) -> None:
        for k, found in _found(noise, model, slices):
            rest = 1 - ndimage.gaussian_filter(ndimage.maximum_filter(found, GIVEN_BACK[0]), GIVEN_BACK[1])
            rests[k] = np.rint(255 * rest)
            level = model.level_at(origin[0] + k, origin[1], values.shape[1], origin[2], values.shape[2])
            one = np.asarray(values[k], np.float32)
            touched = model.touched(ndimage.gaussian_filter(one, 1.0), level)
            left[k] = noise[k] * rest * level * touched * ~constant(one)

    left = np.empty_like(noise)
    parts = [part for part in np.array_split(np.arange(len(values)), THREADS) if len(part)]
    with ThreadPoolExecutor(THREADS) as pool:
        for step in (divide, give_back):
            list(pool.map(step, parts))
    return Taken(left, np.stack(shares), rests)


def _of_slice(model: NoiseModel, coefficients: Any, share: Any, shape: tuple[int, ...]) -> np.ndarray:
    """What is taken of a slice, (J, I), in units of the level."""
    import torch

    weights = 1 / (SPARSE + (1 - share).sum(0, keepdim=True))
    coefficients *= share
    coefficients *= torch.from_numpy((model.spectrum * (1 - model.left)).reshape(-1, 1, 1))
    return _from_cosines(coefficients, weights, shape)


def _evidence(values: np.ndarray, model: NoiseModel, origin: tuple[int, int, int], slices: np.ndarray) -> Iterator[Any]:
    """For each of consecutive `slices`: its number and level, its coefficients in units of their noise, and how far
    each is signal, in [0, 1]."""
    import torch

    count, rows, columns = values.shape
    spectrum = torch.from_numpy(np.where(model.spectrum > 0, model.spectrum, 1).reshape(-1, 1, 1))
    never = torch.from_numpy(model.spectrum.reshape(-1) == 0)
    window: dict[int, tuple[np.ndarray, Any]] = {}

    def seen(k: int) -> tuple[np.ndarray, Any]:
        level = model.level_at(origin[0] + k, origin[1], rows, origin[2], columns)
        return level, cosines(np.asarray(values[k], np.float32) / level, STRIDE) / spectrum

    for k in map(int, slices):
        window = {m: window[m] if m in window else seen(m) for m in range(max(0, k - 2), min(count, k + 3))}
        kept = _stands_out([window[m][1] if m in window else None for m in range(k - 2, k + 3)], KEPT, TOGETHER)
        kept[never] = 1
        yield k, window[k][0], window[k][1].clone(), kept


def _found(taken: np.ndarray, model: NoiseModel, slices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """For each of consecutive `slices` of what was taken (N, J, I), in units of the level: its number, and how far the
    matched filter has found something there, (J, I) in [0, 1]."""
    import torch

    window: dict[int, Any] = {}

    def seen(k: int) -> Any:
        return torch.from_numpy(small_things(taken[k]) / np.float32(model.blob))

    for k in map(int, slices):
        window = {m: window[m] if m in window else seen(m) for m in range(max(0, k - 1), min(len(taken), k + 2))}
        yield k, _stands_out([window.get(m) for m in range(k - 2, k + 3)], FOUND, BESIDE).numpy()


def _stands_out(around: list[Any], limits: tuple[float, float], groups: tuple[tuple[int, ...], ...]) -> Any:
    """In [0, 1], how far the middle one of five slices stands out of unit noise: alone, or in sums with neighbors."""
    import torch

    out = torch.empty_like(around[2])
    step = max(1, _CACHED * len(out) // max(1, out.numel()))
    for first in range(0, len(out), step):
        at = slice(first, first + step)
        seen, most = [None if one is None else one[at] for one in around], out[at]
        torch.abs(seen[2], out=most)
        sums = torch.empty_like(most)
        for group in groups:
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


def _from_cosines(coefficients: Any, weights: Any, shape: tuple[int, ...]) -> np.ndarray:
    """(J, I) back from (64, j, i) blocks at every `STRIDE`-th place, as their mean weighted by (1, j, i)."""
    blocks = basis().view(BLOCK**2, -1).T @ (coefficients * weights).flatten(1)
    sums = _overlapped(blocks.unflatten(1, coefficients.shape[1:]))
    sums /= _overlapped(weights.expand(BLOCK**2, -1, -1))
    return sums[BLOCK : BLOCK + shape[0], BLOCK : BLOCK + shape[1]].numpy()


def _overlapped(blocks: Any) -> Any:
    """Sums (2 j + 6, 2 i + 6) of blocks (64, j, i); plane by plane, a tenth of a transposed convolution's time."""
    (rows, columns), shifts = blocks.shape[1:], BLOCK // STRIDE
    parts = blocks.unflatten(0, (shifts, STRIDE, shifts, STRIDE))
    sums = blocks.new_zeros(STRIDE, STRIDE, rows + shifts - 1, columns + shifts - 1)
    for y in range(shifts):
        for x in range(shifts):
            sums[:, :, y : y + rows, x : x + columns] += parts[y, :, x]
    return sums.permute(2, 0, 3, 1).flatten(2).flatten(0, 1)


def _around(squares: np.ndarray) -> np.ndarray:
    """(J, I) to (j, i): mean around each cell of `SHARE_CELL` pixels."""
    return (ndimage.uniform_filter(cells(squares, SHARE_CELL), 5) / SHARE_CELL**2).astype(np.float32)
