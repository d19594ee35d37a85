"""Slices as the stored numbers of DICOM, one at a time, plain or compressed without loss (floor 2, pydicom).

Compression is RLE: every toolkit reads it, in multi-frame files too, and pydicom writes it without a further package
(with pylibjpeg-rle faster).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import get_encoder
from pydicom.uid import RLELossless

from ..errors import VolumeError
from ..imaging.volume import Volume
from .dicomderived import Origin, decimal
from .dicomvalues import counting, informing

STEPS = 65535  # of 16 bits


class StoredSlices:
    """16-bit integers and their rescale: exact for whole numbers that fit, else 65536 steps over the range.

    Only one slice is held; `len` and `[k]` give the count, and slice k as (rows, columns).

    Raises
    ------
    VolumeError : NaN or infinity
    """

    def __init__(self, values: np.ndarray, compress: bool = False, inverted_bits: int = 0) -> None:
        """`inverted_bits`: of a source that is stored inverted, since readers turn it about the middle of its bits."""
        self._values, self._encoder = values, get_encoder(RLELossless) if compress else None
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            found = f"from {low} to {high}"
            raise VolumeError("The volume holds NaN or infinity", found, "replace them by the background")
        self.slope, self.intercept, self.is_exact, self.bits = decimal(1), decimal(0), False, 16
        if values.dtype.kind in "iub":
            unsigned = values.dtype == np.uint16 or (inverted_bits and low >= 0)
            for kind in (np.uint16, np.int16) if unsigned else (np.int16, np.uint16):
                if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                    self.dtype, self.is_exact = np.dtype(kind), True
                    if kind is np.uint16 and high < 1 << inverted_bits:
                        self.bits = inverted_bits
                    return
        self.dtype = np.dtype(np.uint16)
        self.slope, self.intercept = decimal((high - low) / STEPS or 1.0), decimal(low)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, k: int) -> np.ndarray:
        plane = self._values[k]
        if not self.is_exact:
            plane = np.clip(np.rint((plane.astype(float) - float(self.intercept)) / float(self.slope)), 0, STEPS)
        return np.ascontiguousarray(plane, self.dtype.newbyteorder("<"))

    def describe(self, dataset: Dataset) -> None:
        """Adds the image pixel attributes but the pixels."""
        dataset.SamplesPerPixel = 1
        dataset.Rows, dataset.Columns = self._values.shape[1:]
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, self.bits, self.bits - 1
        dataset.PixelRepresentation = int(self.dtype.kind == "i")

    def encoded(self, k: int) -> bytes:
        """Slice k as it stands in a file, of even length."""
        if self._encoder is None:
            return self[k].tobytes()
        facts: dict[str, Any] = {
            "rows": self._values.shape[1], "columns": self._values.shape[2], "samples_per_pixel": 1,
            "number_of_frames": 1, "bits_allocated": 16, "bits_stored": self.bits,
            "pixel_representation": int(self.dtype.kind == "i"), "photometric_interpretation": "MONOCHROME2",
        }  # fmt: skip
        data = self._encoder.encode(self[k], **facts)
        return data + b"\0" * (len(data) % 2)


def bits_of_inverted(origin: Origin | None) -> int:
    """BitsStored of a source that is MONOCHROME1, else 0."""
    if origin is None or origin.planes[0].facts.color != "MONOCHROME1":
        return 0
    return min(counting(origin.header, "BitsStored", 16), 16)


def keep_padding(dataset: Dataset, origin: Origin | None, slices: StoredSlices, volume: Volume) -> None:
    """The value that stands for no value, where it is still stored exactly: as the new rescale has it."""
    if origin is None or not slices.is_exact or origin.planes[0].facts.has_table:
        return
    first = origin.planes[0]
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        stored, _ = informing(origin.get, name)
        if stored is None:
            return
        value = stored * first.slope + (first.intercept or 0.0)
        limits = np.iinfo(slices.dtype)
        if not value.is_integer() or not limits.min <= value <= limits.max:
            return
        dataset.add_new(name, "SS" if slices.dtype.kind == "i" else "US", int(value))
