"""What makers of scanners store otherwise than the standard has it: all slices side by side in one image (mosaics of
Siemens, grids of United Imaging), and rows turned round (a research sequence of GE) (floor 2, pydicom).

Their private attributes decide places here, so what is not whole is refused, or the image is taken as no mosaic.

Source: Siemens, Syngo MR DICOM Conformance Statement, (0029,1010), and nibabel.org, "Siemens format DICOM with CSA
header", on how it is laid out; United Imaging, uMR DICOM Conformance Statement, (0065,1050) and (0065,1051);
github.com/neurolabusc/dcm_qa_polar on epi_pepolar
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from .dicomvalues import deciding, getter, value_of

CSA, MOSAIC_COUNT = Tag(0x0029, 0x1010), Tag(0x0019, 0x100A)  # Siemens
GRID_COUNT, GRID_SLICES = Tag(0x0065, 0x1050), Tag(0x0065, 0x1051)  # United Imaging
SEQUENCE, SEQUENCE_MODE = Tag(0x0019, 0x109C), Tag(0x0019, 0x10B3)  # GE: internal name, user variable 12
MAKER_TAGS = [CSA, MOSAIC_COUNT, GRID_COUNT, GRID_SLICES, SEQUENCE, SEQUENCE_MODE]
TILED = ("MOSAIC", "VFRAME")  # words of ImageType
MOST_CSA_TAGS, MOST_TILES = 1000, 1024
SAME_NORMAL = 0.99  # cosine between the normal that is stated and that of rows and columns


@dataclass(frozen=True, eq=False)
class Tile:
    """One slice of an image that holds all slices side by side."""

    number: int
    row: int  # of its first pixel in the image
    column: int
    rows: int
    columns: int
    position: np.ndarray  # (3,) LPS in mm of the center of its first pixel


def tiles_of(header: Dataset, rows: int, columns: int) -> list[Tile]:
    """The slices of a mosaic or grid of `rows` x `columns` pixels; none where the image is a plain slice, or where it
    is not stated how many slices there are and where they lie.

    Raises
    ------
    ValueError : the image cannot be cut into the slices that it states
    """
    kinds = value_of(header, "ImageType") or ()
    if "MOSAIC" in kinds:
        return _of_mosaic(header, rows, columns)
    if "VFRAME" in kinds and GRID_SLICES in header:
        return _of_grid(header, rows, columns)
    return []


def _cut(count: int, rows: int, columns: int, square: bool) -> list[tuple[int, int, int, int]]:
    """(first row, first column, rows, columns) of each slice, from left to right, then down."""
    across = math.isqrt(count - 1) + 1 if 0 < count <= MOST_TILES else 0
    down = across if square or not across else -(-count // across)
    if not across or rows % down or columns % across:
        raise ValueError(f"an image of {rows} x {columns} pixels cannot hold {count} slices side by side")
    high, wide = rows // down, columns // across
    return [(n // across * high, n % across * wide, high, wide) for n in range(count)]


def _of_mosaic(header: Dataset, rows: int, columns: int) -> list[Tile]:
    """Siemens: the first slice's center is that of the image; the slices follow along the stated normal."""
    get = getter(header)
    csa = csa_of(header)
    count = _number(csa.get("NumberOfImagesInMosaic")) or _number(_values(header, MOSAIC_COUNT))
    normal = [_number([text]) for text in csa.get("SliceNormalVector", [])]
    position, orientation = deciding(get, "ImagePositionPatient", 3), deciding(get, "ImageOrientationPatient", 6)
    spacing, distance = deciding(get, "PixelSpacing", 2), deciding(get, "SpacingBetweenSlices", 1)
    if not count or len(normal) != 3 or None in normal or not (position and orientation and spacing and distance):
        return []
    along, down = np.array(orientation[:3]), np.array(orientation[3:])
    across = np.cross(along, down)
    cosine = float(across @ np.array(normal, float))
    if abs(cosine) < SAME_NORMAL:
        raise ValueError(f"its slice normal {normal} is not that of its rows and columns")
    step = math.copysign(1.0, cosine) * abs(distance[0]) * across
    cut = _cut(math.ceil(count), rows, columns, square=True)
    margin = (columns - cut[0][3]) / 2 * spacing[1] * along + (rows - cut[0][2]) / 2 * spacing[0] * down
    first = np.array(position) + margin
    return [Tile(n, *place, first + n * step) for n, place in enumerate(cut)]


def _of_grid(header: Dataset, rows: int, columns: int) -> list[Tile]:
    """United Imaging: each slice states its position."""
    slices = header[GRID_SLICES].value
    positions = [deciding(getter(item), "ImagePositionPatient", 3) for item in slices]
    count = _number(_values(header, GRID_COUNT))
    if count != len(positions) or None in positions:
        raise ValueError(f"it states {count or 0:g} slices side by side and the places of {len(positions)}")
    cut = _cut(len(positions), rows, columns, square=False)
    return [Tile(n, *place, np.array(position)) for n, (place, position) in enumerate(zip(cut, positions))]


def has_turned_rows(header: Dataset) -> bool:
    """Whether the rows stand from the last to the first, which GE's epi_pepolar does with one of its two polarities.

    Raises
    ------
    ValueError : it is not stated which of the two this image has
    """
    if not any("epi_pepolar" in str(value) for value in _values(header, SEQUENCE)):
        return False
    mode = _number(_values(header, SEQUENCE_MODE))  # 0 none, 1 all, 2 the first of each two, 3 the second
    if mode in (0, 1):
        return mode == 1
    time = deciding(getter(header), "TemporalPositionIdentifier", 1)
    if mode not in (2, 3) or time is None:
        raise ValueError("its sequence epi_pepolar turns some images round, and it is not stated which")
    return bool(time[0] % 2) == (mode == 2)


def _values(header: Dataset, tag: BaseTag) -> list[Any]:
    """Of a private attribute, whose type is often unknown: bytes as text."""
    value = header[tag].value if tag in header else None
    if isinstance(value, bytes):
        value = value.rstrip(b"\0 ").decode("ascii", "replace")
    return [] if value in (None, "") else [value]


def _number(values: list[Any] | None) -> float | None:
    """The first of them as a finite number; None where it is none."""
    try:
        found = float(values[0]) if values else math.nan
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def csa_of(header: Dataset) -> dict[str, list[str]]:
    """name -> its values, of Siemens' CSA image header, in both of its layouts; nothing where it is damaged."""
    content = header[CSA].value if CSA in header else None
    found: dict[str, list[str]] = {}
    if not isinstance(content, bytes):
        return found
    second = content[:4] == b"SV10"
    at, first = (8 if second else 0), None
    try:
        (count,) = struct.unpack_from("<I4x", content, at)
        at += 8
        for _ in range(min(count, MOST_CSA_TAGS)):
            name, items = struct.unpack_from("<64s12xi4x", content, at)
            at += 84
            first = items if first is None else first
            values = []
            for _ in range(items):
                lengths = struct.unpack_from("<4i", content, at)
                length = max(lengths[1] if second else lengths[0] - first, 0)
                values.append(content[at + 16 : at + 16 + length])
                at += 16 + (length + 3) // 4 * 4
            texts = [value.partition(b"\0")[0].decode("latin-1").strip() for value in values]
            found[name.partition(b"\0")[0].decode("latin-1")] = [text for text in texts if text]
    except struct.error:
        return {}
    return found
