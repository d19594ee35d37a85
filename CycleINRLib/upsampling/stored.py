"""Values as a scan stores them, and as they are computed with: from the scan's own zero (floor 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..imaging.brightness import SliceBrightness
from ..imaging.intensity import zero_of
from ..imaging.lazy import LazySlices, read_from_zero
from ..imaging.volume import Volume
from ..network.workers import divided
from .plan import Plan

EVENED = "keep", "project"  # consistencies: of what is exact, or the network's alone, nothing else is to be seen
CLIPPED_SHARE = 1e-3  # of the voxels beyond the type's range from which it is said


def slices_from_zero(volume: Volume, plan: Plan) -> tuple[Volume, float]:
    """The scan with its slices first and its values from zero, computed where they are read, and that zero."""
    zero = zero_of(volume.values, plan.modality)
    first = volume.slices_first(plan.axis)
    return (first.with_values(read_from_zero(first.values, zero)) if zero else first), zero


def evened(source: Volume, plan: Plan) -> tuple[Volume, SliceBrightness | None]:
    """Slices of even brightness, and what they had where it alternates; the same volume and None elsewhere."""
    found = SliceBrightness.of(source.values, plan.modality) if plan.consistency in EVENED else None
    if found is None:
        return source, None
    even: Any = LazySlices(source.values, found.evened, np.float32)  # a second scan would not fit beside a large one
    return source.with_values(even), found


def as_stored(
    values: np.ndarray, kind: np.dtype, zero: float, floor: float, beyond: float, into: np.ndarray | None = None
) -> tuple[np.ndarray, bool]:
    """Float32 values from zero in the type of the scan: integers rounded and clipped to its range.

    Clipping is told at the top alone, and where more than a few voxels lie farther than `beyond` above it.
    Interpolation swings below the air beside edges, where no intensity is lost: nothing lies below `floor`, the scan's
    air, nor below 0 where the scan holds nothing there.

    Parameters
    ----------
    zero : of the scan's values, which is added; floor : from zero
    into : an array of the scan's type that they go into, its slices shared among threads; None: a new one

    Returns
    -------
    The values, and whether intensities were clipped
    """
    if into is None:
        into, lost = _in_type(values, kind, zero, floor, beyond)
    else:
        counts: list[int] = []

        def some(slices: slice, into: np.ndarray = into) -> None:
            into[slices], count = _in_type(values[slices], kind, zero, floor, beyond)
            counts.append(count)

        divided(some, len(values))
        lost = sum(counts)
    return into, lost > CLIPPED_SHARE * values.size


def _in_type(values: np.ndarray, kind: np.dtype, zero: float, floor: float, beyond: float) -> tuple[np.ndarray, int]:
    """See `as_stored`; and how many voxels lie farther than `beyond` above the type's range."""
    if kind.kind not in "iu":
        kind = kind if kind.kind == "f" else np.dtype(np.float32)
        whole = values.astype(kind, copy=False)
        whole = whole + kind.type(zero) if zero else whole
        return np.maximum(whole, kind.type(floor + zero)), 0
    values = np.maximum(values, np.float32(floor))
    limits = np.iinfo(kind)
    low, high = limits.min - zero, limits.max - zero
    whole = np.rint(values, dtype=np.float32 if kind.itemsize < 4 else np.float64)
    lost = int(np.count_nonzero(whole > high + beyond))
    return (np.clip(whole, low, high) + whole.dtype.type(zero)).astype(kind), lost
