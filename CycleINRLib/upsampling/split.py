"""The split of acquired slices into signal and noise (floor 3; design section 5.1).

Within each slice, blocks of 8 x 8 pixels that overlap (see `blocks`) are written as cosines. A coefficient of the size
of noise, in this slice alone and together with its neighbors (whose noise is independent), is noise; any other is
signal. Blocks without much signal count more where they overlap with others, so that flat places beside an edge are
divided as well. What is broader than two slice spacings is never taken, and of waves of more than 2 mm hardly
anything: drawn along the slice axis they are no fine streaks, and faint things of 2 mm and more consist of them. Then a
matched filter looks for what is finer and what blocks divide badly, small round things. What was taken is given back
where one stands out of it, or where one stands out of the slice and much of it was taken: a faint lesion whose one half
the blocks have kept stands out of the other no more.

Sources: thresholds of overlapping block cosines, Yu and Sapiro (IPOL 2011); independent noise of neighbors as evidence
is our own; the weights of sparse blocks, Guleryuz (IEEE Trans. Image Process., 2007); detection in what is left,
Starck and Murtagh (Astronomical Image and Data Analysis, 2006).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage

from ..network.workers import divided
from .blocks import AROUND, LATTICES, Blocks, Evidence, as_image, as_planes, cells_along, nothing_before
from .filters import blurred, constant, largest_near
from .noisemodel import BLOCK, STRIDE, NoiseModel, basis, blob_of, cells, finest, reflected, small_things

KEPT = (3.0, 3.6)  # standard deviations of the noise from which a coefficient counts as signal: in part, in full
SPARSE = 12.0  # coefficients that are signal in a block whose weight is half of one without any
FOUND = (3.0, 3.6)  # standard deviations, of noise that was not yet divided, from which the filter has found something
IN_SLICE = (2.7, 3.0)  # the same for what stands out of the slice as acquired
OF_IT_TAKEN = 0.5  # deviations in what was taken, for each in the slice, from which much of a thing was taken
GIVEN_BACK = 0.4  # the width by which it fades, what is given back of 3 x 3 pixels around what was found
USUAL = 2.5  # standard deviations of the finest detail: what is beyond is structure
SHARE_CELL = 4  # pixels of a cell of `Taken.share`
SLICES_A_THREAD = 8  # that one thread takes, since it looks at two more on each side
_CACHED = 240_000  # coefficients that are looked at at once, so that they stay in the cache
SLICES_AROUND = 3  # slices on each side that the split of one depends on
SPLIT_HALO = 24  # pixels on each side that the split of one pixel depends on; a multiple of SHARE_CELL


@dataclass(frozen=True, eq=False)
class Taken:
    """noise : (N, J, I) float32, what was taken; signal = values - noise
    share : (N, j, i) part of the noise's variance that is no signal, in the mean of what was not given back, for
        cells of `SHARE_CELL` pixels
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
    tick : called now and then; may raise
    """
    count, rows, columns = values.shape
    planes: list[Any] = [None] * count  # of slices in units of the level, with what blocks see around them
    shares: list[Any] = [None] * count
    width = FOUND[1] - FOUND[0]
    noise = np.empty(values.shape, np.float32)
    rests = np.empty(values.shape, np.uint8)

    level = model.level_within(origin[1], rows, origin[2], columns)

    def level_of(k: int) -> np.ndarray:
        return level(origin[0] + k)

    def compared(k: int) -> np.ndarray:
        return np.asarray(values[k], np.float32) / level_of(k)

    def compare(slices: np.ndarray) -> None:
        for k in slices:
            planes[k] = as_planes(reflected(compared(k), STRIDE))

    def divide(slices: np.ndarray) -> None:
        _divide(planes, model, slices, noise, tick)

    def filtered(slices: np.ndarray) -> None:
        in_slice = blob_of(model.spectrum)
        for k in slices:
            answer = small_things(noise[k]) / np.float32(model.blob)
            planes[k] = answer / np.float32(width)  # its planes are no longer needed
            answer /= np.float32(OF_IT_TAKEN)
            rests[k] = _found_in_both(answer, small_things(compared(k)) / np.float32(in_slice))
            tick()

    def give_back(slices: np.ndarray) -> None:
        evidence = Evidence((rows, columns))
        for k, _, most in evidence.squares(
            lambda k, out: out.numpy().__setitem__(..., planes[k]), slices, count, False
        ):
            found = np.maximum(1 - evidence.none(most, FOUND[0] / width).numpy(), rests[k] / np.float32(255))
            rest = 1 - blurred(largest_near(found), GIVEN_BACK)
            rests[k] = np.rint(255 * rest)
            one, level = np.asarray(values[k], np.float32), level_of(k)
            shares[k] = _share(noise[k], one / level, rest)
            rest *= level
            model.touch_smoothed(rest, one, level if model.is_rician else None)
            rest *= ~constant(one)
            noise[k] *= rest
            tick()

    for step in (compare, divide, filtered, give_back):
        divided(partial(_of_some, step, np.arange(count)), count, SLICES_A_THREAD)
    return Taken(noise, np.stack(shares), rests)


def _found_in_both(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(J, I) 0 to 255: how surely both, deviations of unit noise, stand out with the same sign beyond `IN_SLICE`."""
    size = np.minimum(one, other)
    np.maximum(size, -np.maximum(one, other), out=size)
    size -= np.float32(IN_SLICE[0])
    size *= np.float32(255 / (IN_SLICE[1] - IN_SLICE[0]))
    return np.clip(size, 0, 255, out=size).astype(np.uint8)


