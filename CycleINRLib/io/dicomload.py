"""The pixels of a DICOM series, after its headers were found to be good (floor 2, pydicom).

Source: DICOM PS3.3, C.11.1 (modality LUT)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from ..errors import VolumeError
from ..imaging.volume import rescaled
from .dicomplanes import Plane
from .dicomvalues import DAMAGED
from .headers import AGAIN, check_inflated

DECODERS = {  # the package that decodes, by the words of the transfer syntax's name
    "JPEG 2000": "pylibjpeg and pylibjpeg-openjpeg",
    "JPEG": "pylibjpeg and pylibjpeg-libjpeg",
}
UNREADABLE = ("MPEG", "HEVC", "JPIP", "JPEG XL", "Encapsulated", "SMPTE")  # no decoder of pydicom's, or no pixels
MOST_COMPRESSION = 2000  # of pixels in a file


def load_pixels(slices: list[Plane]) -> np.ndarray:
    """(K, J, I) values after the rescale of each slice."""
    stored = _stored(slices)
    each = [(1.0, 0.0) if plane.facts.has_table else (plane.slope, plane.intercept or 0.0) for plane in slices]
    scales = set(each)
    if len(scales) == 1:
        return rescaled(stored, *scales.pop())
    whole = all(number.is_integer() for scale in scales for number in scale)
    values = np.stack([rescaled(pixels, *scale) for pixels, scale in zip(stored, each)])
    return values if whole else values.astype(np.float32)


def _stored(slices: list[Plane]) -> np.ndarray:
    """(K, J, I) numbers as in the files, each file opened once."""
    values: np.ndarray | None = None
    opened, content = None, np.empty(0)
    for n, plane in enumerate(slices):
        if plane.file != opened:
            opened, content = plane.file, _pixels(plane.file)
        pixels = content if content.ndim == 2 else content[min(plane.frame or 0, len(content) - 1)]
        if (tile := plane.tile) is not None:
            pixels = pixels[tile.row : tile.row + tile.rows, tile.column : tile.column + tile.columns]
        if (content.ndim == 3 and (plane.frame or 0) >= len(content)) or pixels.shape != (
            plane.facts.rows,
            plane.facts.columns,
        ):
            raise VolumeError("Header and data disagree", f"{pixels.shape} in {plane.file.name}", AGAIN)
        if values is None:
            values = np.empty((len(slices), *pixels.shape), pixels.dtype.newbyteorder("="))
        if pixels.dtype != values.dtype:  # signed and unsigned slices in one series
            values = values.astype(np.result_type(values, pixels), copy=False)
        values[n] = pixels
    assert values is not None  # a series has at least one slice
    return values


def _pixels(file: Path) -> np.ndarray:
    """(rows, columns) or (frames, rows, columns) as stored."""
    try:
        check_inflated(file)
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        _refuse_without_decoder(dataset.file_meta.TransferSyntaxUID, file)
        _refuse_claim(dataset, file)
        if dataset.get("ModalityLUTSequence"):
            return pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
        return dataset.pixel_array
    except DAMAGED as error:
        found = f"{file.name}, {error}"
        raise VolumeError(
            "The pixels of a DICOM file are truncated or damaged", found, "copy or export it again"
        ) from error


def _refuse_claim(dataset: Dataset, file: Path) -> None:
    """Before pixels are decoded: can a file of this size hold them?"""
    frames, size = int(dataset.get("NumberOfFrames") or 1), file.stat().st_size
    need = frames * int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("BitsAllocated") or 16) // 8
    if need > max(MOST_COMPRESSION * size, 1 << 26):
        raise ValueError(f"it states {need:.3g} bytes of pixels in a file of {size}")


def _refuse_without_decoder(syntax: pydicom.uid.UID, file: Path) -> None:
    if not syntax.is_compressed or syntax.is_deflated:
        return
    try:
        available = pydicom.pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available and any(word in syntax.name for word in UNREADABLE):
        raise VolumeError(
            "The pixels are compressed in a way that is not read",
            f"{syntax.name} in {file.name}",
            "export uncompressed",
        )
    if not available:
        package = next((names for word, names in DECODERS.items() if word in syntax.name), "pylibjpeg with its plugins")
        raise VolumeError(
            "The decoder of compressed DICOM is not installed", f"{syntax.name} in {file.name}", f"install {package}"
        )
