"""A DICOM series as one volume: look at all headers, refuse what is no even stack, then load (floor 2, pydicom).

Slices are ordered by their position along the normal of the first one, never by file name or instance number. Spacing
comes from the positions, slice thickness from its tag. A stack that steps beside its normal (gantry tilt) keeps its
exact, sheared matrix.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups), C.11.1 (modality LUT)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import RequestError, VolumeError
from ..imaging.geometry import Geometry
from ..imaging.volume import FEWEST_SLICES, UNITS, Volume
from .dicomload import load_pixels
from .dicomplanes import A_MOSAIC, CONVERT, Contents, Plane, contents_of, is_mosaic
from .dicomvolumes import Candidate, listed, volumes_of
from .headers import AGAIN, is_dicom
from .names import stem_of

LISTED = 12  # series named in one message
TILT_DEG = 0.1
ROUNDED_DECIMALS = 3  # direction cosines of so few decimals are off by what is corrected here
MOST_ROUNDING_DEG = 1.0
HU = ("", "HU", "US")  # rescale types of CT numbers; US: unspecified


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
        contents = contents_of(path)
        series_slices = _choose_series(contents.planes, path, series)
        _refuse_own_damage(contents, series_slices[0].facts.uid)
        _refuse_mosaics(series_slices)
        slices = _choose_volume(volumes_of(series_slices), frame)
        _refuse_unscalar(slices)
        step = _even_step(slices)
        geometry, moved = _geometry(slices, step)
        values = load_pixels(slices)
    modality = slices[0].facts.modality or None
    return Volume(
        values,
        geometry,
        modality=modality,
        unit="stored" if modality == "CT" and _not_hu(slices) else UNITS.get(modality or "", "stored"),
        thickness_mm=_thickness(slices),
        slice_axis="k",
        warnings=(*_doubts(slices, geometry, moved), *_bystanders(contents)),
        name=path.resolve().name if path.is_dir() else stem_of(path),
    )


def find_series(path: Path) -> list[SeriesFacts]:
    """What series are at `path`, largest first; localizers and objects without pixels are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_series_facts(slices) for slices in _by_series(contents_of(path).planes).values()]


def planes_of_volume(path: Path, series: str | None = None, frame: int | None = None) -> list[Plane]:
    """The image planes of the volume that `read` gives, headers alone; none where the path is no DICOM."""
    if not path.is_dir() and not is_dicom(path):
        return []
    return _choose_volume(volumes_of(_choose_series(contents_of(path).planes, path, series)), frame)


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
    told = "; ".join(named[:LISTED]) + (f"; and {len(named) - LISTED} more" if len(named) > LISTED else "")
    if not fitting:
        raise VolumeError(f"There is no series {series}", told, "choose one of them by --series")
    most = max(len(groups[uid]) for uid in fitting)
    if most < FEWEST_SLICES:  # some scanners give each slice a series of its own
        each = "of one slice each" if most == 1 else f"of at most {most} slices"
        raise VolumeError(
            f"{path.resolve().name} holds {len(fitting)} series {each}, none of which is a volume",
            told,
            "export the scan again as one series, or as NIfTI",
        )
    raise VolumeError(f"{path.resolve().name} holds {len(fitting)} series", told, "choose one by --series and its UID")


def _refuse_own_damage(contents: Contents, uid: str) -> None:
    """A damaged file of the chosen series is a slice that would be missing."""
    for one in contents.damaged:
        if one.uid and one.uid == uid:
            raise one.refused()


def _refuse_mosaics(planes: list[Plane]) -> None:
    for plane in planes:
        if is_mosaic(plane.image_type):
            raise VolumeError("The images are mosaics", f"{plane.file.name}, {A_MOSAIC}", CONVERT)


def _refuse_unscalar(slices: list[Plane]) -> None:
    for plane in slices:
        facts, file = plane.facts, plane.file.name
        if facts.samples != 1 or not facts.color.startswith("MONOCHROME"):
            raise VolumeError(
                "The voxels are no single numbers", f"{facts.color} in {file}", "choose a series without color"
            )


def _choose_volume(candidates: list[Candidate], frame: int | None) -> list[Plane]:
    """The slices of one volume; refused with the list of all where none is chosen."""
    count = len(candidates)
    if frame is not None and not 0 <= frame < count:
        raise RequestError(f"There is no volume {frame}", listed(candidates), "choose another --frame")
    if frame is None and count > 1:
        choose = f"choose one by --frame 0 to {count - 1}" if any(map(_is_usable, candidates)) else AGAIN
        _refuse_mixed(candidates, choose)
        raise VolumeError(f"The scan is 4D, {count} volumes in one", listed(candidates), choose)
    return candidates[frame or 0].slices


def _is_usable(candidate: Candidate) -> bool:
    try:
        _even_step(candidate.slices)
    except VolumeError:
        return False
    return len(candidate.slices) >= FEWEST_SLICES


def _refuse_mixed(candidates: list[Candidate], choose: str) -> None:
    """Volumes that lie on different grids: what differs is told, with the volumes."""
    first = candidates[0].slices[0]
    for plane in (one.slices[0] for one in candidates[1:]):
        names = f"in {first.file.name} and {plane.file.name}: {listed(candidates)}"
        sizes = [(p.facts.rows, p.facts.columns) for p in (first, plane)]
        if sizes[0] != sizes[1]:
            raise VolumeError("The slices have mixed sizes", f"{sizes[0]} and {sizes[1]} {names}", choose)
        if np.abs(plane.orientation - first.orientation).max() > 1e-3:
            angle = np.degrees(np.arccos(np.clip(plane.normal @ first.normal, -1, 1)))
            found = f"normals {angle:.1f} degrees apart {names}"
            raise VolumeError("The slices have mixed orientations", found, choose)
        if not np.allclose(plane.spacing, first.spacing, rtol=1e-3):
            found = f"{first.spacing} and {plane.spacing} mm {names}"
            raise VolumeError("The slices have mixed pixel spacings", found, choose)


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


