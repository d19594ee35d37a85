"""A small hostile file is refused, or read, in little memory: no claim of a header is believed before it is checked."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import tracemalloc
import zlib

import made_wrong
import numpy as np
import pydicom
import pytest

from CycleINRLib.errors import CycleINRError, VolumeError
from CycleINRLib.io.files import list_series, read

MUCH = 100_000_000  # bytes that a bomb would fill
MOST = 64_000_000  # bytes that reading may take


def packed(pack, count: int = MUCH) -> bytes:
    """Zeros packed in streams one after another, as parallel packers write them."""
    return pack(bytes(1_000_000)) * (count // 1_000_000)


def nifti(changes: dict[int, bytes] | None = None) -> bytes:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 8, 8, 8, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 3, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    for at, value in (changes or {}).items():
        header[at : at + len(value)] = value
    return bytes(header)


def nrrd(extra: str = "\n", sizes: str = "8 8 8", encoding: str = "gzip") -> bytes:
    return (
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nspace: left-posterior-superior\n"
        "space directions: (1,0,0) (0,1,0) (0,0,3)\nspace origin: (0,0,0)\nendian: little\n"
        f"encoding: {encoding}\n{extra}"
    ).encode()


def metaimage(file: str, size: str = "8 8 8", count: str = "3") -> bytes:
    words = (
        f"ObjectType = Image\nNDims = {count}\nDimSize = {size}\nElementType = MET_SHORT\nElementDataFile = {file}\n"
    )
    return words.encode()


def dicom(body: bytes, syntax: bytes = b"1.2.840.10008.1.2.1") -> bytes:
    syntax += b"\0" * (len(syntax) % 2)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta + body


def slice_of(rows: int, columns: int, frames: int) -> bytes:
    dataset = pydicom.dcmread(made_wrong.REPOSITORY / "Testing" / "data" / "dicom_ct_tiny" / "IMG0001.dcm")
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, columns, frames
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def deflated() -> bytes:
    packer = zlib.compressobj(1, wbits=-15)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, MUCH) + bytes(MUCH)
    return dicom(packer.compress(pixels) + packer.flush(), b"1.2.840.10008.1.2.1.99")


OPEN_SEQUENCE = struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
CASES = {
    "bomb.nii.gz": lambda: gzip.compress(nifti()) + packed(gzip.compress),
    "claim.nii.gz": lambda: gzip.compress(nifti({40: struct.pack("<4h", 3, 32767, 32767, 32767)})),
    "offset.nii.gz": lambda: gzip.compress(nifti({108: struct.pack("<f", 2e9)})) + packed(gzip.compress),
    "bomb.nrrd": lambda: nrrd() + packed(gzip.compress),
    "skip.nrrd": lambda: nrrd("byte skip: 1000000000000\n\n") + packed(gzip.compress),
    "lines.nrrd": lambda: nrrd("line skip: 1000000000000\n\n") + gzip.compress(bytes(1000)),
    "digits.nrrd": lambda: nrrd(sizes="9" * 400 + " 8 8"),
    "bz2.nrrd": lambda: nrrd(encoding="bzip2") + packed(bz2.compress),
    "range.nhdr": lambda: nrrd("data file: f%d.raw 0 1000000000 1\n", encoding="raw"),
    "width.nhdr": lambda: nrrd("data file: f%0999999999d.raw 0 7 1\n", encoding="raw"),
    "names.nhdr": lambda: nrrd("data file: LIST\n" + "a.raw\n" * 20000, encoding="raw"),
    "range.mhd": lambda: metaimage("f%d.raw 0 1000000000 1", "8 8 1000000000"),
    "width.mhd": lambda: metaimage("f%0999999999d.raw 0 7 1"),
    "names.mhd": lambda: metaimage("LIST\n" + "a.raw\n" * 1000, "8 8 1000000000"),
    "axes.mha": lambda: metaimage("LOCAL", count="999999999"),
    "nested.dcm": lambda: dicom(OPEN_SEQUENCE * 3000),
    "deflated.dcm": deflated,
    "rows.dcm": lambda: slice_of(65535, 65535, 1),
    "frames.dcm": lambda: slice_of(23, 38, 2_000_000_000),
}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_in_little_memory(tmp_path, name):
    (tmp_path / name).write_bytes(CASES[name]())
    tracemalloc.start()
    try:
        with pytest.raises(VolumeError):
            read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def test_a_deflated_series_is_read_as_any_other(tmp_path):
    plain = made_wrong.REPOSITORY / "Testing" / "data" / "dicom_ct_tiny"
    for path in sorted(plain.glob("*.dcm")):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        dataset.save_as(tmp_path / path.name, implicit_vr=False, little_endian=True)
    assert np.array_equal(read(tmp_path).values, read(plain).values)


def test_a_spectrum_is_no_image_and_the_values_of_a_surface_are_no_volume(tmp_path):
    dataset = pydicom.dcmread(made_wrong.REPOSITORY / "Testing" / "data" / "dicom_ct_tiny" / "IMG0001.dcm")
    dataset.SOPClassUID = pydicom.uid.MRSpectroscopyStorage
    del dataset.PixelData
    dataset.save_as(tmp_path / "spectrum.dcm")
    with pytest.raises(VolumeError, match="spectrum.dcm, a spectrum"):
        read(tmp_path / "spectrum.dcm")
    with pytest.raises(CycleINRError, match="no DICOM images"):
        list_series(tmp_path)
    surface = nifti({40: struct.pack("<4h", 3, 27307, 1, 6)}) + bytes(2 * 163842)
    (tmp_path / "area.nii").write_bytes(surface)
    with pytest.raises(VolumeError, match="values of a surface, no volume"):
        read(tmp_path / "area.nii")
