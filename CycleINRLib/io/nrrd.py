"""What the header of a NRRD file claims (floor 2). Source: teem.sourceforge.net/nrrd/format.html"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import VolumeError
from .fields import (
    AGAIN,
    LONGEST_FIELD,
    Header,
    axes_of,
    length_or_none,
    listed_files,
    mm_of,
    needed,
    numbers,
    refuse_non_scalar,
    whole,
)

_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_CODES = {name: code for code, names in _TYPES.items() for name in names.split(", ")}
_ENCODINGS = {"gz": "gzip", "bz2": "bzip2", "txt": "text", "ascii": "text"}
_TO_RAS = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
_FRAME_KINDS = ("list", "time", "domain", "space", "none", "???", "stub", "scalar", "")
_MOST_AXES = 16  # as teem


def parse_nrrd(path: Path) -> Header:
    with open(path, "rb") as stream:
        fields, following = _fields(stream)
        attached_at = stream.tell()
    sizes = axes_of(fields, "dimension", "sizes", _MOST_AXES, "NRRD")
    count = len(sizes)
    kinds = fields.get("kinds", "").lower().split() or [""] * count
    if len(kinds) != count:
        raise ValueError(f"kinds has {len(kinds)} words where {count} belong")
    warnings: list[str] = []
    matrix, spatial, mm = _matrix(fields, kinds, sizes, warnings)
    for axis in set(range(count)) - set(spatial):
        if kinds[axis] not in _FRAME_KINDS and sizes[axis] > 1:
            refuse_non_scalar(f"an axis of kind {kinds[axis]} with {sizes[axis]} components")
    if any(name in fields for name in ("old min", "oldmin", "old max", "oldmax")):
        warnings.append("The file says that its values were quantized (old min, old max): they are taken as stored")
    encoding = _ENCODINGS.get(needed(fields, "encoding").lower(), fields["encoding"].lower())
    if encoding not in ("raw", "gzip", "bzip2", "text", "hex"):
        raise VolumeError("The encoding of the NRRD is unknown", encoding, "save the scan again as gzip")
    detached = _either(fields, "data file", "datafile")
    skip = whole(_either(fields, "byte skip", "byteskip", "0"), "byte skip", -1)
    files = listed_files(path.parent, detached, following) if detached else (path,)
    if skip == -1 and (encoding in ("text", "hex") or (encoding != "raw" and len(files) > 1)):
        raise ValueError("byte skip is -1, which only raw data and one compressed file can have")
    return Header(
        format="NRRD",
        sizes=sizes,
        dtype=_dtype(fields, encoding, warnings),
        spatial=spatial,
        ijk_to_ras=matrix,
        files=files,
        encoding=encoding,
        offset=-1 if skip == -1 and encoding == "raw" else 0 if detached else attached_at,
        skip=0 if encoding == "raw" and skip == -1 else skip,  # -1: the decoded bytes end with the values
        line_skip=whole(_either(fields, "line skip", "lineskip", "0"), "line skip"),
        thickness_mm=_thickness(fields, spatial, matrix, mm, count),
        warnings=tuple(warnings),
    )


def _either(fields: dict[str, str], name: str, other: str, default: str = "") -> str:
    return fields.get(name, fields.get(other, default))


def _fields(stream: BinaryIO) -> tuple[dict[str, str], list[str]]:
    """Fields by lower-case name, and the lines after `data file: LIST`; the stream stops where attached data start."""
    fields: dict[str, str] = {}
    following: list[str] = []
    stream.readline(LONGEST_FIELD)
    while raw := stream.readline(LONGEST_FIELD):
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            break
        if _either(fields, "data file", "datafile").startswith("LIST"):
            following.append(line)
        elif not line.startswith("#") and ":=" not in line:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
    return fields, following


def _dtype(fields: dict[str, str], encoding: str, warnings: list[str]) -> np.dtype:
    code = _CODES.get(needed(fields, "type").lower())
    if code is None:
        raise VolumeError("The voxel type of the NRRD is unknown", fields["type"], "save the scan as short or float")
    order = {"big": ">", "little": "<"}.get(fields.get("endian", "").lower())
    if order is None and np.dtype(code).itemsize > 1 and encoding not in ("text", "hex"):
        warnings.append("The file does not state the order of its bytes (endian): little is assumed")
    return np.dtype((order or "<") + code)


# --- matrix --------------------------------------------------------------------------------------------------
def _matrix(fields: dict[str, str], kinds: list[str], sizes: tuple[int, ...], warnings: list[str]):
    """Matrix, spatial axes and the mm of each; without space directions `spacings` along LPS, as ITK and Slicer do."""
    space = fields.get("space", "").lower()
    timed = space.endswith("-time") or space in ("rast", "last", "lpst")  # vectors have a fourth number, of time
    space = re.sub(r"-time$|(?<=^\w{3})t$", "", space)
    words = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""), re.IGNORECASE)
    if words:
        columns, spatial, origin, mm = _by_directions(fields, words, len(sizes), 4 if timed else 3, warnings)
    else:
        columns, spatial, origin, mm = _by_spacings(fields, kinds, sizes, warnings)
    if len(spatial) != 3:
        raise VolumeError("The NRRD does not have three axes in space", f"{len(spatial)} axes", AGAIN)
    if space not in _TO_RAS:
        told = f"The space of the file is {space}, without" if space else "The file states no space, which would tell"
        warnings.append(f"{told} left and right: left-posterior-superior is assumed")
    matrix = np.eye(4)
    matrix[:3] = np.array([*columns, origin], float).T
    signs = _TO_RAS.get(space, _TO_RAS["lps"])
    return np.diag([*signs, 1.0]) @ matrix, tuple(spatial), mm


def _by_directions(fields: dict[str, str], words: list[str], count: int, length: int, warnings: list[str]):
    """From `space directions`, `space origin` (the center of the first sample), `space units`."""
    if len(words) != count:
        raise ValueError(f"space directions has {len(words)} vectors where {count} belong")
    _tell_left_out(fields, warnings)
    vectors = [
        None if word.lower() == "none" else numbers(word.strip("()").split(","), "a space direction", length)[:3]
        for word in words
    ]
    spatial = [axis for axis, vector in enumerate(vectors) if vector is not None and any(vector)]
    if length == 3:  # a zero vector is a damaged axis, unless time has a number of its own
        spatial = [axis for axis, vector in enumerate(vectors) if vector is not None]
    origin = [0.0] * 3
    text = fields.get("space origin", "").strip("() ")
    if not text:
        warnings.append("The file states no origin: its first voxel is taken to lie at 0, 0, 0")
    else:
        origin = numbers(text.split(","), "space origin", length)[:3]
    units = _quoted(fields.get("space units", ""))
    found = [mm_of(unit, "unit of space", warnings) for unit in sorted(set(units[:3]))]
    if len(set(found)) > 1:
        raise ValueError(f"the axes of space have different units, {', '.join(units[:3])}")
    mm = found[0] if found else 1.0
    columns = [np.array(vectors[axis], float) * mm for axis in spatial]
    return columns, spatial, np.multiply(origin, mm), [mm] * count


def _tell_left_out(fields: dict[str, str], warnings: list[str]) -> None:
    """Fields of single axes that the format forbids beside space directions."""
    for name in ("spacings", "axis mins", "axis maxs", "units"):
        words = _quoted(_either(fields, name, name.replace(" ", "")))
        if any(word.lower() not in ("nan", "none", "mm", "", "???") for word in words):
            warnings.append(f"The file states {name} beside its space directions: they are left out")


def _by_spacings(fields: dict[str, str], kinds: list[str], sizes: tuple[int, ...], warnings: list[str]):
    """From `spacings`, `axis mins`, `axis maxs`, `centers` and `units`, as teem's nrrdOriginCalculate does."""
    count = len(sizes)

    def per_axis(name: str) -> list[float]:
        text = _either(fields, name, name.replace(" ", ""))
        return numbers(text.split(), name, count) if text else [np.nan] * count

    spacings, mins, maxs = per_axis("spacings"), per_axis("axis mins"), per_axis("axis maxs")
    node = [word.lower() == "node" for word in _either(fields, "centers", "centerings").split()] or [False] * count
    if len(node) != count:
        raise ValueError(f"centers has {len(node)} words where {count} belong")
    for axis, size in enumerate(sizes):
        cells = size - 1 if node[axis] else size
        if not np.isfinite(spacings[axis]) and np.isfinite(maxs[axis] - mins[axis]) and cells > 0:
            spacings[axis] = (maxs[axis] - mins[axis]) / cells
    spatial = _spatial_without_directions(kinds, spacings, sizes)
    if not np.isfinite(spacings).any():
        warnings.append("The file states no spacing: 1 mm is assumed along each axis")
        spacings = [1.0] * count
    units = _quoted(fields.get("units", "")) or [""] * count
    if len(units) != count:
        raise ValueError(f"units has {len(units)} words where {count} belong")
    factor = {unit: mm_of(unit, "unit of an axis", warnings) for unit in sorted({units[axis] for axis in spatial})}
    mm = [factor.get(unit, 1.0) for unit in units]
    columns, origin = [], []
    for n, axis in enumerate(spatial):
        columns.append(np.eye(3)[n] * spacings[axis] * mm[axis])
        first = mins[axis] + (0.0 if node[axis] else spacings[axis] / 2)  # a cell begins half a voxel before its center
        origin.append(first * mm[axis] if np.isfinite(first) else 0.0)
    return columns, spatial, origin, mm


def _quoted(text: str) -> list[str]:
    """The words of a list of quoted strings; bare words are taken too."""
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|([^\s"]+)', text)] if text else []


def _spatial_without_directions(kinds: list[str], spacings: list[float], sizes: tuple[int, ...]) -> list[int]:
    if len(sizes) == 3:
        return [0, 1, 2]
    in_space = [axis for axis, kind in enumerate(kinds) if kind in ("domain", "space")]
    return in_space if len(in_space) == 3 else [axis for axis, mm in enumerate(spacings) if np.isfinite(mm)][:3]


def _thickness(fields: dict[str, str], spatial, matrix: np.ndarray, mm: list[float], count: int) -> float | None:
    """The thickness stated for the coarsest axis, or for the only axis that states one."""
    if "thicknesses" not in fields:
        return None
    stated = numbers(fields["thicknesses"].split(), "thicknesses", count)
    by_spacing = np.argsort(-np.linalg.norm(matrix[:3, :3], axis=0), kind="stable")
    usable = [length_or_none(stated[spatial[axis]] * mm[spatial[axis]]) for axis in by_spacing]
    return next((one for one in usable if one is not None), None)
