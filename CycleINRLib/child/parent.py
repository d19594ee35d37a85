"""Whether the process that waits for a job still lives (floor 4).

The parent writes its id and start time into the file `alive` and touches it while it can. That a file is stale says
nothing alone: Slicer runs no Python while C++ is busy, and a laptop sleeps. That a process of this id lives says
nothing alone either, since ids are used again; with the same start time it is the same one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PS_S = 5.0
QUERY = 0x1000  # PROCESS_QUERY_LIMITED_INFORMATION of Windows


def sign_of_life(pid: int | None = None) -> str:
    """What `alive` holds: id and start time of this process, or of another one."""
    pid = os.getpid() if pid is None else pid
    return f"{pid} {start_of(pid) or ''}".strip()


def lives(sign: str) -> bool:
    """Whether the process of a `sign_of_life` is there; False where the sign or the system does not tell."""
    number, _, start = sign.strip().partition(" ")
    return bool(start) and number.isdigit() and start_of(int(number)) == start


def is_stale(alive: Path, after_s: float) -> bool:
    """Whether the file was not touched for so long; a file that was never there is not stale."""
    try:
        return time.time() - alive.stat().st_mtime > after_s
    except FileNotFoundError:
        return False


def read_sign(alive: Path) -> str:
    """What the file holds; empty where it cannot be read."""
    try:
        return alive.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def start_of(pid: int) -> str | None:
    """When a process began, in the system's own words; None where there is none, or the system does not tell."""
    try:
        if sys.platform == "win32":
            return _start_on_windows(pid)
        if Path("/proc/self/stat").exists():
            return _start_in_proc(pid)
        return _start_by_ps(pid)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def _start_in_proc(pid: int) -> str | None:
    """Clock ticks since the machine started: field 22; the name in field 2 may hold anything, so count behind it."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # one that ended and was not collected is gone


def _start_by_ps(pid: int) -> str | None:
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PS_S, env={**os.environ, "LC_ALL": "C"})
    return " ".join(told.stdout.split()) or None


def _start_on_windows(pid: int) -> str | None:
    import ctypes
    from ctypes import wintypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = wintypes.HANDLE
    handle = kernel.OpenProcess(QUERY, False, pid)
    if not handle:
        return None
    try:
        times = [wintypes.FILETIME() for _ in range(4)]  # creation, exit, kernel, user
        if not kernel.GetProcessTimes(wintypes.HANDLE(handle), *[ctypes.byref(one) for one in times]):
            return None
        began, ended = ((one.dwHighDateTime << 32) + one.dwLowDateTime for one in times[:2])
        return None if ended else str(began)  # a handle somewhere keeps an ended process
    finally:
        kernel.CloseHandle(wintypes.HANDLE(handle))
