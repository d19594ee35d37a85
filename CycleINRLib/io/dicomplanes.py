"""What DICOM files say about their image planes, before any pixel is read (floor 2, pydicom).

Everything that later steps need is turned into plain numbers and words here, so that a damaged tag is refused with the
name of its file.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups), C.11.1 (modality LUT)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from ..errors import VolumeError
from .headers import AGAIN, is_dicom

NO_IMAGES = {
    "SR",
    "PR",
    "KO",
    "REG",
    "SEG",
    "RTSTRUCT",
    "RTPLAN",
    "RTDOSE",
    "RTRECORD",
    "DOC",
    "FID",
    "PLAN",
    "AU",
    "ECG",
}
TAGS = """
    SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesDescription SeriesNumber Modality ImageType InstanceNumber
    Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation BitsAllocated
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SpacingBetweenSlices RescaleSlope
    RescaleIntercept LossyImageCompression SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
""".split()
DAMAGED = (  # what pydicom raises where bytes make no sense
    InvalidDicomError, BytesLengthException, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    NotImplementedError, OverflowError, RuntimeError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class FileFacts:
    """What holds for a whole DICOM file."""

    uid: str  # of the series
    sop_uid: str  # of the file
    description: str
    modality: str  # "" where it is not stated
    number: int | None  # of the series
    instance: int  # its number in the series, 0 where it is not stated
    rows: int
    columns: int
    color: str  # photometric interpretation
    samples: int  # numbers a pixel
    lossy: bool
    spacing_between_mm: float | None  # as stated; positions have the say


@dataclass(frozen=True, eq=False)
class Plane:
    """One image plane: a classic file, or one frame of a multi-frame file."""

    file: Path
    frame: int | None  # None in a classic file
    facts: FileFacts
    position: np.ndarray  # (3,) LPS in mm of the center of its first pixel
    orientation: np.ndarray  # (6,) direction cosines of its rows, then of its columns
    spacing: tuple[float, float]  # between rows, between columns
    slope: float
    intercept: float
    thickness_mm: float | None
    image_type: tuple[str, ...]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def order(self) -> tuple[int, int, str]:
        """Orders planes at one position as they were acquired."""
        return self.facts.instance, self.frame or 0, self.file.name


def planes_of(path: Path) -> list[Plane]:
    """Every image plane that the path stands for: of a folder and all below it, of a multi-frame file, or of the series
    that a classic file belongs to, in its folder. Localizers are left out where there is anything else.

    Raises
    ------
    VolumeError : no image that has a place, or a damaged header
    """
    if path.is_dir():
        found = [plane for file in _dicom_files(path) for plane in examine(file)]
        if not found:
            raise VolumeError("The folder holds no DICOM images", str(path), "give the folder of the series, or a file")
    else:
        found = examine(path)
        if not found:
            raise VolumeError("The DICOM file holds no image with a place in the patient", path.name, "choose another")
        if found[0].frame is None:
            found += _rest_of_series(found[0])
    scouts = [plane for plane in found if "LOCALIZER" in plane.image_type]
    return [plane for plane in found if "LOCALIZER" not in plane.image_type] or scouts


def _rest_of_series(plane: Plane) -> Iterator[Plane]:
    for file in sorted(plane.file.parent.iterdir()):
        if file != plane.file and file.name[0] != "." and file.is_file() and is_dicom(file):
            yield from (p for p in examine(file) if p.frame is None and p.facts.uid == plane.facts.uid)


def _dicom_files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            file = Path(root, name)
            if name[0] != "." and file.is_file() and is_dicom(file):
                yield file


def examine(file: Path) -> list[Plane]:
    """The image planes of one file; none where it holds no image, or an image that has no place."""
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=True)
        if header.get("Modality") in NO_IMAGES:
            return []
        if not header.get("Rows") or not header.get("Columns"):
            kind = header.file_meta.get("MediaStorageSOPClassUID", header.get("SOPClassUID"))
            if kind is not None and pydicom.uid.UID(kind).name.endswith("Image Storage"):
                raise ValueError("it ends before the size of the image")
            return []
        groups = header.get("PerFrameFunctionalGroupsSequence") or []
        if not groups and int(header.get("NumberOfFrames") or 1) > 1:
            return []
        facts = _facts(header)
        frames = range(len(groups)) if groups else (None,)
        planes = [_plane(file, header, facts, frame) for frame in frames]
    except DAMAGED as error:
        raise VolumeError("The header of a DICOM file cannot be read", f"{file.name}, {error}", AGAIN) from error
    return [plane for plane in planes if plane is not None]


def _facts(header: Dataset) -> FileFacts:
    number, between = header.get("SeriesNumber"), header.get("SpacingBetweenSlices")
    return FileFacts(
        uid=str(header.get("SeriesInstanceUID") or ""),
        sop_uid=str(header.get("SOPInstanceUID") or ""),
        description=" ".join(str(header.get("SeriesDescription") or "").split()),
        modality=str(header.get("Modality") or ""),
        number=None if number is None else int(number),
        instance=int(header.get("InstanceNumber") or 0),
        rows=int(header.Rows),
        columns=int(header.Columns),
        color=str(header.get("PhotometricInterpretation") or "MONOCHROME2"),
        samples=int(header.get("SamplesPerPixel") or 1),
        lossy=str(header.get("LossyImageCompression") or "00") == "01",
        spacing_between_mm=abs(float(between)) if between else None,
    )


def _plane(file: Path, header: Dataset, facts: FileFacts, frame: int | None) -> Plane | None:
    def get(name: str, *sequences: str) -> Any:
        """From the functional group of this frame or of all frames; classic files have it at the top."""
        if frame is not None:
            shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
            for group in (header.PerFrameFunctionalGroupsSequence[frame], shared[0]):
                for sequence in sequences:
                    if group.get(sequence) and group[sequence][0].get(name) is not None:
                        return group[sequence][0].get(name)
        return header.get(name)

    position = get("ImagePositionPatient", "PlanePositionSequence")
    orientation = get("ImageOrientationPatient", "PlaneOrientationSequence")
    spacing = get("PixelSpacing", "PixelMeasuresSequence")
    if not position or not orientation or not spacing:
        return None
    rows, columns = (np.array([float(n) for n in orientation[at : at + 3]]) for at in (0, 3))
    position = np.array([float(n) for n in position])
    if not len(position) == len(rows) == len(columns) == 3 or not np.isfinite([*position, *rows, *columns]).all():
        raise ValueError("the place of its image is no finite numbers")
    lengths = np.linalg.norm(rows), np.linalg.norm(columns)
    if min(lengths) < 0.5 or abs(rows @ columns) > 0.01:
        raise ValueError(f"its rows and columns are no right angle, {[float(n) for n in orientation]}")
    rescale = "PixelValueTransformationSequence"
    slope, intercept = get("RescaleSlope", rescale), get("RescaleIntercept", rescale)
    thickness = get("SliceThickness", "PixelMeasuresSequence")
    kinds = get("FrameType", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence") or header.get("ImageType") or ()
    return Plane(
        file=file,
        frame=frame,
        facts=facts,
        position=position,
        orientation=np.concatenate([rows / lengths[0], columns / lengths[1]]),
        spacing=(float(spacing[0]), float(spacing[1])),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        thickness_mm=float(thickness) if thickness and float(thickness) > 0 else None,
        image_type=(kinds,) if isinstance(kinds, str) else tuple(str(kind) for kind in kinds),
    )
