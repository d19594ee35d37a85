#!/usr/bin/env python3
"""The table of a model: thin scans are thickened, upsampled again and compared with what they were.

    python Testing/benchmarks/evaluate_table.py FOLDER [--crop 160] [--scans ct_* mr_*] [--z-scales 2 3 3.5 4]
        [--profiles skip box gaussian] [--ratio 1] [--jobs 1] [--model light] [--json table.json]

FOLDER holds thin-slice scans (.nrrd, .nii.gz, .mha), slices along k. Every scan, z-scale and profile is scored for
linear, cubic B-spline, histospline, cubic + projection (the best of 12 back-projection steps) and CycleINR at its
default options, thickness and profile given. Markdown goes to stdout, every figure to --json, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a bare checkout

import CycleINRLib as cycleinr
from CycleINRLib.imaging.volume import guess_modality
from CycleINRLib.tasks import evaluate as ev

ENDINGS = (".nrrd", ".nii", ".nii.gz", ".mha")
TABLES = (
    ("PSNR on generated slices, dB", "psnr_generated", 2),
    ("PSNR on all slices, dB", "psnr_all", 2),
    ("SSIM, all slices", "ssim", 3),
    ("SNLI", "snli", 2),
    ("SNLI detrended", "snli_detrended", 3),
    ("Generated gap (0: generated slices cannot be told by their noise)", "generated_gap", 3),
    ("Noise ratio (1: the texture was kept)", "noise_ratio", 2),
    ("Seconds", "seconds", 1),
)


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scans", nargs="+", default=["*"], metavar="PATTERN", help="file names, * allowed")
    parser.add_argument("--crop", type=int, default=0, help="central rows and columns; 0: whole slices")
    parser.add_argument("--z-scales", nargs="+", type=float, default=[2, 3, 3.5, 4])
    parser.add_argument("--profiles", nargs="+", default=["skip", "box", "gaussian"])
    parser.add_argument("--ratio", type=float, default=1.0, help="thickness / spacing of box and gaussian")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--consistency", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texture", type=float, default=0.0)
    parser.add_argument("--rivals-only", action="store_true", help="without CycleINR: needs no torch")
    parser.add_argument("--ssim", action="store_true")
    parser.add_argument("--json", type=Path, help="write every figure here")
    return parser.parse_args(argv)


def one_case(path: Path, protocol: ev.Protocol, asked: argparse.Namespace) -> list[ev.Score]:
    """All methods on one scan and protocol; runs in a process of its own where --jobs asks for it."""
    volume = cycleinr.read(path)
    # a block out of the middle of a head holds no air: a name that tells the modality is the better witness
    named = {"ct_": "CT", "mr_": "MR"}.get(path.name[:3].lower())
    name = path.name.split(".")[0]
    volume = replace(volume, name=name, modality=named or guess_modality(volume), slice_axis="k")
    if asked.crop:
        volume = ev.central_block(volume, asked.crop)
    methods = dict(ev.RIVALS)
    if not asked.rivals_only:
        choice = {name: getattr(asked, name) for name in ("model", "consistency", "device", "texture")}
        methods[ev.PRODUCT] = ev.product(**choice)
    return ev.evaluate(volume, [protocol], methods, with_ssim=asked.ssim)


def all_cases(asked: argparse.Namespace) -> Iterator[list[ev.Score]]:
    files = [path for path in sorted(asked.folder.iterdir()) if path.name.endswith(ENDINGS)]
    files = [path for path in files if any(fnmatch(path.name, f"{pattern}*") for pattern in asked.scans)]
    if not files:
        sys.exit(f"evaluate_table: no scan in {asked.folder} fits {' '.join(asked.scans)}")
    protocols = [ev.Protocol(z, profile, asked.ratio) for z in asked.z_scales for profile in asked.profiles]
    work = [(path, protocol, asked) for path in files for protocol in protocols]
    if asked.jobs <= 1:
        yield from (one_case(*each) for each in work)
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // asked.jobs))  # read by the children
    with ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(one_case, *zip(*work))


def main(argv: list[str] | None = None) -> None:
    asked = options(argv)
    scores: list[ev.Score] = []
    for case in all_cases(asked):
        scores += case
        figures = ", ".join(f"{score.method} {score.psnr_generated}" for score in case)
        print(f"{case[0].scan} x{case[0].z_scale:g} {case[0].profile}: {figures}", file=sys.stderr)
        if asked.json:
            asked.json.write_text(json.dumps([asdict(score) for score in scores], indent=1, allow_nan=False) + "\n")
    for title, figure, digits in TABLES:
        if figure != "ssim" or asked.ssim:
            print(f"\n### {title}\n\n{ev.markdown(scores, figure, digits)}")


if __name__ == "__main__":
    main()