# --- matrix --------------------------------------------------------------------------------------------------
def _geometry(slices: list[Plane], step: np.ndarray) -> tuple[Geometry, float]:
    """The geometry of the stack, and by how many mm its corners were moved to set rounded axes at right angles.

    A stack that steps beside its normal by no more than the rounding of its direction cosines or positions explains is
    no tilted one: with few decimals the positions tell the normal better, else the normal tells the step.
    """
    first, shape = slices[0], (len(slices), slices[0].facts.rows, slices[0].facts.columns)
    left, _, right = np.linalg.svd(first.orientation.reshape(2, 3), full_matrices=False)
    rows, columns = left @ right  # the nearest pair at right angles
    normal, length = np.cross(rows, columns), float(np.linalg.norm(step))
    beside = float(np.linalg.norm(step - normal * (step @ normal)))
    angle = float(np.degrees(np.arcsin(min(beside / length, 1.0))))
    if first.decimals <= ROUNDED_DECIMALS and angle <= max(TILT_DEG, _rounding_deg(first.decimals)):
        turn = _least_turn(normal, step / length)
        rows, columns = turn @ rows, turn @ columns
    elif angle <= MOST_ROUNDING_DEG and beside * max(len(slices) - 1, 1) <= 2 * 10.0 ** -max(
        min(plane.position_decimals for plane in slices), 1
    ):
        step = normal * length
    matrix = np.eye(4)
    matrix[:3] = np.stack([rows * first.spacing[1], columns * first.spacing[0], step, first.position], 1)
    geometry = Geometry.from_lps(shape, matrix)
    stated = [first.orientation[:3] * first.spacing[1], first.orientation[3:] * first.spacing[0]]
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape[::-1]])).reshape(3, -1)
    ends = np.stack([*stated, (slices[-1].position - first.position) / max(len(slices) - 1, 1)], 1)
    ends = ends if len(slices) > 1 else np.stack([*stated, step], 1)
    return geometry, float(np.linalg.norm((matrix[:3, :3] - ends) @ corners, axis=0).max())


def _rounding_deg(decimals: int) -> float:
    """How far the normal can be off where direction cosines are rounded to so many decimals."""
    return min(float(np.degrees(np.sqrt(6) * 0.5 * 10.0**-decimals)), MOST_ROUNDING_DEG)


def _least_turn(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(3, 3): the smallest rotation that takes one unit vector to another near it (Rodrigues); they may be opposite."""
    other = other if one @ other > 0 else -other
    v = np.cross(one, other)
    skew = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + one @ other)


# --- load -----------------------------------------------------------------------------------------------------
def _thickness(slices: list[Plane]) -> float | None:
    stated = [plane.thickness_mm for plane in slices if plane.thickness_mm is not None]
    return float(np.median(stated)) if stated else None


def _not_hu(slices: list[Plane]) -> str:
    """Why the values of a CT are no HU; "" where they are."""
    types = sorted({plane.rescale_type for plane in slices} - set(HU))
    if types:
        return f"rescale type {', '.join(types)}"
    lacking = any(plane.intercept is None and not plane.facts.has_table for plane in slices)
    return "no rescale intercept" if lacking else ""


def _doubts(slices: list[Plane], geometry: Geometry, moved: float) -> Iterator[str]:
    """What the user should know of a series that is usable."""
    first = slices[0]
    d = geometry.directions
    tilt = float(np.degrees(np.arcsin(np.clip(np.abs(d[:, 2] @ d[:, :2]).max(), 0, 1))))
    if tilt > TILT_DEG:
        yield f"The stack is tilted by {tilt:.1f} degrees (gantry tilt): its sheared geometry is kept exactly"
    if first.decimals <= ROUNDED_DECIMALS and moved > 0.01:
        yield f"The direction cosines are rounded: they were set at right angles, by which corners move {moved:.2f} mm"
    if any("DERIVED" in plane.image_type for plane in slices):
        yield "The series is derived, not an original reconstruction: its noise may not be the scanner's"
    if any(plane.facts.lossy for plane in slices):
        yield "The series was compressed with loss: its noise is not the scanner's"
    if len({plane.thickness_mm for plane in slices}) > 1:
        yield "The slices state several thicknesses: their median is used"
    if first.is_turned:
        yield "The rows are stored from the last to the first, as GE's epi_pepolar does: they were put in their places"
    if first.facts.color == "MONOCHROME1":
        yield "The series is stored inverted (MONOCHROME1): values are kept as stored"
    if any(plane.facts.has_table for plane in slices):
        yield "The values are those of the series' Modality LUT, which other programs may pass over"
    if first.facts.modality == "CT" and (why := _not_hu(slices)):
        yield f"The CT states {why}: its values may be no HU, by which CycleINR and its models go"
    yield from dict.fromkeys(remark for plane in slices for remark in plane.facts.remarks)


def _bystanders(contents: Contents) -> Iterator[str]:
    """Files in the folder that were left out."""
    for one in contents.damaged[:LISTED]:
        series = f" of series {one.uid}" if one.uid else ""
        yield f"A damaged DICOM file{series} was left out: {one.file.name}, {one.reason}"
    if contents.others:
        names = ", ".join(contents.others[:LISTED]) + (", ..." if len(contents.others) > LISTED else "")
        yield f"Files in the folder that are no images of a scan were left out: {names}"
