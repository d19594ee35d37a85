"""Which images of a DICOM series make one volume: told apart by what distinguishes them (floor 2).

A series may hold several echoes, diffusion weightings, times, phases of the heart, or magnitude beside phase, at the
same positions, and stacks that are turned differently. Its images are told apart by the facts that differ between such
volumes (`Plane.marks`), in the order of `MARKS`; by the time of acquisition where volumes follow each other; never by
instance number, frame number or file name, which say nothing about it. Where nothing tells them apart, there is no
right answer, and the series is refused.

Source: DICOM PS3.3, C.7.6.16.2 (frame content, dimensions), C.8.13.5 (MR echo, diffusion, timing)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import VolumeError
from .dicommarks import MOST_INDICES
from .dicomplanes import Plane

# What may differ between the volumes of a series, what says most first; see `dicommarks`.
CONTRAST = ("stack", "echo time", "b-value", "component", "image type")  # never within one volume
MARKS = (
    *CONTRAST, "gradient direction", "temporal position", "time offset", "trigger delay", "cardiac phase",
    "respiratory phase", "inversion time", "flip angle", "repetition time", "labeling", "voltage", "kernel", "energy",
    "series number", "echo number", "acquisition", "reconstruction", "frame reference time", "sequence", "coil",
    "contrast agent",
    "dimension index", *(f"dimension index {n + 1}" for n in range(MOST_INDICES)), "label", "comment", "protocol",
    "description", "modality", "thickness", "frame of reference", "time in the scan", "acquisition time",
    "content time", "series time",
)  # fmt: skip
TIMES = (
    "trigger delay",
    "time in the scan",
    "acquisition time",
    "content time",
    "frame reference time",
    "series time",
)  # rank volumes at each position
MOMENTS = ("acquisition time", "content time")  # written as YYYYMMDDHHMMSS
CYCLIC = ("trigger delay",)  # it begins anew at each position
MOST_TOGETHER = 3  # marks that are combined
NAMED = 12  # volumes named in one message
SAME_ORIENTATION = 1e-3  # of direction cosines
ONE_PLACE = 0.02  # of the usual distance of slices


@dataclass(frozen=True, eq=False)
class Candidate:
    """One volume of a series: its slices in order along their normal, and what it is called."""

    name: str
    slices: list[Plane]

    def __str__(self) -> str:
        count = "1 slice" if len(self.slices) == 1 else f"{len(self.slices)} slices"
        return f"{self.name}, {count}" if self.name else count


def volumes_of(planes: list[Plane]) -> list[Candidate]:
    """Every volume of a series, by ascending values of what distinguishes them; stacks of one grid together.

    Raises
    ------
    VolumeError : an image is there twice, or nothing tells several images at one position apart
    """
    stacks = _stacks(planes)
    if len(stacks) == 1:
        return _told_apart(stacks[0])
    found = []
    for stack in stacks:
        view = _view(stack[0].normal)
        try:
            found += [Candidate(", ".join(filter(None, (view, one.name))), one.slices) for one in _told_apart(stack)]
        except VolumeError:
            found.append(Candidate(f"{view}, images that nothing tells apart", stack))
    return found


def listed(candidates: list[Candidate]) -> str:
    """The volumes with their numbers for --frame."""
    named = [f"{n}: {one}" for n, one in enumerate(candidates[:NAMED])]
    rest = len(candidates) - len(named)
    return "; ".join(named) + (f"; and {rest} more" if rest else "")


def _stacks(planes: list[Plane]) -> list[list[Plane]]:
    """Planes of one in-plane grid and one orientation together, the largest stack first."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            if _alike(group[0], plane):
                group.append(plane)
                break
        else:
            groups.append([plane])
    return sorted(groups, key=lambda group: (-len(group), tuple(-np.abs(group[0].normal).round(3))))


def _alike(one: Plane, other: Plane) -> bool:
    facts = [(p.facts.rows, p.facts.columns, p.facts.samples) for p in (one, other)]
    turned = np.abs(one.orientation - other.orientation).max() > SAME_ORIENTATION
    return facts[0] == facts[1] and not turned and np.allclose(one.spacing, other.spacing, rtol=1e-3)


