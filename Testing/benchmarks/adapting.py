#!/usr/bin/env python3
"""Real thick-slice scans: the bundled model as it is beside the same model adapted to each scan alone.

    python Testing/benchmarks/adapting.py SCAN ... [--steps 100 | --minutes 20] [--route in-plane] [--model light]
        [--crop 160] [--thickness SCAN=MM ...] [--models FOLDER] [--pictures FOLDER] [--json adapting.json]

No truth is there, so what is shown is what a user can know: acquired slices that the adaptation never saw, predicted
from their neighbors (held out); the self-check of the whole scan (every second slice, those adapted to among them);
SNLI and generated gap as acquired. The adapted network is shown as it is, whether or not `cycleinr adapt`
would keep it ("kept"). --models keeps the adapted models, for real_pairs.py --model; --pictures draws a coronal plane
of each scan. Markdown goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))  # runs from a bare checkout

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.adapting.adapt import adapt  # noqa: E402
from CycleINRLib.evaluation.case import central_block  # noqa: E402
from CycleINRLib.imaging.volume import Volume, choose_slice_axis, guess_modality  # noqa: E402
from CycleINRLib.jobs import AdaptJob  # noqa: E402
from CycleINRLib.network.weights import find_model, save_model  # noqa: E402

COLUMNS = (
    ("held out: before", "held_start", 2), ("after, dB", "held", 2), ("cubic", "held_cubic", 2), ("kept", "kept", 0),
    ("self-check: before", "check_start", 2), ("after, dB", "check", 2), ("SNLI: scan", "snli_input", 3),
    ("before", "snli_start", 3), ("after", "snli", 3), ("gap: before", "gap_start", 3), ("after", "gap", 3),
    ("minutes", "minutes", 1),
)  # fmt: skip


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, help="of the network, instead of minutes")
    parser.add_argument("--minutes", type=float, default=20.0, help="for each scan (%(default)g)")
    parser.add_argument("--route", default="auto")
    parser.add_argument("--model", default="light")
    parser.add_argument("--crop", type=int, default=160, help="central rows and columns; 0: whole slices")
    parser.add_argument("--thickness", nargs="*", default=[], metavar="SCAN=MM", help="where a file does not tell")
    parser.add_argument("--models", type=Path, help="keep the adapted models here")
    parser.add_argument("--pictures", type=Path, help="draw a coronal plane of each scan here")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def scan_of(path: Path, crop: int, told: dict[str, float]) -> Volume:
    """The scan with its slices first, its central rows and columns alone."""
    volume = cycleinr.read(path)
    named = {"ct_": "CT", "mr_": "MR"}.get(path.name[:3].lower())
    thickness = told.get(volume.name, volume.thickness_mm)
    volume = replace(volume, modality=named or guess_modality(volume), thickness_mm=thickness)
    first = volume.slices_first(choose_slice_axis(volume))
    return central_block(first, crop) if crop else first


def row_of(scan: Volume, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Figures of both models on one scan."""
    job = AdaptJob(model=asked.model, route=asked.route, steps=asked.steps, minutes=asked.minutes)
    found = adapt([scan], job, folder / "run", progress=lambda event: print(event, file=sys.stderr))
    name = f"{scan.name} adapted"
    model = save_model(
        found.learned, replace(found.card, name=name), (asked.models or folder) / f"{scan.name}.safetensors"
    )
    results = {which: cycleinr.upsample(scan, model=which, self_check=True) for which in (asked.model, str(model))}
    before, after = (result.report for result in results.values())
    if asked.pictures:
        _draw(asked.pictures / f"{scan.name}.png", scan, results, asked.model)
    held = found.report["held_out"]
    return {
        "scan": scan.name,
        "held_start": held["psnr_start_db"], "held": held["psnr_db"], "held_cubic": held["psnr_cubic_db"],
        "slices": held["slices"], "kept": "yes" if found.report["improved"] else "no",
        "check_start": before["self_check"]["psnr_db"], "check": after["self_check"]["psnr_db"],
        "snli_input": before["snli"]["input"], "snli_start": before["snli"]["output"], "snli": after["snli"]["output"],
        "gap_start": before["generated_gap"], "gap": after["generated_gap"],
        "minutes": found.report["seconds"] / 60, "groups": found.report["groups"], "route": found.report["route"],
    }  # fmt: skip


def _draw(path: Path, scan: Volume, results: dict[str, Any], start: str) -> None:
    from CycleINRLib.pictures.planes import comparison

    panels = [("Input", scan), *zip((start, f"{start}, adapted"), (one.volume for one in results.values()))]
    snli = [
        next(iter(results.values())).report["snli"]["input"],
        *(r.report["snli"]["output"] for r in results.values()),
    ]
    comparison(path, panels, "k", scan.modality or "MR", snli=snli)


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| scan | " + " | ".join(title for title, *_ in COLUMNS) + " |", "|" + " --- |" * (len(COLUMNS) + 1)]
    for row in rows:
        cells = [_cell(row[figure], digits) for _, figure, digits in COLUMNS]
        lines.append(f"| {row['scan']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: Any, digits: int) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.{digits}f}"


def main(argv: list[str] | None = None) -> None:
    asked = options(argv)
    find_model(asked.model)
    told = {name: float(mm) for name, mm in (text.split("=") for text in asked.thickness)}
    for folder in (asked.models, asked.pictures):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in asked.scans:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row_of(scan_of(path, asked.crop, told), asked, Path(folder)))
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
