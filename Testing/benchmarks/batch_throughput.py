#!/usr/bin/env python3
"""Many small scans by `cycleinr batch`: worker processes that are killed meanwhile, one process, and a shell loop.

    python Testing/benchmarks/batch_throughput.py FOLDER [--scans 200] [--loop 20] [--kills 5] [--workers 2]

All three run one after the other on the same machine, each process with one thread. Wall clock and CPU seconds are of
the command with all its children; the loop does the first `--loop` scans, its seconds are told for each scan. The
results of all three must be the same bytes. FOLDER keeps everything, also FOLDER/throughput.json.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import psutil  # noqa: E402
from small_scans import command, environment, make_scans, start  # noqa: E402

ASKED = ("--z-scale", "2", "--model", "light", "--axis", "k")


def timed(run) -> dict:
    """Wall clock and CPU seconds of what `run` starts and waits for, and what it gives."""
    wall, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(time.monotonic() - wall, 1), "cpu_s": round(cpu, 1), **found}


def with_kills(scans: Path, out: Path, workers: int, kills: int, seed: int) -> dict:
    """The batch by workers, some of which are killed: equally often a worker and, last, the command itself."""
    rng, done, killed = random.Random(seed), 0, []
    process = start(command("batch", scans, "--output", out, "--workers", workers, *ASKED), out.parent / "tmp")
    count = sum(1 for _ in scans.rglob("*.nrrd"))
    marks = [int(count * (n + 1) / (kills + 2)) for n in range(kills)]
    while process.poll() is None:
        done = sum(1 for _ in out.rglob("*_scan.json")) if out.exists() else 0
        if marks and done >= marks[0]:
            marks.pop(0)
            family = psutil.Process(process.pid).children(recursive=True)
            workers_now = [one for one in family if "spawn_main" in " ".join(one.cmdline())]
            if marks or not killed:
                rng.choice(workers_now).kill()
                killed.append({"what": "worker", "after": done})
            else:  # the last one: the command
                process.kill()
                process.wait()
                killed.append({"what": "command", "after": done})
                again = command("batch", scans, "--output", out, "--workers", workers, *ASKED, "--resume")
                process = start(again, out.parent / "tmp")
        time.sleep(0.2)
    return {"status": process.returncode, "kills": killed}


def whole(out: Path, temporary: Path) -> dict:
    """What the manifest says, and what is left in the folders beside it."""
    with sqlite3.connect(out / "batch.sqlite") as db:
        states = dict(db.execute("SELECT state, count(*) FROM scans GROUP BY state"))
        tries = dict(db.execute("SELECT tries, count(*) FROM scans GROUP BY tries"))
        overhead = [seconds for (seconds,) in db.execute("SELECT seconds FROM scans WHERE seconds IS NOT NULL")]
    db.close()
    hidden = [str(path.relative_to(out)) for path in out.rglob(".*")]
    return {
        "states": states,
        "begun": tries,
        "scan_seconds_median": sorted(overhead)[len(overhead) // 2],
        "left_behind": hidden + [path.name for path in temporary.iterdir()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--loop", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder, temporary = asked.folder, asked.folder / "tmp"
    folder.mkdir()
    scans = make_scans(folder / "scans", asked.scans, asked.seed)
    found: dict = {"scans": asked.scans, "workers": asked.workers, "size_kji": [9, 40, 40]}

    def run(words: list[str]) -> dict:
        return {"status": subprocess.run(words, env=environment(temporary), capture_output=True).returncode}

    def loop() -> dict:
        (folder / "loop").mkdir()
        for path in scans[: asked.loop]:
            assert run(command("upsample", path, folder / "loop" / path.name, *ASKED))["status"] == 0, path
        return {"scans": asked.loop}

    found["with_kills"] = timed(
        lambda: with_kills(folder / "scans", folder / "workers", asked.workers, asked.kills, asked.seed)
    )
    found["with_kills"] |= whole(folder / "workers", temporary)
    one = command("batch", folder / "scans", "--output", folder / "one", "--workers", 0, *ASKED)
    found["one_process"] = timed(lambda: run(one)) | whole(folder / "one", temporary)
    found["loop"] = timed(loop)
    for kind, count in (("with_kills", asked.scans), ("one_process", asked.scans), ("loop", asked.loop)):
        found[kind]["wall_s_a_scan"] = round(found[kind]["wall_s"] / max(count, 1), 3)
        found[kind]["cpu_s_a_scan"] = round(found[kind]["cpu_s"] / max(count, 1), 3)
    same = [
        (folder / "workers" / path.relative_to(folder / "scans")).read_bytes()
        == (folder / "one" / path.relative_to(folder / "scans")).read_bytes()
        for path in scans
    ]
    looped = [(folder / "loop" / path.name).read_bytes() for path in scans[: asked.loop]]
    alike = [
        content == (folder / "one" / path.relative_to(folder / "scans")).read_bytes()
        for content, path in zip(looped, scans)
    ]
    found["same_bytes"] = {"workers_and_one": sum(same), "loop_and_one": sum(alike)}
    text = json.dumps(found, indent=2)
    (folder / "throughput.json").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
