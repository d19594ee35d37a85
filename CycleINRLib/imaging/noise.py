"""The noise of a volume and of a result, slice by slice (floor 1; design section 6); `figures` says what it comes to.

The noise of slice k, sigma_k, is measured in-plane on the flat half of the body. One mask per target slice, taken
from the linear interpolation of the source, serves source, output and interpolators: a mask of their own would itself
create inconsistency. Everything goes slice by slice, so that no second volume is ever held.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from scipy import ndimage

from .figures import LEAST_ACQUIRED, NORMAL_MAD, GrainSample, median, noise_figures
from .intensity import BODY_MR, is_whole, value_range

CT_BODY_HU = (-250.0, 300.0)  # soft tissue: where the noise is measured

FLAT_SIGMA = 2.0  # pixels of the Gaussian gradient that finds flat places
FLAT_REACH = int(4 * FLAT_SIGMA + 0.5)  # pixels on each side that this looks at
RIM = 3  # pixels at the border of a slice that are not measured
LEAST_BODY, LEAST_FLAT = 600, 300  # pixels a slice needs to be measured
MOST_QUERIED = 16  # acquired positions asked for beside the grid
ACQUIRED_TOLERANCE = 1e-3  # source slices
_PARTS = 4  # for each thread
LAPLACIAN_GAIN = 6.0  # standard deviation of the second mixed difference of unit white noise


@dataclass(frozen=True, eq=False)
class AcquiredQuery:
    """The output asked for at acquired positions beside its grid, for the measure only.

    values : (n, J, I) array, the output there
    at : (n,) source slice numbers, whole
    """

    values: np.ndarray
    at: np.ndarray


@dataclass(frozen=True)
class Flatness:
    """Which pixels of a slice may be measured: the body by value, its flat half by gradient.

    low, high : the body lies between them, both exclusive, in the unit of the values
    """

    low: float
    high: float

    @classmethod
    def of(cls, source: np.ndarray, modality: str) -> Flatness:
        """CT: -250 to 300 HU; MR: above 5 % of the 99.9th percentile of `source`."""
        if modality.upper() == "CT":
            return cls(*CT_BODY_HU)
        return cls(BODY_MR * value_range(source, modality), np.inf)

    def box(self, source: Any) -> tuple[slice, slice]:
        """Rows and columns of (N, J, I) `source` that decide what is measured, at any place between its slices.

        The body of a slice between two lies where one of them is above `low`; what is around is seen by the gradient.
        """
        least = self.low - 1e-5 * abs(self.low)  # blending rounds
        seen = np.zeros(source.shape[1:], bool)
        for one in source:
            seen |= one >= least
        rows, columns = (
            slice(max(0, found[0] - FLAT_REACH), found[-1] + 1 + FLAT_REACH) if len(found) else slice(None)
            for found in (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
        )
        return rows, columns

    def mask(self, values: np.ndarray, gradient: np.ndarray) -> np.ndarray | None:
        """The flat mask of (J, I) values and their gradient magnitude, without the rim; None for too little body."""
        body = (values > self.low) & (values < self.high)
        at = np.flatnonzero(body)
        if len(at) < LEAST_BODY:
            return None
        flat = body & (gradient < median(gradient.take(at)))
        inner = np.zeros_like(flat)
        inner[RIM:-RIM, RIM:-RIM] = flat[RIM:-RIM, RIM:-RIM]
        return inner


# --- one slice ------------------------------------------------------------------------------------------------
def sigma(values: np.ndarray, mask: np.ndarray) -> float:
    """Noise of one slice (design section 6): MAD of its second mixed difference over `mask`.

    Parameters
    ----------
    values : (J, I) array
    mask : (J, I) bool; its border must be False, as `Flatness.mask` leaves it

    Returns
    -------
    float in the unit of `values`; NaN where fewer than 300 pixels are left. Correlated noise (reconstruction kernels)
    makes it too small by a factor that ratios do not see. Of whole numbers it is a multiple of 0.247.

    Source: Immerkaer's mask (CVIU 64, 1996) with a median in place of its mean, which anatomy would raise.
    """
    return _sigma_at(values, _inner(mask))


def _inner(mask: np.ndarray) -> np.ndarray:
    """Where `mask` holds within its border, by number: picking by a mask takes several times as long."""
    return np.flatnonzero(mask[1:-1, 1:-1])


def _sigma_at(values: np.ndarray, at: np.ndarray) -> float:
    """`sigma` where `at` (`_inner` of the mask) is."""
    if len(at) < LEAST_FLAT:
        return float("nan")
    values = np.asarray(values, np.float32)
    rows = values[1:-1] * np.float32(-2)  # in place from here on: it is memory that takes the time
    rows += values[:-2]
    rows += values[2:]
    residual = rows[:, 1:-1] * np.float32(-2)
    residual += rows[:, :-2]
    residual += rows[:, 2:]
    picked = residual.take(at)
    return float(median(np.abs(picked, out=picked)) / (NORMAL_MAD * LAPLACIAN_GAIN))


def gradient_parts(values: np.ndarray) -> np.ndarray:
    """(J, I) to (2, J, I) float32: derivatives of Gaussians of 2 pixels along j and i."""
    parts = np.empty((2, *values.shape), np.float32)
    for part, order in zip(parts, ((1, 0), (0, 1))):
        ndimage.gaussian_filter(values, FLAT_SIGMA, order=order, output=part)
    return parts


class _Linear:
    """The source interpolated linearly, with gradient magnitude, slice by slice.

    Interpolation and derivative are both linear, so the filters run once for each source slice, not for each target
    slice: that is most of the cost at z-scale 4. The few latest source slices are kept.
    """

    def __init__(self, source: np.ndarray, kept: int, box: tuple[slice, slice] = (slice(None), slice(None))) -> None:
        self.source, self.kept, self.box = source, kept, box
        self.known: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self.lock = Lock()

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """(J, I) float32 values and gradient magnitude at `t` in source slices; held constant beyond both ends."""
        parts = np.square(self._mixed(t, lambda one: one[1]))
        squares = parts[0]
        squares += parts[1]
        return self.values(t), np.sqrt(squares, out=squares)

    def values(self, t: float) -> np.ndarray:
        """(J, I) float32 values at `t`, alone."""
        return self._mixed(t, lambda one: one[0])

    def picked(self, t: float, at: np.ndarray) -> np.ndarray:
        """Values at `t` of the pixels with flat numbers `at`, alone."""
        return self._mixed(t, lambda one: one[0].take(at))

    def _mixed(self, t: float, part: Callable[[tuple[np.ndarray, np.ndarray]], np.ndarray]) -> np.ndarray:
        last = len(self.source) - 1
        t = min(max(t, 0.0), float(last))
        k = min(int(t + 1e-9), max(last - 1, 0))
        f = np.float32(t - k)
        below = part(self._slice(k))
        if not f > 0:
            return below
        mixed = (1 - f) * below
        mixed += f * part(self._slice(k + 1))
        return mixed

    def _slice(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        with self.lock:
            if k in self.known:
                self.known.move_to_end(k)
                return self.known[k]
        values = np.asarray(self.source[k][self.box], np.float32)
        found = values, gradient_parts(values)
        with self.lock:
            self.known[k] = found
            while len(self.known) > self.kept:
                self.known.popitem(last=False)
        return found


# --- from slices to figures -----------------------------------------------------------------------------------
def slice_noise(values: np.ndarray, modality: str, threads: int = 2, derivatives: dict | None = None) -> np.ndarray:
    """sigma_k of a volume alone: (K, J, I) to (K,) float, NaN where a slice has too little flat body; `derivatives`
    takes the `gradient_parts` of each slice."""
    flatness = Flatness.of(values, modality)

    def one(k: int) -> float:
        seen = np.asarray(values[k], np.float32)
        down, across = parts = gradient_parts(seen)
        if derivatives is not None:
            derivatives[k] = parts
        mask = flatness.mask(seen, np.sqrt(down * down + across * across))
        return float("nan") if mask is None else sigma(seen, mask)

    return np.array(_each(one, len(values), threads))


def target_positions(count: int, z_scale: float) -> np.ndarray:
    """(count,) places of target slices in source slices, t_j = j / z_scale."""
    return np.arange(count) / z_scale


def positions_to_query(positions: np.ndarray, source_slices: int) -> np.ndarray:
    """Source slice numbers at which the output must be asked for beside its grid, so that a gap can be told.

    Empty where at least 5 output slices lie at acquired positions; else up to 16, evenly spread over the source slices
    that the positions span.
    """
    if _at_acquired(positions).sum() >= LEAST_ACQUIRED:
        return np.zeros(0, int)
    low, high = np.clip([np.ceil(min(positions) - 1e-6), np.floor(max(positions) + 1e-6)], 0, source_slices - 1)
    return np.unique(np.linspace(low, high, MOST_QUERIED).round().astype(int))


def noise_readout(
    source: np.ndarray,
    output: np.ndarray,
    z_scale: float,
    modality: str,
    *,
    acquired: AcquiredQuery | None = None,
    whole_values: bool | None = None,
    positions: np.ndarray | None = None,
    threads: int = 2,
) -> dict[str, Any]:
    """The noise figures of one result, ready for its report (design 4.5 and 6).

    Parameters
    ----------
    source : (N, J, I) acquired slices, HU or MR stored units
    output : (M, J, I) result on the same in-plane grid; read slice by slice, so a memory map will do
    z_scale : source spacing / target spacing
    modality : "CT" or "MR" (any other counts as MR)
    acquired : the output at acquired positions (see `positions_to_query`); counts where fewer than 5 slices of the grid
        lie there
    whole_values : round output and linear interpolation alike, since rounding itself adds noise where sigma is near 1;
        None: where the source holds whole numbers
    positions : (M,) places of the output slices in source slices; None: j / z_scale
    threads : slices measured at a time

    Returns
    -------
    dict: snli {input, output, linear}, snli_detrended, grain and sigma_mean {the same}, generated_gap, noise_ratio,
    noise_per_slice {the same, lists with None for slices left out}, slices_measured. None where not measurable, never
    NaN. snli_detrended of the input is None: it has no slices between.
    """
    positions = target_positions(len(output), z_scale) if positions is None else positions
    gauge = NoiseGauge(source, z_scale, modality, whole_values=whole_values, threads=threads)
    return gauge.readout(output, positions, acquired)


@dataclass(frozen=True, eq=False)
class _Slices:
    """Slices `values` (M, J, I) at places `at` (M,) in source slices; samples of their grain, then of that of the
    linear interpolation, which are filled."""

    values: np.ndarray
    at: np.ndarray
    samples: tuple[GrainSample, ...] = ()


class NoiseGauge:
    """`noise_readout` of several results of one source; with `remember`, masks and the noise of source and linear
    interpolation are found once and kept (a bool for each output voxel)."""

    def __init__(
        self,
        source: np.ndarray,
        z_scale: float,
        modality: str,
        *,
        whole_values: bool | None = None,
        threads: int = 2,
        remember: bool = False,
    ) -> None:
        self.source, self.z_scale, self.modality, self.threads = source, z_scale, modality, threads
        self.flatness = Flatness.of(source, modality)
        self.box = self.flatness.box(source)  # all is measured within it
        self.numbers = np.arange(source[0].size).reshape(source.shape[1:])[self.box].ravel()  # of its pixels in a slice
        self.linear = _Linear(source, 2 * threads + 2, self.box)
        self.rounded = np.rint if (is_whole(source) if whole_values is None else whole_values) else np.asarray
        self.known: dict[float, tuple[np.ndarray | None, float]] | None = {} if remember else None
        self.source_sigmas: np.ndarray | None = None
        self.source_grain: float | None = None

    def readout(
        self, output: np.ndarray, positions: np.ndarray, acquired: AcquiredQuery | None = None
    ) -> dict[str, Any]:
        """The figures of `noise_readout` for output slices (M, J, I) at `positions` (M,) in source slices."""
        voxels = len(positions) * self.source[0].size
        samples = GrainSample(voxels), GrainSample(voxels)
        sample = GrainSample(self.source.size)
        asked = [_Slices(output, positions, samples)]
        if acquired is not None:
            asked.append(_Slices(acquired.values, np.asarray(acquired.at)))
        if self.source_sigmas is None:
            asked.append(_Slices(self.source, np.arange(len(self.source)), (sample,)))
        found = self._pairs(asked)
        of_target, beside = found[0], np.zeros((0, 2)) if acquired is None else found[1]
        if self.source_sigmas is None:
            self.source_sigmas, self.source_grain = found[-1][:, 0], sample.grain()
        figures = noise_figures(self.source_sigmas, of_target, beside, _at_acquired(positions), self.z_scale)
        of_output, of_linear = (sample.grain() for sample in samples)
        return {**figures, "grain": {"input": self.source_grain, "output": of_output, "linear": of_linear}}

    def mask(self, t: float) -> np.ndarray | None:
        """The (J, I) pixels that are measured at `t` in source slices; None for too little body."""
        found = self._at(t)[0]
        if found is None:
            return None
        whole = np.zeros(self.source.shape[1:], bool)
        whole[self.box] = found
        return whole

    def _pairs(self, asked: list[_Slices]) -> list[np.ndarray]:
        """For each of them (M, 2) sigma_k of its slices and of the linear interpolation at the same places.

        Place by place, whatever is asked there: all share the mask and what is known of the source.
        """
        places: dict[float, list[tuple[int, int]]] = {}
        for which, slices in enumerate(asked):
            for n, t in enumerate(slices.at):
                places.setdefault(float(t), []).append((which, n))
        order = sorted(places)
        found = [np.full((len(slices.at), 2), np.nan) for slices in asked]

        def one(number: int) -> None:
            t = order[number]
            mask, sigma_linear, linear = self._at(t)
            if mask is None:
                return
            inner = _inner(mask)
            for which, n in places[t]:
                slices = asked[which]
                seen = self.rounded(np.asarray(slices.values[n][self.box], np.float32))
                if linear is None and len(slices.samples) > 1:
                    linear = self.rounded(self.linear.values(t))
                self._fill(slices, n, mask, seen, linear)
                same = linear is not None and np.array_equal(seen, linear)  # an acquired slice
                found[which][n] = sigma_linear if same else _sigma_at(seen, inner), sigma_linear

        _each(one, len(order), self.threads)
        return found

    def _fill(self, slices: _Slices, n: int, mask: np.ndarray, seen: np.ndarray, linear: np.ndarray | None) -> None:
        """The samples, of slice n."""

        def of_values(n: int, at: np.ndarray) -> np.ndarray:
            return self.rounded(np.asarray(slices.values[n].take(self.numbers.take(at)), np.float32))

        def of_linear(n: int, at: np.ndarray) -> np.ndarray:
            return self.rounded(self.linear.picked(float(slices.at[n]), at))

        inner = 0 < n < len(slices.values) - 1
        for sample, beside, middle in zip(slices.samples, (of_values, of_linear), (seen, linear)):
            assert middle is not None
            at = sample.places(mask)
            sample.add(at, middle, (beside(n - 1, at), beside(n + 1, at)) if inner else None)

    def _at(self, t: float) -> tuple[np.ndarray | None, float, np.ndarray | None]:
        """Mask and sigma of the linear interpolation there; and its values, None where the others were known."""
        if self.known is not None and t in self.known:
            return *self.known[t], None
        seen, gradient = self.linear.at(t)
        mask, seen = self.flatness.mask(seen, gradient), self.rounded(seen)
        found = mask, float("nan") if mask is None else _sigma_at(seen, _inner(mask))
        if self.known is not None:
            self.known[t] = found
        return *found, seen


def _at_acquired(positions: np.ndarray) -> np.ndarray:
    return np.abs(positions - np.round(positions)) < ACQUIRED_TOLERANCE


def _each(task: Callable[[int], Any], count: int, threads: int) -> list[Any]:
    """task(0) ... task(count - 1), in order; the filters of NumPy and SciPy release the interpreter lock.

    A thread takes some on end, which look at the same source slices.
    """
    if threads <= 1 or count < 2:
        return [task(n) for n in range(count)]
    parts = min(count, _PARTS * threads)
    edges = [n * count // parts for n in range(parts + 1)]

    def some(part: int) -> list[Any]:
        return [task(n) for n in range(edges[part], edges[part + 1])]

    with ThreadPoolExecutor(threads) as pool:
        return [one for found in pool.map(some, range(parts)) for one in found]
