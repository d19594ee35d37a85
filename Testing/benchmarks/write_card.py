#!/usr/bin/env python3
"""Puts the figures of `evaluate_table.py --json` into a model's card, and the summary into README.md.

    python Testing/benchmarks/write_card.py Resources/Models/light.safetensors table.json

The weights stay bit for bit the same. README.md gets, between its accuracy marks, the gain of each scan and profile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from statistics import mean

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from CycleINRLib.network.weights import load_model, save_model  # noqa: E402
from CycleINRLib.tasks.evaluate import PRODUCT  # noqa: E402

RIVALS = ("linear", "cubic", "cubic + projection")
BEGIN, END = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"
PROTOCOL = (
    "Thick slices made of thin ones (tasks/evaluate.py); PSNR in dB inside the body, CT over 2000 HU, MR over the "
    "99.9th percentile; cubic + projection at the best of 12 back-projection steps, picked by the truth"
)


def cases(scores: list[dict]) -> list[dict]:
    """One row for each scan, z-scale and profile, with the PSNR of every method."""
    rows: dict[tuple, dict] = {}
    for score in scores:
        key = (score["scan"], score["z_scale"], score["profile"])
        row = rows.setdefault(key, dict(zip(("scan", "z_scale", "profile"), key)))
        row.setdefault("generated", {})[score["method"]] = score["psnr_generated"]
        row.setdefault("all", {})[score["method"]] = score["psnr_all"]
        if score["method"] == PRODUCT:
            row |= {name: score[name] for name in ("snli_detrended", "generated_gap", "noise_ratio", "seconds")}
    return list(rows.values())


def gain(row: dict, rival: str, slices: str = "generated") -> float:
    return row[slices][PRODUCT] - row[slices][rival]


def summary(rows: list[dict]) -> str:
    """The README's table: mean gain over z-scales, for each scan and profile."""
    lines = [
        "Gain in PSNR (dB) on generated slices inside the body over cubic B-spline / over cubic + projection, mean of "
        f"z-scales {', '.join(f'{z:g}' for z in sorted({row['z_scale'] for row in rows}))}, on scans that training "
        "never saw; in brackets the least gain over both. Cubic + projection is generous: the truth "
        "picks its best step.",
        "",
    ]
    profiles = list(dict.fromkeys(row["profile"] for row in rows))
    lines += ["| scan | " + " | ".join(profiles) + " |", "| --- |" + " --- |" * len(profiles)]
    for scan in dict.fromkeys(row["scan"] for row in rows):
        cells = []
        for profile in profiles:
            chosen = [row for row in rows if (row["scan"], row["profile"]) == (scan, profile)]
            over = [mean(gain(row, rival) for row in chosen) for rival in RIVALS[1:]]
            least = min(gain(row, rival) for row in chosen for rival in RIVALS[1:])
            cells.append(f"{over[0]:+.2f} / {over[1]:+.2f} ({least:+.2f})")
        lines.append(f"| `{scan}` | " + " | ".join(cells) + " |")
    ahead = sum(all(gain(row, rival) > 0 for rival in RIVALS[1:]) for row in rows)
    lines += [
        "",
        f"Ahead of both in {ahead} of {len(rows)} cases. The model card (`cycleinr models --json`) has each case, on "
        "generated and on all slices; `Testing/benchmarks/evaluate_table.py` makes the table again. At "
        "`--texture 0` the "
        "network is trained for least error: generated slices are smoother than acquired ones (generated gap "
        f"{mean(row['generated_gap'] for row in rows if row['generated_gap'] is not None):.2f} on average here), which "
        "SNLI shows; curing it is the next step.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("table", type=Path)
    asked = parser.parse_args()
    rows = cases(json.loads(asked.table.read_text("utf-8")))
    network, card = load_model(asked.model)
    behind = [row for row in rows if min(gain(row, rival) for rival in RIVALS[1:]) <= 0]
    limits = [
        f"{row['scan']} x{row['z_scale']:g} {row['profile']}: {min(gain(row, r) for r in RIVALS[1:]):+.2f} dB against "
        "the better of cubic and cubic + projection"
        for row in behind
    ]
    save_model(
        network,
        dataclasses.replace(card, figures={"protocol": PROTOCOL, "cases": rows}, limits=tuple(limits)),
        asked.model,
    )
    readme = REPOSITORY / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{summary(rows)}\n{END}{after}", "utf-8")
    print(summary(rows))


if __name__ == "__main__":
    main()
