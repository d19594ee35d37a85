"""What kind of file it is, and what its header claims, checked before a single voxel is allocated (floor 2).

Standard library and numpy. The headers are read here and not by ITK, because ITK straightens a sheared NIfTI, allocates
what a damaged header claims, and fills a truncated NIfTI with zeros, all of it in silence.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import VolumeError
from .fields import AGAIN, Header
from .metaimage import parse_metaimage
from .nifti import FORMATS, header_of_image, parse_nifti
from .nrrd import parse_nrrd

__all__ = ["AGAIN", "Header", "check_inflated", "is_dicom", "read_header"]

DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax by which a whole DICOM file is one deflate stream
MOST_INFLATED, LEAST_LIMIT = 100, 1 << 26  # times the file's size, and bytes that any file may inflate to


def is_dicom(path: Path) -> bool:
    """Whether the file starts as DICOM does: DICM after the preamble, or, in old files, a tag of group 0008."""
    with open(path, "rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or (start[:2] == b"\x08\x00" and start[3:4] == b"\0" and start[2:3] <= b"\x18")


def check_inflated(path: Path) -> None:
    """ValueError where a deflated DICOM file holds more than any scan of its size, before it is inflated whole."""
    with open(path, "rb") as stream:
        start = stream.read(1024)
        if DEFLATED not in start or start[128:134] != b"DICM\2\0":
            return
        (length,) = struct.unpack("<I", start[140:144])
        stream.seek(144 + length)
        most = max(MOST_INFLATED * path.stat().st_size, LEAST_LIMIT)
        decoder, held = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := decoder.unconsumed_tail or stream.read(1 << 16):
            try:
                held += len(decoder.decompress(chunk, 1 << 20))
            except zlib.error as error:
                raise ValueError(str(error)) from error
            if held > most:
                raise ValueError(f"it inflates to more than {most:.3g} bytes")
            if decoder.eof:
                return


def read_header(path: Path) -> Header:
    """The header of the file, recognized by its first bytes; an .img stands for the .hdr beside it.

    Raises
    ------
    VolumeError : no such format, a damaged header, or values that are no scalars
    """
    path = header_of_image(path) or path
    with open(path, "rb") as stream:
        start = stream.read(544)
    parse = _parser_of(start, path)
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused by Geometry
            header = parse(path)
    except (ValueError, KeyError, IndexError, OverflowError, struct.error, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        raise VolumeError("The header of the file cannot be read", f"{path.name}, {error}", AGAIN) from error
    others = [n for axis, n in enumerate(header.sizes) if axis not in header.spatial and n > 1]
    if len(others) > 1:
        raise VolumeError(
            "The file has more than four dimensions", " x ".join(map(str, header.sizes)), "export one volume"
        )
    for file in header.files:
        if not file.is_file():
            raise VolumeError(
                "The file that holds the voxels is not there", f"{file.name}, named by {path.name}", "put it beside"
            )
    return header


def _parser_of(start: bytes, path: Path) -> Callable[[Path], Header]:
    if start.startswith(b"NRRD"):
        return parse_nrrd
    if start.startswith(b"\x1f\x8b"):
        return parse_nifti
    if re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=", start):
        return parse_metaimage
    if len(start) >= 4 and {348, 540} & {struct.unpack(order + "i", start[:4])[0] for order in "<>"}:
        return parse_nifti
    if not start:
        raise VolumeError("The file is empty", path.name, AGAIN)
    if re.search(r"\.img(\.gz)?$", path.name, re.IGNORECASE):
        raise VolumeError("The .hdr of an image file is not there", path.name, "put the .hdr beside it, and give that")
    raise VolumeError("The file is no volume that CycleINR can read", path.name, FORMATS)
