"""How the rows of a scan are cut into slabs: by the memory that one may take; what is free decides only a fallback
(floor 3)."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import ResourceError
from ..machine import memory_bytes

_ROWS_AT_ONCE = (4, 32)  # of a slab, for which base, consistency and noise hold some copies of all output slices
_COPIES, _COPIES_BYTES = 6, 2e8
_LEAST_WINDOW = 24  # slices: fewer are encoded with as many around them
_NARROWING = 0.6  # of what other rows cost: the halo gets narrower from layer to layer
_CODES = 400  # bytes that the decoder holds for each pixel of the two slices that it works on
_FEATURES = 5  # that the encoder sees of a voxel, see `network.model`
WORKING_BYTES = 1.2e9  # what one slab may take; with torch itself it stays within the promised 2 GB
CUDA_WORKING_BYTES = 6e9  # what one slab may take there
TORCH_BYTES = 5e8
HELD_SHARE = 1 / 3  # of the machine's memory that a result may take
MIN_ROWS = 8


def available_memory_bytes() -> float:
    """Memory that this process may still take; infinity where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        return float(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows
        return float("inf")


def empty_volume(shape: tuple[int, ...], kind: np.dtype | type) -> np.ndarray:
    """An array to be filled: in memory, or, for more than a third of the machine's, in a file that vanishes with it.

    `CYCLEINR_SCRATCH` names the folder of such files, else the system's temporary one is taken.

    Raises
    ------
    ResourceError : the disk has no room for it
    """
    size = math.prod(shape) * np.dtype(kind).itemsize
    folder = scratch_folder(size)
    if folder is None:
        return np.empty(shape, kind)
    check_scratch(size)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # taken now, so that the disk cannot fill on the way
            else:
                file.truncate(size)
            return np.memmap(file, kind, "r+", shape=shape)
    except OSError as error:
        raise _no_scratch(size, folder, error) from error


def scratch_folder(size: float) -> str | None:
    """Where the file of a result of so many bytes is made; None: it is held in memory."""
    if size <= HELD_SHARE * memory_bytes():
        return None
    return os.environ.get("CYCLEINR_SCRATCH") or tempfile.gettempdir()


def check_scratch(size: float) -> None:
    """Refuses a result of so many bytes that is to be made in a file for which its disk has no room.

    Raises
    ------
    ResourceError : how much is needed and free
    """
    folder = scratch_folder(size)
    if folder is None:
        return
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _no_scratch(size, folder, error) from error
    if free < size:
        raise _no_scratch(size, folder, f"{free / 1e9:.1f} GB free")


def _no_scratch(size: float, folder: str, why: object) -> ResourceError:
    return ResourceError(
        "The result fits neither into memory nor onto the disk for scratch",
        f"{size / 1e9:.1f} GB in {folder}: {why}",
        "free some space, or name a larger disk in CYCLEINR_SCRATCH",
    )


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


def why_lost(device: str, error: BaseException) -> str:
    """Why a device is left, for the user."""
    if is_out_of_memory(error):
        return f"Memory of {device} ran out with the smallest slab"
    return f"{device} failed ({str(error).splitlines()[0]})"


# --- slabs ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Slab:
    """Rows first .. last - 1 are computed from rows read_first .. read_last - 1 (the halo included)."""

    first: int
    last: int
    read_first: int
    read_last: int


def plan_slabs(rows: int, halo: int, rows_per_slab: int) -> list[Slab]:
    """Slabs that cover 0 .. rows - 1 once; first rows are even, since the network folds pixels by two.

    Parameters
    ----------
    rows : rows of the volume (J)
    halo : rows on each side that one output row depends on; even
    rows_per_slab : at most this many rows are computed at once; made even, at least 8
    """
    size = max(MIN_ROWS, rows_per_slab - rows_per_slab % 2)
    count = -(-rows // size)
    even = -(-rows // count)
    even += even % 2  # slabs of nearly equal size waste the least halo
    return [
        Slab(first, min(first + even, rows), max(0, first - halo), min(rows, first + even + halo))
        for first in range(0, rows, even)
    ]


def slabs_between(first: int, last: int, rows: int, halo: int, rows_per_slab: int) -> list[Slab]:
    """Slabs, see `plan_slabs`, that cover first .. last - 1 of `rows`; `first` is even."""
    return [
        Slab(first + s.first, first + s.last, max(0, first + s.first - halo), min(rows, first + s.last + halo))
        for s in plan_slabs(last - first, halo, rows_per_slab)
    ]


def slab_for_rows(first: int, last: int, rows: int, halo: int) -> Slab:
    """The one slab that gives rows first .. last - 1; `first` is lowered to an even row."""
    first -= first % 2
    return Slab(first, last, max(0, first - halo), min(rows, last + halo))


class SlabRule(NamedTuple):
    """What decides how large a slab is, beside the scan.

    channels : of the encoder, on 2 x 2 folded pixels; element : bytes of a number in the network's precision
    halo : rows on each side that one output row depends on; working : bytes that a slab may take
    """

    channels: int
    element: int
    halo: int
    working: float


class Cut(NamedTuple):
    """A scan in slabs: of `rows` rows each, at most; fewer than the `usual` ones where little memory is free.

    window : slices that are encoded at once; None: all
    """

    slabs: list[Slab]
    window: int | None
    rows: int
    usual: int


def cut(shape: tuple[int, ...], outputs: int, rule: SlabRule, device: str, most: int | None = None) -> Cut:
    """A scan (N, J, I) in slabs of the usual size, of `most` rows, or of fewer where little memory is free.

    Raises
    ------
    ResourceError : not even the smallest slab fits; says how much is needed
    """
    usual, window = usual_size(shape, outputs, *rule)
    usual = usual if most is None else min(usual, most)
    cost = slab_cost(rule.channels, shape[0], shape[2], outputs, rule.element, rule.halo, window)
    rows = rows_that_fit(usual, shape[1], cost, rule.halo, device)
    return Cut(plan_slabs(shape[1], rule.halo, rows), window, rows, usual)


def rows_at_once(width: int, outputs: int) -> int:
    """Rows of a slab for which base, consistency and noise hold some copies of all output slices."""
    least, most = _ROWS_AT_ONCE
    return max(least, min(most, int(_COPIES_BYTES / (4 * _COPIES * width * outputs))))


class SlabCost(NamedTuple):
    """Bytes that a slab takes: for each of its rows, the halo's among them, and beside that."""

    row: float
    beside: float

    def of(self, rows: int) -> float:
        return self.row * rows + self.beside


def slab_cost(
    channels: int, slices: int, width: int, outputs: int, element: int, halo: int, window: int | None = None
) -> SlabCost:
    """What is alive at once: the normalized rows, features and encoding of all rows; slices and output of the own ones.

    channels : of the encoder, on 2 x 2 folded pixels; element : bytes of a number in the network's precision
    window : slices that are encoded at once, see `network.infer.corrections`
    """
    encoded = (channels / 4 + _FEATURES) * element * min(slices, (window or slices) + 1 + halo)  # reach: half of it
    read = width * (encoded + slices * 2 * 4 + _CODES)
    made = width * 4 * (outputs + slices)
    at_once = rows_at_once(width, outputs) * width * 4 * _COPIES * outputs
    return SlabCost(read + made, at_once - 2 * halo * made)


class SlabSize(NamedTuple):
    """How much of a scan is computed at once: rows of a slab, and slices that are encoded at once (None: all)."""

    rows: int
    window: int | None


def usual_size(
    shape: tuple[int, ...], outputs: int, channels: int, element: int, halo: int, working: float
) -> SlabSize:
    """For a scan (N, J, I), from scan and model alone, not from what is free: what computes least of it twice."""
    slices, rows, width = shape
    best, least = SlabSize(MIN_ROWS, min(slices, _LEAST_WINDOW)), math.inf
    for parts in range(1, max(1, slices // _LEAST_WINDOW) + 1):
        window = None if parts == 1 else -(-(slices - 1) // parts)
        cost = slab_cost(channels, slices, width, outputs, element, halo, window)
        fit = rows_within(working, rows, cost.row, cost.beside, halo)
        slabs = -(-rows // fit)
        computed = (1 + _NARROWING * 2 * halo * (slabs - 1) / rows) * (1 + halo * (parts - 1) / slices)
        if cost.of(fit + 2 * halo) <= working and computed < least:
            best, least = SlabSize(fit, window), computed
    return best


def working_bytes(device: str) -> float:
    """What one slab may take on a device: from what the machine is, not from its load."""
    if device == "cpu":
        return WORKING_BYTES
    from ..network.device import device_memory_bytes

    most = CUDA_WORKING_BYTES if device == "cuda" else WORKING_BYTES  # that of MPS is the machine's
    return min(most, 0.5 * device_memory_bytes(device)[1])


def rows_that_fit(rows: int, all_rows: int, cost: SlabCost, halo: int, device: str) -> int:
    """`rows`, or as many of a slab as the free memory holds.

    Raises
    ------
    ResourceError : not even the smallest slab fits; says how much is needed
    """
    free = available_memory_bytes()
    if device != "cpu":
        from ..network.device import device_memory_bytes

        free = device_memory_bytes(device)[0]
    needed = cost.of(MIN_ROWS + 2 * halo)
    if needed > 0.9 * free:
        found = f"{needed / 1e9:.1f} GB for the smallest slab, {free / 1e9:.1f} GB free"
        raise ResourceError("There is not enough memory", found, "close other programs, or crop the volume")
    return min(rows, rows_within(0.9 * free, all_rows, cost.row, cost.beside, halo))


def rows_within(budget_bytes: float, rows: int, bytes_per_row: float, fixed_bytes: float, halo: int) -> int:
    """The most rows per slab whose cost, halo included, stays in the budget; at least 8, never more than `rows`."""
    fit = int((budget_bytes - fixed_bytes) // bytes_per_row) - 2 * halo
    return max(MIN_ROWS, min(rows, fit))
