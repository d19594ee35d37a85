"""A Volume as an array file and JSON facts, read with every number and word checked before it is used (floor 4).

Parent and child write these for each other, but a full disk, a crash or another program may have been at them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import RequestError, VolumeError
from ..imaging.geometry import AXES, Geometry
from ..imaging.volume import Volume
from ..jobs import is_number, is_text

MOST_JOB_BYTES = 1 << 23
MOST_VOXELS = 1 << 42  # of a reference: more than any machine holds


def read_text(path: Path) -> str:
    """The text of job.json."""
    try:
        if path.stat().st_size > MOST_JOB_BYTES:
            raise OSError(f"{path.stat().st_size} bytes are too many for a job")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("The job cannot be read", f"{path}: {error}", "name a folder that holds job.json") from error


def volume_facts(volume: Volume) -> dict[str, Any]:
    """All of a Volume but its values, JSON-ready."""
    return {
        "ijk_to_ras": volume.geometry.ijk_to_ras.tolist(),
        "modality": volume.modality,
        "unit": volume.unit,
        "thickness_mm": volume.thickness_mm,
        "slice_axis": volume.slice_axis,
        "name": volume.name,
        "warnings": list(volume.warnings),
    }


def write_array(path: Path, values: np.ndarray) -> None:
    """A .npy file; an OSError where the disk is full."""
    with open(path, "wb") as file:
        np.save(_Sink(file.write), np.ascontiguousarray(values), allow_pickle=False)


class _Sink(NamedTuple):
    """A file that numpy does not know as one: into real files it writes by itself, and a full disk has no name then."""

    write: Callable[[bytes], int]


def volume_of(path: Path, facts: Any) -> Volume:
    """The Volume of an array and its facts.

    Raises
    ------
    RequestError : a fact that is missing or of the wrong kind
    VolumeError : the array is damaged, or no volume of numbers
    """
    if not isinstance(facts, dict):
        raise RequestError("The job names no volume", repr(facts)[:60], 'describe it under "volume"')
    warnings = facts.get("warnings") or []
    if not isinstance(warnings, list) or not all(isinstance(one, str) for one in warnings):
        raise _wrong("warnings", warnings, "a list of texts")
    for word in ("modality", "unit", "name"):
        if facts.get(word) is not None and not is_text(facts[word]):
            raise _wrong(word, facts[word], "a text")
    if facts.get("slice_axis") not in (None, *AXES):
        raise _wrong("slice_axis", facts["slice_axis"], "one of k, j, i")
    thickness = facts.get("thickness_mm")
    if thickness is not None and not (is_number(thickness) and thickness > 0):
        raise _wrong("thickness_mm", thickness, "a length in mm")
    values = read_array(path)
    optional = ("modality", "unit", "thickness_mm", "slice_axis")
    return Volume(
        values,
        read_geometry({"shape": values.shape, **facts}, "volume"),
        warnings=tuple(warnings),
        name=facts.get("name") or "volume",
        **{name: facts.get(name) for name in optional},
    )


def _wrong(name: str, value: Any, right: str) -> RequestError:
    return RequestError(f"{name} of the job's volume is wrong", repr(value)[:60], f"give {right}")


def read_array(path: Path) -> np.ndarray:
    """A .npy of three axes of numbers, whose size is checked against its header before memory is taken.

    Raises
    ------
    VolumeError : missing, damaged, shorter or longer than its header says, or no volume of numbers
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](file)
            need, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
            if dtype.kind not in "biuf" or len(shape) != 3 or min(shape) < 1:
                raise ValueError(f"it holds {' x '.join(map(str, shape))[:60]} of {dtype}")
            if need != held:
                raise ValueError(f"it holds {held} bytes of values where its header says {need}")
        return np.load(path, allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python: whatever that raises, the header is damaged
        if isinstance(error, MemoryError):
            raise
        found = f"{path}: {type(error).__name__} {error}"[:300]
        raise VolumeError("The job's array cannot be read", found, "write it again") from error


def read_geometry(facts: Any, name: str) -> Geometry:
    """The geometry of a volume or reference from "shape" and "ijk_to_ras".

    Raises
    ------
    RequestError : one is missing, or is no such thing
    """
    try:
        shape, matrix = facts["shape"], facts["ijk_to_ras"]
        if len(shape) != 3 or not all(is_number(n) and n == int(n) and 1 <= n <= MOST_VOXELS for n in shape):
            raise ValueError(f"shape {list(shape)}")
        if math.prod(int(n) for n in shape) > MOST_VOXELS:
            raise ValueError(f"shape {list(shape)} is more than any machine holds")
        return Geometry(tuple(int(n) for n in shape), np.array(matrix, float))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        found = f"{name}: {type(error).__name__} {error}"[:300]
        raise RequestError("The geometry of a volume is incomplete", found, "give shape and ijk_to_ras") from error
