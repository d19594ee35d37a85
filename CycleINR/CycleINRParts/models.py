"""Where adapted models are kept, and how a finished one gets there: whole, and never over another file."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from CycleINRLib.errors import ResourceError
from CycleINRLib.wholefile import IN_PYTHON, check_file, write_whole

SUFFIX = ".safetensors"
LONGEST_NAME = 80


def folder() -> Path:
    """Of the user's own models, beside Slicer's settings; not made here."""
    return Path(slicer.app.slicerUserSettingsFilePath).parent / "CycleINR" / "Models"


def path_for(nodes: Sequence[Any], wanted: Any = None, overwrite: bool = False) -> Path:
    """Where the model adapted to `nodes` will be, checked before hours of computing.

    :param nodes: the scans; the first one names a file for which no path is wanted
    :param wanted: path ending in .safetensors; None: a new file in `folder`, which is made
    :param overwrite: whether `wanted` may be there already
    :raises RequestError: another ending, no such folder, or the file is there
    :raises ResourceError: nothing can be written there
    """
    if wanted is None:
        path = free(folder() / f"{_file_name(nodes[0].GetName(), len(nodes))}{SUFFIX}")
        _make_writable(path.parent)
        return path
    path = Path(wanted)
    check_file(path, [SUFFIX], overwrite=overwrite, replacing=IN_PYTHON)
    return path


def free(path: Path) -> Path:
    """`path`, or the first of `path 2`, `path 3`, ... that is no file yet."""
    found, n = path, 1
    while found.exists():
        n += 1
        found = path.with_name(f"{path.stem} {n}{path.suffix}")
    return found


def keep(made: Path, path: Path, overwrite: bool = False) -> Path:
    """Copies a finished model there, in one step for whoever looks.

    :return: where it is: a numbered name beside `path` where a file came there meanwhile
    :raises ResourceError: it cannot be written; then nothing is there
    """
    target = path if overwrite else free(path)
    try:
        write_whole(target, lambda part: shutil.copyfile(made, part))
    except OSError as error:
        raise ResourceError("The adapted model cannot be saved", str(error), "free some space and try again") from error
    return target


def start_of(model: str, report: dict[str, Any]) -> Path:
    """The file of the weights that an adaptation began with.

    :param model: as asked for: a name, a file, or "auto", which the computing process resolved
    :param report: of that process
    """
    from CycleINRLib.network.weights import find_model

    return find_model(Path(report["start"]["file"]).stem if model == "auto" else model)


def _file_name(scan: str, count: int) -> str:
    """Of letters that every file system takes; `CT chest and 2 more adapted`."""
    plain = re.sub(r"[^\w .()-]+", "_", scan).strip(" .")[:LONGEST_NAME] or _("Scan")
    if count > 1:
        plain = _("{name} and {count} more").format(name=plain, count=count - 1)
    return _("{name} adapted").format(name=plain)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder}: read-only")
    except OSError as error:
        raise ResourceError(
            "The adapted model could not be saved", str(error), "choose another folder for it"
        ) from error
