"""Many small real scans for the benchmarks of `cycleinr batch`: blocks of the bundled samples, each elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = ("CT_abdomen_5mm", "MR_knee_4.3mm")
SIZE = (9, 40, 40)  # (K, J, I)


def make_scans(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """`count` NRRD files in a BIDS-like tree."""
    import numpy as np

    from CycleINRLib.io.files import read, write

    volumes = [read(REPOSITORY / "Resources" / "SampleData" / f"{name}.nrrd") for name in SAMPLES]
    rng, made = np.random.default_rng(seed), []
    for n in range(count):
        volume = volumes[n % len(volumes)]
        first = tuple(int(rng.integers(0, have - want + 1)) for have, want in zip(volume.values.shape, SIZE))
        block = tuple(slice(at, at + size) for at, size in zip(first, SIZE))
        parent = folder / f"sub-{n:04d}" / "anat"
        parent.mkdir(parents=True)
        made.append(parent / f"sub-{n:04d}_scan.nrrd")
        write(volume.with_values(volume.values[block].copy(), volume.geometry.cropped(first, SIZE)), made[-1])
    return made


def command(*words: object) -> list[str]:
    """`cycleinr` of this checkout."""
    return [sys.executable, "-m", "CycleINRLib", *map(str, words)]


def environment(temporary: Path) -> dict[str, str]:
    """One thread, this checkout, and temporary files where they can be counted."""
    temporary.mkdir(exist_ok=True)
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}


def start(words: list[str], temporary: Path) -> subprocess.Popen:
    """The command in a session of its own, silent."""
    return subprocess.Popen(
        words, env=environment(temporary), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
