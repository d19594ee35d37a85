#!/usr/bin/env python3
"""How far the command of `cycleinr batch` goes: scans that cost nothing, so that what is left is its own work.

    python Testing/benchmarks/batch_scale.py FOLDER [--scans 20000 100000] [--dask 2000]

The manifest, the loop and the summary are the real ones; the pool gives each scan back at once, with figures of the
usual size. With --dask so many no-op tasks go through a local scheduler and one worker, three at a time.
Prints scans a second, CPU time of the command with its scheduler, bytes of the manifest and memory for each number.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from CycleINRLib.archive import batch  # noqa: E402
from CycleINRLib.archive.lock import FolderLock  # noqa: E402
from CycleINRLib.archive.manifest import Manifest  # noqa: E402
from CycleINRLib.archive.order import Order, Outcome, open_staging  # noqa: E402
from CycleINRLib.archive.stop import CtrlC  # noqa: E402
from CycleINRLib.archive.summary import write_summary  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402

FIGURES = {
    "z_scale": 4.0, "snli": {"input": 0.123456, "output": 0.112345, "linear": 0.2},
    "snli_detrended": {"input": 0.05, "output": 0.05, "linear": 0.13}, "generated_gap": 0.01, "noise_ratio": 1.01,
    "grain": {"input": 1.2, "output": 1.1, "linear": 0.1}, "gain": 0.9, "noise": "renew", "consistency": "project",
    "self_check": None, "device": "cpu", "precision": "bfloat16", "seconds": 61.2, "peak_memory_mb": 812.1,
    "warnings": [],
}  # fmt: skip


class Nothing:
    """A pool whose workers need no time."""

    room = 64
    dashboard = None

    def __init__(self) -> None:
        self.orders: list[Order] = []

    @property
    def running(self) -> int:
        return len(self.orders)

    def submit(self, order: Order) -> None:
        self.orders.append(order)

    def next(self, timeout_s: float) -> tuple[Order, Outcome]:
        order = self.orders.pop()
        facts = {"hash": "0" * 64, "stamp": "1 12345678 1700000000000000000", "output_bytes": 12345678}
        return order, Outcome(order.scan, "done", {**facts, "figures": FIGURES}, seconds=61.2)


def through_manifest(folder: Path, count: int) -> dict:
    """The command's own work for `count` scans."""
    folder.mkdir()
    request = batch.BatchRequest((folder,), folder, UpsampleJob(z_scale=4.0))
    start = time.perf_counter()
    with FolderLock(folder):
        manifest = Manifest.create(folder, request.to_json())
        paths = (f"site-{n % 97:02d}/sub-{n:07d}/anat/sub-{n:07d}_T2w" for n in range(count))
        manifest.add((f"/data/archive/{path}.nii.gz", path) for path in paths)
        added, before = time.perf_counter(), time.process_time()
        run = batch._Run(request, manifest, [], lambda event: None, lambda line: None)
        run.summary_due = float("inf")
        open_staging(folder, run.token)
        run._work(Nothing(), CtrlC(lambda line: None))
        manifest.commit()
        done, spent = time.perf_counter(), time.process_time() - before
        write_summary(manifest, folder)
        told = time.perf_counter()
        states, tables = manifest.count(), ("batch.json", "batch.csv")
        manifest.close()
    return {
        "scans": count,
        "states": states,
        "added_a_second": round(count / (added - start)),
        "done_a_second": round(count / (done - added)),
        "cpu_ms_a_scan": round(1000 * spent / count, 2),
        "summary_s": round(told - done, 2),
        "manifest_bytes_a_scan": round((folder / "batch.sqlite").stat().st_size / count),
        "json_and_csv_bytes_a_scan": round(sum((folder / name).stat().st_size for name in tables) / count),
        "page_mb": round((folder / "batch.html").stat().st_size / 1e6, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def through_dask(count: int, home: Path) -> dict:
    """No-op tasks through a local scheduler and one worker, over TLS, three at a time."""
    from CycleINRLib.archive.pool import _local

    with _local(1, home) as pool:
        pool.client.submit(abs, -1).result()
        start, before, waiting = time.perf_counter(), time.process_time(), []
        for n in range(count):
            waiting.append(pool.client.submit(abs, -n, key=f"nothing-{n}", pure=False))
            if len(waiting) >= 3:
                waiting.pop(0).result()
        for future in waiting:
            future.result()
        seconds, spent = time.perf_counter() - start, time.process_time() - before
    return {"tasks": count, "tasks_a_second": round(count / seconds), "cpu_ms_a_task": round(1000 * spent / count, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scans", type=int, nargs="*", default=[20000, 100000])
    parser.add_argument("--dask", type=int, default=2000)
    asked = parser.parse_args()
    asked.folder.mkdir()
    for count in asked.scans:
        print(json.dumps(through_manifest(asked.folder / str(count), count)), flush=True)
    if asked.dask:
        with tempfile.TemporaryDirectory() as home:
            print(json.dumps(through_dask(asked.dask, Path(home))), flush=True)


if __name__ == "__main__":
    main()
