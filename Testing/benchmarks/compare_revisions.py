#!/usr/bin/env python3
"""Whether one revision is faster than another, pair by pair in one run: ratios with their spread.

    python Testing/benchmarks/compare_revisions.py HEAD~1 HEAD
    python Testing/benchmarks/compare_revisions.py main . --size 256 256 16 --precision float32 --threads 1
    python Testing/benchmarks/compare_revisions.py main . --what preview info import --pairs 9
    python Testing/benchmarks/compare_revisions.py main . --scan scan.nrrd --fields '{"gain": 1.0}'

A revision is what git knows by that name, checked out into a temporary worktree, or `.`, the working tree as it is.
Other programs disturb any time; they disturb both of a pair alike, since these run at once after each other, in turns
A B, B A, ... each in a process of its own. CPU time is less disturbed than wall time. A ratio below 1 says that B takes
less. With `--most R` the command fails where the median ratio of CPU time is above R, which guards against regressions.
`volume` and `preview` tell how far the results differ as well, in units of the scan's noise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("volume", "preview", "measure", "info", "import")


# --- in a child, with the revision first on the path ----------------------------------------------------------
def child(asked: argparse.Namespace) -> None:
    if asked.child == "import":
        return _told(*_timed(lambda: __import__("CycleINRLib")), None)
    import numpy as np

    if asked.child == "info":
        from CycleINRLib.cli.main import main

        path = Path(asked.keep).with_suffix(".nrrd")
        if not path.exists():
            import CycleINRLib as cycleinr

            cycleinr.write(_volume(asked), str(path))
        command = ["info", str(path), "--json", "--quiet"]
        devnull = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        seconds = _timed(lambda: main(command))
        sys.stdout.flush()
        os.dup2(devnull, 1)
        return _told(*seconds, None)
    import torch

    import CycleINRLib as cycleinr

    torch.set_num_threads(asked.threads)
    volume = _volume(asked)
    fields = {"z_scale": asked.z_scale, "model": asked.model, "device": "cpu", "precision": asked.precision}
    fields |= json.loads(asked.fields)
    runs = {
        "volume": lambda scan: cycleinr.upsample(scan, **fields).volume.values,
        "preview": lambda scan: cycleinr.preview(scan, "coronal", **fields).values,
        "measure": lambda scan: cycleinr.measure(scan) and None,
    }
    run = runs[asked.child]
    run(_part(volume))  # loads and warms up
    made: list[Any] = []
    wall, cpu = _timed(lambda: made.append(run(volume)))
    if made[0] is not None:
        np.save(asked.keep, made[0])
    _told(wall, cpu, None if asked.child == "measure" else cycleinr.measure(volume)["sigma_mean"])


def _told(wall: float, cpu: float, noise: float | None) -> None:
    print(json.dumps({"wall": wall, "cpu": cpu, "noise": noise}))


def _timed(task: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - wall, time.process_time() - cpu


def _volume(asked: argparse.Namespace) -> Any:
    import CycleINRLib as cycleinr

    if asked.scan:
        return cycleinr.read(asked.scan)
    here = str(Path(__file__).resolve().parent)
    sys.path.append(here)
    from bench_upsample import scan

    values = scan(asked.size)
    geometry = cycleinr.Geometry.from_spacing(values.shape, (0.7 * asked.z_scale, 0.7, 0.7))
    return cycleinr.Volume(values, geometry, "CT", "HU", asked.thickness * 0.7 * asked.z_scale, "k")


def _part(volume: Any) -> Any:
    """A small block of the middle."""
    import dataclasses

    import numpy as np

    block = np.ascontiguousarray(
        volume.values[tuple(slice(max(0, n // 2 - 24), n // 2 + 24) for n in volume.values.shape)]
    )
    first = tuple(max(0, n // 2 - 24) for n in volume.values.shape)
    return dataclasses.replace(volume, values=block, geometry=volume.geometry.cropped(first, block.shape))


# --- the parent -----------------------------------------------------------------------------------------------
@contextmanager
def checked_out(revision: str, folder: Path):
    """The folder of a revision: a worktree for as long as it is needed, or the working tree itself."""
    if revision == ".":
        yield ROOT
        return
    subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "-q", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(folder)], check=True)


def measured(kind: str, folder: Path, kept: Path, argv: list[str], threads: int) -> dict[str, Any]:
    """What a child of the revision in `folder` says."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(folder)}
    command = [sys.executable, __file__, *argv, "--child", kind, "--keep", str(kept)]
    done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"compare_revisions: {kind} in {folder} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def ratios(pairs: list[tuple[dict[str, Any], dict[str, Any]]], what: str) -> tuple[float, float, float]:
    """Median, smallest and largest ratio B / A of the pairs."""
    found = sorted(b[what] / a[what] for a, b in pairs)
    return statistics.median(found), found[0], found[-1]


def difference(kept: list[Path], noise: float | None) -> str:
    """How far two results differ, in words."""
    if not all(path.exists() for path in kept):
        return "-"
    import numpy as np

    a, b = (np.load(path).astype(np.float32) for path in kept)
    if a.shape != b.shape:
        return "not the same grid"
    apart = np.abs(a - b)
    rms = float(np.sqrt(np.mean(np.square(apart, dtype=np.float64))))
    return f"rms {rms:.3g}" + (f" ({rms / noise:.4f} of the noise)" if noise else "") + f", at most {apart.max():.3g}"


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revisions", nargs=2, metavar="REVISION", help="A and B; `.` is the working tree")
    parser.add_argument("--what", nargs="+", choices=KINDS, default=["volume"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", nargs=3, type=int, default=[256, 256, 16], metavar=("I", "J", "K"))
    parser.add_argument("--scan", metavar="FILE", help="a scan instead of a drawn one")
    parser.add_argument("--z-scale", type=float, default=4.0)
    parser.add_argument("--thickness", type=float, default=1.0, help="slice thickness / spacing of the drawn scan")
    parser.add_argument("--model", default="light")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--fields", default="{}", help="more fields of the job, as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=float, help="fail where the median ratio of CPU time is above this")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--keep", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> int:
    asked = options()
    if asked.child:
        child(asked)
        return 0
    slow = False
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder) / name for name in ("a", "b")]
        with checked_out(asked.revisions[0], names[0]) as a, checked_out(asked.revisions[1], names[1]) as b:
            print("| what | CPU time, B / A | wall time, B / A | A, s of CPU | B, s of CPU | results |")
            print("|" + " --- |" * 6)
            for kind in asked.what:
                kept = [Path(folder) / f"{name}.npy" for name in ("a", "b")]
                pairs = []
                for n in range(asked.pairs):
                    found = {}
                    for which in (0, 1) if n % 2 == 0 else (1, 0):
                        found[which] = measured(kind, (a, b)[which], kept[which], sys.argv[1:], asked.threads)
                    pairs.append((found[0], found[1]))
                cells = [
                    f"{m:.2f} ({low:.2f} to {high:.2f})" for m, low, high in (ratios(pairs, w) for w in ("cpu", "wall"))
                ]
                seconds = [f"{min(one[which]['cpu'] for one in pairs):.3g}" for which in (0, 1)]
                apart = difference(kept, pairs[0][0]["noise"])
                print("| " + " | ".join([kind, *cells, *seconds, apart]) + " |", flush=True)
                slow = slow or (asked.most is not None and ratios(pairs, "cpu")[0] > asked.most)
                for path in kept:
                    path.unlink(missing_ok=True)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
