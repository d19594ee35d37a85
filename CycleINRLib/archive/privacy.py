"""What may be said of a scan: never what stands in its header, and with `--anonymous-paths` no path (floor 4).

Only the texts of errors and warnings can quote a header. So each word of them that also stands in the header, where
names, numbers and dates of a person may be, is left out, unless it is a word of the path, which is the user's own.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.headers import is_dicom
from .order import Order

_LEAST = 2  # characters of a name that is looked for in texts
HEADER_BYTES = 1 << 18  # of a file in which a person may be named
WORD = re.compile(r"[^\s,;:()'\"\[\]=/\\]{3,}")
MEASURE = re.compile(r"[-+]?(\d{1,4}|\d{0,4}\.\d+(e[-+]?\d+)?)")
LEFT_OUT = "..."
OURS = frozenset(  # words that say nothing of anybody
    "the and for its not with than that ends before after size image images slice slices bytes file files pixel data "
    "less expected number header series spacing thickness between could convert string float value values".split()
)
NIFTI_TEXTS = ((4, 32), (148, 252), (328, 344), (348, HEADER_BYTES))  # type and db name, descrip, intent, extensions
GEOMETRY = (b"objecttype", b"ndims", b"dimsize", b"elementtype", b"elementspacing", b"compresseddata", b"binarydata")


@dataclass(frozen=True)
class Scrub:
    """Cleans texts about one scan; `alias` stands for its names, None where they may be said."""

    path: Path
    alias: str | None
    names: re.Pattern[str] | None

    @classmethod
    def of(cls, order: Order) -> Scrub:
        path = Path(str(order.job["input"]))
        if order.alias is None:
            return cls(path, None, None)
        below = path.parts[len(Path(order.root).parts) :] if order.root else path.parts
        names = {str(path), str(path.absolute()), str(path.resolve()), *below, *(Path(part).stem for part in below)}
        for file in _beside(path):  # a reader may name any of them
            names |= {file.name, file.stem}
        words = sorted((re.escape(name) for name in names if len(name) >= _LEAST), key=len, reverse=True)
        return cls(path, order.alias, re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)"))

    def text(self, text: str) -> str:
        """Without words of the header, and without names where there is an alias."""
        if not text:
            return text
        said = [file for file in _beside(self.path) if file.name in text]
        headers = [header for file in dict.fromkeys([*_first(self.path), *said]) for header in personal(file)]
        own = {part.lower() for part in WORD.findall(str(self.path))} | {file.name.lower() for file in said}
        text = WORD.sub(lambda word: LEFT_OUT if _quotes(word[0], headers, own) else word[0], text)
        return text if self.names is None or self.alias is None else self.names.sub(self.alias, text)

    def error(self, error: dict[str, str]) -> dict[str, str]:
        """What was found is cleaned; the other parts are our own words, but for names."""
        clean = {**error, "found": self.text(error["found"])}
        if self.names is not None and self.alias is not None:
            clean |= {name: self.names.sub(self.alias, error[name]) for name in ("what", "next")}
        return clean

    def report(self, report: dict[str, Any]) -> dict[str, Any]:
        """The report with clean warnings; with an alias its job names no path of the input."""
        clean = {**report, "warnings": [self.text(one) for one in report.get("warnings") or ()]}
        if self.alias is None:
            return clean
        job = {**(report.get("job") or {}), "input": self.alias}
        for name in ("output", "report", "picture"):
            job[name] = job.get(name) and Path(job[name]).name
        return {**clean, "job": job}


def _quotes(word: str, headers: list[bytes], own: set[str]) -> bool:
    """Whether a word of a message may come from a header."""
    word = word.rstrip(".")
    if not word or word in OURS or word.lower() in own or MEASURE.fullmatch(word):
        return False
    if not word.isascii():  # the header may hold it in any character set
        return True
    alone = re.compile(rb"(?<![A-Za-z0-9])" + re.escape(word.encode()) + rb"(?![A-Za-z0-9])")
    return any(alone.search(header) for header in headers)


def personal(file: Path) -> Iterator[bytes]:
    """The parts of a file's header in which a person may be named."""
    try:
        if is_dicom(file):
            with open(file, "rb") as stream:
                yield stream.read(HEADER_BYTES)
            return
        with open(file, "rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else open(file, "rb") as stream:
            start = stream.read(HEADER_BYTES)
    except (OSError, EOFError):
        return
    if start[:4] == b"NRRD":
        lines = start.split(b"\n\n", 1)[0].splitlines()
        yield from (line for line in lines if b":=" in line or line[:1] == b"#" or line[:8] == b"content:")
    elif file.name.lower().endswith((".mha", ".mhd")):
        lines = start.partition(b"ElementDataFile")[0].splitlines()
        yield from (line.partition(b"=")[2] for line in lines if line.split(b"=")[0].strip().lower() not in GEOMETRY)
    else:
        yield from (start[first:last] for first, last in NIFTI_TEXTS)


def _first(path: Path) -> Iterator[Path]:
    """The file, or one of the folder's."""
    if path.is_file():
        yield path
    else:
        yield from (file for file, _ in zip(_beside(path), range(1)))


def _beside(path: Path) -> Iterator[Path]:
    """The files of a folder, or those beside a file, it among them."""
    try:
        yield from (
            file for file in sorted(path.iterdir() if path.is_dir() else path.parent.iterdir()) if file.is_file()
        )
    except OSError:
        return
