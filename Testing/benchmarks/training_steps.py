#!/usr/bin/env python3
"""How long a training step takes, and what reduced precision costs in accuracy and saves in time.

    python Testing/benchmarks/training_steps.py THIN_SCANS [--scans FILE.json] [--steps 12] [--threads 2]
        [--models light FILE.safetensors ...] [--precisions float32 bfloat16] [--device cpu] [--json FILE.json]

For each model and precision, in one run: median seconds of a training step without and with the cycle-consistent loss
(drawing not counted: a thread does it meanwhile); gain over the closed-form base in dB on fixed patches of the scans
that the facts hold out (of all, where none is); seconds of processor time to upsample a thick block to a quarter of its
spacing. Ratios are to the first row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a bare checkout

import CycleINRLib as cycleinr
from CycleINRLib.evaluation.case import Acquisition, Case, central_block
from CycleINRLib.io.discover import find_scans, read_volume
from CycleINRLib.network.model import CycleINR
from CycleINRLib.network.weights import find_model, load_model
from CycleINRLib.training.objective import Objective, gain_db, wanted
from CycleINRLib.training.patches import Batch, SampleConfig, draw_batch
from CycleINRLib.training.scans import Scan

PRECISIONS = "float32", "bfloat16"
SCORED = 8  # batches of four patches
CROP = 96  # rows and columns of the block that is upsampled
Z_SCALE = 4.0


@dataclass(frozen=True)
class Row:
    """One model in one precision; seconds of a step, gain in dB, seconds of processor time to upsample."""

    model: str
    precision: str
    parameters: int
    step_s: float
    cycle_step_s: float
    gain_db: float
    upsample_s: float


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="THIN_SCANS")
    parser.add_argument("--scans", metavar="FILE.json", help="facts about the scans; held_out ones are scored")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=["light"])
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def step_seconds(network: CycleINR, batches: Sequence[Batch], precision: str) -> float:
    """Median over the batches, after one that is not counted; weights change as in training."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-6)
    objective, spent = Objective(precision=precision), []
    for batch in (batches[0], *batches):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = objective.loss(network, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        float(loss.detach())  # waits for a graphics card
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[1:])


@torch.no_grad()
def gain(network: CycleINR, batches: Sequence[Batch], precision: str) -> float:
    """Mean gain over the closed-form base, in dB."""
    found, objective = [], Objective(precision=precision)
    for batch in batches:
        base = wanted(batch)
        error = objective.predict(network, batch.source, batch.scan, batch.places, batch.margin) - base
        found += [float(gain_db(*one)) for one in zip(error, base, batch.weight)]
    return float(np.mean(found))


def upsample_seconds(case: Case, model: str, precision: str, device: str) -> float:
    asked = {"model": model, "precision": precision, "device": device, "noise": "acquired", "gain": 1.0, "axis": "k"}
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    cycleinr.upsample(case.source, z_scale=Z_SCALE, modality=case.modality.lower(), **asked)
    return clock() - start


def rows(asked: argparse.Namespace) -> list[Row]:
    known = [
        (read_volume(stored, told.get("modality")), told) for stored, told in find_scans([asked.folder], asked.scans)
    ]
    scans = [Scan.of(volume) for volume, _ in known]
    held_out = [scan for scan, (_, told) in zip(scans, known) if told.get("held_out")] or scans
    plain = SampleConfig(contrast_share=0.0, noise_share=0.0)
    ways = [
        [draw_batch(scans, samples, 4, 0, n).to(asked.device) for n in range(asked.steps)]
        for samples in (SampleConfig(), SampleConfig(cycle=1.0))
    ]
    scored = [draw_batch(held_out, plain, 4, 77, n).to(asked.device) for n in range(SCORED)]
    case = Case.of(central_block(known[0][0].slices_first("k"), CROP), Acquisition(Z_SCALE))
    found = []
    for model in asked.models:
        for precision in asked.precisions:
            network = load_model(find_model(model))[0].to(asked.device).requires_grad_(True)
            kept = {name: value.clone() for name, value in network.state_dict().items()}
            spent = [step_seconds(network, batches, precision) for batches in ways]
            network.load_state_dict(kept)
            scores = gain(network, scored, precision), upsample_seconds(case, model, precision, asked.device)
            count = sum(parameter.numel() for parameter in network.parameters())
            found.append(Row(model, precision, count, *spent, *scores))
    return found


def table(found: Sequence[Row]) -> str:
    """Markdown; every time with its ratio to the first row."""
    lines = [
        "| model | parameters | precision | step | step with cycle | gain dB | upsample |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        times = [
            f"{getattr(row, name):.2f} s ({getattr(row, name) / getattr(found[0], name):.2f})"
            for name in ("step_s", "cycle_step_s", "upsample_s")
        ]
        lines.append(
            f"| {row.model} | {row.parameters} | {row.precision} | {times[0]} | {times[1]} | {row.gain_db:+.3f} | "
            f"{times[2]} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    asked = options(argv)
    torch.set_num_threads(asked.threads)
    found = rows(asked)
    print(table(found))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in found], indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
