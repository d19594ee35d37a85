"""What each part of the method is worth: networks trained alike but for one part.

    python Testing/benchmarks/ablations.py TRAIN_FOLDER EVAL_FOLDER [--scans FILE.json] [--steps 600]
        [--only NAME ...] [--json FILE.json]

All start from the same random weights of a network of a quarter of `light`'s size and see the same number of steps and,
but for the one-modality variants, the same patches. They are scored on fixed patches of the EVAL scans, which none was
trained on: gain over the closed-form base in dB (without consistency). A finished variant is kept in the JSON file, so
that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from CycleINRLib.imaging.interpolation import cubic_weights
from CycleINRLib.io.files import read
from CycleINRLib.network.model import CycleINR, NetworkConfig
from CycleINRLib.training.objective import Objective, gain_db, predict, wanted
from CycleINRLib.training.patches import Batch, Places, SampleConfig, draw_batch
from CycleINRLib.training.scans import Scan

NETWORK = NetworkConfig(channels=32, blocks=6)
PLACES = ("places", "first", "second")
BATCHES = 16  # of four patches, per modality
THICKNESS = (0, 1), (3, 4)  # columns of the scan's and of the place's conditions that tell the slice thickness


@dataclass(frozen=True)
class Variant:
    """One training; everything that is not named is that of the full method."""

    name: str
    network: NetworkConfig = NETWORK
    samples: SampleConfig = SampleConfig()
    objective: Objective = Objective()
    tells_thickness: bool = True
    cubic_base: bool = False

    def seen(self, batch: Batch) -> Batch:
        """The batch as this variant sees it."""
        if self.cubic_base:
            batch = replace(batch, **{name: _on_cubic(getattr(batch, name)) for name in PLACES})
        if not self.tells_thickness:
            told = {name: _untold(getattr(batch, name)) for name in PLACES}
            condition = batch.condition.clone()
            condition[:, list(THICKNESS[0])] = 0
            batch = replace(batch, condition=condition, **told)
        return batch


VARIANTS = [
    Variant("full"),
    Variant("without LAM", network=replace(NETWORK, attention=False)),
    Variant("with gradient term 0.3", objective=Objective(gradient=0.3)),
    Variant("thickness not told", tells_thickness=False),
    Variant("cubic base", cubic_base=True),
    Variant("CT alone", samples=SampleConfig(ct_share=1.0)),
    Variant("MR alone", samples=SampleConfig(ct_share=0.0)),
    Variant("without added contrast and noise", samples=SampleConfig(contrast_share=0.0, noise_share=0.0)),
    Variant("with the cycle", samples=SampleConfig(cycle=1.0)),
]


def _on_cubic(places: Places) -> Places:
    count = places.weights.shape[-1]
    z = (places.below + places.t).numpy()
    weights = np.stack([cubic_weights(row, count) for row in z]).astype(np.float32)
    return replace(places, weights=torch.from_numpy(weights))


def _untold(places: Places) -> Places:
    query = places.query.clone()
    query[..., list(THICKNESS[1])] = 0
    return replace(places, query=query)


def trained(variant: Variant, scans: list[Scan], steps: int) -> tuple[CycleINR, float]:
    """The network after `steps` of AdamW with warm-up and cosine, and the seconds a step took."""
    torch.manual_seed(0)
    network = CycleINR(variant.network)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    warm = max(1, steps // 20)
    shape = lambda n: min(1.0, (n + 1) / warm) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * n / steps)))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    start = time.monotonic()
    for step in range(steps):
        batch = variant.seen(draw_batch(scans, variant.samples, 4, 0, step))
        optimizer.zero_grad(set_to_none=True)
        variant.objective.loss(network, batch).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval(), (time.monotonic() - start) / steps


@torch.no_grad()
def figures(variant: Variant, network: CycleINR, scans: list[Scan]) -> dict[str, float]:
    """Gain over the base that the full method uses, on fixed patches."""
    found = {}
    samples = SampleConfig(contrast_share=0.0, noise_share=0.0)
    for modality in ("CT", "MR"):
        mine = [scan for scan in scans if scan.modality == modality]
        gains = []
        for n in range(BATCHES):
            whole = draw_batch(mine, samples, 4, 77, n)
            batch = variant.seen(whole)
            correction = predict(network, batch.source, batch.scan, batch.places, batch.margin)
            errors = zip(correction - wanted(batch), wanted(whole), batch.weight)
            gains += [float(gain_db(ours, base, weight)) for ours, base, weight in errors]
        found[f"{modality} gain"] = round(float(np.mean(gains)), 3)
    return found


def table(results: dict[str, dict]) -> str:
    columns = ["CT gain", "MR gain"]
    lines = ["| variant | " + " | ".join(columns) + " | parameters | s/step |", "|" + " --- |" * (len(columns) + 3)]
    for name, facts in results.items():
        cells = [f"{facts[column]:+.2f}" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} | {facts['parameters']} | {facts['seconds_per_step']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("eval", type=Path)
    parser.add_argument("--scans", type=Path, help="train on the scans that this file names and does not hold out")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--only", nargs="+", choices=[variant.name for variant in VARIANTS])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    told = json.loads(asked.scans.read_text("utf-8")) if asked.scans else None
    names = [p for p in sorted(asked.train.glob("*.nrrd")) if not told or p.name in told]
    shown = [Scan.of(read(path)) for path in names if not (told and told[path.name].get("held_out"))]
    hidden = [Scan.of(read(path)) for path in sorted(asked.eval.glob("*.nrrd"))]
    results = json.loads(asked.json.read_text("utf-8")) if asked.json and asked.json.exists() else {}
    for variant in VARIANTS:
        if variant.name in results or (asked.only and variant.name not in asked.only):
            continue
        network, pace = trained(variant, shown, asked.steps)
        parameters = sum(p.numel() for p in network.parameters())
        facts = {"steps": asked.steps, "seconds_per_step": round(pace, 3), "parameters": parameters}
        results[variant.name] = {**figures(variant, network, hidden), **facts}
        print(variant.name, results[variant.name], flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(results, indent=1), "utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
