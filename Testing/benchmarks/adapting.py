#!/usr/bin/env python3
"""Real thick-slice scans: the bundled model as it is beside the same model adapted to each scan alone.

    python Testing/benchmarks/adapting.py SCAN ... [--steps 100 | --minutes 20] [--route in-plane] [--model light]
        [--crop 160] [--thickness SCAN=MM ...] [--models FOLDER] [--pictures FOLDER] [--json adapting.json]
    python Testing/benchmarks/adapting.py SCAN ... --withhold [--crop 128]

No truth is there, so what is shown is what a user can know: acquired slices that the adaptation never saw, predicted
from their neighbors (held out); the self-check of the whole scan (every second slice, those adapted to among them);
SNLI and generated gap as acquired. The adapted network is shown as it is, whether or not `cycleinr adapt`
would keep it ("kept"). --models keeps the adapted models, for real_pairs.py --model; --pictures draws a coronal plane
of each scan.

--withhold: every second slice of each scan is taken away first. `cycleinr adapt` learns from what is left, z-scale 2
makes the slices anew, noise as acquired and the gain fitted as ever, and they are compared with those taken away: once
by the bundled model, once by the adapted one. Where no thickness is told, it is the spacing that the scan had before.
Without --steps and --minutes the route is that of `cycleinr adapt` without them. Markdown goes to stdout, progress to
stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))  # runs from a bare checkout

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.adapting.adapt import adapt  # noqa: E402
from CycleINRLib.errors import VolumeError  # noqa: E402
from CycleINRLib.evaluation.case import central_block  # noqa: E402
from CycleINRLib.imaging.accuracy import psnr  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.volume import Volume, choose_slice_axis, guess_modality  # noqa: E402
from CycleINRLib.jobs import AdaptJob  # noqa: E402
from CycleINRLib.network.weights import find_model, save_model, weights_sha256  # noqa: E402

Columns = tuple[tuple[str, str, int], ...]  # heading, figure, digits

COLUMNS: Columns = (
    ("held out: before", "held_start", 2), ("after, dB", "held", 2), ("cubic", "held_cubic", 2), ("kept", "kept", 0),
    ("self-check: before", "check_start", 2), ("after, dB", "check", 2), ("SNLI: scan", "snli_input", 3),
    ("before", "snli_start", 3), ("after", "snli", 3), ("gap: before", "gap_start", 3), ("after", "gap", 3),
    ("minutes", "minutes", 1),
)  # fmt: skip

WITHHELD: Columns = (
    ("slices", "slices", 0), ("bundled, dB", "before", 2), ("adapted - bundled", "gained", 3),
    ("on held-out lines", "lines", 3), ("on held-out slices", "held", 3), ("kept", "kept", 0),
    ("what is kept, dB", "after", 2), ("CPU seconds", "cpu", 0),
)  # fmt: skip


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, help="of the network, instead of minutes")
    parser.add_argument("--minutes", type=float, help="for each scan")
    parser.add_argument("--withhold", action="store_true", help="compare with every second slice, which nothing saw")
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


def withheld_of(scan: Volume, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """PSNR of every second slice, made from the others by the bundled model and by the one that `adapt` keeps."""
    count = len(scan.values) - 1 + len(scan.values) % 2
    matrix = np.array(scan.geometry.ijk_to_ras)
    matrix[:3, 2] *= 2
    left = np.ascontiguousarray(scan.values[:count:2])
    thick = replace(scan, thickness_mm=scan.thickness_mm or scan.spacing_mm[0])
    source, truth = thick.with_values(left, Geometry(left.shape, matrix)), scan.values[1:count:2].astype(np.float32)
    job = AdaptJob(model=asked.model, route=asked.route, steps=asked.steps, minutes=asked.minutes)
    began = time.process_time()
    found = adapt([source], job, folder / "run", progress=lambda event: print(event, file=sys.stderr))
    row: dict[str, Any] = {"scan": scan.name, "cpu": time.process_time() - began, "slices": len(truth)}
    path = save_model(found.learned, replace(found.card, name="adapted"), folder / "adapted.safetensors")
    for name, model in (("before", asked.model), ("learned", str(path))):
        made = cycleinr.upsample(source, model=model, axis="k", z_scale=2.0, noise="acquired").volume.values[1::2]
        row[name] = psnr(made.astype(np.float32), truth, scan.modality or "MR")
    kept = found.report["improved"]
    held = found.report["held_out"]
    told = {"kept": "yes" if kept else "no", "held": held["psnr_db"] - held["psnr_start_db"]}
    told["lines"] = held["lines_gain_db"]
    return {**row, **told, "gained": row["learned"] - row["before"], "after": row["learned" if kept else "before"]}


def _draw(path: Path, scan: Volume, results: dict[str, Any], start: str) -> None:
    from CycleINRLib.pictures.planes import comparison

    panels = [("Input", scan), *zip((start, f"{start}, adapted"), (one.volume for one in results.values()))]
    snli = [
        next(iter(results.values())).report["snli"]["input"],
        *(r.report["snli"]["output"] for r in results.values()),
    ]
    comparison(path, panels, "k", scan.modality or "MR", snli=snli)


def table(rows: list[dict[str, Any]], columns: Columns = COLUMNS) -> str:
    lines = ["| scan | " + " | ".join(title for title, *_ in columns) + " |", "|" + " --- |" * (len(columns) + 1)]
    for row in rows:
        cells = [_cell(row[figure], digits) for _, figure, digits in columns]
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
            scan, work = scan_of(path, asked.crop, told), withheld_of if asked.withhold else row_of
            try:
                rows.append(work(scan, asked, Path(folder)))
            except VolumeError as error:
                print(f"{scan.name} is left out: {error}", file=sys.stderr)
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows, WITHHELD if asked.withhold else COLUMNS))
    if asked.withhold:
        print(f"\nMade with the weights {weights_sha256(find_model(asked.model))[:8]}.")


if __name__ == "__main__":
    main()
