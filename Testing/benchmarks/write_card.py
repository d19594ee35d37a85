#!/usr/bin/env python3
"""Puts the figures of `cycleinr evaluate --output FOLDER` into a model's card, and the summary into README.md.

    python Testing/benchmarks/write_card.py Resources/Models/light.safetensors FOLDER/evaluation.json
        [--readme FILE | --no-readme] [--ablations ablations.json]

The weights stay bit for bit the same. README.md gets, between its accuracy marks, the gain of each scan and profile at
the noise that each scan allows and as acquired. An evaluation of other weights than those in the file is refused.
`--ablations` puts what `ablations.py --json` found beside the figures; without it, those that the card has stay.
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

from CycleINRLib.evaluation.tables import behind, figure_of, lead, profile_of  # noqa: E402
from CycleINRLib.network.weights import (  # noqa: E402
    load_model,
    save_model,
    weights_sha256,  # noqa: E402
)

INTERPOLATORS = ("cubic", "cubic + projection")
BEGIN, END = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"
FIGURES = (
    "psnr_generated", "psnr_all", "ssim", "gradient_error", "snli", "snli_detrended", "generated_gap", "noise_ratio",
    "seconds",
)  # fmt: skip


def columns_of(record: dict, digest: str) -> list[str]:
    """The columns that these weights made: the default noise first."""
    ours = {name: facts for name, facts in record["methods"].items() if facts.get("weights_sha256") == digest}
    if not ours:
        sys.exit("write_card: the evaluation is of other weights than those in the file; run cycleinr evaluate again")
    return sorted(ours, key=lambda name: ours[name]["noise"] != "auto")


def card_figures(record: dict, ours: list[str]) -> dict:
    """Every case with the figures of the interpolators and of ours, for the card."""
    shown = [name for name in record["methods"] if name in (*ours, "linear", *INTERPOLATORS)]
    facts = ("scan", "modality", "z_scale", "profile", "ratio", "phase", "noise_ceiling")
    cases = [
        {name: case[name] for name in facts}
        | {"results": {name: {figure: figure_of(case, name, figure) for figure in FIGURES} for name in shown}}
        for case in record["cases"]
    ]
    return {"protocol": record["protocol"], "setting": record["setting"], "cases": cases}


def limits_of(record: dict, name: str) -> tuple[str, ...]:
    """Cases in which the column is behind cubic."""
    return tuple(
        f"{case['scan']} x{case['z_scale']:g} {profile_of(case)}: {lead(case, name, ['cubic']):+.2f} dB against cubic"
        for case in behind(record, name)
    )


def summary(record: dict, name: str) -> str:
    """The README's table of one column: mean gain over z-scales, for each scan and profile."""
    cases = record["cases"]
    z_scales = ", ".join(f"{z:g}" for z in sorted({case["z_scale"] for case in cases}))
    facts = record["methods"][name]
    noise = "as each scan allows (the default)" if facts["noise"] == "auto" else facts["noise"]
    lines = [
        f"Gain of `{facts['model']}`, noise {noise}, in PSNR (dB) on generated slices inside the body "
        f"over cubic B-spline / over cubic + projection, mean of z-scales {z_scales}, on scans that training never "
        f"saw{_where(record)}; in brackets the least gain over both. Cubic + projection is generous: the truth picks "
        "its best step.",
        "",
    ]
    profiles = list(dict.fromkeys(map(profile_of, cases)))
    lines += ["| scan | " + " | ".join(profiles) + " |", "| --- |" + " --- |" * len(profiles)]
    for scan in dict.fromkeys(case["scan"] for case in cases):
        chosen = [[case for case in cases if (case["scan"], profile_of(case)) == (scan, one)] for one in profiles]
        lines.append(f"| `{scan}` | " + " | ".join(_gains(group, name) for group in chosen) + " |")
    return "\n".join([*lines, "", _end(record, name)])


def _where(record: dict) -> str:
    block = record["setting"].get("block")
    return f" (the central {block} x {block} pixels)" if block else ""


def _gains(cases: list[dict], name: str) -> str:
    gains = [[lead(case, name, [interpolator]) for interpolator in INTERPOLATORS] for case in cases]
    known = [pair for pair in gains if None not in pair]
    if not known:
        return "-"
    over_cubic, over_projection = (mean(values) for values in zip(*known))
    return f"{over_cubic:+.2f} / {over_projection:+.2f} ({min(map(min, known)):+.2f})"


def _end(record: dict, name: str) -> str:
    cases = record["cases"]
    leads = [lead(case, name, INTERPOLATORS) for case in cases]
    ahead = sum(value is not None and value > 0 for value in leads)
    gaps = [gap for case in cases if (gap := figure_of(case, name, "generated_gap")) is not None]
    gap = f"Its generated gap is {mean(gaps):+.2f} on average. " if gaps else ""
    return (
        f"Ahead of both in {ahead} of {len(cases)} cases. {gap}The model card (`cycleinr models --json`) has each "
        "case; `cycleinr evaluate FOLDER_OF_THIN_SCANS --output FOLDER` makes such a table of any scans."
    )


def ablations_of(path: Path) -> dict[str, dict[str, float]]:
    """Variant to its figures, as `ablations.py --json` writes them."""
    found = json.loads(path.read_text("utf-8"))
    expected = {"CT gain", "MR gain", "CT noise", "MR noise", "steps"}
    if not isinstance(found, dict) or not found or any(not expected <= set(facts) for facts in found.values()):
        sys.exit(f"write_card: {path} holds no ablations; write them with ablations.py --json")
    return found


def _is_shown(facts: dict) -> bool:
    """The default noise and as acquired; consistency as it is chosen."""
    return facts["consistency"] == "auto" and facts["noise"] in ("auto", "acquired")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--readme", type=Path, default=REPOSITORY / "README.md")
    parser.add_argument("--no-readme", action="store_true", help="the card alone")
    parser.add_argument("--ablations", type=Path, help="what each part of the method is worth, by ablations.py")
    asked = parser.parse_args(argv)
    record = json.loads(asked.evaluation.read_text("utf-8"))
    ours = columns_of(record, weights_sha256(asked.model))
    network, card = load_model(asked.model)
    figures, limits = card_figures(record, ours), limits_of(record, ours[0])
    ablations = ablations_of(asked.ablations) if asked.ablations else card.figures.get("ablations")
    figures |= {"ablations": ablations} if ablations else {}
    save_model(network, dataclasses.replace(card, figures=figures, limits=limits), asked.model)
    text = "\n\n".join(summary(record, name) for name in ours if _is_shown(record["methods"][name]))
    print(text)
    if asked.no_readme:
        return
    before, _, rest = asked.readme.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    asked.readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
