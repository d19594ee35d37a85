"""The scans at paths that a user names: files, folders of files, and DICOM series in folders (floor 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .collection import ENDINGS
from .errors import VolumeError
from .io.files import list_series

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
    images = [one for one in sorted(path.iterdir()) if _is_image(one)]
    yield from map(Found, images)
    folders = [one for one in sorted(path.iterdir()) if one.is_dir()] if images else [path]
    for folder in folders:
        try:
            found = list_series(folder)
        except VolumeError:
            continue  # no images in it
        yield from (Found(folder, one.uid if len(found) > 1 else None) for one in found)


def _is_image(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(ENDINGS)
