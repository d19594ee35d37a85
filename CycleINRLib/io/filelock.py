"""A lock of the operating system on an open file (floor 2): gone with the process that holds it, however that ends."""

from __future__ import annotations

import os
from typing import IO

_FAR = 1 << 30  # Windows locks bytes, and lets nobody read those: so one beyond all that the file holds


def try_lock(file: IO[str]) -> bool | None:
    """Whether the lock was free, and is held now until the file is closed; None where the file system knows none."""
    if os.name == "nt":
        import msvcrt

        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
