"""DICOM series made for tests: a real header, pixels that know their slice, and one thing wrong at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

TEMPLATE = Path(__file__).resolve().parent.parent / "data" / "dicom_ct_tiny" / "IMG0001.dcm"
SHAPE = (7, 9)


def pixels_of(n: int) -> np.ndarray:
    """(7, 9) uint16 that differ in every pixel and slice."""
    return (100 * n + np.arange(63).reshape(SHAPE)).astype(np.uint16)


def make_series(
    folder: Path,
    count: int = 5,
    *,
    step=(0.0, 0.0, 2.5),
    change: Callable[[int, Dataset], None] | None = None,
    name: Callable[[int], str] = "{:03d}.dcm".format,
    uid: str = "1.2.3.4",
) -> Path:
    """`count` axial CT slices, slice n at n * step; `change` spoils dataset n before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        dataset = pydicom.dcmread(TEMPLATE)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SeriesInstanceUID = uid
        dataset.SeriesDescription = f"made {uid}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        dataset.InstanceNumber = n + 1
        dataset.ImagePositionPatient = [n * float(mm) for mm in step]
        dataset.RescaleIntercept = -1024
        dataset.WindowCenter, dataset.WindowWidth = 40, 400
        put(dataset, pixels_of(n))
        if change is not None:
            change(n, dataset)
        dataset.save_as(folder / name(n))
    return folder


def put(dataset: Dataset, pixels: np.ndarray) -> None:
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
