"""Where in a scan there is something to compute: around it lies air or padding (floor 1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BODY_MARGIN = 8  # pixels around the body within which edges of it still show
WORTH = 0.95  # of the pixels: a rectangle of more of them is not worth a border


class Rectangle(NamedTuple):
    """Rows and columns of a scan, or of a part of it."""

    rows: slice
    columns: slice

    def seen_from(self, row: int, column: int) -> Rectangle:
        """The same, counted from another first row and column."""
        rows, columns = self
        return Rectangle(slice(rows.start - row, rows.stop - row), slice(columns.start - column, columns.stop - column))


def overlap(one: slice, other: slice) -> slice:
    """What two ranges share; of length 0 where they share nothing."""
    start = max(one.start, other.start)
    return slice(start, max(start, min(one.stop, other.stop)))


def read_for(
    wanted: Rectangle, body: Rectangle | None, shape: tuple[int, ...], halo: int
) -> tuple[Rectangle, Rectangle]:
    """What of (N, J, I) is read, with its halo, for the wanted rows and columns, and those of them within the body.

    It begins where two rows and two columns are folded to one.
    """
    whole = Rectangle(slice(0, shape[1]), slice(0, shape[2]))
    if body is None:
        return whole, wanted
    inside = Rectangle(overlap(wanted.rows, body.rows), overlap(wanted.columns, body.columns))
    rows, columns = (slice(a.start - a.start % 2 - halo, a.stop + a.stop % 2 + halo) for a in inside)
    return Rectangle(overlap(rows, whole.rows), overlap(columns, whole.columns)), inside


def body_of(values: np.ndarray) -> Rectangle | None:
    """The rectangle beyond which all slices of the scan (N, J, I) hold its lowest value, with some pixels of margin.

    None where it is nearly all of the scan: then every pixel counts.
    """
    lowest = values.min()
    occupied = np.zeros(values.shape[1:], bool)
    for one in values:
        occupied |= one > lowest
    if not occupied.any():
        return None
    rows, columns = (_reach(np.flatnonzero(occupied.any(axis)), occupied.shape[1 - axis]) for axis in (1, 0))
    pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Rectangle(rows, columns) if pixels <= WORTH * occupied.size else None


def _reach(occupied: np.ndarray, count: int) -> slice:
    return slice(max(0, int(occupied[0]) - BODY_MARGIN), min(count, int(occupied[-1]) + 1 + BODY_MARGIN))


def body_seen(values: np.ndarray, limits: tuple[tuple[int, int], ...] | None = None) -> Rectangle | None:
    """`body_of` the whole scan (N, J, I), counted from the first row and column of a part of it; None: every pixel.

    Beyond lies what is the scan's lowest value in all slices: padding, or air that was cut off. Air with noise is
    computed as tissue is, since it is to look alike everywhere.
    """
    body = body_of(values)
    if body is None or limits is None:
        return body
    return body.seen_from(limits[1][0], limits[2][0])
