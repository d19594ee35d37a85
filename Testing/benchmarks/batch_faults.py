#!/usr/bin/env python3
"""Kills `cycleinr batch` at random moments and takes its disk away; says what was lost and what was left behind.

    python Testing/benchmarks/batch_faults.py FOLDER [--kills 40] [--scans 24] [--seed 0]
        [--only kills|scheduler|child|disk|others]

kills: a batch is begun, and at random moments a worker, or the command with its scheduler, is killed by SIGKILL; such a
command is begun again with --resume. Each finished batch is compared, byte for byte, with an undisturbed one; then
the next begins, until there were `--kills`.
scheduler: the same with a scheduler and two workers that were started by hand; `--far-kills` of any of the four.
child: the panel's child and its parent are killed, `--children` times.
disk: a small tmpfs (needs root) that fills up, a read-only folder, one that is removed, a removed `.batch`.
others: two commands on one folder, a clock that jumps (`faketime` where it is installed), a worker that needs
more memory than it gets. FOLDER keeps everything, also FOLDER/faults.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import psutil  # noqa: E402
from small_scans import command, environment, make_scans, start  # noqa: E402

ASKED = ("--z-scale", "2", "--model", "light", "--axis", "k", "--gain", "1", "--no-thumbnails")


class Scene:
    """A folder of scans, the results of an undisturbed batch, and everything that is tried."""

    def __init__(self, folder: Path, scans: int, seed: int) -> None:
        self.folder, self.temporary, self.rng = folder, folder / "tmp", random.Random(seed)
        self.scans = folder / "scans"
        make_scans(self.scans, scans, seed)
        self.right = folder / "right"
        assert self.run(self.words(self.right, "--workers", 0)).returncode == 0

    def words(self, out: Path, *more: object) -> list[str]:
        return command("batch", self.scans, "--output", out, *ASKED, *more)

    def run(self, words: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(words, env=environment(self.temporary), capture_output=True, text=True)

    def compare(self, out: Path) -> dict:
        """Results that are missing or other than right, files left behind, and scans that are not done."""
        wrong = [
            path.relative_to(self.right).as_posix()
            for path in self.right.rglob("*.nrrd")
            if not (out / path.relative_to(self.right)).exists()
            or (out / path.relative_to(self.right)).read_bytes() != path.read_bytes()
        ]
        with sqlite3.connect(out / "batch.sqlite") as db:
            undone = db.execute("SELECT count(*) FROM scans WHERE state != 'done'").fetchone()[0]
            most = db.execute("SELECT max(tries) FROM scans").fetchone()[0]
        db.close()
        expected = {path.relative_to(self.right) for path in self.right.rglob("*")}
        more = [path.as_posix() for path in (p.relative_to(out) for p in out.rglob("*")) if path not in expected]
        left = more + [path.name for path in self.temporary.iterdir()]
        return {"wrong": wrong, "undone": undone, "left_behind": left, "most_tries": most}


def orphans(family: list[psutil.Process], patience_s: float = 60) -> list[str]:
    """Who of a family lives on after its head has gone."""
    end = time.monotonic() + patience_s
    while True:
        alive = [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        if not alive or time.monotonic() > end:
            return [" ".join(one.cmdline())[:80] for one in alive]
        time.sleep(0.1)


class Reports:
    """Which report each scan was given first; another one later means that the scan was done twice."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.first: dict[str, int] = {}
        self.twice: set[str] = set()

    def look(self) -> None:
        for path in self.out.rglob("*_scan.json"):
            try:
                inode = path.stat().st_ino
            except FileNotFoundError:
                continue
            if self.first.setdefault(path.name, inode) != inode:
                self.twice.add(path.name)


def wait_a_moment(process: subprocess.Popen, seconds: float, look=lambda: None) -> None:
    """So long, or until the process ended."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        look()
        time.sleep(0.05)


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The worker processes that a command started."""
    found = []
    with contextlib.suppress(psutil.Error):  # it has ended
        for one in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found += [one] if "spawn_main" in " ".join(one.cmdline()) else []
    return found


