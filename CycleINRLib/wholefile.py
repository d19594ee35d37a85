"""Files whole or not at all: written beside their target, then renamed; and what is refused before (floor 0)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import RequestError


def check_file(path: Path, ending: str, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """A RequestError where `path` could not be written as asked."""
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
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_whole` of a text in UTF-8."""
    write_whole(path, lambda partial: partial.write_text(text, "utf-8"))
