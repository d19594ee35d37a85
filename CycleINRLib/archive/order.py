"""What the command hands to a worker, and what it gets back: plain facts that travel to any machine (floor 4).

Results are made in `FOLDER/.batch/NUMBER.TRY` and put where they belong by renaming, the report last. So a scan whose
report is there is whole, and what a killed worker leaves lies in one folder that the next command removes. The file
`run-TOKEN` in `.batch` says that the command still wants its scans: without it workers stop, wherever they run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CycleINRError, ResourceError
from ..wholefile import write_text

STAGING = ".batch"
PLACING = "placing"  # in the folder of a try: from here on its results are being put in place


@dataclass(frozen=True)
class Order:
    """One scan to upsample; `job` is a whole UpsampleJob with paths, `alias` what may be said of the input."""

    scan: int
    attempt: int
    token: str
    folder: str  # of the batch
    version: str  # of the library that orders
    job: dict[str, Any]
    alias: str | None = None  # None: the path may be named
    root: str = ""  # what of the path is above the scans that the user named
    hash: str | None = None  # of the input when the result was made that lies there
    thumbnail: bool = False
    alone: bool = False  # no other scan in the same worker meanwhile

    @property
    def staging(self) -> Path:
        return staging_of(Path(self.folder), self.scan, self.attempt)

    def is_wanted(self) -> bool:
        """Whether the command that ordered still waits for it."""
        return run_file(Path(self.folder), self.token).exists()


@dataclass(frozen=True)
class Outcome:
    """What came of an order: done, same (the input is what it was), failed, stopped (it waits again), or lost.

    Lost is what a worker had that ended, whether it was begun or waited there for another one.
    """

    scan: int
    state: str
    facts: dict[str, Any] = field(default_factory=dict)  # columns of the manifest
    error: dict[str, str] | None = None
    again: bool = False  # another try may help
    halt: bool = False  # no other scan would do better: the disk is full, say
    thumbnail: bytes | None = None
    seconds: float | None = None
    waited: float = 0.0  # for another scan in the same worker, not within `seconds`


def told(error: CycleINRError) -> dict[str, str]:
    """An error as the manifest keeps it."""
    return {"what": error.what, "found": error.found, "next": error.next, "code": error.code}


def staging_of(folder: Path, scan: int, attempt: int) -> Path:
    """Where one try makes its results."""
    return folder / STAGING / f"{scan}.{attempt}"


def undo(staging: Path, results: Iterable[Path]) -> None:
    """Removes what a killed worker had put in place before its report, and what it was making."""
    if (staging / PLACING).exists():
        for result in results:
            remove(result)
    shutil.rmtree(staging, ignore_errors=True)


def remove(result: Path) -> None:
    """A file, or the folder of a series."""
    if result.is_dir():
        shutil.rmtree(result, ignore_errors=True)
    with contextlib.suppress(OSError):
        result.unlink(missing_ok=True)


def run_file(folder: Path, token: str) -> Path:
    return folder / STAGING / f"run-{token}"


def open_staging(folder: Path, token: str) -> None:
    """A new, private `.batch`, without what an earlier command left there."""
    close_staging(folder)
    try:
        (folder / STAGING).mkdir(mode=0o700)
        write_text(run_file(folder, token), f"{os.getpid()}\n")
    except OSError as error:
        found = f"{folder / STAGING}: {error.strerror or error}"
        next_step = "free the disk, or choose another"
        raise ResourceError("The folder of the batch cannot be written", found, next_step) from error


def placing(folder: Path) -> Iterator[tuple[int, Path]]:
    """(scan, its staging folder) of each try that was putting its results in place."""
    for mark in (folder / STAGING).glob(f"*.*/{PLACING}"):
        number = mark.parent.name.partition(".")[0]
        if number.isdigit():
            yield int(number), mark.parent


def close_staging(folder: Path) -> None:
    """Removes `.batch`; a worker that still computes finds no order and stops."""
    staging = folder / STAGING
    for run in staging.glob("run-*"):
        with contextlib.suppress(OSError):
            run.unlink()
    shutil.rmtree(staging, ignore_errors=True)