def kills(scene: Scene, wanted: int) -> dict:
    """Random kills until there were `wanted`, over as many batches as that takes."""
    told: Counter = Counter()
    found: list[dict] = []
    left: list[str] = []
    while sum(told.values()) < wanted:
        out = scene.folder / f"killed_{len(found)}"
        count = 2 - len(found) % 2  # one worker of several threads holds two scans
        process, reports = start(scene.words(out, "--workers", count), scene.temporary), Reports(out)
        batch: Counter = Counter()
        while process.poll() is None:
            begun = set((out / ".batch").glob("*.*"))
            if scene.rng.random() < 0.7:  # mostly while a scan is done that was not at the last kill
                while process.poll() is None and not set((out / ".batch").glob("*.*")) - begun:
                    wait_a_moment(process, 0.05, reports.look)
                wait_a_moment(process, scene.rng.uniform(0.0, 1.0), reports.look)
            else:
                wait_a_moment(process, scene.rng.uniform(0.0, 6.0), reports.look)
            if process.poll() is not None or sum(told.values()) >= wanted:
                wait_a_moment(process, 1, reports.look)
                continue
            family = psutil.Process(process.pid).children(recursive=True)
            workers = workers_of(process)
            victim = "worker" if workers and scene.rng.random() < 0.75 else "command with its scheduler"
            batch[victim] += 1
            told[victim] += 1
            if victim == "worker":
                scene.rng.choice(workers).kill()
            else:
                process.kill()  # the scheduler lives in it
                process.communicate()
                left += orphans(family)
                there = (out / "batch.sqlite").exists()
                process = start(scene.words(out, "--workers", count, *(["--resume"] if there else [])), scene.temporary)
        err = process.communicate()[1].decode()
        if process.returncode:  # a scan whose worker was killed more often than it may be tried again
            err += scene.run(scene.words(out, "--workers", 0, "--resume")).stderr
        reports.look()
        facts = {"status": process.returncode, "done_twice": sorted(reports.twice), **scene.compare(out)}
        found.append({"workers": count, "kills": dict(batch), **facts, "said": err[-300:]})
        print(json.dumps(found[-1]), flush=True)
        shutil.rmtree(out)
    return {"kills": dict(told), "orphans": left, "batches": found}


