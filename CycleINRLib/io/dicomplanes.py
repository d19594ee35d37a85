"""What DICOM files say about their image planes, before any pixel is read (floor 2, pydicom).

Everything that later steps need is turned into plain numbers and words here, so that a damaged tag is refused with the
name of its file.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups), C.11.1 (modality LUT)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MRSpectroscopyStorage

from ..errors import VolumeError
from . import dicommakers, dicommarks
from .dicomvalues import DAMAGED, Get, counting, deciding, getter, informing, value_of, words
from .headers import AGAIN, check_inflated, is_dicom

NO_IMAGES = set("SR PR KO REG SEG RTSTRUCT RTPLAN RTDOSE RTRECORD DOC FID PLAN AU ECG".split())
_NO_SCANS = ("DICOMDIR", "LOCKFILE", "VERSION")  # what media hold beside the images
TAGS: list[Any] = """
    SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesDescription SeriesNumber Modality ImageType
    Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation BitsAllocated
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SpacingBetweenSlices RescaleSlope
    RescaleIntercept RescaleType ModalityLUTSequence LossyImageCompression
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
""".split()
TAGS += [*dicommarks.MARK_TAGS, *dicommakers.MAKER_TAGS]
A_MOSAIC = "a mosaic, which holds all slices in one image, and does not say where they lie"
CONVERT = "convert the folder by dcm2niix, or export it as enhanced DICOM, and give what comes out"
MOST_SKEW = 0.02  # of the right angle of rows and columns, what two decimals do


@dataclass(frozen=True)
class FileFacts:
    """What holds for a whole DICOM file."""

    uid: str  # of the series
    sop_uid: str  # of the file
    description: str
    modality: str  # "" where it is not stated
    number: int | None  # of the series
    rows: int
    columns: int
    color: str  # photometric interpretation
    samples: int  # numbers a pixel
    lossy: bool
    spacing_between_mm: float | None  # as stated; positions have the say
    has_table: bool  # a Modality LUT turns stored numbers into values
    remarks: tuple[str, ...] = ()  # about facts that could not be read and are not needed


@dataclass(frozen=True, eq=False)
class Plane:
    """One image plane: a classic file, one frame of a multi-frame file, or one slice of a mosaic."""

    file: Path
    frame: int | None  # None in a classic file
    facts: FileFacts
    position: np.ndarray  # (3,) LPS in mm of the center of its first pixel
    orientation: np.ndarray  # (6,) direction cosines of its rows, then of its columns
    spacing: tuple[float, float]  # between rows, between columns
    slope: float
    intercept: float | None  # None where it is not stated
    thickness_mm: float | None
    image_type: tuple[str, ...]
    rescale_type: str = ""
    decimals: int = 16  # of its direction cosines
    position_decimals: int = 16
    marks: dict[str, Any] = field(default_factory=dict)  # what tells volumes apart
    tile: dicommakers.Tile | None = None  # where it lies in a mosaic
    is_turned: bool = False  # its rows stand from the last to the first, which its header does not say

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])


def is_mosaic(image_type: Iterable[str]) -> bool:
    """Whether the words of an ImageType tell of many slices in one image, as Siemens and United Imaging write them."""
    return any(word in dicommakers.TILED for word in image_type)


@dataclass(frozen=True)
class Damaged:
    """A DICOM file whose header cannot be read."""

    file: Path
    reason: str
    uid: str  # of its series, "" where not even that can be read

    def refused(self) -> VolumeError:
        found = f"{self.file.name}, {self.reason}"
        return VolumeError("The header of a DICOM file cannot be read", found, "export or copy that file again")


@dataclass(frozen=True)
class Contents:
    """What lies at a path: image planes, and what stands beside them."""

    planes: list[Plane]
    damaged: list[Damaged] = field(default_factory=list)
    others: list[str] = field(default_factory=list)  # names of files that hold no image with a place


def contents_of(path: Path) -> Contents:
    """Every image plane that the path stands for: of a folder and all below it, of a multi-frame file, or of the series
    that a classic file belongs to, in its folder. Localizers are left out where there is anything else.

    A file in the folder that is damaged, no DICOM, or no image is a bystander: it is listed and harms nothing.

    Raises
    ------
    VolumeError : no image that has a place, or the file itself has a damaged header
    """
    damaged: list[Damaged] = []
    others: list[str] = []
    planes: list[Plane] = []
    if path.is_dir():
        for file in _files(path, others):
            planes += _examined(file, damaged, others)
        if not planes and damaged:
            raise damaged[0].refused()
        if not planes:
            what = f"{path}, {others[0]}" if others else str(path)
            advice = CONVERT if A_MOSAIC in what else "give the folder of the series, or a file"
            raise VolumeError("The folder holds no DICOM images", what, advice)
    else:
        planes = image_planes_of(path)
        if planes[0].frame is None:
            for file in sorted(path.parent.iterdir()):
                if file != path and file.name[0] != "." and _is_dicom_file(file, []):
                    found = _examined(file, damaged, [])
                    planes += [p for p in found if p.frame is None and p.facts.uid == planes[0].facts.uid]
    scouts = [plane for plane in planes if "LOCALIZER" in plane.image_type]
    return Contents([p for p in planes if "LOCALIZER" not in p.image_type] or scouts, damaged, others)


def _examined(file: Path, damaged: list[Damaged], others: list[str]) -> list[Plane]:
    """The planes of a file of a folder; where it has none, what it is instead goes into one of the lists."""
    try:
        return _examine(file)
    except _NoImage as error:
        if file.name not in _NO_SCANS:
            others.append(f"{file.name} ({error})")
    except OSError as error:
        others.append(f"{file.name} ({error.strerror or error})")
    except VolumeError as error:
        damaged.append(Damaged(file, error.found.partition(", ")[2], _series_of(file)))
    return []


def _series_of(file: Path) -> str:
    try:
        check_inflated(file)
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"], force=True)
        return words(header, "SeriesInstanceUID")
    except (*DAMAGED, OSError):
        return ""


def _files(folder: Path, others: list[str]) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            if name[0] != "." and _is_dicom_file(Path(root, name), others):
                yield Path(root, name)


def _is_dicom_file(file: Path, others: list[str]) -> bool:
    """Whether a file is DICOM; what it is instead goes into the list."""
    try:
        if not file.is_file():
            return False
        if is_dicom(file):
            return True
        why = "no DICOM" if file.stat().st_size else "empty"
    except OSError as error:
        why = error.strerror or str(error)
    if file.name not in _NO_SCANS:
        others.append(f"{file.name} ({why})")
    return False


class _NoImage(Exception):
    """A sound DICOM file that holds no image with a place in the patient; says what it is."""


def image_planes_of(file: Path) -> list[Plane]:
    """The image planes of one file.

    Raises
    ------
    VolumeError : a damaged header, or no image that has a place in the patient
    """
    try:
        return _examine(file)
    except _NoImage as error:
        what = "The DICOM file holds no image with a place in the patient"
        advice = "give its folder" if file.name.upper() == "DICOMDIR" else "choose another, or the folder of the series"
        advice = CONVERT if str(error) == A_MOSAIC else advice
        raise VolumeError(what, f"{file.name}, {error}", advice) from None


def _examine(file: Path) -> list[Plane]:
    try:
        check_inflated(file)
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=True)
        if words(header, "Modality") in NO_IMAGES:
            raise _NoImage(f"an object of modality {words(header, 'Modality')}")
        if words(header, "SOPClassUID") == MRSpectroscopyStorage:  # it has rows and columns, and no pixels
            raise _NoImage("a spectrum")
        rows, columns = counting(header, "Rows", 0), counting(header, "Columns", 0)
        if not rows or not columns:
            kind = header.file_meta.get("MediaStorageSOPClassUID", header.get("SOPClassUID"))
            if kind is not None and pydicom.uid.UID(kind).name.endswith("Image Storage"):
                raise ValueError("it ends before the size of the image")
            raise _NoImage("no image")
        groups = header.get("PerFrameFunctionalGroupsSequence") or []
        count = counting(header, "NumberOfFrames", len(groups) or 1) or 1
        if not groups and count > 1:
            raise _NoImage(f"{count} frames without a place of their own")
        if groups and count != len(groups):
            raise ValueError(f"it states {count} frames and the places of {len(groups)}")
        facts = _facts(header, rows, columns)
        if groups:
            return [_plane(file, header, facts, frame) for frame in range(len(groups))]
        if tiles := dicommakers.tiles_of(header, rows, columns):
            facts = replace(facts, rows=tiles[0].rows, columns=tiles[0].columns)
            return _plane_of_each(file, header, facts, tiles)
        return [_plane(file, header, facts, None)]
    except DAMAGED as error:
        raise VolumeError("The header of a DICOM file cannot be read", f"{file.name}, {error}", AGAIN) from error


def _facts(header: Dataset, rows: int, columns: int) -> FileFacts:
    get = getter(header)
    remarks = []
    (number, odd), (between, _) = informing(get, "SeriesNumber"), informing(get, "SpacingBetweenSlices")
    if odd:
        remarks.append(f"The series number cannot be read, {odd[:20]}: it is left out")
    return FileFacts(
        uid=words(header, "SeriesInstanceUID"),
        sop_uid=words(header, "SOPInstanceUID"),
        description=words(header, "SeriesDescription"),
        modality=words(header, "Modality") or _modality_of(words(header, "SOPClassUID")),
        number=None if number is None or odd else int(number),
        rows=rows,
        columns=columns,
        color=words(header, "PhotometricInterpretation") or "MONOCHROME2",
        samples=counting(header, "SamplesPerPixel", 1) or 1,
        lossy=words(header, "LossyImageCompression") == "01",
        spacing_between_mm=abs(between) if between else None,
        has_table=bool(header.get("ModalityLUTSequence")),
        remarks=tuple(remarks),
    )


def _modality_of(sop_class: str) -> str:
    """CT or MR by the kind of object, where the modality itself is not stated; else ""."""
    name = pydicom.uid.UID(sop_class).name if sop_class else ""
    return next((kind for kind in ("CT", "MR") if f"{kind} Image Storage" in name), "")


def getter_of(header: Dataset, frame: int | None) -> Get:
    """Values from the functional group of this frame or of all frames; classic files have them at the top."""
    if frame is None:
        return getter(header)
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    groups = (header.PerFrameFunctionalGroupsSequence[frame], shared[0])

    def get(name: str, *sequences: str) -> Any:
        for group in groups:
            for sequence in sequences:
                items = group.get(sequence)
                if items and (value := value_of(items[0], name)) is not None:
                    return value
        return value_of(header, name)

    return get


def _plane_of_each(file: Path, header: Dataset, facts: FileFacts, tiles: list[dicommakers.Tile]) -> list[Plane]:
    """The slices of a mosaic: all but their positions holds for each of them."""
    first = _plane(file, header, facts, None, tiles[0])
    kinds = tuple(kind for kind in first.image_type if kind not in dicommakers.TILED)
    return [replace(first, tile=tile, position=tile.position, image_type=kinds) for tile in tiles]


def _plane(
    file: Path, header: Dataset, facts: FileFacts, frame: int | None, tile: dicommakers.Tile | None = None
) -> Plane:
    get = getter_of(header, frame)
    position = (
        deciding(get, "ImagePositionPatient", 3, "PlanePositionSequence") if tile is None else list(tile.position)
    )
    orientation = deciding(get, "ImageOrientationPatient", 6, "PlaneOrientationSequence")
    spacing = deciding(get, "PixelSpacing", 2, "PixelMeasuresSequence")
    if position is None or orientation is None or spacing is None:
        if is_mosaic(value_of(header, "ImageType") or ()):
            raise _NoImage(A_MOSAIC)
        stated = {"ImagePositionPatient": position, "ImageOrientationPatient": orientation, "PixelSpacing": spacing}
        raise _NoImage(f"an image without {' and '.join(name for name, one in stated.items() if one is None)}")
    if min(spacing) < 0:
        raise ValueError(f"PixelSpacing is {spacing}")
    rows, columns = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(rows), np.linalg.norm(columns)
    if min(lengths) < 0.5 or abs(rows @ columns) > MOST_SKEW * lengths[0] * lengths[1]:
        raise ValueError(f"its rows and columns are no right angle, {orientation}")
    columns, place = columns / lengths[1], np.array(position)
    if turned := tile is None and frame is None and dicommakers.has_turned_rows(header):
        place, columns = place + (facts.rows - 1) * spacing[0] * columns, -columns
    rescale = "PixelValueTransformationSequence"
    slope, intercept = (deciding(get, name, 1, rescale) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is not None and slope[0] == 0:
        raise ValueError("RescaleSlope is 0")
    thickness, odd = informing(get, "SliceThickness", "PixelMeasuresSequence")
    if odd:
        told = "it is left out" if thickness is None else f"{thickness:g} mm is taken"
        facts = replace(facts, remarks=(*facts.remarks, f"The slice thickness is written as {odd[:20]}: {told}"))
    kinds = get("FrameType", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence") or value_of(header, "ImageType")
    return Plane(
        file=file,
        frame=frame,
        facts=facts,
        position=place,
        orientation=np.concatenate([rows / lengths[0], columns]),
        spacing=(spacing[0], spacing[1]),
        slope=1.0 if slope is None else slope[0],
        intercept=None if intercept is None else intercept[0],
        thickness_mm=thickness if thickness and thickness > 0 else None,
        image_type=tuple(str(kind) for kind in ([kinds] if isinstance(kinds, str) else kinds or ())),
        rescale_type=str(get("RescaleType", rescale) or ""),
        decimals=_decimals(get("ImageOrientationPatient", "PlaneOrientationSequence")),
        position_decimals=16 if tile is not None else _decimals(get("ImagePositionPatient", "PlanePositionSequence")),
        marks=dicommarks.marks_of(
            header, get, None if frame is None else header.PerFrameFunctionalGroupsSequence[frame]
        ),
        is_turned=turned,
    )


def _decimals(numbers: Any) -> int:
    """Decimals with which direction cosines are written; as many as one likes where all are whole."""
    texts = [getattr(n, "original_string", None) or repr(float(n)) for n in numbers]
    digits = [len(t.strip().rstrip("0").partition(".")[2]) if "e" not in t.lower() else 16 for t in texts]
    return max(digits) or 16
