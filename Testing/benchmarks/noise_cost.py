#!/usr/bin/env python3
"""What new noise costs: `--noise renew` beside `acquired`, a preview and the next one, of some revisions in one run.

    python Testing/benchmarks/noise_cost.py v1.0 . --scan Resources/SampleData/CT_abdomen_5mm.nrrd
    python Testing/benchmarks/noise_cost.py . --what preview memory --size 512 512 100

A revision is what git knows by that name, or `.`, the working tree. Each runs in a process of its own, with an empty
cache; the modes take turns in it. "anew" is the first run, which measures gain and noise, "kept" the least of the
following ones, which find them. Times are of CPU on one thread, but for "wall". `--size` mirrors the scan up to more
columns, rows and slices. Memory: the peak of a process of its own for each mode, in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compare_revisions import checked_out

ROOT = Path(__file__).resolve().parents[2]
MODES = ("acquired", "renew")
WHAT = ("volume", "preview", "memory")


def volume_of(asked: argparse.Namespace) -> Any:
    import numpy as np

    import CycleINRLib as cycleinr

    scan = cycleinr.read(asked.scan)
    if asked.size is None:
        return scan
    more = [(0, max(0, wanted - n)) for wanted, n in zip(asked.size[::-1], scan.values.shape)]
    values = np.pad(scan.values, more, mode="symmetric")[tuple(slice(n) for n in asked.size[::-1])]
    geometry = cycleinr.Geometry.from_spacing(values.shape, scan.spacing_mm)
    return cycleinr.Volume(np.ascontiguousarray(values), geometry, scan.modality, scan.unit, scan.thickness_mm, "k")


def timed(task: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    return time.process_time() - cpu, time.perf_counter() - wall


def child(asked: argparse.Namespace) -> dict[str, Any]:
    """What the revision that is first on the path takes."""
    import torch

    import CycleINRLib as cycleinr

    torch.set_num_threads(asked.threads)
    volume = volume_of(asked)
    fields = {"z_scale": asked.z_scale, "device": "cpu"}
    if asked.child in MODES:
        result = cycleinr.upsample(volume, noise=asked.child, **fields)
        return {"peak": result.report["peak_memory_mb"], "noise": result.report["noise"]}
    small = volume.with_values(*_corner(volume))
    if asked.child == "preview":
        cycleinr.preview(small, "coronal", **fields)  # loads and warms up
        middle = volume.geometry.shape[1] // 2
        at = [float(volume.geometry.ras_of((0, row, 0))[1]) for row in (middle, middle + 10)]
        return {"times": [timed(lambda mm=mm: cycleinr.preview(volume, "coronal", mm, **fields)) for mm in at]}
    for mode in MODES:
        cycleinr.upsample(small, noise=mode, **fields)
    turns = [
        {mode: timed(lambda mode=mode: cycleinr.upsample(volume, noise=mode, **fields)) for mode in MODES}
        for _ in range(1 + asked.turns)
    ]
    return {"turns": turns}


def _corner(volume: Any) -> tuple[Any, Any]:
    import numpy as np

    values = np.ascontiguousarray(volume.values[:10, :64, :64])
    return values, volume.geometry.cropped((0, 0, 0), values.shape)


def measured(asked: argparse.Namespace, what: str, folder: Path) -> dict[str, Any]:
    """What a child of the revision in `folder` says, from an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(asked.threads), "PYTHONPATH": str(folder), "CYCLEINR_CACHE": cache,
        }  # fmt: skip
        command = [sys.executable, __file__, *sys.argv[1:], "--child", what]
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def lines(asked: argparse.Namespace, name: str, folder: Path) -> list[str]:
    out = []
    if "volume" in asked.what:
        turns = measured(asked, "volume", folder)["turns"]
        anew = [turns[0][mode][0] for mode in MODES]
        kept = [min(turn[mode][0] for turn in turns[1:]) for mode in MODES]
        for label, (acquired, renew) in (("anew", anew), ("kept", kept)):
            ratio = f"renew / acquired {renew / acquired:.2f}"
            out.append(f"| {name} | volume, {label} | {acquired:.2f} | {renew:.2f} | {ratio} |")
    if "preview" in asked.what:
        first, second = measured(asked, "preview", folder)["times"]
        for label, (cpu, wall) in (("anew", first), ("moved", second)):
            out.append(f"| {name} | preview, {label} | | {cpu:.2f} | {wall:.2f} s wall |")
    if "memory" in asked.what:
        peaks = [measured(asked, mode, folder)["peak"] for mode in MODES]
        out.append(f"| {name} | peak, MB | {peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[1] - peaks[0]:+.0f} MB |")
    return out


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revisions", nargs="+", metavar="REVISION", help="`.` is the working tree")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=["volume", "preview"])
    parser.add_argument("--scan", default=str(ROOT / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd"))
    parser.add_argument("--size", nargs=3, type=int, metavar=("I", "J", "K"))
    parser.add_argument("--z-scale", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=2, help="after the first")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> int:
    asked = options()
    if asked.child:
        print(json.dumps(child(asked)))
        return 0
    print("| revision | what | acquired | renew | |\n" + "| --- " * 5 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for n, revision in enumerate(asked.revisions):
            with checked_out(revision, Path(folder) / str(n)) as checkout:
                print("\n".join(lines(asked, revision, checkout)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
