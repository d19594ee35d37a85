"""One command at a time works on a folder (floor 4).

The lock is the operating system's, on an open file: it is gone with the process that holds it, however that ends, and
knows no clock. What the file says is for people, and for file systems that know no locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from pathlib import Path
from typing import IO, Any

from ..errors import RequestError
from ..io.filelock import try_lock
from ..jobs import parse_json

LOCK_NAME = "batch.lock"
_WAIT = "wait for it, stop it, or choose another folder"


class FolderLock:
    """Held from `__enter__` to `__exit__`; `stale` tells that a command before ended without letting go.

    Raises
    ------
    RequestError : another command works on the folder
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self.stale = False
        self._file: IO[str] | None = None

    def __enter__(self) -> FolderLock:
        while self._file is None:
            self._file = self._taken()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # the folder may be gone or read-only by now
                if os.name != "nt":  # Windows removes no open file
                    self.path.unlink()
            self._file.close()
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True) if os.name == "nt" else None
            self._file = None

    def _taken(self) -> IO[str] | None:
        """The locked file; None where another command removed it meanwhile, so that it locks nothing."""
        file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - held as long as the lock
        try:
            held = try_lock(file)
            if held is False or (held is None and self._owner_may_live(file)):
                raise RequestError("Another command works on this folder", self._owner(file), _WAIT)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    self.stale = bool(self._owner(file))
                    file.seek(0)
                    file.truncate()
                    json.dump({"process": os.getpid(), "host": platform.node()}, file)
                    file.flush()
                    return file
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    @staticmethod
    def _owner(file: IO[str]) -> str:
        facts = _facts(file)
        return f"process {facts['process']} on {facts['host']}" if facts else ""

    @staticmethod
    def _owner_may_live(file: IO[str]) -> bool:
        """Where the file system knows no locks: whether the process that the file names could still be there."""
        facts = _facts(file)
        if not facts or (facts["host"] == platform.node() and not _lives(facts["process"])):
            return False
        return facts["process"] != os.getpid()


def _facts(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        facts = parse_json(file.read() or "{}")
        return {"process": int(facts["process"]), "host": str(facts["host"])} if facts else {}
    except (ValueError, KeyError, TypeError, OverflowError):
        return {}


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