def _view(normal: np.ndarray) -> str:
    """Which view of the body slices with this normal show; normals point along left, posterior, superior."""
    at = int(np.argmax(np.abs(normal)))
    return ("oblique " if abs(normal[at]) < 0.99 else "") + ("sagittal", "coronal", "axial")[at]


# --- places ---------------------------------------------------------------------------------------------------
def _places(planes: list[Plane]) -> tuple[list[Plane], np.ndarray]:
    """The planes along the normal of the first, and the number of its position for each."""
    along = np.array([float(plane.position @ planes[0].normal) for plane in planes])
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    distinct = gaps[gaps > 1e-3]
    least = ONE_PLACE * float(np.median(distinct)) if len(distinct) else 1e-3
    return [planes[n] for n in order], np.concatenate([[0], np.cumsum(gaps > least)])


def _told_apart(planes: list[Plane]) -> list[Candidate]:
    ordered, place = _places(planes)
    _refuse_copies(ordered, place)
    counts = np.bincount(place)
    codes = _codes(ordered)
    if counts.max() == 1:
        return _interleaved(ordered, codes) or [Candidate("", ordered)]
    for whole in (True, False):
        for names in _combinations(codes, counts.max()):
            found = _grouped(codes, names)
            if found.max() + 1 == counts.max() and _is_one_each(found, place, counts, whole):
                return _named(ordered, found, names)
    if ranked := _ranked(ordered, place, codes, counts.max()):
        return ranked
    _refuse_untold(ordered, place, counts)
    raise AssertionError


def _refuse_copies(ordered: list[Plane], place: np.ndarray) -> None:
    """The same image, twice in the folder."""
    first: dict[Any, int] = {}
    for n, plane in enumerate(ordered):
        image = (plane.facts.sop_uid, plane.frame, plane.tile.number if plane.tile else None)
        if plane.facts.sop_uid and image in first:
            _refuse_twice(ordered, place, first[image], n)
        first[image] = n


def _refuse_twice(ordered: list[Plane], place: np.ndarray, one: int, other: int) -> None:
    along = float(ordered[one].position @ ordered[one].normal)
    names = " and ".join(
        sorted(p.file.name if p.frame is None else f"frame {p.frame + 1}" for p in (ordered[one], ordered[other]))
    )
    raise VolumeError(
        "A slice is there twice",
        f"slice {place[one] + 1} of {place[-1] + 1} at {along:.2f} mm, {names}",
        "remove one or export again",
    )


def _refuse_untold(ordered: list[Plane], place: np.ndarray, counts: np.ndarray) -> None:
    if len(set(counts)) > 1:  # most often a slice that was exported twice
        first = int(np.argmax(np.bincount(place)[place] > 1))
        _refuse_twice(ordered, place, first, first + 1)
    names = " and ".join(plane.file.name for plane in ordered[:2])
    raise VolumeError(
        "Several images lie at each position, and nothing in their headers tells them apart",
        f"{counts[0]} images at each of {len(counts)} positions, {names} at the first",
        "export one volume alone",
    )


# --- marks ----------------------------------------------------------------------------------------------------
def _codes(ordered: list[Plane]) -> dict[str, np.ndarray]:
    """A number for each value of each mark that differs between the planes, and not just as one before it does."""
    codes: dict[str, np.ndarray] = {}
    for name in MARKS:
        values = [plane.marks.get(name) for plane in ordered]
        known = {value: n for n, value in enumerate(sorted(set(values), key=_sortable))}
        if len(known) > 1:
            code = np.array([known[value] for value in values])
            if name in TIMES or not any(np.array_equal(code, other) for other in codes.values()):
                codes[name] = code
    return codes


def _sortable(value: Any) -> tuple:
    """Absent first, then numbers, then words."""
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, tuple):
        return (3, tuple(_sortable(one) for one in value), "")
    return (2, 0.0, value) if isinstance(value, str) else (1, float(value), "")