class ByHand:
    """A scheduler and two workers as somebody starts them, on the loopback device."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.file = scene, scene.folder / "scheduler.json"
        self.file.unlink(missing_ok=True)
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard")
        while not self.file.exists():
            time.sleep(0.1)
        self.address = json.loads(self.file.read_text())["address"]
        self.workers = [self.worker() for _ in range(2)]

    def worker(self) -> subprocess.Popen:
        more = ("--nthreads", 1, "--memory-limit", 0, "--no-dashboard", "--local-directory", self.scene.folder / "dask")
        return self._start("worker", "--host", "127.0.0.1", *more)

    def _start(self, what: str, *words: object) -> subprocess.Popen:
        python = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(self.file)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        return subprocess.Popen([*python, *map(str, words)], env=environment(self.scene.temporary), **quiet)

    def end(self) -> None:
        for one in (*self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, 9)
            one.wait()
        shutil.rmtree(self.scene.folder / "dask", ignore_errors=True)


def scheduler(scene: Scene, wanted: int) -> dict:
    """Kills around a scheduler that somebody else started: of it, of a worker, its nanny, or the command."""
    told: Counter = Counter()
    found = []
    while sum(told.values()) < wanted:
        out, hand = scene.folder / f"far_{len(found)}", ByHand(scene)
        process, reports, ends = start(scene.words(out, "--scheduler", hand.address), scene.temporary), Reports(out), []
        while process.poll() is None:
            while process.poll() is None and not reports.first:
                wait_a_moment(process, 0.1, reports.look)
            wait_a_moment(process, scene.rng.uniform(0.0, 6.0), reports.look)
            if process.poll() is not None or sum(told.values()) >= wanted:
                wait_a_moment(process, 1, reports.look)
                continue
            victim = scene.rng.choice(["scheduler", "worker", "worker with its nanny", "command"])
            told[victim] += 1
            number = scene.rng.randrange(2)
            if victim == "worker":
                for one in workers_of(hand.workers[number]):
                    one.kill()
            elif victim == "worker with its nanny":
                os.killpg(hand.workers[number].pid, 9)
                hand.workers[number].wait()
                hand.workers[number] = hand.worker()
            else:
                (hand.scheduler if victim == "scheduler" else process).kill()
                said = process.communicate()[1].decode().splitlines()[-1:]
                ends.append({"killed": victim, "status": process.returncode, "said": said})
                if victim == "scheduler":
                    hand.end()
                    hand = ByHand(scene)
                more = ["--resume"] if (out / "batch.sqlite").exists() else []
                process = start(scene.words(out, "--scheduler", hand.address, *more), scene.temporary)
        process.communicate()
        hand.end()
        if process.returncode:
            scene.run(scene.words(out, "--workers", 0, "--resume"))
        reports.look()
        facts = {"status": process.returncode, "ends": ends, "done_twice": sorted(reports.twice), **scene.compare(out)}
        found.append(facts)
        print(json.dumps(facts), flush=True)
        shutil.rmtree(out)
    return {"kills": dict(told), "batches": found}


def child_and_parent(scene: Scene, times: int) -> dict:
    """The panel's child killed under its parent, and the parent killed above its child."""
    found: Counter = Counter()
    scan = next(scene.scans.rglob("*.nrrd"))
    script = (
        "import sys, time\nfrom CycleINRLib.child.run import Run\nfrom CycleINRLib.io.files import read\n"
        "run = Run({'task': 'upsample', 'z_scale': 2.0}, read(sys.argv[1]), lambda folder, facts: facts)\n"
        "print('begun', flush=True)\n"
        "try:\n    run.wait()\n    print('done', flush=True)\n"
        "except Exception as error:\n    print(type(error).__name__, flush=True)\n"
    )
    for n in range(times):
        words = [sys.executable, "-c", script, str(scan)]
        parent = subprocess.Popen(words, env=environment(scene.temporary), stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None and parent.stdout.readline().strip() == "begun"
        time.sleep(scene.rng.uniform(0.1, 4.0))
        family = psutil.Process(parent.pid).children(recursive=True)
        if n % 2 and family:
            family[0].kill()
            found[f"child killed: parent says {parent.communicate()[0].strip()}"] += 1
        else:
            parent.kill()
            parent.communicate()
            found[f"parent killed: {len(orphans(family, 90))} children live on"] += 1
    left = [path.name for path in scene.temporary.iterdir()]
    return {**found, "left_behind": left}


def disk(scene: Scene) -> dict:
    """Disks that refuse."""
    found = {}
    small = scene.folder / "small"
    small.mkdir()
    size = sum(path.stat().st_size for path in scene.right.rglob("*") if path.is_file()) * 2 // 3
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            full = scene.run(scene.words(small / "out", "--workers", 0))
            halves = [path.name for path in (small / "out").rglob(".*")]
            subprocess.run(["mount", "-o", f"remount,size={size * 4}", str(small)], check=True)
            again = scene.run(scene.words(small / "out", "--workers", 0, "--resume"))
            found["disk full, then larger"] = {
                "status": full.returncode, "said": full.stderr.splitlines()[-1:], "hidden": halves,
                "status_of_resume": again.returncode, **scene.compare(small / "out"),
            }  # fmt: skip
            subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
            refused = scene.run(scene.words(small / "new", "--workers", 0))
            found["read-only"] = {"status": refused.returncode, "said": refused.stderr.splitlines()[-1:]}
        finally:
            subprocess.run(["umount", str(small)], check=False)
    for name, target in (("folder removed meanwhile", ""), (".batch removed meanwhile", ".batch")):
        out = scene.folder / "removed"
        process = start(scene.words(out, "--workers", 0), scene.temporary)
        while process.poll() is None and not list(out.rglob("*_scan.json")):
            time.sleep(0.02)
        shutil.rmtree(out / target, ignore_errors=True)
        err = process.communicate()[1].decode()
        again = scene.run(scene.words(out, "--workers", 0, "--resume"))
        found[name] = {
            "status": process.returncode,
            "said": err.splitlines()[-1:],
            "status_of_resume": again.returncode,
        }
        found[name] |= scene.compare(out)
        shutil.rmtree(out)
    return found


def others(scene: Scene) -> dict:
    """A second command, a clock that jumps, too little memory."""
    found = {}
    out = scene.folder / "two"
    process = start(scene.words(out, "--workers", 0), scene.temporary)
    while not (out / "batch.lock").exists():
        time.sleep(0.02)
    second = scene.run(scene.words(out, "--workers", 0, "--resume"))
    process.communicate()
    found["two commands"] = {"second": second.returncode, "said": second.stderr.splitlines()[-1:]}
    found["two commands"] |= {"first": process.returncode, **scene.compare(out)}
    shutil.rmtree(out)
    if faketime := shutil.which("faketime"):
        words = [faketime, "-f", "-30d", *scene.words(out, "--workers", 0)]
        process = start(words, scene.temporary)
        while process.poll() is None and not list(out.rglob("*_scan.json")):
            time.sleep(0.02)
        os.killpg(process.pid, 9)
        process.communicate()
        again = scene.run([faketime, "-f", "+3650d", *scene.words(out, "--workers", 0, "--resume")])
        found["clock 30 days back, then 10 years on"] = {"status_of_resume": again.returncode, **scene.compare(out)}
        shutil.rmtree(out)
    limited = ["bash", "-c", 'ulimit -v 1500000; exec "$@"', "-", *scene.words(out, "--workers", 0)]
    short = scene.run(limited)
    again = scene.run(scene.words(out, "--workers", 0, *(["--resume"] if (out / "batch.sqlite").exists() else [])))
    found["1.5 GB of addresses"] = {"status": short.returncode, "said": short.stderr.splitlines()[-1:]}
    found["1.5 GB of addresses"] |= {"status_of_resume": again.returncode, **scene.compare(out)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--far-kills", type=int, default=12)
    parser.add_argument("--children", type=int, default=8)
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["kills", "scheduler", "child", "disk", "others"])
    asked = parser.parse_args()
    asked.folder.mkdir()
    scene = Scene(asked.folder, asked.scans, asked.seed)
    found: dict = {}
    if asked.only in (None, "disk"):
        found["disk"] = disk(scene)
    if asked.only in (None, "others"):
        found["others"] = others(scene)
    if asked.only in (None, "kills"):
        found["kills"] = kills(scene, asked.kills)
    if asked.only in (None, "scheduler"):
        found["scheduler by hand"] = scheduler(scene, asked.far_kills)
    if asked.only in (None, "child"):
        found["child and parent"] = child_and_parent(scene, asked.children)
    text = json.dumps(found, indent=2)
    (asked.folder / "faults.json").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
