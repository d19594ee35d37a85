"""The scans at paths that a user names: files, folders of files, and DICOM series in folders (floor 2)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import RequestError, VolumeError
from ..imaging.volume import Volume, check_usable
from .files import images_by_series
from .headers import is_dicom
from .packs import ENDING, FACTS_OF_VOLUME, PackedScan, read_pack

NEXT = "name NRRD, NIfTI, MHA or DICOM scans, or folders of them"


@dataclass(frozen=True)
class Found:
    """One scan: a file, or a folder with DICOM; `series` names one of several there."""

    path: Path
    series: str | None = None


def find_all(paths: list[Path]) -> list[Found]:
    """Every scan at the paths, in order; nothing is read but DICOM headers.

    Raises
    ------
    VolumeError : a path is missing
    """
    return [one for path in paths for one in _at(path)]


def _at(path: Path) -> Iterator[Found]:
    if not path.exists():
        raise VolumeError("There is no such file or folder", str(path), NEXT)
    if path.is_file():
        yield Found(path)
        return
    yield from (Found(one) for one in sorted(path.iterdir()) if _is_image(one))
    yield from _series_below(path)


def _series_below(path: Path) -> Iterator[Found]:
    """The DICOM series of a folder and the folders in it, each folder by itself: copies of a scan are scans.

    A series whose images are spread over several folders is one scan of the folder above them. A folder whose DICOM is
    damaged is named as a scan, so that whoever reads it is told why.
    """
    damaged, places = [], []
    for folder in _dicom_folders(path):
        try:
            found = images_by_series(folder)
        except VolumeError:
            damaged.append(folder)
        else:
            places += [(folder, uid if len(found) > 1 else None, uid, images) for uid, images in found.items()]
    by_uid: dict[str, list] = {}
    for place in places:
        by_uid.setdefault(place[2], []).append(place)
    spread = {uid for uid, some in by_uid.items() if len(some) > 1 and _are_disjoint([place[3] for place in some])}
    told: set[str] = set()
    for folder, series, uid, _ in places:
        if uid not in spread:
            yield Found(folder, series)
        elif uid not in told:
            told.add(uid)
            yield Found(Path(os.path.commonpath([place[0] for place in by_uid[uid]])), uid)
    yield from map(Found, damaged)


def _are_disjoint(sets: list[frozenset[str]]) -> bool:
    return len(frozenset().union(*sets)) == sum(map(len, sets))


def _dicom_folders(path: Path) -> Iterator[Path]:
    """The topmost folders that hold DICOM files themselves."""
    entries = sorted(one for one in path.iterdir() if not one.name.startswith("."))
    if any(_starts_as_dicom(one) for one in entries):
        yield path
        return
    for one in entries:
        if one.is_dir() and not one.is_symlink():
            yield from _dicom_folders(one)


def _starts_as_dicom(path: Path) -> bool:
    try:
        return path.is_file() and is_dicom(path)
    except OSError:
        return False


def _is_image(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(ENDINGS)


FACTS = "scans.json"


UNTOLD = {"license": None, "source": None, "held_out": False}


ENDINGS = (".nrrd", ".nii", ".nii.gz", ".mha", ".mhd")


KINDS = {"ct": "CT", "mr": "MR"}


Place = Path | PackedScan


def find_scans(collections: list[Path], listed: str | None = None) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Each scan with its facts: scan, modality, license, source, held_out; a DICOM folder inside is one scan.

    Raises
    ------
    VolumeError : a collection is neither a folder nor a pack, or the pack cannot be read
    RequestError : the facts cannot be read, or name scans that are not there
    """
    told = _told(Path(listed)) if listed else None
    found = [(name, place, facts) for one in collections for name, place, facts in _scans_of(one, told is not None)]
    if told is not None:
        _all_there(Path(str(listed)), told, {name for name, _, _ in found})
    for name, place, facts in found:
        if told is None or name in told:
            known = {**UNTOLD, **facts, **(told or {}).get(name, {})}
            kind = (
                place.modality
                if isinstance(place, PackedScan)
                else known.get("modality") or KINDS.get(name[:2].lower())
            )
            yield place, {"scan": name, **known, "modality": kind}


def _scans_of(collection: Path, told_elsewhere: bool) -> list[tuple[str, Place, dict[str, Any]]]:
    """(name, place, facts) of each scan of one folder or pack."""
    if collection.is_dir():
        listing = sorted(collection.iterdir())
        path = collection / FACTS
        told = _told(path) if path.exists() and not told_elsewhere else {}
        _all_there(path, told, {entry.name for entry in listing})
        return [(entry.name, entry, told.get(entry.name, {})) for entry in listing if _may_be_scan(entry)]
    if collection.suffix.lower() != ENDING or not collection.is_file():
        raise VolumeError("There is no such folder or pack", str(collection), "name a folder of thin-slice scans")
    return [(one.facts["scan"], one, {} if told_elsewhere else _told_of(one)) for one in read_pack(collection)]


def _told_of(scan: PackedScan) -> dict[str, Any]:
    return {name: fact for name, fact in scan.facts.items() if name not in FACTS_OF_VOLUME}


def _all_there(path: Path, told: dict[str, Any], names: set[str]) -> None:
    if unknown := sorted(set(told) - names):
        raise RequestError("The facts name scans that are not there", ", ".join(unknown), f"correct {path}")


def _may_be_scan(entry: Path) -> bool:
    return not entry.name.startswith(".") and (entry.is_dir() or entry.name.lower().endswith(ENDINGS))


def _told(path: Path) -> dict[str, dict[str, Any]]:
    try:
        told = json.loads(path.read_text("utf-8"))
        if not all(isinstance(facts, dict) for facts in told.values()):
            raise ValueError("not an object of objects")
    except (OSError, ValueError, AttributeError) as error:
        found = f"{path}: {error}"
        raise RequestError("The facts about the scans cannot be read", found, "write a JSON object") from error
    return told


def read_volume(place: Place, modality: str | None) -> Volume:
    """The scan as stored; its modality as the file says, else as told.

    Raises
    ------
    VolumeError : it cannot be read, holds NaN, is a label map, or has fewer than 3 slices
    """
    if isinstance(place, PackedScan):
        return place.volume()
    from .files import read

    volume = read(place)
    try:
        check_usable(volume)
    except VolumeError as error:
        raise VolumeError(error.what, f"{error.found} in {place.name}", error.next) from error
    return replace(volume, modality=volume.modality or modality)
