"""What the header of a NRRD, MetaImage or NIfTI file claims, checked before a single voxel is allocated (floor 2).

Standard library and numpy. The headers are read here and not by ITK, because ITK straightens a sheared NIfTI, allocates
what a damaged header claims, and fills truncated data with zeros, all of it in silence.

Sources: teem.sourceforge.net/nrrd/format.html; itk.org/Wiki/MetaIO/Documentation; nifti1.h and nifti2.h
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import VolumeError
from ..imaging.geometry import LPS_TO_RAS

AGAIN = "export the scan again"


def is_dicom(path: Path) -> bool:
    """Whether the file starts as DICOM does: DICM after the preamble, or, in old files, a tag of group 0008."""
    with open(path, "rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or (start[:2] == b"\x08\x00" and start[3:4] == b"\0" and start[2:3] <= b"\x18")


@dataclass(frozen=True)
class Header:
    """Sizes, type and place as stored; axes are counted fastest first, as the files do."""

    format: str
    sizes: tuple[int, ...]
    dtype: np.dtype  # with the byte order of the file
    spatial: tuple[int, int, int]  # which stored axes are i, j, k
    ijk_to_ras: np.ndarray  # (4, 4) in mm
    files: tuple[Path, ...]  # the data, cut into equal shares
    encoding: str = "raw"  # raw, gzip (zlib streams too), bzip2, text, hex
    offset: int = 0  # bytes on disk before the data; -1: the data end the file
    skip: int = 0  # decoded bytes before the values
    line_skip: int = 0  # lines on disk before the data
    slope: float = 1.0
    intercept: float = 0.0
    thickness_mm: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def frame_axis(self) -> int | None:
        """The stored axis that counts whole volumes, None in a 3D file."""
        others = [axis for axis, size in enumerate(self.sizes) if axis not in self.spatial and size > 1]
        return others[0] if others else None


def read_header(path: Path) -> Header:
    """The header of the file, recognized by its first bytes.

    Raises
    ------
    VolumeError : no such format, a damaged header, or values that are no scalars
    """
    with open(path, "rb") as stream:
        start = stream.read(544)
    parse = _parser_of(start, path)
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused by Geometry
            header = parse(path)
    except (ValueError, KeyError, IndexError, struct.error, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        raise VolumeError("The header of the file cannot be read", f"{path.name}, {error}", AGAIN) from error
    if not header.sizes or min(header.sizes) < 1:
        raise VolumeError("The header states an impossible size", " x ".join(map(str, header.sizes)), AGAIN)
    others = [n for axis, n in enumerate(header.sizes) if axis not in header.spatial and n > 1]
    if len(others) > 1:
        raise VolumeError(
            "The file has more than four dimensions", " x ".join(map(str, header.sizes)), "export one volume"
        )
    return header


def _parser_of(start: bytes, path: Path) -> Callable[[Path], Header]:
    if start.startswith(b"NRRD"):
        return _parse_nrrd
    if start.startswith(b"\x1f\x8b"):
        return _parse_nifti
    if re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=", start):
        return _parse_metaimage
    if len(start) >= 4 and (348 in _both_ends(start) or 540 in _both_ends(start)):
        return _parse_nifti
    if not start:
        raise VolumeError("The file is empty", path.name, AGAIN)
    raise VolumeError("The file is no volume that CycleINR can read", path.name, "give NRRD, NIfTI, MHA or DICOM")


def _both_ends(start: bytes) -> tuple[int, int]:
    return struct.unpack("<i", start[:4])[0], struct.unpack(">i", start[:4])[0]


def refuse_non_scalar(kind: str) -> None:
    raise VolumeError("The voxels are no single numbers", kind, "export one scalar channel, without color")


def _listed_files(folder: Path, spec: str, following: list[str]) -> tuple[Path, ...]:
    """The data files of a detached header: one name, LIST with a name a line, or a printf pattern with its range."""
    if "\0" in spec or "\0" in "".join(following):
        raise ValueError("a file name holds a null byte")
    words = spec.split()
    if words[0] == "LIST":
        return tuple(folder / name.strip() for name in following if name.strip())
    if "%" in words[0] and len(words) >= 4:
        first, last, step = (int(word) for word in words[1:4])
        return tuple(folder / (words[0] % n) for n in range(first, last + (1 if step > 0 else -1), step))
    return (folder / spec.strip(),)


# --- NRRD -----------------------------------------------------------------------------------------------------
_NRRD_TYPES = {
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
_NRRD_CODES = {name: code for code, names in _NRRD_TYPES.items() for name in names.split(", ")}
_NRRD_ENCODINGS = {"gz": "gzip", "bz2": "bzip2", "txt": "text", "ascii": "text"}
_NRRD_TO_RAS = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
_FRAME_KINDS = ("list", "time", "domain", "space", "none", "???", "stub", "scalar", "")


def _parse_nrrd(path: Path) -> Header:
    with open(path, "rb") as stream:
        fields, following = _nrrd_fields(stream)
        attached_at = stream.tell()
    sizes = tuple(int(word) for word in fields["sizes"].split())
    if len(sizes) != int(fields["dimension"]) or len(sizes) < 3:
        raise VolumeError("The NRRD is no volume", f"dimension {fields['dimension']}, sizes {fields['sizes']}", AGAIN)
    kinds = fields.get("kinds", "").lower().split() or [""] * len(sizes)
    matrix, spatial, warnings = _nrrd_place(fields, kinds, sizes)
    for axis in set(range(len(sizes))) - set(spatial):
        if kinds[axis] not in _FRAME_KINDS and sizes[axis] > 1:
            refuse_non_scalar(f"an axis of kind {kinds[axis]} with {sizes[axis]} components")
    encoding = _NRRD_ENCODINGS.get(fields["encoding"].lower(), fields["encoding"].lower())
    if encoding not in ("raw", "gzip", "bzip2", "text", "hex"):
        raise VolumeError("The encoding of the NRRD is unknown", encoding, "save the scan again as gzip")
    detached = fields.get("data file", fields.get("datafile"))
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    return Header(
        format="NRRD",
        sizes=sizes,
        dtype=_nrrd_dtype(fields),
        spatial=spatial,
        ijk_to_ras=matrix,
        files=_listed_files(path.parent, detached, following) if detached else (path,),
        encoding=encoding,
        offset=-1 if skip == -1 else 0 if detached else attached_at,
        skip=max(skip, 0),
        line_skip=int(fields.get("line skip", fields.get("lineskip", 0))),
        thickness_mm=_nrrd_thickness(fields, spatial, matrix),
        warnings=warnings,
    )


def _nrrd_fields(stream: BinaryIO) -> tuple[dict[str, str], list[str]]:
    """Fields by lower-case name, and the lines after `data file: LIST`; the stream stops where attached data start."""
    fields: dict[str, str] = {}
    following: list[str] = []
    stream.readline()
    for raw in stream:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            break
        if fields.get("data file", fields.get("datafile", "")).startswith("LIST"):
            following.append(line)
        elif not line.startswith("#") and ":=" not in line:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
    return fields, following


def _nrrd_dtype(fields: dict[str, str]) -> np.dtype:
    code = _NRRD_CODES.get(fields["type"].lower())
    if code is None:
        raise VolumeError("The voxel type of the NRRD is unknown", fields["type"], "save the scan as short or float")
    order = {"big": ">", "little": "<"}.get(fields.get("endian", "").lower(), "=")
    return np.dtype(order + code)


def _nrrd_place(fields: dict[str, str], kinds: list[str], sizes: tuple[int, ...]):
    """Matrix, spatial axes and warnings; without space directions `spacings` along LPS, as ITK and Slicer do."""
    warnings = []
    words = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""), re.IGNORECASE)
    if words:
        vectors = [None if word.lower() == "none" else _numbers(word.strip("()").split(",")) for word in words]
        spatial = [axis for axis, vector in enumerate(vectors) if vector is not None]
        columns = [vectors[axis] for axis in spatial]
        origin = _numbers(fields.get("space origin", "(0,0,0)").strip("() ").split(","))
    else:
        spacings = _numbers(fields.get("spacings", "nan " * len(sizes)).split())
        spatial = _spatial_without_directions(kinds, spacings, sizes)
        if "spacings" not in fields:
            warnings.append("The file states no spacing: 1 mm is assumed along each axis")
            spacings = [1.0] * len(sizes)
        columns = [np.eye(3)[n] * spacings[axis] for n, axis in enumerate(spatial)]
        mins = _numbers(fields.get("axis mins", fields.get("axismins", "nan " * len(sizes))).split())
        origin = [0.0 if np.isnan(mins[axis]) else mins[axis] for axis in spatial]
    if len(spatial) != 3:
        raise VolumeError("The NRRD does not have three axes in space", f"{len(spatial)} axes", AGAIN)
    space = fields.get("space", "").lower()
    if space and space not in _NRRD_TO_RAS:
        warnings.append(f"The space of the file is {space}, without left and right: left-posterior-superior is assumed")
    matrix = np.eye(4)
    matrix[:3] = np.array([*columns, origin], float).T
    signs = _NRRD_TO_RAS.get(space, _NRRD_TO_RAS["lps"])
    return np.diag([*signs, 1.0]) @ matrix, tuple(spatial), tuple(warnings)


def _spatial_without_directions(kinds: list[str], spacings: list[float], sizes: tuple[int, ...]) -> list[int]:
    if len(sizes) == 3:
        return [0, 1, 2]
    in_space = [axis for axis, kind in enumerate(kinds) if kind in ("domain", "space")]
    return in_space if len(in_space) == 3 else [axis for axis, mm in enumerate(spacings) if np.isfinite(mm)][:3]


def _nrrd_thickness(fields: dict[str, str], spatial: tuple[int, ...], matrix: np.ndarray) -> float | None:
    """The thickness stated for the coarsest axis, or for the only axis that states one."""
    if "thicknesses" not in fields:
        return None
    stated = _numbers(fields["thicknesses"].split())
    by_spacing = np.argsort(-np.linalg.norm(matrix[:3, :3], axis=0), kind="stable")
    usable = [stated[spatial[axis]] for axis in by_spacing if stated[spatial[axis]] > 0]
    return usable[0] if usable else None


def _numbers(words: list[str]) -> list[float]:
    return [float(word) for word in words]


# --- MetaImage ------------------------------------------------------------------------------------------------
_META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip


def _parse_metaimage(path: Path) -> Header:
    with open(path, "rb") as stream:
        fields, following = _meta_fields(stream)
        attached_at = stream.tell()
    sizes = tuple(int(word) for word in fields["DimSize"].split())
    if len(sizes) != int(fields["NDims"]) or len(sizes) < 3:
        raise VolumeError("The MetaImage is no volume", f"NDims {fields['NDims']}, DimSize {fields['DimSize']}", AGAIN)
    channels = int(fields.get("ElementNumberOfChannels", 1))
    kind = fields["ElementType"]
    if channels > 1 or kind.endswith("_ARRAY"):
        refuse_non_scalar(f"{kind} with {channels} channels")
    if kind not in _META_TYPES:
        raise VolumeError("The voxel type of the MetaImage is unknown", kind, "save the scan as MET_SHORT or MET_FLOAT")
    big = _yes(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    data = fields["ElementDataFile"]
    local = data.upper() == "LOCAL"
    text = not _yes(fields.get("BinaryData", "True"))
    return Header(
        format="MetaImage",
        sizes=sizes,
        dtype=np.dtype((">" if big else "<") + _META_TYPES[kind]),
        spatial=(0, 1, 2),
        ijk_to_ras=_meta_place(fields, len(sizes)),
        files=(path,) if local else _listed_files(path.parent, data, following),
        encoding="text" if text else "gzip" if _yes(fields.get("CompressedData", "False")) else "raw",
        offset=attached_at if local else int(fields.get("HeaderSize", 0)),
        warnings=() if "ElementSpacing" in fields else ("The file states no spacing between voxel centers",),
    )


def _meta_fields(stream: BinaryIO) -> tuple[dict[str, str], list[str]]:
    """Fields by name up to ElementDataFile, and the lines after it where it is a LIST."""
    fields: dict[str, str] = {}
    for raw in stream:
        name, _, value = raw.decode("utf-8", "replace").partition("=")
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            listed = value.strip().startswith("LIST")
            return fields, [line.decode("utf-8", "replace") for line in stream] if listed else []
    raise ValueError("ElementDataFile is missing")


def _meta_place(fields: dict[str, str], dimensions: int) -> np.ndarray:
    """Each row of TransformMatrix is the LPS direction of one index axis."""

    def first(names: str, default: list[float]) -> np.ndarray:
        found = next((fields[name] for name in names.split() if name in fields), None)
        return np.array(default if found is None else _numbers(found.split()), float)

    rows = first("TransformMatrix Rotation Orientation", list(np.eye(dimensions).ravel())).reshape(dimensions, -1)
    spacing = first("ElementSpacing ElementSize", [1.0] * dimensions)
    matrix = np.eye(4)
    matrix[:3, :3] = rows[:3, :3].T * spacing[:3]
    matrix[:3, 3] = first("Offset Position Origin", [0.0] * dimensions)[:3]
    return LPS_TO_RAS @ matrix


def _yes(word: str) -> bool:
    return word.strip().lower() in ("true", "1", "t")


# --- NIfTI ----------------------------------------------------------------------------------------------------
_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_NIFTI_NO_SCALARS = {32: "complex64", 1792: "complex128", 2048: "complex256", 128: "RGB", 2304: "RGBA"}
_NIFTI_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, meter, mm, micron


def _parse_nifti(path: Path) -> Header:
    with open(path, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        start = (gzip.GzipFile(fileobj=stream) if packed else stream).read(540)
    facts = _nifti_facts(start, path)
    kind = facts["datatype"]
    if kind in _NIFTI_NO_SCALARS:
        refuse_non_scalar(_NIFTI_NO_SCALARS[kind])
    if kind not in _NIFTI_TYPES:
        raise VolumeError(
            "The voxel type of the NIfTI is unknown", f"datatype {kind}", "save the scan as short or float"
        )
    count = facts["dim"][0]
    if not 2 <= count <= 7:
        raise VolumeError("The header of the NIfTI is damaged", f"{count} dimensions", AGAIN)
    sizes = (*facts["dim"][1 : count + 1], 1)[: max(count, 3)]
    if len(sizes) >= 5 and sizes[4] > 1:
        refuse_non_scalar(f"vectors of {sizes[4]} components")
    slope, intercept = facts["scl_slope"], facts["scl_inter"]
    scaled = np.isfinite([slope, intercept]).all() and slope != 0
    matrix, warnings = _nifti_place(facts)
    pair = facts["magic"].startswith((b"ni1", b"ni2"))
    return Header(
        format="NIfTI",
        sizes=sizes,
        dtype=np.dtype(facts["order"] + _NIFTI_TYPES[kind]),
        spatial=(0, 1, 2),
        ijk_to_ras=matrix,
        files=(_image_of_pair(path) if pair else path,),
        encoding="gzip" if packed else "raw",
        skip=int(facts["vox_offset"]) if pair else max(int(facts["vox_offset"]), 352),
        slope=slope if scaled else 1.0,
        intercept=intercept if scaled else 0.0,
        warnings=warnings,
    )


def _image_of_pair(path: Path) -> Path:
    return path.with_name(re.sub(r"\.hdr(?=(\.gz)?$)", ".img", path.name))


def _nifti_facts(start: bytes, path: Path) -> dict:
    """The fields that matter, from version 1 (348 bytes) or 2 (540 bytes), in either byte order."""
    if len(start) < 348:
        raise VolumeError("The file is no volume that CycleINR can read", path.name, "give NRRD, NIfTI, MHA or DICOM")
    order = "<" if struct.unpack("<i", start[:4])[0] in (348, 540) else ">"
    version = struct.unpack(order + "i", start[:4])[0]
    if version not in (348, 540):
        raise VolumeError("The file is no volume that CycleINR can read", path.name, "give NRRD, NIfTI, MHA or DICOM")

    def get(kinds: str, at: int):
        values = struct.unpack_from(order + kinds, start, at)
        return values[0] if len(values) == 1 else values

    if version == 348:
        places = {
            "dim": ("8h", 40), "datatype": ("h", 70), "pixdim": ("8f", 76), "vox_offset": ("f", 108),
            "scl_slope": ("f", 112), "scl_inter": ("f", 116), "xyzt_units": ("b", 123), "qform_code": ("h", 252),
            "sform_code": ("h", 254), "quatern": ("3f", 256), "qoffset": ("3f", 268), "srow": ("12f", 280),
            "magic": ("4s", 344),
        }  # fmt: skip
    else:
        places = {
            "magic": ("8s", 4), "datatype": ("h", 12), "dim": ("8q", 16), "pixdim": ("8d", 104),
            "vox_offset": ("q", 168), "scl_slope": ("d", 176), "scl_inter": ("d", 184), "qform_code": ("i", 344),
            "sform_code": ("i", 348), "quatern": ("3d", 352), "qoffset": ("3d", 376), "srow": ("12d", 400),
            "xyzt_units": ("i", 500),
        }  # fmt: skip
    return {"order": order, **{name: get(*place) for name, place in places.items()}}


def _nifti_place(facts: dict) -> tuple[np.ndarray, tuple[str, ...]]:
    """sform where its code says so, as the standard has it; else qform; else pixdim along LPS, as ITK does."""
    spacing = np.abs(facts["pixdim"][1:4])
    rotated = _qform(facts, spacing)
    warnings: tuple[str, ...] = ()
    if facts["sform_code"] > 0:
        matrix = np.eye(4)
        matrix[:3] = np.reshape(facts["srow"], (3, 4))
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in facts["dim"][1:4]])).reshape(3, -1)
        apart = np.abs((matrix - rotated)[:3] @ np.vstack([corners, np.ones(8)])).max()
        if facts["qform_code"] > 0 and apart > 0.5 and _is_rotation(matrix[:3, :3]):  # a sheared one cannot be a qform
            warnings = (f"The file states two places, sform and qform, {apart:.1f} mm apart: sform is used",)
    elif facts["qform_code"] > 0:
        matrix = rotated
    else:
        matrix = LPS_TO_RAS @ np.diag([*spacing, 1.0])
        warnings = ("The file states no orientation: axes along left, posterior, superior are assumed",)
    mm = _NIFTI_MM.get(facts["xyzt_units"] & 7, 1.0)
    return np.diag([mm, mm, mm, 1.0]) @ matrix, warnings


def _is_rotation(matrix: np.ndarray) -> bool:
    columns = matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-12)
    return bool(np.abs(columns.T @ columns - np.eye(3)).max() < 1e-3)


def _qform(facts: dict, spacing: np.ndarray) -> np.ndarray:
    """The matrix of a unit quaternion (a, b, c, d), qfac in pixdim[0]; nifti1.h, method 2."""
    b, c, d = np.array(facts["quatern"]) / max(1.0, np.linalg.norm(facts["quatern"]))  # a rounded half turn
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * spacing * (1, 1, -1 if facts["pixdim"][0] < 0 else 1)
    matrix[:3, 3] = facts["qoffset"]
    return matrix