def _combinations(codes: dict[str, np.ndarray], most: int) -> list[tuple[str, ...]]:
    """Marks to try, few first, what says most first; one with more values than volumes differs from slice to slice."""
    names = [name for name, code in codes.items() if code.max() < most]
    return [some for count in range(1, MOST_TOGETHER + 1) for some in itertools.combinations(names, count)]


def _grouped(codes: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """(planes,) the number of each plane's group, ascending with the values of the marks."""
    together = np.zeros(len(next(iter(codes.values()))), np.int64)
    for name in names:
        together = together * (int(codes[name].max()) + 1) + codes[name]
    return np.unique(together, return_inverse=True)[1].reshape(-1)


def _is_one_each(group: np.ndarray, place: np.ndarray, counts: np.ndarray, whole: bool) -> bool:
    """Whether no group has two planes at one position, and, if `whole`, each has one at every position."""
    at = np.unique(group * len(counts) + place)
    return len(at) == len(place) and (not whole or len(at) == len(counts) * (group.max() + 1))


def _named(ordered: list[Plane], group: np.ndarray, names: tuple[str, ...]) -> list[Candidate]:
    found = []
    for n in range(group.max() + 1):
        slices = [plane for plane, at in zip(ordered, group) if at == n]
        words = [f"{name} {_shown(slices[0].marks.get(name), name)}" for name in names]
        found.append(Candidate(", ".join(words), slices))
    return found


def _shown(value: Any, name: str = "") -> str:
    if value is None:
        return "not stated"
    if name in MOMENTS and isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, tuple):
        return " ".join(_shown(one) for one in value)
    return value if isinstance(value, str) else f"{value:g}"


def _interleaved(ordered: list[Plane], codes: dict[str, np.ndarray]) -> list[Candidate]:
    """Volumes that lie between each other's slices: of another contrast, each an even stack of its own."""
    for name in CONTRAST:
        code = codes.get(name)
        if code is None:
            continue
        runs = 1 + np.count_nonzero(np.diff(code))
        sizes = np.bincount(code)
        if sizes.min() >= 3 and runs > len(sizes) and all(_is_even(ordered, code == n) for n in range(len(sizes))):
            return _named(ordered, code, (name,))
    return []


def _is_even(ordered: list[Plane], chosen: np.ndarray) -> bool:
    along = [float(p.position @ ordered[0].normal) for p, one in zip(ordered, chosen) if one]
    gaps = np.diff(along)
    return bool(np.abs(gaps - gaps.mean()).max() <= 0.1 * gaps.mean())


def _ranked(ordered: list[Plane], place: np.ndarray, codes: dict[str, np.ndarray], most: int) -> list[Candidate]:
    """Volumes that follow each other in time: the first at each position, the second, ..., within groups of marks."""
    for time in (name for name in TIMES if name in codes):
        for names in [(), *_combinations({n: c for n, c in codes.items() if n not in TIMES}, most)]:
            group = _grouped(codes, names) if names else np.zeros(len(ordered), int)
            volume = _in_time(group, place, codes[time], time in CYCLIC)
            if volume is not None and volume.max() + 1 == most:
                return _named(ordered, volume, (*names, time))
    return []


def _in_time(group: np.ndarray, place: np.ndarray, moment: np.ndarray, cyclic: bool) -> np.ndarray | None:
    """(planes,) the number of each plane's volume by its time; None where times do not order whole volumes."""
    order = np.lexsort([moment, place, group])
    volume, first = np.empty(len(group), int), 0
    for n in range(group.max() + 1):
        mine = order[group[order] == n]
        counts = np.bincount(place[mine], minlength=place.max() + 1)
        if counts.min() != counts.max():
            return None
        moments = moment[mine].reshape(-1, counts[0])  # positions x volumes
        steps = np.diff(moments, axis=1)
        if (steps <= 0).any():
            return None
        if not cyclic and (moments[:, 1:].min(0) < moments[:, :-1].max(0)).any():
            return None  # the times of volumes overlap: they are not those of whole volumes
        volume[mine] = first + np.tile(np.arange(counts[0]), len(moments))
        first += counts[0]
    return volume
