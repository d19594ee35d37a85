#!/usr/bin/env python3
"""What the gain on the network's correction does, and what it costs, on scans whose truth is known.

    python Testing/benchmarks/gain_table.py FOLDER [--scans ct_* mr_*] [--crop 160] [--z-scales 2 3 4]
        [--profiles skip gaussian] [--model light] [--json gain.json]

FOLDER holds thin-slice scans, slices along k (.nrrd, .nii.gz, .mha). Each is thickened and upsampled again with gain 0
(the base), with gain 1 (the network as it is) and with the gain fitted to the scan. PSNR in dB on generated slices in
the body, beside cubic B-spline, and at the gain that the truth would choose: the result is linear in the gain, so all
follow from two runs. Noise is as acquired. Seconds are processor time of the fit and of the whole.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a bare checkout

import CycleINRLib as cycleinr
from CycleINRLib.evaluation.case import Acquisition, Case, central_block
from CycleINRLib.imaging import intensity, noise
from CycleINRLib.imaging.intensity import CT_RANGE_HU
from CycleINRLib.imaging.interpolation import cubic_weights
from CycleINRLib.imaging.volume import Volume, guess_modality
from CycleINRLib.jobs import MOST_GAIN, UpsampleJob
from CycleINRLib.upsampling.engine import Engine
from CycleINRLib.upsampling.gain import fit_gain
from CycleINRLib.upsampling.plan import plan

ENDINGS = (".nrrd", ".nii", ".nii.gz", ".mha")


@dataclass(frozen=True)
class Row:
    """One case; PSNR in dB."""

    scan: str
    protocol: str
    cubic: float
    base: float
    network: float
    fitted: float
    best: float
    gain: float
    best_gain: float  # least squares on the truth, not clipped
    fit_share: float  # processor time of the fit / of the whole


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scans", nargs="+", default=["*"], metavar="PATTERN", help="file names, * allowed")
    parser.add_argument("--crop", type=int, default=160, help="central rows and columns")
    parser.add_argument("--z-scales", nargs="+", type=float, default=[2, 3, 4])
    parser.add_argument("--profiles", nargs="+", default=["skip", "gaussian"])
    parser.add_argument("--model", default="auto")
    parser.add_argument("--json", type=Path, help="write every figure here")
    return parser.parse_args(argv)


def row_of(truth: Volume, protocol: Acquisition, model: str) -> Row:
    """Runs gain 0 and 1 and the fit for one case."""
    case = Case.of(truth, protocol)
    source = case.source.with_values(case.source.values.astype(np.float32))  # unrounded: linear in the gain
    job = UpsampleJob(
        z_scale=protocol.z_scale,
        axis="k",
        modality=case.modality.lower(),
        profile=protocol.profile,
        thickness_mm=source.thickness_mm,
        noise="acquired",
        model=model,
        precision="float32",  # one for all gains, of which `auto` makes its choice
    )
    engine = Engine.of(source, job, plan(source, job), None, None)
    fit_s, fitted = _timed(lambda: fit_gain(engine, engine.source.values, 0.0 if engine.plan.interpolated else None))
    _, base = _timed(lambda: cycleinr.upsample(source, replace(job, gain=0.0)).volume.values)
    whole_s, network = _timed(lambda: cycleinr.upsample(source, replace(job, gain=1.0)).volume.values)
    places = case.positions
    cubic = np.tensordot(cubic_weights(places, len(source.values)), source.values, 1)
    error = _Error.of(case, base, network)
    best = error.best_gain
    decibels = [error.decibels(g) for g in (0.0, 1.0, fitted.gain, min(MOST_GAIN, max(0.0, best)))]
    of_cubic = _Error.of(case, cubic, cubic).decibels(0.0)
    share = fit_s / (fit_s + whole_s)
    numbers = (of_cubic, *decibels, fitted.gain, best, share)
    return Row(truth.name, str(protocol), *(round(number, 3) for number in numbers))


@dataclass(frozen=True)
class _Error:
    """Squared error of base + g (network - base), summed: missing - 2 g common + g^2 power."""

    missing: float
    common: float
    power: float
    peak: float
    voxels: int

    @classmethod
    def of(cls, case: Case, base: np.ndarray, network: np.ndarray) -> _Error:
        t, last = case.positions, len(case.source.values) - 1
        inner = (t >= 1 - 1e-6) & (t <= last - 1 + 1e-6)
        chosen = np.flatnonzero(inner & (np.abs(t - np.round(t)) >= noise.ACQUIRED_TOLERANCE))
        peak = intensity.value_range(case.truth.values, case.modality)
        truth = case.truth.values[case.first + chosen]
        body = intensity.body_mask(truth, case.modality, peak)
        limits = CT_RANGE_HU if case.modality == "CT" else (-np.inf, np.inf)
        y, b, x = (np.clip(values[body].astype(float), *limits) for values in (truth, base[chosen], network[chosen]))
        missing, found = y - b, x - b
        return cls(float(missing @ missing), float(missing @ found), float(found @ found), peak, len(y))

    @property
    def best_gain(self) -> float:
        return self.common / self.power if self.power else 1.0

    def decibels(self, gain: float) -> float:
        squares = self.missing - 2 * gain * self.common + gain**2 * self.power
        return 10 * math.log10(self.peak**2 * self.voxels / squares)


def _timed(task: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = task()
    return time.process_time() - start, found


def table(rows: list[Row]) -> str:
    """Markdown: every case, then what the fit lost and won."""
    header = ["scan", "case", "cubic", "gain 0", "gain 1", "fitted", "best", "gain", "best gain", "fit, % of time"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        levels = " | ".join(f"{value:.2f}" for value in (row.cubic, row.base, row.network, row.fitted, row.best))
        gains = f"{row.gain:.2f} | {row.best_gain:.2f} | {100 * row.fit_share:.1f}"
        lines.append(f"| {row.scan} | {row.protocol} | {levels} | {gains} |")
    right = [row.fitted - row.network for row in rows if row.best_gain >= 1]
    wrong = [row.fitted - row.network for row in rows if row.best_gain < 1]
    for name, changes in (("right or too careful (best gain >= 1)", right), ("too bold (best gain < 1)", wrong)):
        if changes:
            said = f"mean {mean(changes):+.3f} dB, least {min(changes):+.3f} dB, most {max(changes):+.3f} dB"
            lines += ["", f"Fitted against gain 1 in the {len(changes)} cases where the network is {name}: {said}."]
    below = [f"{row.scan} {row.protocol}" for row in rows if row.fitted < row.cubic]
    return "\n".join([*lines, "", f"Fitted, below cubic: {', '.join(below) or 'none'}."])


def main(argv: list[str] | None = None) -> None:
    asked = options(argv)
    rows = []
    files = sorted(path for path in asked.folder.iterdir() if path.name.endswith(ENDINGS))
    for path in (path for path in files if any(fnmatch(path.name, pattern + "*") for pattern in asked.scans)):
        volume = cycleinr.read(path)
        # a block out of the middle of a head holds no air: a name that tells the modality is the better witness
        named = {"ct_": "CT", "mr_": "MR"}.get(path.name[:3].lower())
        facts = {"name": path.name.split(".")[0], "modality": named or guess_modality(volume), "slice_axis": "k"}
        truth = central_block(replace(volume, **facts), asked.crop)
        for protocol in (Acquisition(z, profile) for profile in asked.profiles for z in asked.z_scales):
            rows.append(row_of(truth, protocol, asked.model))
            print(f"{rows[-1]}", file=sys.stderr)
            if asked.json:
                asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
