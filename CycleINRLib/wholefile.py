"""Files whole or not at all: written beside their target, then renamed; and what is refused before (floor 0).

Where the files lie that travel with the library stands here too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import RequestError

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


def check_file(path: Path, ending: str, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """A RequestError where `path` could not be written as asked."""
    check_name(path)
    if path.suffix.lower() != ending:
        raise RequestError(f"The file must end in {ending}", str(path), f"name it {path.stem}{ending}")
    if any(path.absolute() == other.absolute() for other in inputs):
        raise RequestError("The output is the input", str(path), "choose another name")
    _check_place(path)
    if path.is_dir():
        raise RequestError("The output is a folder", str(path), "name a file")
    if path.exists() and not overwrite:
        raise RequestError("The output exists already", str(path), "choose another name or add --overwrite")


def _check_place(path: Path) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise RequestError("The output folder does not exist", str(folder), "make it first")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a hidden file beside `path`, then put it in place; on any failure it is gone."""
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
