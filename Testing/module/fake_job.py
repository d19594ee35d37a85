"""Plays the child of the panel: `fake_job.py FOLDER`, its part in CYCLEINR_TEST_PART. Repeats slices; no torch.

The quiet task (check) always succeeds; the part is that of upsample, preview, measure and adapt. The adapted model
is a copy of `light`, and no better than it in the part "no better". The task "stay" answers one question after another,
each in the part that the file `part` of its home names, where there is one; what it is to
prepare for it keeps as `prepared`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

Z_SCALE = 2
LIGHT = Path(__file__).resolve().parents[2] / "Resources" / "Models" / "light.safetensors"
FACTS = {
    "version": "9.9", "python": "3.12", "platform": "test", "cores": 2, "packages": {"torch": "2.9"},
    "devices": [{"device": "cuda", "name": "Card", "memory_gb": 24.0, "problem": None}], "models": [], "problems": [],
}  # fmt: skip


def main(folder: Path) -> int:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    if job["task"] == "check":
        return leave(folder, {"report": FACTS})
    if job["task"] == "stay":
        return stay(folder)
    return play(folder, job, os.environ.get("CYCLEINR_TEST_PART", "success"))


def stay(folder: Path) -> int:
    """Until it is killed; in the part "idle" for one answer alone."""
    answered, parent = set(), os.getppid()
    while (folder / "alive").exists() and os.getppid() == parent:
        for asked in sorted(set(folder.glob("asked_*")) - answered):
            if json.loads((asked / "job.json").read_text(encoding="utf-8"))["task"] == "prepare":
                (asked / "job.json").replace(folder / "prepared")
                shutil.rmtree(asked)
                continue
            part = os.environ.get("CYCLEINR_TEST_PART", "success")
            part = (folder / "part").read_text() if (folder / "part").exists() else part
            (asked / "input.npy").symlink_to(folder / "input.npy")
            job = json.loads((folder / "job.json").read_text(encoding="utf-8"))  # its scan may have come meanwhile
            facts = {"volume": job["volume"], **json.loads((asked / "job.json").read_text(encoding="utf-8"))}
            play(asked, facts, part)
            answered.add(asked)
            if part == "idle":
                return 0
        time.sleep(0.01)
    return 0


def play(folder: Path, job: dict, part: str) -> int:
    say(event="progress", stage=job["task"], done=1, of=4, remaining_s=3.0)
    if part in PARTS:
        return PARTS[part](folder)
    if part == "failure" or part == f"failure of {job.get('volume', {}).get('name')}":
        print("Traceback: somewhere deep", file=sys.stderr)
        say(event="error", code="out_of_memory", message="Out of memory. Found: needs 9 GB", hint="crop the volume")
        return 5
    return TASKS[job["task"]](folder, job)


def upsample(folder: Path, job: dict) -> int:
    region = job["job"].get("region") or [(0, None)] * 3
    values = np.load(folder / "input.npy")[tuple(slice(*pair) for pair in region)]
    np.save(folder / "output.npy", np.repeat(values, Z_SCALE, axis=0)[: 2 * len(values) - 1])
    spacing = 1.0 * np.linalg.norm(np.array(job["volume"]["ijk_to_ras"])[:3, :3], axis=0)
    report = {
        "task": "upsample",
        "job": job["job"],
        "z_scale": Z_SCALE,
        "noise": "renew" if job["job"].get("noise", "auto") == "auto" else job["job"]["noise"],
        "snli": {"input": 0.1, "output": 0.2},
        "input": {"slice_axis": "k"},
        "output": {
            "dimensions": [*values.shape[:0:-1], 2 * len(values) - 1],
            "spacing_mm": [*spacing[:2], spacing[2] / Z_SCALE],
            "slice_axis": "k",
        },
        "noise_per_slice": {"input": [*range(1, len(values) + 1)], "output": [None, *[2.0] * (2 * len(values) - 2)]},
    }
    return leave(folder, {"report": report, "volume": described(job, Z_SCALE, [first for first, _ in region[::-1]])})


def measure(folder: Path, job: dict) -> int:
    return leave(folder, {"report": {"task": "measure", "job": job["job"]}, "volume": job["volume"]})


def preview(folder: Path, job: dict) -> int:
    """The middle row and column of the scan."""
    values, volumes = np.load(folder / "input.npy"), {}
    rows = (values[:, 4:5], [0, 4, 0])
    middle = {"coronal": rows, "axial": rows, "sagittal": (values[:, :, 3:4], [3, 0, 0])}
    for name in job["planes"]:
        plane, first = middle[name]
        np.save(folder / f"{name}.npy", plane)
        volumes[name] = described(job, first_ijk=first)
    return leave(folder, {"report": {"task": "preview", "planes": job["planes"]}, "volumes": volumes})


def difference(folder: Path, job: dict) -> int:
    """As much noise in each voxel as its own slice says."""
    values = np.load(folder / "input.npy").astype(np.float32)
    np.save(folder / "output.npy", values - values.mean((1, 2), keepdims=True))
    return leave(folder, {"report": {"task": "difference", "job": job["job"]}, "volume": described(job)})


def adapt(folder: Path, job: dict) -> int:
    slices = sum(len(np.load(folder / f"input_{n}.npy")) for n, _ in enumerate(job["volumes"]))
    shutil.copy(LIGHT, folder / "model.safetensors")
    better = os.environ.get("CYCLEINR_TEST_PART") != "no better"
    report = {
        "task": "adapt",
        "job": job["job"],
        "improved": better,
        "start": {"name": "light", "file": "light.safetensors"},
        "held_out": {"slices": slices // 3, "psnr_db": 30.4 if better else 29.9, "psnr_start_db": 30.0},
        "warnings": ["Slice thickness is estimated."],
    }
    return leave(folder, {"report": report})


def described(job: dict, z_scale: float = 1, first_ijk=(0, 0, 0)) -> dict:
    matrix = np.array(job["volume"]["ijk_to_ras"], float)
    matrix[:3, 3] += matrix[:3, :3] @ np.array(first_ijk)
    matrix[:3, 2] /= z_scale
    return {**job["volume"], "ijk_to_ras": matrix.tolist()}


# --- what can go wrong --------------------------------------------------------------------------------------------
def slow(folder: Path) -> int:
    while not (folder / "cancel").exists():
        time.sleep(0.02)
    say(event="error", code="cancelled", message="Cancelled", hint="")
    return 130


def deaf(folder: Path) -> int:
    """Does not hear `cancel`, and has a child of its own."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "grandchild").write_text(str(grandchild.pid))
    time.sleep(600)
    return 0


def killed(folder: Path) -> int:
    print("allocating 40 GB", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def crashed(folder: Path) -> int:
    print("libtorch_cpu.so: fault", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


PARTS = {"slow": slow, "deaf": deaf, "killed": killed, "crashed": crashed}
TASKS = {"upsample": upsample, "measure": measure, "preview": preview, "difference": difference, "adapt": adapt}


def leave(folder: Path, result: dict) -> int:
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    say(event="result", report=result["report"], files=[])
    return 0


def say(**facts):
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
