"""Intensities between the scan's unit and the network's range (floor 1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .volume import rescaled

CT_SCALE_HU = 1000.0
CT_RANGE_HU = (-1000.0, 1000.0)  # where CT is measured, in detail and in PSNR, so that metal does not rule it
MIN_DETAIL = 1e-4  # of the normalized range; a scan without any change along z
BODY_CT_HU = -900.0  # what is above is body
BODY_MR = 0.05  # of the range
MR_PERCENTILE = 99.9  # its value is the range of an MR scan
ROWS = 32  # rows of each slice that are looked at
VALUES_AT_ONCE = 2_000_000  # of what is looked at: some copies of them are made


@dataclass(frozen=True)
class IntensityScale:
    """normalized = value / scale; the network's correction is in units of `detail` (normalized).

    Values are those from the scan's own zero (`zero_of`). CT has one fixed scale, 1000 HU; MR its 99.9th percentile.
    `detail` is the RMS of the second difference along z in the body: it makes loss and correction comparable between
    noisy and smooth scans. `through` and `within` are log(RMS of second / first differences) along z and in-plane: near
    log(1.7) for noise, far below zero where neighbors hardly differ, so they tell how finely the scan samples what it
    shows. Nothing is clipped here.
    """

    scale: float
    detail: float
    through: float
    within: float

    @classmethod
    def of(cls, values: np.ndarray, modality: str, scale: float | None = None) -> IntensityScale:
        """From source slices (N, J, I), in HU for "CT", stored units else; `scale` where it is known already."""
        sample = np.array(values[:, :: max(1, values.shape[1] // ROWS)], np.float32)
        if modality == "CT":
            scale = CT_SCALE_HU
            np.clip(sample, *CT_RANGE_HU, out=sample)
            body = sample > BODY_CT_HU
        else:
            scale = scale or float(max(np.percentile(sample, MR_PERCENTILE), np.abs(sample).max() * 1e-3, 1e-30))
            body = sample > BODY_MR * scale
        size = max(1, VALUES_AT_ONCE // (sample.shape[0] * sample.shape[2]))
        parts = [slice(a, a + size) for a in range(0, sample.shape[1], size)]  # rows know nothing of each other
        bend, through = _roughness([(sample[:, part], body[:, part]) for part in parts], scale)
        across = [(np.moveaxis(sample[:, part], 2, 0), np.moveaxis(body[:, part], 2, 0)) for part in parts]
        _, within = _roughness(across, scale)
        return cls(float(scale), max(bend / scale, MIN_DETAIL), through, within)


def _roughness(parts: list[tuple[np.ndarray, np.ndarray]], scale: float) -> tuple[float, float]:
    """RMS of the second difference along the first axis in the body, and the log of its ratio to the first's.

    parts : of the sample, and the body in them; where there is no body, all counts
    """
    somewhere = any(body[1:-1].any() for _, body in parts)
    squares, count = np.zeros(2), 0
    for sample, body in parts:
        step = np.diff(sample, axis=0)
        inside = body[1:-1] if somewhere else np.ones_like(body[1:-1])
        of_both = 0.5 * (np.abs(step[1:]) + np.abs(step[:-1]))[inside], np.diff(step, axis=0)[inside]
        squares += [float(np.sum(np.square(values, dtype=np.float64))) for values in of_both]
        count += of_both[0].size
    first, second = (float(np.sqrt(square / max(count, 1))) for square in squares)
    return second, float(np.clip(np.log(max(second, 1e-9 * scale) / max(first, 1e-9 * scale)), -2.0, 1.0))


# --- against a truth ------------------------------------------------------------------------------------------
def value_range(values: np.ndarray, modality: str) -> float:
    """The fixed range of PSNR and SSIM: 2000 HU for CT, the 99.9th percentile of `values` for MR."""
    if modality.upper() == "CT":
        return CT_RANGE_HU[1] - CT_RANGE_HU[0]
    return float(np.percentile(_sample(values), MR_PERCENTILE))


def body_mask(truth: np.ndarray, modality: str, peak: float) -> np.ndarray:
    """Where PSNR and SSIM count: CT above -900 HU, MR above 5 % of `peak`; shape of `truth`."""
    return truth > (BODY_CT_HU if modality.upper() == "CT" else BODY_MR * peak)


_SAMPLE = 4_000_000  # voxels that are enough for a percentile


def step_of(values: np.ndarray) -> float:
    """The smallest difference of two values: 1 for most scans as stored, about 0 where they were computed."""
    different = np.unique(values)
    return float(np.diff(different).min()) if len(different) > 1 else 0.0


def percentile_of(parts: Iterable[np.ndarray], count: int, percent: float) -> float:
    """numpy's percentile, linear between two values, of `count` values that come in parts: it holds the fewer ones
    alone that lie to one side of it."""
    place = (count - 1) * (percent / 100)
    upper = percent > 50
    most = count - int(place) if upper else int(place) + 2
    held = np.empty(0)
    for part in parts:
        values = np.asarray(part, np.float64).ravel()
        if len(held) == most:
            values = values[values > held.min()] if upper else values[values < held.max()]
        held = np.concatenate([held, values])
        if len(held) > most:
            held = np.partition(held, -most)[-most:] if upper else np.partition(held, most - 1)[:most]
    held.sort()
    first = 0 if upper else int(place)
    below, above = held[first], held[min(first + 1, len(held) - 1)]
    part_above, step = place - int(place), above - below
    return float(below + step * part_above if part_above < 0.5 else above - step * (1 - part_above))


def is_whole(values: np.ndarray) -> bool:
    """Whether the values are whole numbers, by type or (a sample of a float array) by value."""
    if not np.issubdtype(values.dtype, np.floating):
        return True
    sample = _sample(values)
    return bool((sample == np.rint(sample)).all())


def _sample(values: np.ndarray) -> np.ndarray:
    """All values, or every n-th row and column of a large volume: percentiles do not need more."""
    step = int(np.ceil(np.sqrt(max(1.0, values.size / _SAMPLE))))
    return values[..., ::step, ::step]


# --- where the values begin -----------------------------------------------------------------------------------
LOWEST = 0.1  # percentile: where the values of an MR begin, when single voxels lie far below
LEAST_AIR = 0.01  # of the voxels, so near the lowest
NEAR = 0.02  # of the range: the lowest voxel itself where it lies so near


def zero_of(values: np.ndarray, modality: str) -> float:
    """Where the values of an MR begin: what is added to a scan is added to it, so the rest does not see it.

    0 for nearly all, since the lowest voxel of a magnitude is 0; always for CT, whose zero is water. A value that lies
    farther below all others than these reach is padding.
    """
    if modality.upper() == "CT":
        return 0.0
    sample = _sample(values)
    lowest = sample.min()
    begin, high = np.percentile(sample, [LOWEST, MR_PERCENTILE], method="lower")
    if begin == lowest and (others := sample[sample > lowest]).size:
        above, top = np.percentile(others, [LOWEST, MR_PERCENTILE], method="lower")
        if float(above) - float(lowest) > float(top) - float(above):
            lowest, begin, high = others.min(), above, top
    return float(lowest if float(begin) - float(lowest) <= NEAR * (float(high) - float(begin)) else begin)


def floor_of(values: np.ndarray) -> float:
    """What no value of an MR can fall below: the lowest one, where it is the air and not just the darkest tissue, or 0
    for a scan that holds nothing below; else -infinity."""
    sample, lowest = _sample(values), float(values.min())
    high = float(np.percentile(sample, MR_PERCENTILE))
    if np.mean(sample <= lowest + NEAR * (high - lowest)) >= LEAST_AIR:
        return lowest
    return 0.0 if lowest >= 0 else -np.inf


def from_zero(values: np.ndarray, zero: float) -> np.ndarray:
    """values - zero; integers stay integers."""
    if zero == 0:
        return values
    return rescaled(values, 1, -zero)


# --- what tells that a unit is another one --------------------------------------------------------------------
TISSUE_HU = (-200.0, 300.0)
LEAST_IN_RANGE = 1e-3  # of the voxels
FEW = 0.03  # of the voxels
PEAK_HU = 20  # width of a bin
PEAKS = (  # where commonest values are sought, may and should lie; their least share of the voxels, in three bins
    ("soft tissue", (-420, 700), (-160, 160), "-110 to 80", 0.03),
    ("soft tissue", (320, 2420), (320, 340), "-110 to 80", 0.12),  # fewer are bone, or blood with contrast agent
    ("air", (-640, -180), (-640, -620), "about -1000", 0.03),
)
BELOW_AIR_HU = -1300.0  # there is padding alone, of one value or two
HU_RANGE = (200.0, 7000.0)  # from the lowest to the highest thousandth


def doubtful_values(values: np.ndarray, modality: str) -> list[str]:
    """What tells that values are not in the unit that models go by, in sentences for the user.

    CT is taken for HU: one to which something was added, or that was multiplied, gets another result. MR does not.
    """
    if modality != "CT":
        return []
    some = _Ordered(values[:, ::4, ::4])
    low, high = (some.percentile(percent) for percent in (LOWEST, MR_PERCENTILE))
    if not HU_RANGE[0] < high - low < HU_RANGE[1]:
        return [f"The values of the CT reach from {low:.4g} to {high:.4g}: they are no HU, by which models go."]
    if some.count_below(-20) < LEAST_IN_RANGE * some.size:
        return ["The CT holds nothing below -20 HU: where air is 0, its values are no HU, by which models go."]
    tissue = (some.count_below(TISSUE_HU[1]) - some.count_below(TISSUE_HU[0], itself=True)) / some.size
    if tissue < FEW:
        return [f"Only {tissue:.1%} of the CT is tissue of about 0 HU: are its values HU, by which models go?"]
    below, number = np.unique(some.values[: some.count_below(BELOW_AIR_HU)], return_counts=True)
    if len(below) > 2 and np.sort(number)[:-2].sum() > FEW * some.size:
        return [f"The CT holds many values below air, from {low:.4g}: are they HU, by which models go?"]
    for what, (first, last), (least, most), right, least_share in PEAKS:
        peak = _peak(some.histogram(first, last, PEAK_HU), first, least_share * some.size)
        if peak is not None and not least <= peak <= most:
            return [f"Most {what} of the CT lies at {peak:.0f}, not {right} HU: are the values HU, by which models go?"]
    return []


class _Ordered:
    """Values in their order, as stored: what is counted of them is found by where it lies."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = np.sort(values, axis=None, kind="stable" if values.dtype.itemsize <= 2 else None)  # by digits
        self.size = self.values.size

    def percentile(self, percent: float) -> float:
        """As numpy's, linear between two values."""
        place = (self.size - 1) * (percent / 100)
        first, part = int(place), place - int(place)
        below, above = (float(self.values[min(n, self.size - 1)]) for n in (first, first + 1))
        return below + (above - below) * part if part < 0.5 else above - (above - below) * (1 - part)

    def count_below(self, limit: float, itself: bool = False) -> int:
        """Of values below a whole number `limit`; at most that, where it counts itself."""
        if not self.values[0] <= limit <= self.values[-1]:  # the type may not hold it
            return 0 if limit < self.values[0] else self.size
        return int(np.searchsorted(self.values, self.values.dtype.type(limit), "right" if itself else "left"))

    def histogram(self, first: int, last: int, width: int) -> np.ndarray:
        """Counts of bins, the last one with both of its ends."""
        edges = range(first, last + 1, width)
        return np.diff([self.count_below(edge, itself=edge == last) for edge in edges])


def _peak(counts: np.ndarray, first: float, enough: float) -> float | None:
    """The commonest value, to 20, from the counts of bins that begin at `first`; None where the peak holds not
    `enough` values, or where they grow in number to either end."""
    smooth = np.convolve(counts, np.ones(3) / 3, "valid")
    at = int(np.argmax(smooth))
    if 3 * smooth[at] < enough or at in (0, len(smooth) - 1):
        return None
    return first + PEAK_HU * (at + 1.5)