def _share(noise: np.ndarray, whole: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(j, i) `Taken.share`: 1 - variance of the noise in the signal, in the mean of what is filled up."""
    fine, whole = (np.clip(finest(one), -USUAL, USUAL) for one in (noise, whole))
    filled = rest * (2 - rest)  # see `Strip.kept`
    lacks = fine * (2 * whole - fine)
    return np.clip(_around(lacks * filled) / np.maximum(_around(filled), np.float32(0.01)), 0, 1)


def _of_some(step: Callable[[np.ndarray], None], slices: np.ndarray, some: slice) -> None:
    import torch

    with torch.inference_mode():
        step(slices[some])


def _divide(
    planes: list[Any], model: NoiseModel, slices: np.ndarray, noise: np.ndarray, tick: Callable[[], None]
) -> None:
    """Puts what is taken of `slices` into `noise` (N, J, I), in units of the level, from all slices in planes.

    Some rows of blocks of all slices after the others, so that what is looked at stays in the cache.
    """
    import torch

    used = np.flatnonzero((model.spectrum > 0) & (model.left < 1))
    width, spectrum = KEPT[1] - KEPT[0], model.spectrum.reshape(-1, 1)[used]
    waves = basis()[used].flatten(1)
    forward = waves / torch.from_numpy(spectrum * np.float32(width))
    back = (waves * torch.from_numpy(spectrum * (1 - model.left.reshape(-1, 1)[used]) * np.float32(width))).T
    down, across = cells_along(noise.shape[1]) - AROUND, cells_along(noise.shape[2])
    carried = [nothing_before(across) for _ in slices]
    size = min(down, max(1, _CACHED // (len(used) * LATTICES * across)))
    for rows, starts in ((size, range(0, down - size + 1, size)), (down % size, range(down - down % size, down))):
        if not starts:
            continue
        blocks = Blocks(rows, across)
        evidence = Evidence((len(used), len(blocks.weights)))
        for first in starts[:1] if rows < size else starts:

            def see(k: int, out: Any, first: int = first, blocks: Blocks = blocks) -> None:
                torch.mm(forward, blocks.take(planes[k], first), out=out)

            row = first * STRIDE - BLOCK
            for n, (k, coefficients, most) in enumerate(evidence.squares(see, slices, len(planes), True)):
                share = evidence.none(most, KEPT[0] / width)
                torch.mm(back, coefficients.mul_(share), out=blocks.pixels)
                torch.reciprocal(SPARSE + BLOCK**2 - evidence.total(share), out=blocks.weights)
                taken = as_image(blocks.add(carried[n])[:, :, slice(0, None if first + rows == down else rows)])
                noise[k, max(0, row) : max(0, row + len(taken))] = taken[
                    max(0, -row) : max(0, noise.shape[1] - row), BLOCK : BLOCK + noise.shape[2]
                ]
            tick()


def _around(squares: np.ndarray) -> np.ndarray:
    """(J, I) to (j, i): mean around each cell of `SHARE_CELL` pixels."""
    return (ndimage.uniform_filter(cells(squares, SHARE_CELL), 5) / SHARE_CELL**2).astype(np.float32)
