"""A DICOM series as one volume: look at all headers, refuse what is no even stack, then load (floor 2, pydicom).

Slices are ordered by their position along the normal of the first one, never by file name or instance number. Spacing
comes from the positions, slice thickness from its tag. A stack that steps beside its normal (gantry tilt) keeps its
exact, sheared place.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups), C.11.1 (modality LUT)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from ..errors import VolumeError
from ..imaging.geometry import Geometry
from ..imaging.volume import UNITS, Volume, rescaled
from .files import choose_frame, stem_of
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
HEADER_TAGS = """
    SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID SeriesDescription SeriesNumber Modality ImageType
    InstanceNumber SpacingBetweenSlices Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation
    BitsAllocated ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness RescaleSlope RescaleIntercept
    LossyImageCompression SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
""".split()
DECODERS = {  # the package that decodes, by the words of the transfer syntax's name
    "JPEG 2000": "pylibjpeg and pylibjpeg-openjpeg",
    "JPEG": "pylibjpeg and pylibjpeg-libjpeg",
}
LISTED = 12  # series named in one message
SAME_ORIENTATION = 1e-3  # of direction cosines
TILT_DEG = 0.1


@dataclass(frozen=True)
class SeriesFacts:
    """One series as its headers tell: what a user needs to choose it."""

    uid: str
    description: str
    modality: str
    number: int | None
    slices: int
    rows: int
    columns: int

    def __str__(self) -> str:
        count = "1 slice" if self.slices == 1 else f"{self.slices} slices"
        return f"{self.uid} ({self.description or 'no description'}, {self.modality}, {count})"


@dataclass(frozen=True, eq=False)
class _Slice:
    """One image plane: a classic file, or one frame of a multi-frame file."""

    file: Path
    frame: int | None  # None in a classic file
    header: Dataset
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


def read_dicom(path: Path, *, series: str | None = None, frame: int | None = None) -> Volume:
    """The series at `path`: a folder (with all below it), a multi-frame file, or a slice, which stands for its series.

    Raises
    ------
    VolumeError : no images, several series, missing or duplicate slices, mixed geometry, color, no decoder, truncated
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on odd values; what matters is refused here
        slices = _choose_series(_slices_of(path), path, series)
        _refuse_mixed(slices)
        slices = _choose_volume(_in_order(slices), frame)
        step = _even_step(slices)
        values = _load(slices)
    first = slices[0]
    geometry = _geometry(slices, step)
    modality = str(first.header.get("Modality", "")) or None
    return Volume(
        values,
        geometry,
        modality=modality,
        unit=UNITS.get(modality or "", "stored"),
        thickness_mm=_thickness(slices),
        slice_axis="k",
        warnings=tuple(_doubts(slices, step)),
        name=path.name if path.is_dir() else stem_of(path),
    )


