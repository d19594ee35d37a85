"""What the machine is, and small facts that runs leave for later ones: its speed, what was fitted to a scan (floor 0).

Facts are kept in the user's cache folder. Each kind is one JSON file of a bounded number of entries, written whole.
Nothing depends on them but time: where the folder cannot be read or written, or a file is damaged, nothing is kept
and nothing is said. `CYCLEINR_CACHE` names another folder; set to nothing, it keeps nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from .jobs import parse_json
from .wholefile import write_text

GROUPS = Path("/sys/fs/cgroup")
SHORT_WAITS = {  # of threads for each other; read where the libraries are loaded
    "GOMP_SPINCOUNT": "1000",  # torch on Linux: turns, about 50 us, before a thread sleeps, instead of 300,000
    "KMP_BLOCKTIME": "1",  # torch elsewhere: ms, instead of 200
    "OPENBLAS_NUM_THREADS": "1",  # NumPy: its products are made in pieces that one thread takes anyway
}
LARGEST_KEPT = 2**27  # bytes of a freed array whose memory serves the next ones: what a layer makes of some slices
MOST_KEPT = 2**28  # bytes of such memory together; beyond, it is given back
_MALLOPT = {-3: LARGEST_KEPT, -1: MOST_KEPT}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of glibc's malloc.h
_MOST = 200  # entries of a kind: the oldest go first, also where the file would be too large
_MOST_BYTES = 2_000_000  # a file larger than this is not ours


# --- what it is, never how busy it is --------------------------------------------------------------------------
def processor() -> str:
    """The kind of the processor and its name."""
    name = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{platform.machine()} {name}".strip()


def usable_cores() -> int:
    """Cores that this process may keep busy: its affinity and the quota of its control group, never the load."""
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on Linux
        cores = os.cpu_count() or 1
    for text in _quotas():
        quota, _, period = text.strip().partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def memory_bytes() -> float:
    """Memory of the machine, or what its control group grants; infinity where the system does not say."""
    try:
        most = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows
        return float("inf")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            most = min(most, float((GROUPS / name).read_text("ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            pass
    return most


def _quotas() -> list[str]:
    """ "QUOTA PERIOD" of each control group above this process, in microseconds (cgroup 2, then 1)."""
    found = []
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            own = next((line.split("::", 1)[1].strip() for line in file if line.startswith("0::")), "/")
        folder = GROUPS / own.lstrip("/")
        for group in (folder, *folder.parents):
            if (group / "cpu.max").is_file():
                found.append((group / "cpu.max").read_text("ascii"))
            if group == GROUPS:
                break
        first = GROUPS / "cpu"
        if (first / "cpu.cfs_quota_us").is_file():
            found.append(
                " ".join((first / f"cpu.cfs_{name}_us").read_text("ascii").strip() for name in ("quota", "period"))
            )
    except (OSError, ValueError, IndexError):
        pass
    return found


def keep_waits_short() -> None:
    """Threads that wait for others soon give their core away, in a process that has loaded neither torch nor NumPy yet.

    Where another program has one of two cores, a thread that waits in a loop holds up the very one that it waits for.
    What the user set stays.
    """
    for name, value in SHORT_WAITS.items():
        if "OMP_WAIT_POLICY" not in os.environ or name == "OPENBLAS_NUM_THREADS":
            os.environ.setdefault(name, value)


def keep_memory() -> None:
    """Memory of freed arrays serves the next ones, where glibc would give it back and take it anew, page by page.

    That took a tenth of the processor's time of an upsampling of 512 x 512 pixels. What the user set stays.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


def give_memory_back() -> None:
    """What `keep_memory` kept: before nothing is computed for a while."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


# --- what is remembered ----------------------------------------------------------------------------------------
def cache_folder() -> Path | None:
    """Where it is kept; None where nothing is to be kept."""
    asked = os.environ.get("CYCLEINR_CACHE")
    if asked is not None:
        return Path(asked) if asked else None
    try:
        home = Path.home()
    except RuntimeError:  # no home folder
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "cycleinr"


def recall(kind: str, key: str) -> dict[str, Any] | None:
    """What `remember` was given for the same key; None where it is not known."""
    found = _entries(kind).get(key)
    return found if isinstance(found, dict) else None


def remember(kind: str, key: str, facts: dict[str, Any]) -> None:
    """Keeps the facts, JSON-ready, for later runs; of two runs at once, one may forget what the other kept."""
    folder = cache_folder()
    if folder is None:
        return
    entries = _entries(kind)
    entries.pop(key, None)
    entries[key] = facts
    kept = list(entries.items())[-_MOST:]
    try:
        text = json.dumps(dict(kept), allow_nan=False)
        while len(text) > _MOST_BYTES and len(kept) > 1:
            kept = kept[len(kept) // 4 + 1 :]
            text = json.dumps(dict(kept), allow_nan=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{kind}.json", text)
    except (OSError, ValueError):
        pass


def _entries(kind: str) -> dict[str, Any]:
    folder = cache_folder()
    if folder is None:
        return {}
    path = folder / f"{kind}.json"
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        entries = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
