"""Files whole or not at all: written beside their target, then renamed; and what is refused before (floor 0).

Where the files lie that travel with the library stands here too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import RequestError, ResourceError

_LIBRARY = Path(__file__).resolve().parent
MODELS = (_LIBRARY / "models", _LIBRARY.parent / "Resources" / "Models")  # folders, the first that holds some counts
SAMPLES = (_LIBRARY / "samples", _LIBRARY.parent / "Resources" / "SampleData")
LONGEST_NAME = 255  # bytes of a file's name, where the disk does not say


def beside(path: Path, ending: str = ".part") -> Path:
    """A hidden name in the same folder for what is not complete yet: short, so that a long name gets none too long."""
    return path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}{ending}")


def check_name(path: Path) -> None:
    """A RequestError where no disk would take a name or path of this length."""
    try:
        longest = os.pathconf(path.absolute().parent, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        longest = LONGEST_NAME
    if (length := len(os.fsencode(path.name))) > longest:
        raise RequestError("The name of the output is too long", f"{length} bytes", f"give at most {longest}")


IN_PYTHON = "say overwrite=True"  # instead of --overwrite


def check_file(
    path: Path,
    endings: Sequence[str],
    *,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
    replacing: str = "add --overwrite",
) -> None:
    """Refuses a file that could not be written, before anything is computed.

    Parameters
    ----------
    endings : in lower case, the usual one first
    inputs : files that must not be written over
    replacing : what to do to have an older file replaced, in words for the user

    Raises
    ------
    RequestError : a name too long, a folder, another ending, an input, it exists, its folder is missing
    ResourceError : its folder cannot be written to
    """
    check_name(path)
    if path.is_dir():
        raise RequestError("The output is a folder", str(path), "name a file")
    if path.name.startswith(".") or not path.name.lower().endswith(tuple(endings)):
        right = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise RequestError(
            f"The extension of the output must be {right}", path.name, f"name it {path.stem}{endings[0]}"
        )
    _check_parent(path)
    if any(_same_file(path, other) for other in inputs):
        raise RequestError("The output is the input", str(path), "choose another name for the output")
    if path.exists() and not overwrite:
        raise RequestError("The output exists", str(path), f"choose another name, or {replacing}")


def check_folder(path: Path) -> None:
    """Refuses a folder that could not be made or filled; what lies in it is the caller's to judge.

    Raises
    ------
    RequestError : a name too long, a file, the folder around it is missing
    ResourceError : the folder around it cannot be written to
    """
    check_name(path)
    if path.exists() and not path.is_dir():
        raise RequestError("The output must be a folder", str(path), "name a folder that does not exist yet")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    folder = path.resolve().parent
    if not folder.is_dir():
        raise RequestError("The folder of the output does not exist", str(folder), "make it, or choose another")
    if not os.access(folder, os.W_OK):
        raise ResourceError("The folder of the output is read-only", str(folder), "choose another")


def _same_file(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.resolve() == other.resolve() or os.path.samefile(one, other)
    return False


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a hidden file beside `path`, then put it in place; on any failure it is gone.

    Where `path` is a link, the file that it leads to is replaced.
    """
    path = path.resolve()
    partial = beside(path, f".part{path.suffix}")  # matplotlib goes by the ending
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder to fill, which takes the place of `folder` only when all of it is there."""
    part, old = (beside(folder, ending) for ending in (".part", ".old"))
    part.mkdir()
    try:
        yield part
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(part, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """`write_whole` of a text in UTF-8."""
    write_whole(path, lambda partial: partial.write_text(text, "utf-8"))


def files_of(folders: tuple[Path, ...], pattern: str) -> list[Path]:
    """The files of `MODELS` or `SAMPLES` whose names fit the pattern, in order of their names."""
    return next((found for folder in folders if (found := sorted(folder.glob(pattern)))), [])
