"""Whose a hand-over folder is, so that none stays behind where its process was killed (floor 4).

The parent locks a file in the folder for as long as it waits, and removes the folder at the end. The lock is gone with
the parent, however that ends: then the child removes the folder when it ends, and where the child was killed as well,
the next run does that makes its own folder beside it. The file names the machine, since some file systems of many
machines lock for each of them alone.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO

from ..io.filelock import try_lock

FOLDER_PREFIX = "CycleINR-"
LOCK = "lock"


class Claim:
    """A new `folder`, this process's until `remove`, after those were removed that others left beside it.

    Raises
    ------
    OSError : it cannot be made
    """

    def __init__(self, home: str | Path | None = None) -> None:
        home = Path(home or tempfile.gettempdir())
        for left in home.glob(f"{FOLDER_PREFIX}*"):
            remove_if_left(left)
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=home))
        self._lock: IO[str] | None = None
        try:
            self._lock = open(self.folder / LOCK, "x", encoding="utf-8")  # noqa: SIM115 - as long as it is claimed
            try_lock(self._lock)
            self._lock.write(platform.node())
            self._lock.flush()
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Removes the folder with all in it."""
        with contextlib.suppress(OSError):  # a full disk
            if self._lock is not None:
                self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_if_left(folder: Path) -> None:
    """Removes a hand-over folder of this user whose parent is gone; any other folder stays as it is."""
    try:
        facts = os.lstat(folder)
        if not stat.S_ISDIR(facts.st_mode) or (hasattr(os, "getuid") and facts.st_uid != os.getuid()):
            return
        with open(folder / LOCK, "r+", encoding="utf-8") as lock:
            if lock.read() != platform.node() or not try_lock(lock):
                return
            for path in folder.iterdir():  # the lock last: where something cannot be removed now, it is later
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(folder, ignore_errors=True)
    except (OSError, UnicodeDecodeError):  # no lock: no hand-over folder, or a new one
        pass
