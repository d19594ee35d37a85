"""SOUP-GAN as a separate program: cubic slices out, the network's slices back, on the very same places.

SOUP-GAN (Zhang et al., Tomography 2022, Mayo Clinic; PyPI `KevinSR` 0.1.20) is a 3D network on slices that a cubic
spline has put at the wanted spacing; it is told how far apart the acquired slices are. Its thin-to-thin weights lie in
the package's source archive, as a SavedModel that TensorFlow 2.15 loads. Its own code asks `scipy.ndimage.zoom` for
the cubic slices, whose spacing differs a little from the one asked for; here they lie at the target places exactly, so
that no later interpolation costs it anything. It is run in an environment of its own, never imported.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from CycleINRLib.evaluation.case import Case
from CycleINRLib.imaging.interpolation import cubic_weights

PARAMETERS = 622_986
RANGE = 10_000.0  # its intensities lie in [0, RANGE]: minimum and maximum of the scan
STEPS = (2, 3, 4, 5, 6)  # slice spacings that it was trained for, in thin slices

PROGRAM = """
import sys
import numpy as np
from tensorflow import keras
model, source, result = sys.argv[1:]
given = np.load(source)
network = keras.models.load_model(model, compile=False)
made = network.predict([given["slices"][None, ..., None], given["step"][None]], verbose=0)
np.save(result, np.asarray(made)[0, ..., 0])
"""


class SoupGanError(Exception):
    """The program failed; the message is the end of what it said."""


def step_code(z_scale: float) -> np.ndarray:
    """(5,): how the network is told the spacing, between the whole steps 2 to 6 by linear shares."""
    return np.array([max(0.0, 1 - abs(min(max(z_scale, STEPS[0]), STEPS[-1]) - step)) for step in STEPS])


@dataclass(frozen=True)
class SoupGan:
    """As a method: `python` of an environment with TensorFlow 2.15, and the folder of the SavedModel."""

    python: Path
    model: Path
    threads: int = 1
    limit_s: float = 3600.0

    def __call__(self, case: Case) -> Iterator[np.ndarray]:
        thick = case.source.values.astype(np.float32)
        low, high = float(thick.min()), float(thick.max())
        scaled = (thick - low) * (RANGE / max(high - low, 1e-6))
        slices = np.tensordot(cubic_weights(case.positions, case.count).astype(np.float32), scaled, 1)
        made = self._run(slices, step_code(case.protocol.z_scale))
        yield made * ((high - low) / RANGE) + low

    def _run(self, slices: np.ndarray, step: np.ndarray) -> np.ndarray:
        threads = str(self.threads)
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": "1"}
        with tempfile.TemporaryDirectory(prefix="soupgan") as folder:
            source, result = Path(folder, "source.npz"), Path(folder, "result.npy")
            np.savez(source, slices=slices, step=step)
            command = [str(self.python), "-c", PROGRAM, str(self.model), str(source), str(result)]
            try:
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=self.limit_s)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise SoupGanError(f"SOUP-GAN did not run: {error}") from error
            if done.returncode or not result.exists():
                raise SoupGanError(f"SOUP-GAN ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
            made = np.load(result)
        if made.shape != slices.shape or not math.isfinite(float(np.abs(made).max())):
            raise SoupGanError(f"SOUP-GAN gave {made.shape} for {slices.shape}")
        return made.astype(np.float32)
