"""Slices that are brighter and darker by turns, as an interleaved acquisition leaves them (floor 1; design section 5).

Of a stack of 2D slices, MR acquires the even ones first, then the odd ones, which the excitation of their neighbors
has weakened (cross-talk): a whole slice is some percent darker than the next. No anatomy does that. Taken for anatomy,
it is sharpened to bands across the other views, since what alternates from slice to slice is what a slice profile
weakens most. So the signal is computed from slices of even brightness, and the result gets theirs back, linear between
them.

It is measured as the logarithm of a slice over the mean of its neighbors, by blocks of the body, whose median anatomy
hardly moves. What counts is the part that changes its sign from slice to slice, and it must do so nearly everywhere.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .figures import NORMAL_MAD
from .intensity import MR_PERCENTILE, percentile_of
from .interpolation import linear_weights, weighted

_PIXELS, _CELLS = 4, 4  # of a cell, along each axis; of a block, in cells
_LEAST_BODY = 0.1  # of the range: darker cells do not count
_FULL = 0.75  # part of the cells of a block that must count
_LEAST_BLOCKS, _LEAST_TRIPLES = 16, 8  # blocks of a slice, slices with both neighbors, from which it is told
_ABOVE = 4.5  # standard errors; without interleaving 2.9 was the most in 120 cases made of thin 3D scans
_ALIKE = 0.85  # part of the slices in which it has the same sign
_LEAST = 0.005  # part of the brightness, below which nobody sees it
_SMOOTH = 2.0  # slices over which its size is the same
_AT_ONCE = 32  # slices
_MEDIAN_ERROR = 1.2533  # standard error of a median / of a mean


@dataclass(frozen=True, eq=False)
class SliceBrightness:
    """Factors (N,) by which acquired slices are brighter than even ones; their mean logarithm is about 0."""

    factors: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, modality: str) -> SliceBrightness | None:
        """Of MR slices (N, J, I), from zero; None where brightness does not alternate, and for CT, whose values are
        calibrated."""
        if modality == "CT" or len(values) < _LEAST_TRIPLES + 2:
            return None
        turns = np.where(np.arange(len(values)) % 2, -1.0, 1.0)
        alternating = 0.5 * turns * _beyond_neighbors(values)
        size = np.full(len(values), np.nan)
        size[1:-1] = 0.25 * (alternating[:-2] + 2 * alternating[1:-1] + alternating[2:])  # free of what does not turn
        known = np.isfinite(size)
        found = size[known]
        if len(found) < _LEAST_TRIPLES:
            return None
        middle = float(np.median(found))
        spread = max(float(np.median(np.abs(found - middle)) / NORMAL_MAD), 1e-4)
        error = _MEDIAN_ERROR * spread / np.sqrt(len(found) / 2)  # neighboring ones share half of what they are made of
        alike = float(np.mean(np.sign(found) == np.sign(middle)))
        if abs(middle) < max(_LEAST, _ABOVE * error) or alike < _ALIKE:
            return None
        near = np.where(known, np.clip(np.nan_to_num(size), middle - 3 * spread, middle + 3 * spread), 0)
        few = 0.02
        smooth, weight = (ndimage.gaussian_filter1d(of, _SMOOTH, mode="constant") for of in (near, known.astype(float)))
        return cls(np.exp(turns * (smooth + few * middle) / (weight + few)).astype(np.float32))

    @property
    def difference(self) -> float:
        """How much brighter one of two neighbors is, in the mean, as a part of their brightness."""
        return float(np.mean(np.abs(np.diff(np.log(self.factors)))))

    @property
    def warning(self) -> str:
        """What is said of it."""
        return (
            f"Slices are brighter and darker by turns, by {self.difference:.1%}, as interleaving leaves them: that is "
            "linear between slices, not sharpened, and consistency is that of even slices."
        )

    def part(self, limits: tuple[tuple[int, int], ...] | None) -> SliceBrightness:
        """Of the slices within `limits` of a scan's slices, rows and columns; None: of all."""
        return self if limits is None else SliceBrightness(self.factors[slice(*limits[0])])

    def evened(self, values: np.ndarray, numbers: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(n, ...) float32 slices of even brightness; `numbers` (n,) of these slices, else they are all of them."""
        factors = self.factors[numbers]
        return np.asarray(values, np.float32) / factors.reshape(-1, *[1] * (values.ndim - 1))

    def give_back(self, values: np.ndarray, positions: np.ndarray) -> None:
        """Makes slices (M, ...) of even brightness at `positions` (M,) in slices as bright as they were acquired."""
        for one, factor in zip(values, weighted(linear_weights(positions, len(self.factors)), self.factors)):
            one *= factor


def _beyond_neighbors(values: np.ndarray) -> np.ndarray:
    """(N,) log of a slice over its neighbors, as the median of blocks; not a number where too few of them are body."""
    rows, columns = (n - n % (_PIXELS * _CELLS) for n in values.shape[1:])
    output = np.full(len(values), np.nan)
    if not rows or not columns:
        return output
    count = len(values) * (rows // _PIXELS) * (columns // _PIXELS)
    each = (_cell_means(one[:rows, :columns]) for one in values)  # made again below: all of them would be a scan
    least = _LEAST_BODY * percentile_of(each, count, MR_PERCENTILE)
    for first in range(1, len(values) - 1, _AT_ONCE):
        last = min(first + _AT_ONCE, len(values) - 1)
        means = np.stack([_cell_means(values[k][:rows, :columns]) for k in range(first - 1, last + 1)])
        output[first:last] = _of_blocks(means, least)
    return output


def _cell_means(one: np.ndarray) -> np.ndarray:
    """(j, i) float64 means over cells of (J, I); by sums of shifted pixels, which numpy adds up quickest."""
    rows = one[::_PIXELS].astype(np.float64)
    for n in range(1, _PIXELS):
        rows += one[n::_PIXELS]
    sums = rows[:, ::_PIXELS].copy()
    for n in range(1, _PIXELS):
        sums += rows[:, n::_PIXELS]
    sums /= _PIXELS**2
    return sums


def _of_blocks(means: np.ndarray, least: float) -> np.ndarray:
    """The same for the inner slices of (n, j, i) means over cells, of which those above `least` count."""
    bright = means > least
    log = np.log(np.where(bright, means, 1))
    inside = bright[1:-1] & bright[:-2] & bright[2:]
    beyond = np.where(inside, log[1:-1] - 0.5 * (log[:-2] + log[2:]), np.nan)
    count, down, across = beyond.shape
    blocks = beyond.reshape(count, down // _CELLS, _CELLS, across // _CELLS, _CELLS).swapaxes(2, 3)
    blocks = blocks.reshape(count, -1, _CELLS**2)
    full = np.isfinite(blocks).sum(2) >= _FULL * _CELLS**2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of blocks and slices that hold nothing
        medians = np.where(full, np.nanmedian(blocks, axis=2), np.nan)
        told = full.sum(1) >= _LEAST_BLOCKS
        return np.where(told, np.nanmedian(medians, axis=1), np.nan)
