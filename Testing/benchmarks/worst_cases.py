#!/usr/bin/env python3
"""Where a model does worst by its own card, with a picture of each such case.

    python Testing/benchmarks/worst_cases.py Resources/Models/light.safetensors EVAL_FOLDER --output docs/pictures

From the card's figures, with the noise that each scan allows: the least gain over cubic + projection, the least
on any other scan, and the largest generated gap of either sign. Each case is computed again by `cycleinr evaluate` with
the card's setting, whose picture (truth, cubic + projection and the model, errors below, noise by slice) is kept with a
palette of 128 colors: a third of the bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from CycleINRLib.cli.main import main as cycleinr  # noqa: E402
from CycleINRLib.modelcard import read_card  # noqa: E402

RIVAL = "cubic + projection"
COLORS = 128
Case = dict[str, Any]


def worst(figures: dict[str, Any], model: str) -> dict[str, Case]:
    """What is worst to the case in which it is; `model` names the column."""
    cases = [case for case in figures.get("cases", ()) if model in case["results"]]
    if not cases:
        sys.exit(f"worst_cases: the card has no figures of {model}; write_card.py puts them there")
    gains = sorted(cases, key=lambda case: gain(case, model))
    others = [case for case in gains if case["scan"] != gains[0]["scan"]]
    gaps = sorted(cases, key=lambda case: -abs(case["results"][model]["generated_gap"] or 0))
    found = {"least gain": gains[0], "largest gap": gaps[0]}
    return found | ({"least gain on another scan": others[0]} if others else {})


def gain(case: Case, model: str) -> float:
    """dB over cubic + projection on generated slices."""
    return case["results"][model]["psnr_generated"] - case["results"][RIVAL]["psnr_generated"]


def request(case: Case, figures: dict[str, Any], model: Path, scans: Path, output: Path) -> list[str]:
    """The arguments of `cycleinr` that compute the case again."""
    truth = next(iter(sorted(scans.glob(f"{case['scan']}.*"))), None)
    if truth is None:
        sys.exit(f"worst_cases: there is no scan {case['scan']} in {scans}")
    asked = ["evaluate", str(truth), "--z-scales", f"{case['z_scale']:g}", "--profiles", case["profile"]]
    if case["profile"] != "skip":
        asked += ["--ratios", f"{case['ratio']:g}"]
    if figures["setting"].get("block"):
        asked += ["--block", str(figures["setting"]["block"])]
    asked += ["--phases", f"{case['phase']:g}", "--output", str(output), "--quiet"]
    return [*asked, "--methods", RIVAL.replace(" ", ""), str(model)]


def shrink(picture: Path, target: Path) -> None:
    """The picture with a palette."""
    from PIL import Image

    with Image.open(picture) as image:
        few = image.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    few.save(target, optimize=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("scans", type=Path, help="the thin scans that the card's figures are of")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args(argv)
    card = read_card(asked.model)
    found = worst(card.figures, card.name)
    asked.output.mkdir(parents=True, exist_ok=True)
    for what, case in found.items():
        name = f"{card.name}_{case['scan']}_x{case['z_scale']:g}_{case['profile']}.png"
        gap = case["results"][card.name]["generated_gap"]
        told = "" if gap is None else f", generated gap {gap:+.2f}"
        print(f"{what}: {name[:-4]}, {gain(case, card.name):+.2f} dB over {RIVAL}{told}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            status = cycleinr(request(case, card.figures, asked.model, asked.scans, Path(folder)))
            if status:
                sys.exit(status)
            shrink(next(Path(folder).glob("*.png")), asked.output / name)


if __name__ == "__main__":
    main()
