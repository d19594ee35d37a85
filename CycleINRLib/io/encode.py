"""Volumes as the bytes of NRRD, NIfTI and MetaImage files (floor 2)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from ..errors import RequestError
from ..imaging.geometry import AXES
from ..imaging.volume import Volume, choose_slice_axis
from .deflate import Deflated

_NRRD_NAMES = {
    "i1": "signed char", "u1": "unsigned char", "i2": "short", "u2": "unsigned short",
    "i4": "int", "u4": "unsigned int", "f4": "float", "f8": "double",
}  # fmt: skip
_NIFTI_CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}


def _pour(stream: BinaryIO | Deflated, values: np.ndarray) -> None:
    """Little-endian, slice by slice: views need no copy of the whole."""
    for plane in values:
        stream.write(np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("<")).data)


def _text(numbers: Iterable[float], between: str = " ") -> str:
    return between.join(repr(float(n) + 0.0) for n in numbers)  # 17 digits come back exactly; + 0.0 turns -0.0 into 0.0


def encode_nrrd(stream: BinaryIO, volume: Volume, values: np.ndarray) -> None:
    lps = volume.geometry.to_lps()
    vectors = " ".join(f"({_text(lps[:3, axis], ',')})" for axis in range(3))
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {_NRRD_NAMES[values.dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in values.shape[::-1])}",
        f"space directions: {vectors}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({_text(lps[:3, 3], ',')})",
    ]
    if volume.thickness_mm:
        at = 2 - AXES.index(choose_slice_axis(volume))
        lines.append("thicknesses: " + " ".join(_text([volume.thickness_mm]) if n == at else "nan" for n in range(3)))
    stream.write(("\n".join(lines) + "\n\n").encode("ascii"))
    with Deflated(stream, "gzip") as packed:
        _pour(packed, values)


def encode_mha(stream: BinaryIO, volume: Volume, values: np.ndarray) -> None:
    lps = volume.geometry.to_lps()
    kind = {
        "i1": "CHAR",
        "u1": "UCHAR",
        "i2": "SHORT",
        "u2": "USHORT",
        "i4": "INT",
        "u4": "UINT",
        "f4": "FLOAT",
        "f8": "DOUBLE",
    }
    start = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        "CompressedDataSize = ",
    ]
    end = [
        f"TransformMatrix = {_text((lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)).T.ravel())}",
        f"Offset = {_text(lps[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_text(volume.geometry.spacing_mm[::-1])}",
        f"DimSize = {' '.join(str(n) for n in values.shape[::-1])}",
        f"ElementType = MET_{kind[values.dtype.str[1:]]}",
        "ElementDataFile = LOCAL",
    ]
    stream.write("\n".join(start).encode("ascii"))
    size_at = stream.tell()
    stream.write(f"{0:<20}\n".encode("ascii") + ("\n".join(end) + "\n").encode("ascii"))
    data_at = stream.tell()
    with Deflated(stream, "zlib") as packer:
        _pour(packer, values)
    packed = stream.tell() - data_at
    stream.seek(size_at)
    stream.write(f"{packed:<20}".encode("ascii"))


def _nifti_header(volume: Volume, values: np.ndarray) -> bytes:
    """348 bytes and the four that say that no extension follows; nifti1.h."""
    geometry = volume.geometry
    quaternion, qfac = _quaternion(geometry.directions)
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *values.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, _NIFTI_CODES[values.dtype.str[1:]], 8 * values.dtype.itemsize)
    struct.pack_into("<8f", head, 76, qfac, *geometry.spacing_mm[::-1], 0, 0, 0, 0)
    struct.pack_into("<3f", head, 108, 352, 1, 0)  # vox_offset, scl_slope, scl_inter
    struct.pack_into("<b", head, 123, 2)  # millimeters
    struct.pack_into("<80s", head, 148, b"CycleINR")
    struct.pack_into("<2h", head, 252, 1, 1)  # qform_code, sform_code: scanner
    struct.pack_into("<6f", head, 256, *quaternion[1:], *geometry.ijk_to_ras[:3, 3])
    struct.pack_into("<12f", head, 280, *geometry.ijk_to_ras[:3].ravel())
    struct.pack_into("<4s", head, 344, b"n+1")
    return bytes(head)


def _quaternion(directions: np.ndarray) -> tuple[np.ndarray, float]:
    """(a, b, c, d) with a >= 0 and qfac of orthogonal directions; the largest eigenvector (Bar-Itzhack 2000)."""
    qfac = -1.0 if np.linalg.det(directions) < 0 else 1.0
    r = directions * (1, 1, qfac)
    matrix = np.array([
        [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
        [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
        [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
    ])  # fmt: skip
    b, c, d, a = np.linalg.eigh(matrix)[1][:, -1]  # eigh reads the lower triangle
    return np.array([a, b, c, d]) * (1 if a >= 0 else -1), qfac


def encode_nifti(stream: BinaryIO | Deflated, volume: Volume, values: np.ndarray) -> None:
    if max(values.shape) > 32767:
        raise RequestError("NIfTI cannot hold so many voxels along one axis", f"{values.shape}", "write .nrrd")
    stream.write(_nifti_header(volume, values))
    _pour(stream, values)


def encode_packed_nifti(stream: BinaryIO, volume: Volume, values: np.ndarray) -> None:
    with Deflated(stream, "gzip") as packed:
        encode_nifti(packed, volume, values)


ENCODERS = {".nrrd": encode_nrrd, ".mha": encode_mha, ".nii": encode_nifti, ".nii.gz": encode_packed_nifti}
