"""A DICOM series as one volume: look at all headers, refuse what is no even stack, then load (floor 2, pydicom).

Slices are ordered by their position along the normal of the first one, never by file name or instance number. Spacing
comes from the positions, slice thickness from its tag. A stack that steps beside its normal (gantry tilt) keeps its
exact, sheared place.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups), C.11.1 (modality LUT)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from ..errors import VolumeError
from ..imaging.geometry import Geometry
from ..imaging.volume import UNITS, Volume, rescaled
from .dicomplanes import DAMAGED, Plane, planes_of
from .headers import AGAIN, is_dicom
from .names import choose_frame, stem_of

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


def read_dicom(path: Path, *, series: str | None = None, frame: int | None = None) -> Volume:
    """The series at `path`: a folder (with all below it), a multi-frame file, or a slice, which stands for its series.

    Raises
    ------
    VolumeError : no images, several series, missing or duplicate slices, mixed geometry, color, no decoder, truncated
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on odd values; what matters is refused here
        slices = _choose_series(planes_of(path), path, series)
        _refuse_mixed(slices)
        slices = _choose_volume(_in_order(slices), frame)
        step = _even_step(slices)
        geometry = _geometry(slices, step)
        values = _load(slices)
    modality = slices[0].facts.modality or None
    return Volume(
        values,
        geometry,
        modality=modality,
        unit=UNITS.get(modality or "", "stored"),
        thickness_mm=_thickness(slices),
        slice_axis="k",
        warnings=tuple(_doubts(slices, step)),
        name=path.resolve().name if path.is_dir() else stem_of(path),
    )


