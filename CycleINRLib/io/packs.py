"""Packs: many scans in one file that is mapped, not read, so that 100 scans need no more memory than 5 (floor 2).

A pack is a safetensors file. Each scan is one tensor (K, J, I) of whole numbers in two bytes (int16, or uint16 where
its values ask for that); a scan that two bytes cannot hold keeps its type. The metadata `pack` is a JSON text:
{"version": 1, "scans": [{"scan", "modality", "license", "source", "held_out", ..., "name", "unit", "thickness_mm",
"slice_axis", "ijk_to_ras", "scale", "crc32"}]}. Writing and reading take NumPy and the standard library alone.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import ModelError, VolumeError
from ..imaging.geometry import Geometry
from ..imaging.intensity import IntensityScale
from ..imaging.volume import Volume, guess_modality
from ..jobs import is_number, parse_json
from ..modelcard import tensor_header

ENDING = ".pack"
VERSION = 1
TYPES = {"I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
FACTS_OF_VOLUME = ("name", "unit", "thickness_mm", "slice_axis", "ijk_to_ras", "scale", "crc32")  # the rest is told
PAGE = 4096  # the first scan begins at a multiple, as memory is mapped
ROOM = 1024  # bytes of the header that one scan needs beside what is told about it
_NEXT = "make the pack again with cycleinr pack, or copy it again"


@dataclass(frozen=True, eq=False)
class PackedScan:
    """One scan of a pack: its facts at once, its values when they are asked for."""

    path: Path
    facts: dict[str, Any]
    offset: int  # of the first voxel in the file, bytes
    shape: tuple[int, int, int]
    kind: str  # NumPy's name of the stored type

    @property
    def name(self) -> str:
        return self.facts["name"]

    @property
    def modality(self) -> str:
        """ "CT" or "MR"."""
        return self.facts["modality"]

    @property
    def scale(self) -> float:
        """The `IntensityScale.scale` of the whole scan."""
        return self.facts["scale"]

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.shape, np.array(self.facts["ijk_to_ras"]))

    def values(self) -> np.ndarray:
        """(K, J, I), mapped anew with each call: what was looked at leaves the memory with the array."""
        return np.asarray(np.memmap(self.path, self.kind, "r", self.offset, self.shape))

    def volume(self) -> Volume:
        """The scan as it was packed."""
        told = {name: self.facts[name] for name in ("modality", "unit", "thickness_mm", "slice_axis", "name")}
        return Volume(self.values(), self.geometry, **told)


def read_pack(path: str | os.PathLike) -> list[PackedScan]:
    """The scans of a pack; only its header is read.

    Raises
    ------
    VolumeError : missing, no pack, a pack of a newer version, or shorter than it says
    """
    path = Path(path)
    try:
        header = tensor_header(path)
        told = parse_json(header.pop("__metadata__")["pack"])
        if told["version"] > VERSION:
            raise VolumeError("The pack is of a newer version", f"{told['version']} in {path}", "update CycleINR")
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
        scans = [_entry(path, facts, header[facts["scan"]], 8 + length) for facts in told["scans"]]
    except ModelError as error:
        raise VolumeError("The pack cannot be read", error.found, _NEXT) from error
    except VolumeError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise VolumeError("The file is no pack of scans", f"{path}: {error}", _NEXT) from error
    end = max((scan.offset + math.prod(scan.shape) * np.dtype(scan.kind).itemsize for scan in scans), default=0)
    if path.stat().st_size < end:
        raise VolumeError("The pack is truncated", f"{path}: {path.stat().st_size} of {end} bytes", _NEXT)
    return scans


def _entry(path: Path, facts: dict[str, Any], tensor: dict[str, Any], start: int) -> PackedScan:
    """ValueError names what is of another kind than `write_pack` writes: it comes from a file."""
    K, J, I = shape = tuple(tensor["shape"])  # noqa: E741
    offset = tensor["data_offsets"][0]
    if not all(type(n) is int and n > 0 for n in shape) or type(offset) is not int or offset < 0:
        raise ValueError(f"shape {shape} at {offset}")
    for name in ("scan", "name", "unit"):
        if not isinstance(facts[name], str) and (name != "unit" or facts[name] is not None):
            raise ValueError(f"{name} is no text")
    if facts["modality"] not in ("CT", "MR") or facts["slice_axis"] not in (None, "i", "j", "k"):
        raise ValueError(f"modality {facts['modality']}, slice axis {facts['slice_axis']}")
    scale, thickness = facts["scale"], facts["thickness_mm"]
    if not (is_number(scale) and scale > 0) or not (thickness is None or (is_number(thickness) and thickness > 0)):
        raise ValueError(f"scale {scale}, thickness {thickness}")
    scan = PackedScan(path, facts, start + offset, (K, J, I), TYPES[tensor["dtype"]])
    scan.geometry  # noqa: B018   a VolumeError where its matrix is none
    return scan


def write_pack(scans: Iterable[tuple[Volume, dict[str, Any]]], told: list[dict[str, Any]], path: Path) -> int:
    """Write a pack, one scan in memory at a time, and read it back; gives the number of voxels.

    Parameters
    ----------
    scans : volumes, each with its facts, in the order of `told`; `facts["scan"]` differs from scan to scan
    told : the same facts, known before any scan is read: the header comes first and needs their size
    path : replaced as it is; choose a hidden name and rename it

    Raises
    ------
    VolumeError : what was read back is not what was written
    """
    room = sum(len(json.dumps(json.dumps(facts))) + ROOM for facts in told) + ROOM
    room = -(-room // PAGE) * PAGE - 8
    tensors: dict[str, dict] = {}
    entries: list[dict] = []
    with open(path, "wb") as file:
        file.seek(8 + room)
        for volume, facts in scans:
            values = smallest(volume.values)
            start = file.tell() - 8 - room
            _write_values(file, values)
            ends = [start, start + values.nbytes]
            tensors[facts["scan"]] = {"dtype": NAMES[values.dtype], "shape": values.shape, "data_offsets": ends}
            entries.append({**facts, **_facts_of(volume), "crc32": _checksum(values)})
        pack = json.dumps({"version": VERSION, "scans": entries})
        header = json.dumps({"__metadata__": {"format": "pt", "pack": pack}, **tensors}).encode()
        assert len(header) <= room, "ROOM is too small"
        file.seek(0)
        file.write(struct.pack("<Q", room) + header.ljust(room))
    return sum(_check(scan) for scan in read_pack(path))


def smallest(values: np.ndarray) -> np.ndarray:
    """The same numbers as int16 or uint16 where one of them holds them all exactly, else as they are."""
    low, high = values.min().item(), values.max().item()
    for kind in (np.dtype("<i2"), np.dtype("<u2")):
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            small = np.ascontiguousarray(values, kind) if values.dtype.kind in "iu" else values.astype(kind)
            if np.array_equal(small, values):
                return small
    kept = values if values.dtype.itemsize > 2 else values.astype(np.float32)  # float16 is the only short one
    return np.ascontiguousarray(kept, kept.dtype.newbyteorder("<"))


def _facts_of(volume: Volume) -> dict[str, Any]:
    modality = guess_modality(volume)
    return {
        "modality": modality,
        "scale": IntensityScale.of(volume.values, modality).scale,
        "ijk_to_ras": volume.geometry.ijk_to_ras.tolist(),
        **{name: getattr(volume, name) for name in ("unit", "thickness_mm", "slice_axis", "name")},
    }


def _write_values(file: BinaryIO, values: np.ndarray) -> None:
    for plane in values:
        file.write(plane.tobytes())


def _checksum(values: np.ndarray) -> int:
    total = 0
    for plane in values:
        total = zlib.crc32(plane.tobytes(), total)
    return total


def _check(scan: PackedScan) -> int:
    values = scan.values()
    if _checksum(values) != scan.facts["crc32"]:
        raise VolumeError("The pack was not written as it should be", f"{scan.name} differs", "try another disk")
    return values.size
