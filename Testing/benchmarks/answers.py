#!/usr/bin/env python3
"""How soon CycleINR answers: import, `info`, and the previews of the panel, by a process each and by one that stays.

    python Testing/benchmarks/answers.py [--size 512 512 100] [--z-scale 4] [--planes coronal sagittal]

Previews are asked for as the panel does, from an empty cache: in the middle; six pixels from there, when what the
process does meanwhile is done; a seventh of the scan away; and there once more. Then first previews again, each from an
empty cache: of a process that has loaded torch and gets the scan with the click (as in the panel, where one clicks at
once), of one that was told `--ahead` seconds before what it will be asked ("prepared"), and of one that was
done with it. Seconds of CPU of the process that computes (its own start among them), and of wall from the click; "first
line" is when it said something, "provisional" when the interpolated planes were there. Needs Linux, whose /proc tells
the CPU time of a process that goes on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd"
sys.path.insert(0, str(ROOT))
IMPORT = "import time; w, c = time.perf_counter(), time.process_time(); import CycleINRLib; "
IMPORT += "print(time.process_time() - c, time.perf_counter() - w)"


def cpu_of(pid: int) -> float:
    """Seconds of a process that goes on."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_ended() -> float:
    times = os.times()
    return times.children_user + times.children_system


def commands() -> list[str]:
    """Lines of the table."""
    told = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = ["| import CycleINRLib | {:.3f} | {:.3f} |".format(*map(float, told.split()))]
    asked = [sys.executable, str(ROOT / "CycleINRLib" / "__main__.py"), "info", str(SAMPLE), "--json", "--quiet"]
    for label, command in (("python alone", [sys.executable, "-c", "pass"]), ("cycleinr info", asked)):
        cpu, wall = cpu_of_ended(), time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        lines.append(f"| {label} | {cpu_of_ended() - cpu:.2f} | {time.perf_counter() - wall:.2f} |")
    return lines


class Asking:
    """The previews of one scan, each by a process of its own, or all by one that stays."""

    def __init__(self, volume: Any, asked: argparse.Namespace, stays: bool) -> None:
        from CycleINRLib.jobs import UpsampleJob

        self.volume, self.asked, self.stays = volume, asked, stays
        self.job = UpsampleJob(z_scale=asked.z_scale)
        self.resident: Any = None

    def planes(self, part: float) -> dict[str, float]:
        """So many pixels from the middle, below 1 so great a part of the scan."""
        geometry = self.volume.geometry
        at = [n // 2 + round(part if part >= 1 else part * n) for n in geometry.shape]
        across = dict(zip(("sagittal", "coronal", "axial"), map(float, geometry.ras_of(at))))
        return {name: across[name] for name in self.asked.planes}

    def prepare(self) -> None:
        """As the panel does when a volume was chosen."""
        from CycleINRLib.child.resident import Resident

        self.resident = Resident(self.volume)
        self.resident.prepare(self.job.to_json(), {"planes": self.planes(0.0)})

    def wait(self) -> None:
        """As the panel does when it is opened, until torch is loaded."""
        from CycleINRLib.child.resident import Resident

        self.resident = Resident()
        while "libtorch" not in Path(f"/proc/{self.resident.child.pid}/maps").read_text("utf-8", "replace"):
            time.sleep(0.1)
        self.rest()

    def preview(self, label: str, part: float) -> str:
        """One line of the table."""
        from CycleINRLib.child.folder import result_planes
        from CycleINRLib.child.resident import Resident
        from CycleINRLib.child.run import Run
        from CycleINRLib.upsampling.plan import plan
        from CycleINRLib.upsampling.planes import provisional_planes

        planes = self.planes(part)
        start, ended = time.perf_counter(), cpu_of_ended()
        dict(provisional_planes(self.volume, plan(self.volume, self.job), planes))
        provisional = time.perf_counter() - start
        job = {**self.job.to_json(), "task": "preview"}
        if self.stays and self.resident is None:
            self.resident = Resident(self.volume)
        before = cpu_of(self.resident.child.pid) if self.stays else 0.0
        if self.stays and not self.resident.has_scan:
            self.resident.take(self.volume)
        run = Run(job, self.volume, result_planes, beside={"planes": planes}, resident=self.resident)
        first = None
        while not run.done:
            if run.poll() and first is None:
                first = time.perf_counter() - start
            time.sleep(0.005)
        run.result()
        wall = time.perf_counter() - start
        cpu = cpu_of(self.resident.child.pid) - before if self.stays else cpu_of_ended() - ended
        how = "one that stays" if self.stays else "a process each"
        return f"| {label}, {how} | {cpu:.2f} | {wall:.2f} | {first or wall:.2f} | {provisional:.2f} |"

    def rest(self) -> str:
        """What the process that stays does while nobody asks, and the memory that it holds."""
        pid, start = self.resident.child.pid, cpu_of(self.resident.child.pid)
        quiet, before = 0, start
        while quiet < 3:
            time.sleep(1.0)
            now = cpu_of(pid)
            quiet, before = (quiet + 1 if now - before < 0.1 else 0), now
        held = Path(f"/proc/{pid}/status").read_text("utf-8").split("VmRSS:")[1].split()[0]
        return f"| meanwhile; {int(held) // 1024} MB held | {now - start:.2f} | | | |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", default=str(SAMPLE))
    parser.add_argument("--size", type=int, nargs=3, metavar=("I", "J", "K"), help="mirrors the scan up to so much")
    parser.add_argument("--z-scale", type=float, default=4.0)
    parser.add_argument("--ahead", type=float, nargs="*", default=[10.0])
    parser.add_argument("--planes", nargs="+", default=["coronal", "sagittal"])
    asked = parser.parse_args(argv)
    from noise_cost import volume_of

    volume = volume_of(asked)
    print("| | CPU, s | wall, s |\n| --- | ---: | ---: |", *commands(), sep="\n")
    print("\n| preview | CPU, s | wall, s | first line, s | provisional, s |\n| --- | ---: | ---: | ---: | ---: |")
    for stays in (False, True):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CYCLEINR_CACHE"] = cache
            asking = Asking(volume, asked, stays)
            for label, part in (("first", 0.0), ("moved a little", 6), ("moved far", 1 / 7), ("there again", 1 / 7)):
                print(asking.preview(label, part), flush=True)
                if stays and label == "first":
                    print(asking.rest(), flush=True)
            if stays:
                asking.resident.end()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CYCLEINR_CACHE"] = cache
        asking = Asking(volume, asked, True)
        asking.wait()
        print(asking.preview("first, torch loaded", 0.0))
        asking.resident.end()
    for seconds in (*asked.ahead, None):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CYCLEINR_CACHE"] = cache
            asking = Asking(volume, asked, True)
            asking.prepare()
            if seconds is None:
                print(asking.rest())
            else:
                time.sleep(seconds)
            print(asking.preview("first, prepared" + ("" if seconds is None else f" {seconds:g} s before"), 0.0))
            asking.resident.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
