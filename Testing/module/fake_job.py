"""Plays the child of the panel: `fake_job.py FOLDER`, its part in CYCLEINR_TEST_PART. Repeats slices; no torch."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

Z_SCALE = 2


def main(folder: Path) -> int:
    part = os.environ.get("CYCLEINR_TEST_PART", "success")
    say(event="progress", stage="upsample", done=1, of=4, remaining_s=3.0)
    while part == "slow":
        if (folder / "cancel").exists():
            say(event="error", code="cancelled", message="Cancelled", hint="")
            return 130
        time.sleep(0.02)
    if part == "failure":
        print("Traceback: somewhere deep", file=sys.stderr)
        say(event="error", code="out_of_memory", message="Out of memory. Found: needs 9 GB", hint="crop the volume")
        return 5
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    values = np.load(folder / "input.npy")
    report = {"task": job["task"], "job": job["job"], "z_scale": Z_SCALE, "snli": {"input": 0.1, "output": 0.2}}
    place = np.array(job["volume"]["ijk_to_ras"])
    place[:3, 2] /= Z_SCALE
    if job["task"] == "upsample":
        np.save(folder / "output.npy", np.repeat(values, Z_SCALE, axis=0)[: 2 * len(values) - 1])
    volume = {**job["volume"], "ijk_to_ras": place.tolist()}
    (folder / "result.json").write_text(json.dumps({"report": report, "volume": volume}), encoding="utf-8")
    say(event="result", report=report, files=[])
    return 0


def say(**facts):
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
