"""Collections of scans: folders of files, and packs, with what is told about each scan (floor 4).

A folder may hold `scans.json`, which says of each scan what a file does not: {"NAME.nrrd": {"modality": "CT",
"license": "...", "source": "...", "held_out": true}}. Those that are held out are never trained on, only scored.
With `--scans FILE` these facts come from FILE, and only the scans that it names are used. A pack (`cycleinr pack`) is
a collection in one file, facts included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .errors import RequestError, VolumeError
from .imaging.volume import Volume, check_usable
from .io.packs import ENDING, FACTS_OF_VOLUME, PackedScan, read_pack

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
    from .io.files import read

    volume = read(place)
    try:
        check_usable(volume)
    except VolumeError as error:
        raise VolumeError(error.what, f"{error.found} in {place.name}", error.next) from error
    return replace(volume, modality=volume.modality or modality)
