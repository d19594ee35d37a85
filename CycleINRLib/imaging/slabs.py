"""How the rows of a volume are cut into slabs: integers only, known before anything is computed (floor 1)."""

from __future__ import annotations

from dataclasses import dataclass

MIN_ROWS = 8


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


def slab_for_rows(first: int, last: int, rows: int, halo: int) -> Slab:
    """The one slab that gives rows first .. last - 1; `first` is lowered to an even row."""
    first -= first % 2
    return Slab(first, last, max(0, first - halo), min(rows, last + halo))


def rows_within(budget_bytes: float, rows: int, bytes_per_row: float, fixed_bytes: float, halo: int) -> int:
    """The most rows per slab whose cost, halo included, stays in the budget; at least 8, never more than `rows`."""
    fit = int((budget_bytes - fixed_bytes) // bytes_per_row) - 2 * halo
    return max(MIN_ROWS, min(rows, fit))
