"""ECLARE as a separate program: thick slices out as NIfTI, its result back onto the target grid.

ECLARE (Remedios et al., arXiv 2503.11787; PyPI `eclare`, GPL-3) learns from each scan anew and is trained within this
call. It is run, never imported. Three things are done so that its place and physics cost it nothing:

- It is told slice thickness and profile (a box as a kernel file), where else it would guess them from the images.
- It makes voxels as fine as the pixels. Where pixels and thin slices differ by less than 15 %, the pixels are declared
  as fine as the thin slices: then it works at a whole z-scale, and its slices are as fine as the truth's.
- Its slices are cell-aligned, half a thin slice beside the target's at even z-scales. They are brought onto the target
  by a spline of fifth order; `Result.shift` is what registration still finds.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.interpolate import make_interp_spline

import CycleINRLib as cycleinr
from CycleINRLib.evaluation.case import Case
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.interpolation import cubic_weights
from CycleINRLib.imaging.profile import profile_weights
from CycleINRLib.imaging.volume import Volume

PARAMETERS = 15_092_420  # at z-scale 4; 2305 for each whole step of the z-scale, so 15.09 M from 2 to 5
BATCH = 16  # patches a step; at its own 128, a budget of minutes would be a handful of steps
NEARLY = 0.15  # pixels and thin slices that differ by less are declared alike
ORDER = 5  # of the spline onto the target grid
SAME_PLACE = 0.01  # pixels


class EclareError(Exception):
    """The program failed, or its result lies somewhere else; the message says where the log is."""


@dataclass(frozen=True, eq=False)
class Result:
    """Slices on the target grid of the case, (M, J, I) float32; seconds of the program, its training included.

    shift : (z, j, i) in thin slices and pixels, found between the result and cubic interpolation of its source
    """

    values: np.ndarray
    seconds: float
    shift: tuple[float, float, float]


def run(case: Case, program: Path, folder: Path, patches: int, threads: int, limit_s: float = 3600.0) -> Result:
    """Runs ECLARE on the source of `case`, or takes what an earlier run of the same name left in `folder`.

    Raises
    ------
    EclareError : the program failed or wrote no result, or pixels moved in-plane
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixel_mm = declared_pixel_mm(case)
    source, made, told = (folder / name for name in ("source.nii.gz", "source_eclare.nii.gz", "eclare.json"))
    declared = declare(case.source, pixel_mm)
    if not told.exists():
        cycleinr.write(declared, source, overwrite=True)
        command = [str(program), "--in-fpath", str(source), "--out-dir", str(folder), "--gpu-id", "-1"]
        command += ["--n-patches", str(patches), "--batch-size", str(BATCH)]
        command += physics(case, pixel_mm, folder / "profile.npy")
        seconds = _run(command, folder / "eclare.log", threads, limit_s)
        if not made.exists():
            raise EclareError(f"ECLARE wrote no result, see {folder / 'eclare.log'}")
        told.write_text(json.dumps({"seconds": seconds, "patches": patches, "command": command}) + "\n")
    values = onto_target(cycleinr.read(made), declared, case)
    return Result(values, json.loads(told.read_text())["seconds"], shift_found(values, case))


def _run(command: list[str], log: Path, threads: int, limit_s: float) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    start = time.monotonic()
    with open(log, "w", encoding="utf-8") as output:
        try:
            done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=limit_s)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EclareError(f"ECLARE did not run: {error}") from error
    if done.returncode:
        raise EclareError(f"ECLARE ended with status {done.returncode}, see {log}")
    return time.monotonic() - start


# --- out ----------------------------------------------------------------------------------------------------------
def declared_pixel_mm(case: Case) -> float:
    """The pixel size that ECLARE is told: that of the thin slices where the true one is nearly that, else the true."""
    thin_mm, pixel_mm = case.truth.spacing_mm[0], min(case.truth.spacing_mm[1:])
    return thin_mm if abs(pixel_mm / thin_mm - 1) < NEARLY else pixel_mm


def declare(source: Volume, pixel_mm: float) -> Volume:
    """The thick slices with square pixels of `pixel_mm`, axis-aligned: an oblique place would only blur the check."""
    spacing = (source.spacing_mm[0], pixel_mm, pixel_mm)
    return replace(source, geometry=Geometry.from_spacing(source.values.shape, spacing))


def physics(case: Case, pixel_mm: float, kernel: Path) -> list[str]:
    """What ECLARE is told of the slice profile, in declared pixels; that of a box is written to `kernel`."""
    if case.source.thickness_mm is None:
        raise EclareError("ECLARE has no profile for slices without thickness: take box or gaussian")
    thickness = case.source.thickness_mm / pixel_mm
    told = ["--relative-slice-thickness", f"{thickness:.4f}"]
    if case.protocol.profile == "gaussian":  # its own form
        return told
    half = max(1, math.ceil(thickness / 2))
    np.save(kernel, profile_weights(np.array([half]), thickness, 2 * half + 1, case.protocol.profile)[0])
    return [*told, "--relative-slice-profile-fpath", str(kernel)]


# --- back ---------------------------------------------------------------------------------------------------------
def onto_target(made: Volume, declared: Volume, case: Case) -> np.ndarray:
    """ECLARE's slices at the target positions of the case: (M, J, I) float32.

    Along z its slices lie around the middle of the source: that is where it computes them at every z-scale, while its
    affine, which starts at the outer edge, is up to a quarter of a slice off where the z-scale is not whole.

    Raises
    ------
    EclareError : the in-plane grid is another than that of the source, or the middle is more than half a slice off
    """
    count, rows, columns = made.values.shape
    z_scale = declared.spacing_mm[0] / made.spacing_mm[0]
    middle = np.array([(declared.values.shape[0] - 1) / 2, 0.0, 0.0])
    corner = middle + np.array([0, rows - 1, columns - 1])
    off = [made.geometry.kji_of(declared.geometry.ras_of(at)) - at for at in (middle, corner)]
    off_along = max(abs(o[0] + middle[0] - (count - 1) / 2) for o in off)
    off_within = max(np.abs(o[1:]).max() for o in off)
    if (rows, columns) != declared.values.shape[1:] or off_within > SAME_PLACE or off_along > 0.5:
        raise EclareError(f"ECLARE moved the slices by {[o.round(3).tolist() for o in off]} voxels, (k, j, i)")
    at = (count - 1) / 2 + (case.positions - middle[0]) * z_scale
    spline = make_interp_spline(np.arange(count), made.values.astype(np.float64), k=ORDER, axis=0)
    return spline(np.clip(at, 0, count - 1)).astype(np.float32)


def shift_found(values: np.ndarray, case: Case) -> tuple[float, float, float]:
    """Least-squares shift of `values` against cubic interpolation of the source, in thin slices and pixels."""
    source = case.source.values
    base = np.tensordot(cubic_weights(case.positions, len(source)), source.astype(np.float64), 1)
    inner = (slice(2, -2),) * 3
    slopes = [slope[inner].ravel() for slope in np.gradient(base)]
    step, *_ = np.linalg.lstsq(np.stack(slopes, 1), (base - values)[inner].ravel(), rcond=None)
    z, j, i = (round(float(s), 3) for s in step)
    return z, j, i
