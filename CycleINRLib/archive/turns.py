"""Scans side by side in one worker (floor 4): one is read or written while another is computed, never two computed.

At most two are held at a time, and a large one has the worker to itself. So has one that was in a worker that ended
while it held two, since nobody knows which of them was the reason.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import Cancelled, CycleINRError
from ..io.headers import is_dicom, read_header

AT_ONCE = 2  # scans that a worker holds at a time
LARGE_BYTES = 1e8  # voxels of a scan that has its worker to itself
COMPANION = "beside"  # in the folder of a try: another scan was in the same worker
WAKE_S = 1.0


class Turn:
    """A scan's stay in its worker; `waited_s` of it for others."""

    def __init__(self, turns: Turns) -> None:
        self._turns, self.waited_s = turns, 0.0

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Nobody else computes within it."""
        with self._held(self._turns.computing):
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Nobody else writes within it."""
        with self._held(self._turns.writing):
            yield

    @contextlib.contextmanager
    def _held(self, lock: threading.Lock) -> Iterator[None]:
        start = time.monotonic()
        with lock:
            self.waited_s += time.monotonic() - start
            yield


class Turns:
    """Who is in this process, and who may come in."""

    def __init__(self) -> None:
        self.computing, self.writing = threading.Lock(), threading.Lock()
        self._changed = threading.Condition()
        self._inside: list[Path] = []  # folders of their tries
        self._alone = False  # whether it is one that shares with nobody
        self._before_all = 0  # that wait to be alone: nobody else comes in before them

    @contextlib.contextmanager
    def stay(self, staging: Path, alone: bool, is_wanted: Callable[[], bool]) -> Iterator[Turn]:
        """From before a scan is read to its end; makes its folder, from when on it counts as begun.

        Raises
        ------
        Cancelled : nobody wants it any more
        OSError : the folder cannot be made
        """
        turn, start = Turn(self), time.monotonic()
        with self._changed:
            self._before_all += alone
            try:
                while not self._is_free(alone):
                    self._changed.wait(WAKE_S)
                    if not is_wanted():
                        raise Cancelled
            finally:
                self._before_all -= alone
                self._changed.notify_all()
            staging.mkdir(mode=0o700)
            self._inside.append(staging)
            self._alone = alone
            if len(self._inside) > 1:
                for one in self._inside:
                    with contextlib.suppress(OSError):  # gone by now
                        (one / COMPANION).touch()
        turn.waited_s = time.monotonic() - start
        try:
            yield turn
        finally:
            with self._changed:
                self._inside.remove(staging)
                self._alone = False
                self._changed.notify_all()

    def _is_free(self, alone: bool) -> bool:
        if alone:
            return not self._inside
        return not self._alone and not self._before_all and len(self._inside) < AT_ONCE


class Quiet:
    """No remark of a library is said while anybody is within it: it may quote a header."""

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0
        self._before: warnings.catch_warnings | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0 and self._before is not None:
                self._before.__exit__(None, None, None)


def is_large(path: Path, file_bytes: int) -> bool:
    """Whether a scan has its worker to itself, by its header, or by the bytes of its files where it is DICOM."""
    try:
        if path.is_file() and not is_dicom(path):
            header = read_header(path)
            file_bytes = header.dtype.itemsize
            for size in header.sizes:
                file_bytes *= size
    except (CycleINRError, OSError):  # the reader will say it
        return False
    return file_bytes > LARGE_BYTES
