"""The scans at paths that a user names: files, trees of files, and DICOM series in them (floor 2)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import RequestError, VolumeError
from ..imaging.volume import Volume, check_usable
from ..jobs import parse_json
from .headers import is_dicom
from .names import ENDINGS, is_named_as_scan, stem_of
from .packs import ENDING, FACTS_OF_VOLUME, PackedScan, read_pack

NEXT = "name NRRD, NIfTI, MHA or DICOM scans, or folders of them"
NO_SCANS = (".json", ".tsv", ".csv", ".txt", ".md", ".html", ".xml", ".pdf", ".png", ".jpg", ".bval", ".bvec", ".raw")
NO_DICOM_SCANS = ("DICOMDIR",)  # the index of a medium
GATHER = "put the slices of the series into one folder"


@dataclass(frozen=True)
class Found:
    """One scan: an image file, a folder that holds one DICOM series, or a slice that stands for its series there.

    `name` is its path below what the user named, with "/" and without extension; `problem` says why it cannot be read.
    """

    path: Path
    name: str
    problem: VolumeError | None = None


def find_all(paths: list[Path], skip: Path | None = None) -> list[Found]:
    """Every scan at the paths and below them, in order; nothing is read but DICOM headers.

    Parameters
    ----------
    skip : a folder that is not looked into

    Raises
    ------
    VolumeError : a path is missing
    """
    root, series = root_of(paths), _Series()
    found = [one for path in paths for one in _at(path, root, skip and skip.absolute(), series)]
    return list(series.gathered(found, root))


def root_of(paths: list[Path]) -> Path:
    """What names of scans are relative to: the one folder that is given, else the folder that holds all that are."""
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0].absolute()
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def _at(path: Path, root: Path, skip: Path | None, series: _Series) -> Iterator[Found]:
    if not path.exists():
        raise VolumeError("There is no such file or folder", str(path), NEXT)
    if path.is_file():
        yield Found(path, _name_of(path, root))
        return
    seen = set()
    for here, folders, names in os.walk(path, followlinks=True):
        folder = Path(here)
        real = folder.resolve()
        folders[:] = [] if real in seen else sorted(name for name in folders if name[0] != ".")
        if real in seen or (skip is not None and folder.absolute() == skip):  # a link in a circle, or the results
            folders[:] = []
            continue
        seen.add(real)
        files = [folder / name for name in sorted(names) if name[0] != "."]
        yield from (Found(file, _name_of(file, root)) for file in files if is_named_as_scan(file))
        others = [file for file in files if not file.name.lower().endswith((*ENDINGS, *NO_SCANS))]
        yield from _in_folder(folder, [file for file in others if _may_be_dicom(file)], not folders, root, series)


def _in_folder(folder: Path, files: list[Path], is_leaf: bool, root: Path, series: _Series) -> Iterator[Found]:
    """The DICOM series of one folder: the folder itself where it holds a single one and nothing below."""
    groups: dict[str, Path] = {}
    for file in files:
        uid, problem = series.add(file)
        if problem is not None:
            yield Found(file, _name_of(file, root), problem)
        else:
            groups.setdefault(uid, file)
    if len(groups) == 1 and is_leaf:
        ((_, first),) = groups.items()
        series.stands_for(first, folder)
        yield Found(folder, _name_of(folder, root))
    else:
        yield from (Found(file, _name_of(file, root)) for file in groups.values())


class _Series:
    """The series that were met, and in which folders: one that is spread over several would be read in parts."""

    def __init__(self) -> None:
        self._uids: dict[Path, str] = {}  # of what is found
        self._slices: dict[str, dict[Path, int]] = {}  # a sum over the slices in each folder; equal sums are copies

    def add(self, file: Path) -> tuple[str, VolumeError | None]:
        """What tells the series of a file from others, or why the file cannot be read."""
        import pydicom

        from .dicomvalues import DAMAGED

        tags = ["SeriesInstanceUID", "SOPInstanceUID", "NumberOfFrames"]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's remarks on odd values
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
                uid, instance = (str(header.get(tag) or "") for tag in tags[:2])
                many = str(header.get("NumberOfFrames") or "1") != "1"
        except (*DAMAGED, OSError) as error:
            found = f"{file.name}, {type(error).__name__}"
            return "", VolumeError("The header of a DICOM file cannot be read", found, "export or copy it again")
        uid = f"{uid} {instance}" if many else uid  # each multi-frame file is a scan
        self._uids[file] = uid
        folders = self._slices.setdefault(uid, {})
        folders[file.parent] = folders.get(file.parent, 0) ^ hash(instance)
        return uid, None

    def stands_for(self, file: Path, folder: Path) -> None:
        self._uids[folder] = self._uids[file]

    def gathered(self, found: list[Found], root: Path) -> Iterator[Found]:
        """A series that is spread over folders is one scan of the folder above them, where that holds nothing else."""
        told: set[str] = set()
        for one in found:
            uid = self._uids.get(one.path, "")
            folders = self._slices.get(uid, {})
            if len(set(folders.values())) < 2:
                yield one
            elif uid not in told:
                told.add(uid)
                above = Path(os.path.commonpath([folder.absolute() for folder in folders]))
                others = (other for other in found if self._uids.get(other.path) != uid)
                alone = not any(above in other.path.absolute().parents for other in others)
                spread = VolumeError("A series is spread over several folders", f"{len(folders)} folders", GATHER)
                yield Found(above, _name_of(above, root), None if alone else spread)


def _may_be_dicom(file: Path) -> bool:
    try:
        return file.name not in NO_DICOM_SCANS and file.is_file() and is_dicom(file)
    except OSError:
        return False


def _name_of(path: Path, root: Path) -> str:
    """Relative to the root, without the extension of a file; never with a step upward."""
    absolute = path.absolute()
    below = absolute.relative_to(root) if root in absolute.parents else Path(absolute.name or "scan")
    parts = [part for part in below.parts if part not in ("..", ".")]
    if path.is_file():
        parts[-1] = stem_of(path)
    return "/".join(parts)


FACTS = "scans.json"
UNTOLD = {"license": None, "source": None, "held_out": False}
KINDS = {"ct": "CT", "mr": "MR"}


StoredScan = Path | PackedScan


def find_scans(collections: list[Path], listed: str | None = None) -> Iterator[tuple[StoredScan, dict[str, Any]]]:
    """Each scan with its facts: scan, modality, license, source, held_out; a DICOM folder inside is one scan.

    Raises
    ------
    VolumeError : a collection is neither a folder nor a pack, or the pack cannot be read
    RequestError : the facts cannot be read, or name scans that are not there
    """
    told = _told(Path(listed)) if listed else None
    found = [(name, stored, facts) for one in collections for name, stored, facts in _scans_of(one, told is not None)]
    if told is not None:
        _all_there(Path(str(listed)), told, {name for name, _, _ in found})
    for name, stored, facts in found:
        if told is None or name in told:
            known = {**UNTOLD, **facts, **(told or {}).get(name, {})}
            kind = (
                stored.modality
                if isinstance(stored, PackedScan)
                else known.get("modality") or KINDS.get(name[:2].lower())
            )
            yield stored, {"scan": name, **known, "modality": kind}


def _scans_of(collection: Path, told_elsewhere: bool) -> list[tuple[str, StoredScan, dict[str, Any]]]:
    """(name, stored, facts) of each scan of one folder or pack."""
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
    return is_named_as_scan(entry) or (entry.is_dir() and not entry.name.startswith("."))


def _told(path: Path) -> dict[str, dict[str, Any]]:
    try:
        told = parse_json(path.read_text("utf-8"))
        if not all(isinstance(facts, dict) for facts in told.values()):
            raise ValueError("not an object of objects")
    except (OSError, ValueError, AttributeError) as error:
        found = f"{path}: {error}"
        raise RequestError("The facts about the scans cannot be read", found, "write a JSON object") from error
    return told


def read_volume(stored: StoredScan, modality: str | None) -> Volume:
    """The scan as stored; its modality as the file says, else as told.

    Raises
    ------
    VolumeError : it cannot be read, holds NaN, is a label map, or has fewer than 3 slices
    """
    if isinstance(stored, PackedScan):
        return stored.volume()
    from .files import read

    volume = read(stored)
    try:
        check_usable(volume)
    except VolumeError as error:
        raise VolumeError(error.what, f"{error.found} in {stored.name}", error.next) from error
    return replace(volume, modality=volume.modality or modality)