def find_series(path: Path) -> list[SeriesFacts]:
    """What series are at `path`, largest first; localizers and objects without pixels are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_series_facts(slices) for slices in _by_series(planes_of(path)).values()]


def header_of_series(path: Path, series: str | None = None) -> Dataset | None:
    """All tags but the pixels of the first file of the series; None where the path is no DICOM."""
    if not path.is_dir() and not is_dicom(path):
        return None
    chosen = _choose_series(planes_of(path), path, series)
    return pydicom.dcmread(chosen[0].file, stop_before_pixels=True, force=True)


# --- choose ---------------------------------------------------------------------------------------------------
def _by_series(slices: list[Plane]) -> dict[str, list[Plane]]:
    groups: dict[str, list[Plane]] = {}
    for plane in slices:
        groups.setdefault(plane.facts.uid, []).append(plane)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def _series_facts(slices: list[Plane]) -> SeriesFacts:
    first = slices[0].facts
    modality = first.modality or "unknown modality"
    return SeriesFacts(first.uid, first.description, modality, first.number, len(slices), first.rows, first.columns)


def _choose_series(slices: list[Plane], path: Path, series: str | None) -> list[Plane]:
    groups = _by_series(slices)
    fitting = [uid for uid in groups if series is None or uid == series] or [
        uid for uid in groups if uid.startswith(series or "")
    ]
    if len(fitting) == 1:
        return groups[fitting[0]]
    named = [str(_series_facts(slices)) for uid, slices in groups.items() if not fitting or uid in fitting]
    listed = "; ".join(named[:LISTED]) + (f"; and {len(named) - LISTED} more" if len(named) > LISTED else "")
    if not fitting:
        raise VolumeError(f"There is no series {series}", listed, "choose one of them by --series")
    raise VolumeError(
        f"{path.resolve().name} holds {len(fitting)} series", listed, "choose one by --series and its UID"
    )


def _refuse_mixed(slices: list[Plane]) -> None:
    """Every slice must be scalar and lie on the same in-plane grid, turned the same way."""
    first = slices[0]
    for plane in slices:
        facts, file = plane.facts, plane.file.name
        if facts.samples != 1 or not facts.color.startswith("MONOCHROME"):
            raise VolumeError(
                "The voxels are no single numbers", f"{facts.color} in {file}", "choose a series without color"
            )
        if "MOSAIC" in plane.image_type:
            raise VolumeError("A mosaic holds all slices in one image", file, "export enhanced DICOM or NIfTI")
        sizes = [(p.facts.rows, p.facts.columns) for p in (first, plane)]
        if sizes[0] != sizes[1]:
            raise VolumeError("The slices have mixed sizes", f"{sizes[0]} and {sizes[1]} in {file}", AGAIN)
        if np.abs(plane.orientation - first.orientation).max() > SAME_ORIENTATION:
            angle = np.degrees(np.arccos(np.clip(plane.normal @ first.normal, -1, 1)))
            found = f"normals {angle:.1f} degrees apart in {first.file.name} and {file}"
            raise VolumeError("The slices have mixed orientations", found, "export one stack alone")
        if not np.allclose(plane.spacing, first.spacing, rtol=1e-3):
            found = f"{first.spacing} and {plane.spacing} mm in {file}"
            raise VolumeError("The slices have mixed pixel spacings", found, AGAIN)


def _in_order(slices: list[Plane]) -> list[list[Plane]]:
    """Slices by position along the normal; those at one position together, in the order of their acquisition."""
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda p: (float(p.position @ normal), p.order))
    gaps = np.diff([p.position @ normal for p in ordered])
    distinct = gaps[gaps > 1e-3]
    least = 0.02 * float(np.median(distinct)) if len(distinct) else 1e-3
    places = [[ordered[0]]]
    for plane, gap in zip(ordered[1:], gaps):
        if gap > least:
            places.append([])
        places[-1].append(plane)
    return [sorted(place, key=lambda p: p.order) for place in places]


def _choose_volume(places: list[list[Plane]], frame: int | None) -> list[Plane]:
    """One slice a position; the same number of different images at each is a 4D scan, else they are duplicates."""
    counts = {len(place) for place in places}
    images = [(p.facts.sop_uid, p.frame) for place in places for p in place]
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


def _even_step(slices: list[Plane]) -> np.ndarray:
    """(3,) LPS from one slice to the next in mm; refuses an uneven stack with the place of the gap."""
    normal = slices[0].normal
    if len(slices) == 1:
        stated = slices[0].facts.spacing_between_mm or slices[0].thickness_mm or 1.0
        return normal * stated
    positions = np.array([plane.position for plane in slices])
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    off = np.linalg.norm(positions - positions[0] - np.arange(len(slices))[:, None] * step, axis=1)
    along = positions @ normal
    gaps = np.diff(along)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # the lower median: a gap is what is too wide
    tolerance = min(0.1 + 0.01 * usual, 0.25 * usual)  # positions rounded to 0.1 mm pass; one slice less is 0.5 off
    if off.max() <= tolerance:
        return step
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
    found = f"slice {int(off.argmax()) + 1} of {len(slices)} lies {off.max():.2f} mm beside the line of the others"
    raise VolumeError("The slices do not lie on one line", found, "export one stack alone")


# --- load -----------------------------------------------------------------------------------------------------
def _geometry(slices: list[Plane], step: np.ndarray) -> Geometry:
    first = slices[0]
    matrix = np.eye(4)
    matrix[:3, 0] = first.orientation[:3] * first.spacing[1]
    matrix[:3, 1] = first.orientation[3:] * first.spacing[0]
    matrix[:3, 2] = step
    matrix[:3, 3] = first.position
    return Geometry.from_lps((len(slices), first.facts.rows, first.facts.columns), matrix)


def _load(slices: list[Plane]) -> np.ndarray:
    """(K, J, I) values after the rescale of each slice."""
    stored = _stored(slices)
    scales = {(plane.slope, plane.intercept) for plane in slices}
    if len(scales) == 1:
        return rescaled(stored, *scales.pop())
    whole = all(number.is_integer() for scale in scales for number in scale)
    values = np.stack([rescaled(pixels, p.slope, p.intercept) for pixels, p in zip(stored, slices)])
    return values if whole else values.astype(np.float32)


def _stored(slices: list[Plane]) -> np.ndarray:
    """(K, J, I) numbers as in the files, each file opened once."""
    values: np.ndarray | None = None
    opened, content = None, np.empty(0)
    for n, plane in enumerate(slices):
        if plane.file != opened:
            opened, content = plane.file, _pixels(plane.file)
        pixels = content if content.ndim == 2 else content[plane.frame or 0]
        if pixels.shape != (plane.facts.rows, plane.facts.columns):
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
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        _refuse_without_decoder(dataset.file_meta.TransferSyntaxUID, file)
        return dataset.pixel_array
    except DAMAGED as error:
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


def _thickness(slices: list[Plane]) -> float | None:
    stated = [plane.thickness_mm for plane in slices if plane.thickness_mm is not None]
    return float(np.median(stated)) if stated else None


def _doubts(slices: list[Plane], step: np.ndarray) -> Iterator[str]:
    """What the user should know of a series that is usable."""
    first = slices[0]
    tilt = float(np.degrees(np.arccos(np.clip(step @ first.normal / np.linalg.norm(step), -1, 1))))
    if tilt > TILT_DEG:
        yield f"The stack is tilted by {tilt:.1f} degrees (gantry tilt): its sheared geometry is kept exactly"
    if any("DERIVED" in plane.image_type for plane in slices):
        yield "The series is derived, not an original reconstruction: its noise may not be the scanner's"
    if any(plane.facts.lossy for plane in slices):
        yield "The series was compressed with loss: its noise is not the scanner's"
    if len({plane.thickness_mm for plane in slices}) > 1:
        yield "The slices state several thicknesses: their median is used"
    if first.facts.color == "MONOCHROME1":
        yield "The series is stored inverted (MONOCHROME1): values are kept as stored"
