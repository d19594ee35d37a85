"""Inputs that are wrong in one way each, written byte by byte so that no library can repair them on the way."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES = (12, 10, 6)  # i, j, k
SPACING = (1.0, 1.0, 4.0)
NRRD_TYPES = {"int16": "short", "uint16": "unsigned short", "uint8": "unsigned char", "float32": "float"}


def noise(shape: tuple[int, ...] = SIZES[::-1], dtype: str = "int16") -> np.ndarray:
    """(K, J, I) values that are no label map and no constant, CT-like."""
    return np.random.default_rng(7).normal(0, 300, shape).astype(dtype)


def nrrd(path: Path, values: np.ndarray | None = None, data: bytes | None = None, **fields: str) -> Path:
    """A raw NRRD of `values` (..., J, I); `fields` replace those of the header, None leaves one out."""
    values = noise() if values is None else values
    sizes = values.shape[::-1]
    header: dict[str, Any] = {
        "type": NRRD_TYPES[values.dtype.name],
        "dimension": str(values.ndim),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, sizes)),
        "space directions": "({},0,0) (0,{},0) (0,0,{})".format(*SPACING),
        "space origin": "(0,0,0)",
        "endian": "little",
        "encoding": "raw",
    }
    header.update({name.replace("_", " "): text for name, text in fields.items()})
    lines = ["NRRD0004", *(f"{name}: {text}" for name, text in header.items() if text is not None)]
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + (values.tobytes() if data is None else data))
    return path


def vectors(count: int) -> np.ndarray:
    return np.stack([noise()] * count, axis=-1)


def nifti(path: Path, values: np.ndarray | None = None, datatype: int = 4, rows: Any = None, **at: tuple) -> Path:
    """A NIfTI-1 of int16 `values`; `at` overwrites fields: name=(format, offset, numbers)."""
    values = noise() if values is None else values
    rows = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 4, 0]]) if rows is None else np.asarray(rows, float)
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, values.ndim, *values.shape[::-1], *[1] * (7 - values.ndim))
    struct.pack_into("<2h", head, 70, datatype, 8 * values.dtype.itemsize)
    struct.pack_into("<8f", head, 76, 1, *np.linalg.norm(rows[:, :3], axis=0), 1, 0, 0, 0)
    struct.pack_into("<3f", head, 108, 352, 1, 0)
    struct.pack_into("<2h", head, 252, 0, 1)
    struct.pack_into("<12f", head, 280, *rows.ravel())
    struct.pack_into("<4s", head, 344, b"n+1")
    for kinds, offset, numbers in at.values():
        struct.pack_into("<" + kinds, head, offset, *numbers)
    content = bytes(head) + values.tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def metaimage(path: Path, values: np.ndarray | None = None, **fields: str) -> Path:
    values = noise() if values is None else values
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": " ".join(map(str, SPACING)),
        "DimSize": " ".join(map(str, values.shape[::-1])),
        "ElementType": "MET_SHORT",
        **fields,
        "ElementDataFile": "LOCAL",
    }
    text = "\n".join(f"{name} = {value}" for name, value in header.items()) + "\n"
    path.write_bytes(text.encode() + values.tobytes())
    return path


def dicom_slice(path: Path, series: str, z_mm: float, number: int, **tags: Any) -> Path:
    """One classic CT slice of 10 rows and 12 columns at height `z_mm`; `tags` replace its own."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", series
    data.Modality, data.PatientName, data.PatientID = "CT", "Nobody", "0"
    data.SeriesNumber, data.InstanceNumber = 1, number
    data.Rows, data.Columns = SIZES[1], SIZES[0]
    data.PixelSpacing, data.SliceThickness = [1.0, 1.0], 4.0
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [0, 0, z_mm]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    for name, value in tags.items():
        setattr(data, name, value)
    if "PixelData" not in tags:
        data.PixelData = np.random.default_rng(number).integers(0, 2000, (data.Rows, data.Columns), "int16").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def dicom_series(folder: Path, heights: tuple[float, ...] = (0, 4, 8, 12, 16), series: str = "1.2.3.4") -> Path:
    for number, z_mm in enumerate(heights):
        dicom_slice(folder / f"{series}_{number}.dcm", series, z_mm, number)
    return folder
