"""What bfloat16 changes: float32 against it at the same settings, in the scan's unit, beside its noise, and in dB.

    python Testing/benchmarks/precisions.py SCAN... [--z-scale 4] [--block 96] [--slices 64]

A thin scan (z-scale times its spacing is what a thick one would have) is thickened as `cycleinr evaluate` does, so that
PSNR against it can be told; one that is thick already is upsampled as it is. The gain is 1 and noise stays as acquired,
since fits run in float32 and new noise is the same in both; voxels are compared before they are rounded.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

import CycleINRLib as cycleinr
from CycleINRLib.evaluation.case import Acquisition, Case, central_block
from CycleINRLib.evaluation.score import Ruler
from CycleINRLib.imaging.figures import mean_noise
from CycleINRLib.imaging.noise import slice_noise
from CycleINRLib.imaging.volume import Volume, choose_slice_axis, guess_modality

THICK = 4.0  # slice spacing / pixel from which a scan is taken as it is
HEAD = "| scan | root mean square | noise | / noise | most | PSNR float32 | bfloat16 | difference | auto takes |"


def block_of(path: Path, size: int, slices: int) -> Volume:
    """The middle of the scan, slices first, in float32: nothing is rounded."""
    scan = cycleinr.read(path)
    whole = scan.slices_first(choose_slice_axis(scan))
    first = max(0, (len(whole.values) - slices) // 2)
    values = whole.values[first : first + slices].astype(np.float32)
    middle = whole.with_values(values, whole.geometry.cropped((first, 0, 0), values.shape))
    part = central_block(dataclasses.replace(middle, slice_axis="k"), size)
    return dataclasses.replace(part, modality=scan.modality or guess_modality(scan), name=path.stem)


def row(name: str, source: Volume, asked: dict, ruler: Ruler | None) -> str:
    how = {"gain": 1.0, "noise": "acquired", "device": "cpu", "axis": "k", "modality": source.modality.lower(), **asked}
    runs = [cycleinr.upsample(source, precision=precision, **how) for precision in ("float32", "bfloat16", "auto")]
    full, reduced = (run.volume.values for run in runs[:2])
    off = np.abs(full.astype(float) - reduced)
    rms, sigma = float(np.sqrt((off**2).mean())), mean_noise(slice_noise(source.values, source.modality))
    cells = [name, f"{rms:.3f}", "-", "-", f"{off.max():.2f}"]
    if sigma:
        cells[2:4] = f"{sigma:.2f}", f"{rms / sigma:.3f}"
    one, other = (ruler.psnr(values)[0] if ruler else None for values in (full, reduced))
    cells += ["-"] * 3 if one is None or other is None else [f"{one:.3f}", f"{other:.3f}", f"{other - one:+.4f}"]
    return "| " + " | ".join([*cells, runs[2].report["precision"]]) + " |"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--z-scale", type=float, default=4.0)
    parser.add_argument("--block", type=int, default=96, help="rows and columns (%(default)s)")
    parser.add_argument("--slices", type=int, default=64, help="of a scan at the most (%(default)s)")
    asked = parser.parse_args(words)
    print(HEAD, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |", sep="\n")
    for path in asked.scans:
        scan = block_of(path, asked.block, asked.slices)
        if scan.spacing_mm[0] >= THICK * min(scan.spacing_mm[1:]):
            print(row(scan.name, scan, {"z_scale": asked.z_scale}, None), flush=True)
            continue
        for profile in ("box", "skip"):
            case = Case.of(scan, Acquisition(asked.z_scale, profile))
            how = {"z_scale": asked.z_scale, "profile": profile, "thickness_mm": case.source.thickness_mm}
            print(row(f"{scan.name}, {profile}", case.source, how, Ruler(case)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
