"""What the header of a MetaImage (.mha, .mhd) claims (floor 2). Source: itk.org/Wiki/MetaIO/Documentation"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import VolumeError
from ..imaging.geometry import LPS_TO_RAS
from .fields import (
    LONGEST_FIELD,
    Header,
    axes_of,
    float_of,
    length_or_none,
    listed_files,
    mm_of,
    needed,
    numbers,
    refuse_non_scalar,
    whole,
)

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_MODALITIES = {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR"}
_MOST_AXES = 10  # as MetaIO


def parse_metaimage(path: Path) -> Header:
    with open(path, "rb") as stream:
        fields, following = _fields(stream)
        attached_at = stream.tell()
    sizes = axes_of(fields, "NDims", "DimSize", _MOST_AXES, "MetaImage")
    count = len(sizes)
    channels = whole(fields.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels", 1)
    kind = needed(fields, "ElementType")
    if channels > 1 or kind.endswith("_ARRAY"):
        refuse_non_scalar(f"{kind} with {channels} channels")
    if kind not in _TYPES:
        raise VolumeError("The voxel type of the MetaImage is unknown", kind, "save the scan as MET_SHORT or MET_FLOAT")
    big = _yes(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    data = fields["ElementDataFile"]
    local = data.upper() == "LOCAL"
    warnings: list[str] = []
    _tell_contradictions(fields, warnings)
    matrix = _matrix(fields, count, warnings)
    offset = whole(fields.get("HeaderSize", "0"), "HeaderSize", -1)
    if local:
        offset = -1 if offset == -1 else max(offset, attached_at)
    compressed = _yes(fields.get("CompressedData", "False"))
    if offset == -1 and compressed:
        raise ValueError("HeaderSize is -1, which only raw data can have")
    slope = float_of(fields.get("ElementToIntensityFunctionSlope", "1"), "ElementToIntensityFunctionSlope")
    intercept = float_of(fields.get("ElementToIntensityFunctionOffset", "0"), "ElementToIntensityFunctionOffset")
    if (slope, intercept) != (1, 0):
        if not np.isfinite([slope, intercept]).all() or slope == 0:
            raise ValueError(f"ElementToIntensityFunction has slope {slope} and offset {intercept}")
        warnings.append(f"The file says that intensity is {slope:g} x stored + {intercept:g}: that was done")
    return Header(
        format="MetaImage",
        sizes=sizes,
        dtype=np.dtype((">" if big else "<") + _TYPES[kind]),
        spatial=(0, 1, 2),
        ijk_to_ras=matrix,
        files=(path,) if local else listed_files(path.parent, data, following),
        encoding="text" if not _yes(fields.get("BinaryData", "True")) else "gzip" if compressed else "raw",
        offset=offset,
        slope=slope,
        intercept=intercept,
        thickness_mm=_thickness(fields, count, matrix),
        modality=_MODALITIES.get(fields.get("Modality", "")),
        warnings=tuple(warnings),
    )


def _fields(stream: BinaryIO) -> tuple[dict[str, str], list[str]]:
    """Fields by name up to ElementDataFile, and the lines after it where it is a LIST."""
    fields: dict[str, str] = {}
    while raw := stream.readline(LONGEST_FIELD):
        name, _, value = raw.decode("utf-8", "replace").partition("=")
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            listed = value.strip().startswith("LIST")
            return fields, [line.decode("utf-8", "replace") for line in stream] if listed else []
    raise ValueError("ElementDataFile is missing")


def _first(fields: dict[str, str], names: str, default: list[float]) -> list[float]:
    """The numbers of the first of these fields that is there, as many as the default has."""
    name = next((name for name in names.split() if name in fields), None)
    return default if name is None else numbers(fields[name].split(), name, len(default))


_SYNONYMS = (
    "TransformMatrix Rotation Orientation",
    "Offset Position Origin",
    "BinaryDataByteOrderMSB ElementByteOrderMSB",
)


def _tell_contradictions(fields: dict[str, str], warnings: list[str]) -> None:
    """Names of one meaning with different values: MetaIO takes any of them."""
    for names in _SYNONYMS:
        stated = [name for name in names.split() if name in fields]
        values = {tuple(fields[name].lower().split()) for name in stated}
        if len(values) > 1:
            warnings.append(f"The file states {' and '.join(stated)}, which differ: {stated[0]} is used")


def _matrix(fields: dict[str, str], count: int, warnings: list[str]) -> np.ndarray:
    """Each row of TransformMatrix is the LPS direction of one index axis; the offset is that of the first voxel."""
    rows = np.reshape(_first(fields, "TransformMatrix Rotation Orientation", list(np.eye(count).ravel())), (count, -1))
    spacing = _first(fields, "ElementSpacing ElementSize", [1.0] * count)
    if "ElementSpacing" not in fields:
        warnings.append("The file states no spacing between voxel centers")
    mm = mm_of(fields.get("DistanceUnits", ""), "DistanceUnits", warnings)
    matrix = np.eye(4)
    matrix[:3, :3] = rows[:3, :3].T * spacing[:3] * mm
    matrix[:3, 3] = np.multiply(_first(fields, "Offset Position Origin", [0.0] * count)[:3], mm)
    center = _first(fields, "CenterOfRotation", [0.0] * count)
    if any(center) and np.abs(rows - np.eye(count)).max() > 1e-6:
        warnings.append("The file states a CenterOfRotation: it is left out, as ITK and Slicer do")
    stated, found = fields.get("AnatomicalOrientation", "").upper(), _letters(rows[:3, :3])
    if set(stated) <= set("RLAPIS") and len(stated) == 3 and stated != found:
        warnings.append(
            f"The file states two orientations, AnatomicalOrientation {stated} and a matrix for {found}: "
            "the matrix is used, as ITK and Slicer do"
        )
    return LPS_TO_RAS @ matrix


def _letters(rows: np.ndarray) -> str:
    """Where each index axis comes from, as ITK writes it: RAI for axes along left, posterior, superior."""
    largest = [(int(np.argmax(np.abs(row))), row) for row in rows]
    return "".join(("RAI" if row[at] >= 0 else "LPS")[at] for at, row in largest)


def _thickness(fields: dict[str, str], count: int, matrix: np.ndarray) -> float | None:
    """ElementSize along the coarsest axis, where it says something else than the spacing, which many writers repeat."""
    if "ElementSize" not in fields or "ElementSpacing" not in fields:
        return None
    size, spacing = (numbers(fields[name].split(), name, count) for name in ("ElementSize", "ElementSpacing"))
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    at = int(np.argmax(lengths)) if np.isfinite(lengths).all() else 2
    if np.allclose(np.abs(size[:3]), np.abs(spacing[:3]), rtol=1e-3) or not spacing[at]:
        return None
    return length_or_none(abs(size[at] / spacing[at]) * float(lengths[at]))


def _yes(word: str) -> bool:
    return word.strip().lower() in ("true", "1", "t", "yes")