def find_series(path: Path) -> list[SeriesFacts]:
    """What series are at `path`, largest first; localizers and objects without pixels are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _facts(_by_series(_slices_of(path)))


def header_of_series(path: Path, series: str | None = None) -> Dataset | None:
    """All tags but the pixels of the first file of the series; None where the path is no DICOM."""
    if not path.is_dir() and not is_dicom(path):
        return None
    chosen = _choose_series(_slices_of(path), path, series)
    return pydicom.dcmread(chosen[0].file, stop_before_pixels=True, force=True)


# --- examine --------------------------------------------------------------------------------------------------
def _slices_of(path: Path) -> list[_Slice]:
    """Every image plane that the path stands for, without its pixels."""
    if path.is_dir():
        found = [plane for file in _dicom_files(path) for plane in _examine(file)]
        if not found:
            raise VolumeError("The folder holds no DICOM images", str(path), "give the folder of the series, or a file")
    else:
        found = _examine(path)
        if not found:
            raise VolumeError("The DICOM file holds no image with a place in the patient", path.name, "choose another")
        if found[0].frame is None:
            uid = found[0].header.get("SeriesInstanceUID")
            neighbors = sorted(file for file in path.parent.iterdir() if file.is_file() and file.name[0] != ".")
            others = [file for file in neighbors if file != path and is_dicom(file)]
            planes = (plane for file in others for plane in _examine(file))
            found += [p for p in planes if p.frame is None and p.header.get("SeriesInstanceUID") == uid]
    scouts = [plane for plane in found if "LOCALIZER" in plane.image_type]
    return [plane for plane in found if "LOCALIZER" not in plane.image_type] or scouts


def _dicom_files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            file = Path(root, name)
            if name[0] != "." and file.is_file() and is_dicom(file):
                yield file


def _examine(file: Path) -> list[_Slice]:
    """The image planes of one file; none where it holds no image, or an image that has no place."""
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=HEADER_TAGS, force=True)
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
        frames = range(len(groups)) if groups else (None,)
        planes = [_plane(file, header, frame) for frame in frames]
    except (
        InvalidDicomError,
        EOFError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        NotImplementedError,
    ) as error:
        raise VolumeError("The header of a DICOM file cannot be read", f"{file.name}, {error}", AGAIN) from error
    return [plane for plane in planes if plane is not None]


def _plane(file: Path, header: Dataset, frame: int | None) -> _Slice | None:
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
    rescale = "PixelValueTransformationSequence"
    slope, intercept = get("RescaleSlope", rescale), get("RescaleIntercept", rescale)
    thickness = get("SliceThickness", "PixelMeasuresSequence")
    kinds = get("FrameType", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence") or header.get("ImageType") or ()
    return _Slice(
        file=file,
        frame=frame,
        header=header,
        position=np.array([float(n) for n in position]),
        orientation=np.concatenate([rows / np.linalg.norm(rows), columns / np.linalg.norm(columns)]),
        spacing=(float(spacing[0]), float(spacing[1])),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        thickness_mm=float(thickness) if thickness and float(thickness) > 0 else None,
        image_type=(kinds,) if isinstance(kinds, str) else tuple(kinds),
    )


# --- choose ---------------------------------------------------------------------------------------------------
def _by_series(slices: list[_Slice]) -> dict[str, list[_Slice]]:
    groups: dict[str, list[_Slice]] = {}
    for plane in slices:
        groups.setdefault(str(plane.header.get("SeriesInstanceUID", "")), []).append(plane)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def _facts(groups: dict[str, list[_Slice]]) -> list[SeriesFacts]:
    return [
        SeriesFacts(
            uid,
            " ".join(str(slices[0].header.get("SeriesDescription") or "").split()),
            str(slices[0].header.get("Modality") or "unknown modality"),
            int(slices[0].header.SeriesNumber) if slices[0].header.get("SeriesNumber") is not None else None,
            len(slices),
            int(slices[0].header.Rows),
            int(slices[0].header.Columns),
        )
        for uid, slices in groups.items()
    ]


def _choose_series(slices: list[_Slice], path: Path, series: str | None) -> list[_Slice]:
    groups = _by_series(slices)
    fitting = [uid for uid in groups if series is None or uid == series] or [
        uid for uid in groups if uid.startswith(series or "")
    ]
    if len(fitting) == 1:
        return groups[fitting[0]]
    named = [str(facts) for facts in _facts(groups) if not fitting or facts.uid in fitting]
    listed = "; ".join(named[:LISTED]) + (f"; and {len(named) - LISTED} more" if len(named) > LISTED else "")
    if not fitting:
        raise VolumeError(f"There is no series {series}", listed, "choose one of them by --series")
    raise VolumeError(f"{path.name} holds {len(fitting)} series", listed, "choose one by --series and its UID")


def _refuse_mixed(slices: list[_Slice]) -> None:
    """Every slice must be scalar and lie on the same in-plane grid, turned the same way."""
    first = slices[0]
    for plane in slices:
        header, file = plane.header, plane.file.name
        color = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
        if int(header.get("SamplesPerPixel") or 1) != 1 or not color.startswith("MONOCHROME"):
            raise VolumeError("The voxels are no single numbers", f"{color} in {file}", "choose a series without color")
        if "MOSAIC" in plane.image_type:
            raise VolumeError("A mosaic holds all slices in one image", file, "export enhanced DICOM or NIfTI")
        if abs(plane.orientation[:3] @ plane.orientation[3:]) > 0.01 or not np.isfinite(plane.orientation).all():
            stated = header.get("ImageOrientationPatient")
            raise VolumeError("Rows and columns of a slice are no right angle", f"{stated} in {file}", AGAIN)
        sizes = [(int(p.header.Rows), int(p.header.Columns)) for p in (first, plane)]
        if sizes[0] != sizes[1]:
            raise VolumeError("The slices have mixed sizes", f"{sizes[0]} and {sizes[1]} in {file}", AGAIN)
        if np.abs(plane.orientation - first.orientation).max() > SAME_ORIENTATION:
            angle = np.degrees(np.arccos(np.clip(plane.normal @ first.normal, -1, 1)))
            found = f"normals {angle:.1f} degrees apart in {first.file.name} and {file}"
            raise VolumeError("The slices have mixed orientations", found, "export one stack alone")
        if not np.allclose(plane.spacing, first.spacing, rtol=1e-3):
            found = f"{first.spacing} and {plane.spacing} mm in {file}"
            raise VolumeError("The slices have mixed pixel spacings", found, AGAIN)


def _in_order(slices: list[_Slice]) -> list[list[_Slice]]:
    """Slices by position along the normal; those at one position together, in the order of their acquisition."""
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda p: (float(p.position @ normal), _instance(p)))
    gaps = np.diff([p.position @ normal for p in ordered])
    distinct = gaps[gaps > 1e-3]
    least = 0.02 * float(np.median(distinct)) if len(distinct) else 1e-3
    places = [[ordered[0]]]
    for plane, gap in zip(ordered[1:], gaps):
        if gap > least:
            places.append([])
        places[-1].append(plane)
    return [sorted(place, key=_instance) for place in places]


def _instance(plane: _Slice) -> tuple[int, int, str]:
    return int(plane.header.get("InstanceNumber") or 0), plane.frame or 0, plane.file.name


def _choose_volume(places: list[list[_Slice]], frame: int | None) -> list[_Slice]:
    """One slice a position; the same number of different images at each is a 4D scan, else they are duplicates."""
    counts = {len(place) for place in places}
    images = [(str(p.header.get("SOPInstanceUID")), p.frame) for place in places for p in place]
    if len(counts) > 1 or len(set(images)) < len(images):
        number, place = next((n, place) for n, place in enumerate(places) if len(place) > 1)
        along = float(place[0].position @ place[0].normal)
        names = " and ".join(p.file.name if p.frame is None else f"frame {p.frame + 1}" for p in place[:2])
        raise VolumeError(
            "A slice is there twice",
            f"slice {number + 1} of {len(places)} at {along:.2f} mm, {names}",
            "remove one or export again",
        )
    count = counts.pop()
    chosen = choose_frame(count, frame, f"{count} images at each of {len(places)} positions")
    return [place[chosen] for place in places]


def _even_step(slices: list[_Slice]) -> np.ndarray:
    """(3,) LPS from one slice to the next in mm; refuses an uneven stack with the place of the gap."""
    normal = slices[0].normal
    if len(slices) == 1:
        stated = slices[0].header.get("SpacingBetweenSlices") or slices[0].thickness_mm or 1.0
        return normal * float(stated)
    positions = np.array([plane.position for plane in slices])
    along = positions @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    tolerance = 0.05 + 0.01 * usual
    worst = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[worst] - usual) > tolerance:
        ratio = gaps[worst] / usual
        missing = ratio > 1.5 and abs(ratio - round(ratio)) < 0.1
        raise VolumeError(
            "A slice is missing" if missing else "The slice spacing is uneven",
            f"{gaps[worst]:.2f} mm between slices {worst + 1} and {worst + 2} of {len(slices)}, "
            f"at {along[worst]:.2f} and {along[worst + 1]:.2f} mm, where {usual:.2f} mm is usual",
            "export the series again with all slices",
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    off = np.linalg.norm(positions - positions[0] - np.arange(len(slices))[:, None] * step, axis=1)
    if off.max() > tolerance:
        found = f"slice {int(off.argmax()) + 1} of {len(slices)} lies {off.max():.2f} mm beside the line of the others"
        raise VolumeError("The slices do not lie on one line", found, "export one stack alone")
    return step


# --- load -----------------------------------------------------------------------------------------------------
def _geometry(slices: list[_Slice], step: np.ndarray) -> Geometry:
    first = slices[0]
    matrix = np.eye(4)
    matrix[:3, 0] = first.orientation[:3] * first.spacing[1]
    matrix[:3, 1] = first.orientation[3:] * first.spacing[0]
    matrix[:3, 2] = step
    matrix[:3, 3] = first.position
    return Geometry.from_lps((len(slices), int(first.header.Rows), int(first.header.Columns)), matrix)


def _load(slices: list[_Slice]) -> np.ndarray:
    """(K, J, I) values after the rescale of each slice."""
    stored = _stored(slices)
    scales = {(plane.slope, plane.intercept) for plane in slices}
    if len(scales) == 1:
        return rescaled(stored, *scales.pop())
    whole = all(number == int(number) for scale in scales for number in scale)
    values = np.stack([rescaled(pixels, p.slope, p.intercept) for pixels, p in zip(stored, slices)])
    return values if whole else values.astype(np.float32)


def _stored(slices: list[_Slice]) -> np.ndarray:
    """(K, J, I) numbers as in the files, each file opened once."""
    values: np.ndarray | None = None
    opened, content = None, np.empty(0)
    for n, plane in enumerate(slices):
        if plane.file != opened:
            opened, content = plane.file, _pixels(plane.file)
        pixels = content if content.ndim == 2 else content[plane.frame or 0]
        if pixels.shape != (plane.header.Rows, plane.header.Columns):
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
    dataset = pydicom.dcmread(file, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    _refuse_without_decoder(dataset.file_meta.TransferSyntaxUID, file)
    try:
        return dataset.pixel_array
    except (ValueError, TypeError, AttributeError, RuntimeError, EOFError, NotImplementedError, IndexError) as error:
        found = f"{file.name}, {error}"
        raise VolumeError(
            "The pixels of a DICOM file are truncated or damaged", found, "copy or export it again"
        ) from error


def _refuse_without_decoder(syntax: pydicom.uid.UID, file: Path) -> None:
    if not syntax.is_compressed or syntax.is_deflated:
        return
    try:
        available = pydicom.pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        package = next((names for word, names in DECODERS.items() if word in syntax.name), "pylibjpeg with its plugins")
        raise VolumeError(
            "The decoder of compressed DICOM is not installed", f"{syntax.name} in {file.name}", f"install {package}"
        )


def _thickness(slices: list[_Slice]) -> float | None:
    stated = [plane.thickness_mm for plane in slices if plane.thickness_mm is not None]
    return float(np.median(stated)) if stated else None


def _doubts(slices: list[_Slice], step: np.ndarray) -> Iterator[str]:
    """What the user should know of a series that is usable."""
    first = slices[0]
    tilt = float(np.degrees(np.arccos(np.clip(step @ first.normal / np.linalg.norm(step), -1, 1))))
    if tilt > TILT_DEG:
        yield f"The stack is tilted by {tilt:.1f} degrees (gantry tilt): its sheared geometry is kept exactly"
    if any("DERIVED" in plane.image_type for plane in slices):
        yield "The series is derived, not an original reconstruction: its noise may not be the scanner's"
    if any(str(plane.header.get("LossyImageCompression", "00")) == "01" for plane in slices):
        yield "The series was compressed with loss: its noise is not the scanner's"
    if len({plane.thickness_mm for plane in slices}) > 1:
        yield "The slices state several thicknesses: their median is used"
    if first.header.get("PhotometricInterpretation") == "MONOCHROME1":
        yield "The series is stored inverted (MONOCHROME1): values are kept as stored"
