"""What the parsers of NRRD, MetaImage and NIfTI share: the `Header` they fill, and numbers and names out of its text
that are bounded before anything is done with them (floor 2, standard library and numpy).

A header is input from elsewhere: a number in it may be infinite, have 400 digits, or name a billion lines to skip. What
a parser takes from it goes through `whole`, `float_of` or `numbers`, which raise ValueError beyond sensible limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import VolumeError

AGAIN = "export the scan again"
MOST = 1 << 42  # voxels along an axis, bytes, lines, ...: more than any machine holds
MOST_FILES = 100_000
LONGEST_FIELD = 1 << 20  # characters of one line of a header
MM_OF_UNIT = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-6),
    **dict.fromkeys(("in", "inch", "inches"), 25.4),
}
NO_UNIT = ("", "?", "???", "none", "unknown", "pixel", "pixels", "voxel", "voxels")


@dataclass(frozen=True)
class Header:
    """Sizes, type and matrix as stored; axes are counted fastest first, as the files do."""

    format: str
    sizes: tuple[int, ...]
    dtype: np.dtype  # with the byte order of the file
    spatial: tuple[int, int, int]  # which stored axes are i, j, k
    ijk_to_ras: np.ndarray  # (4, 4) in mm
    files: tuple[Path, ...]  # the data, cut into equal shares
    encoding: str = "raw"  # raw, gzip (zlib streams too), bzip2, text, hex
    offset: int = 0  # bytes on disk before the data; -1: the data end the file
    skip: int = 0  # decoded bytes before the values; -1: they end the decoded bytes
    line_skip: int = 0  # lines on disk before the data
    slope: float = 1.0
    intercept: float = 0.0
    thickness_mm: float | None = None
    modality: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def frame_axis(self) -> int | None:
        """The stored axis that counts whole volumes, None in a 3D file."""
        others = [axis for axis, size in enumerate(self.sizes) if axis not in self.spatial and size > 1]
        return others[0] if others else None


# --- numbers --------------------------------------------------------------------------------------------------
def whole(word: str | float, what: str, low: int = 0, high: int = MOST) -> int:
    """A whole number within limits; ValueError names `what` it should have been."""
    text = str(word).strip()
    if not re.fullmatch(r"[+-]?\d{1,15}(\.0*)?", text):
        raise ValueError(f"{what} is no whole number of sensible size: {text[:40]}")
    value = int(float(text))
    if not low <= value <= high:
        raise ValueError(f"{what} is {value}, not between {low} and {high}")
    return value


def sizes_of(words: Iterable[str | int]) -> tuple[int, ...]:
    """Voxels along each axis, all above 0."""
    words = list(words)
    try:
        return tuple(whole(word, "a size", 1) for word in words)
    except ValueError:
        raise VolumeError("The header states an impossible size", " x ".join(map(str, words))[:80], AGAIN) from None


def needed(fields: dict[str, str], name: str) -> str:
    """The text of a field that must be there."""
    if name not in fields:
        raise ValueError(f"{name} is missing")
    return fields[name]


def axes_of(fields: dict[str, str], dimension: str, sizes: str, most: int, of: str) -> tuple[int, ...]:
    """The sizes of all axes, from the fields that tell how many there are and how long each is.

    Raises
    ------
    ValueError : a field is missing or out of bounds
    VolumeError : fewer than three axes, or not as many as are told
    """
    count = whole(needed(fields, dimension), dimension, 1, most)
    found = sizes_of(needed(fields, sizes).split())
    if len(found) != count or count < 3:
        raise VolumeError(f"The {of} is no volume", f"{dimension} {count}, {sizes} {fields[sizes]}", AGAIN)
    return found


def float_of(word: str | float, what: str) -> float:
    """A float, NaN included (NRRD writes it for what is not stated); ValueError names `what`."""
    try:
        return float(str(word).strip())
    except ValueError:
        raise ValueError(f"{what} is no number: {str(word)[:40]}") from None


def numbers(words: Iterable[str], what: str, count: int) -> list[float]:
    """Exactly `count` floats."""
    words = list(words)
    if len(words) != count:
        raise ValueError(f"{what} has {len(words)} numbers where {count} belong")
    return [float_of(word, what) for word in words]


def length_or_none(value: float | None) -> float | None:
    """A thickness in mm, None where the number says nothing: not finite, or not above 0."""
    return float(value) if value is not None and math.isfinite(value) and value > 0 else None


def mm_of(unit: str, what: str, warnings: list[str]) -> float:
    """How many mm the unit is; 1 where it is none, with a warning where it is not known."""
    name = unit.strip().strip('"').strip()
    if name.lower() in NO_UNIT:
        return 1.0
    mm = MM_OF_UNIT.get(name.lower())
    if mm is None:
        warnings.append(f"The {what} of the file, {name[:20]}, is not known: mm is assumed")
        return 1.0
    if mm != 1:
        warnings.append(f"The {what} of the file is {name}: lengths were turned into mm")
    return mm


# --- files ----------------------------------------------------------------------------------------------------
def refuse_non_scalar(kind: str) -> None:
    raise VolumeError("The voxels are no single numbers", kind, "export one scalar channel, without color")


def listed_files(folder: Path, spec: str, following: list[str]) -> tuple[Path, ...]:
    """The data files of a detached header: one name, LIST with a name a line, or a printf pattern with its range."""
    if "\0" in spec or "\0" in "".join(following):
        raise ValueError("a file name holds a null byte")
    words = spec.split()
    if not words:
        raise ValueError("the name of the data file is empty")
    if words[0] == "LIST":
        names = [name.strip() for name in following if name.strip()]
    elif len(words) >= 4 and re.fullmatch(r"[^%]*%0?\d{0,2}[diu][^%]*", words[0]):
        first, last, step = (whole(word, "the range of the data files", -MOST) for word in words[1:4])
        if step == 0 or abs((last - first) // step) >= MOST_FILES:
            raise ValueError(f"the range of the data files is {first} to {last} by {step}")
        names = [words[0] % n for n in range(first, last + (1 if step > 0 else -1), step)]
    else:
        names = [spec.strip()]
    if not 0 < len(names) <= MOST_FILES:
        raise ValueError(f"{len(names)} data files are named")
    return tuple(folder / name for name in names)
