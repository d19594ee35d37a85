#!/usr/bin/env python3
"""CycleINR beside other methods, on the same thick slices, scored by the same code.

    python Testing/benchmarks/peers/run.py EVAL_FOLDER --train TRAIN_FOLDER --facts Resources/Models/light_scans.json
        --eclare ENVIRONMENT/bin/run-eclare --soupgan ENVIRONMENT/bin/python MODEL_FOLDER [--minutes 20]
        [--patches 2560] [--crop 96] [--threads 2]
        [--cases SCAN:Z:PROFILE ...] [--only light arssr sainr eclare] [--work runs/peers] [--json peers.json]
    python Testing/benchmarks/peers/run.py Testing/data --cases ct_thin:2:box --only        a try, interpolators only

`light`, an ArSSR-style and an SA-INR-style network are each trained from scratch for --minutes by one loop on the same
scans, those that the facts hold out left out; ECLARE learns from each case anew, with a stated budget of patches, as a
separate program; so is SOUP-GAN, with its own published weights. What they left in --work is taken instead of being
made again. One Markdown table goes to stdout, every figure to --json, progress to stderr. docs/peers.md says what each
peer is and how it differs from its original.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # runs from a bare checkout

import numpy as np

import CycleINRLib as cycleinr
from CycleINRLib.cli.train import read_scan
from CycleINRLib.evaluation import score as ev
from CycleINRLib.evaluation.case import Acquisition, Case, central_block
from CycleINRLib.evaluation.interpolators import INTERPOLATORS as FUNCTIONS
from CycleINRLib.imaging.intensity import IntensityScale
from CycleINRLib.imaging.volume import guess_modality
from CycleINRLib.io.discover import find_scans
from peers import eclare, nullspace, soupgan, training

CASES = (
    "mr_t1_brain_brainmrt:2:gaussian",
    "mr_t1_brain_brainmrt:4:gaussian",
    "mr_t1_brain_fnndsc_adi:2:gaussian",
    "mr_t1_brain_fnndsc_adi:4:gaussian",
    "ct_chest_stephamar_0117:4:box",
)
ENDINGS = (".nrrd", ".nii", ".nii.gz", ".mha")
INTERPOLATORS = ("linear", "cubic", "histospline", "cubic + projection")
COLUMNS = (
    ("PSNR generated, dB", "psnr_generated", 2),
    ("SSIM", "ssim", 4),
    ("SNLI", "snli", 3),
    ("SNLI detrended", "snli_detrended", 3),
    ("noise ratio", "noise_ratio", 2),
    ("seconds", "seconds", 1),
)
NO_VERDICT = (
    "The re-implementations were written from their papers and trained by us for {minutes:g} minutes on CPU: "
    "their figures are no verdict on the originals."
)


@dataclass(frozen=True)
class Compared:
    """One line of the table: how it is called, how it is computed, what is known of it beside its scores."""

    name: str
    method: ev.Method
    parameters: int | None = None
    facts: dict[str, Any] | None = None


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="thin-slice scans that no training touched, slices along k")
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="SCAN:Z:PROFILE", help="a ratio may follow")
    parser.add_argument("--crop", type=int, default=96, help="central rows and columns; 0: whole slices")
    parser.add_argument("--only", nargs="*", choices=[*training.RECIPES, "eclare"], help="what runs beside the others")
    parser.add_argument("--train", type=Path, help="thin-slice scans to train on")
    parser.add_argument("--facts", type=Path, help="which of them, and which are held out, as cycleinr train --scans")
    parser.add_argument("--minutes", type=float, default=20.0, help="of processor time, for each of the trainings")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the trainings")
    parser.add_argument("--eclare", type=Path, help="the program run-eclare, in an environment of its own")
    parser.add_argument("--patches", type=int, default=2560, help="that ECLARE trains on in each case")
    parser.add_argument(
        "--soupgan",
        type=Path,
        nargs=2,
        metavar=("PYTHON", "MODEL"),
        help="an environment's python, a SavedModel's folder",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="keeps what was trained and made")
    parser.add_argument("--json", type=Path, help="write every figure here too")
    asked = parser.parse_args(argv)
    asked.only = [*training.RECIPES, "eclare"] if asked.only is None else asked.only
    if set(asked.only) & set(training.RECIPES) and asked.train is None:
        parser.error("--train is needed to train; --only eclare, or --only alone, goes without")
    if "eclare" in asked.only and asked.eclare is None:
        parser.error("--eclare is needed: the path of run-eclare; --only light arssr sainr goes without")
    return asked


# --- cases --------------------------------------------------------------------------------------------------------
def case_of(text: str, folder: Path, crop: int) -> Case:
    """From "SCAN:Z:PROFILE" or "SCAN:Z:PROFILE:RATIO"; exits with one line where it cannot be."""
    try:
        scan, z_scale, profile, *ratio = text.split(":")
        protocol = Acquisition(float(z_scale), profile, *map(float, ratio))
    except (ValueError, TypeError):
        sys.exit(f"peers: {text!r} is no case: write SCAN:Z:PROFILE, such as mr_brain:4:gaussian")
    path = next((path for path in sorted(folder.iterdir()) if _named(path, scan)), None)
    if path is None:
        sys.exit(f"peers: there is no scan {scan} in {folder}")
    volume = cycleinr.read(path)
    named = {"ct_": "CT", "mr_": "MR"}.get(scan[:3].lower())  # a block out of a head holds no air to tell it by
    volume = replace(volume, name=scan, modality=named or guess_modality(volume), slice_axis="k")
    return Case.of(central_block(volume, crop) if crop else volume, protocol)


def _named(path: Path, scan: str) -> bool:
    return any(path.name == scan + ending for ending in ENDINGS)


# --- methods ------------------------------------------------------------------------------------------------------
def compared(asked: argparse.Namespace) -> list[Compared]:
    """Everything that is scored; trains what has to be trained."""
    found = [Compared(name, FUNCTIONS[name]) for name in INTERPOLATORS]
    found.append(Compared("mixed splines, null-space form", nullspace.mixed_splines))
    found.append(Compared("CycleINR light, bundled", ev.product(model="light"), _parameters("light")))
    acquired = ev.product(model="light", noise="acquired")
    found.append(Compared("CycleINR light, bundled, noise as acquired", acquired, _parameters("light")))
    scans = list(_scans(asked)) if set(asked.only) & set(training.RECIPES) else []
    for name in training.RECIPES:
        if name in asked.only:
            found.append(_trained(name, scans, asked))
    if "eclare" in asked.only:
        found.append(Compared(_eclare_title(asked), EclareRun(asked), eclare.PARAMETERS, {"patches": asked.patches}))
    if asked.soupgan:
        method = SoupGanRun(soupgan.SoupGan(*asked.soupgan, asked.threads))
        found.append(Compared("SOUP-GAN, thin to thin, its published weights", method, soupgan.PARAMETERS))
    return found


def _eclare_title(asked: argparse.Namespace) -> str:
    return f"ECLARE, trained on {asked.patches} patches of each case, within the seconds"


def _scans(asked: argparse.Namespace) -> Iterator[tuple[Any, bool]]:
    """Scans to train on, each with whether it is held out."""
    for stored, facts in find_scans([asked.train], str(asked.facts) if asked.facts else None):
        yield read_scan(stored, facts["modality"]), facts["held_out"]


def _trained(name: str, scans: list[tuple[Any, bool]], asked: argparse.Namespace) -> Compared:
    asked.work.mkdir(parents=True, exist_ok=True)
    path = asked.work / f"{name}_{asked.minutes:g}min.safetensors"
    recipe = training.RECIPES[name]
    if not path.exists():
        seen, held_out = ([scan for scan, out in scans if out is kept] for kept in (False, True))
        made = training.fit(recipe, seen, asked.minutes, held_out, asked.precision, say=_say)
        training.save(name, made, asked.minutes, path)
    trained = training.load(name, path)
    facts = {"minutes": asked.minutes, "steps": trained.steps, "loss": trained.loss, "held_out": trained.held_out}
    if name == "light":
        title = f"CycleINR light, trained from scratch for {asked.minutes:g} minutes on CPU"
        return Compared(title, ev.product(model=str(path)), trained.parameters, facts)
    title = f"{recipe.title} (re-implementation, trained by us for {asked.minutes:g} minutes on CPU)"
    return Compared(title, peer(trained.network), trained.parameters, facts)


def peer(network: Any) -> ev.Method:
    """A trained peer as a method: the thick slices in, slices at the target positions out, rounded as the scan is."""

    def run(case: Case) -> Iterator[np.ndarray]:
        import torch

        source = np.asarray(case.source.values, np.float32)
        scale = IntensityScale.of(case.source.values, case.modality).scale
        made = training.slices(network, torch.from_numpy(source / np.float32(scale)), case.positions.tolist())
        yield as_stored(np.stack([one.numpy() for one in made]) * np.float32(scale), case)

    return run


class EclareRun:
    """ECLARE as a method; keeps what it found out beside the slices, since a result of an earlier run takes no time."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.result: eclare.Result | None = None  # of the latest case

    def __call__(self, case: Case) -> Iterator[np.ndarray]:
        asked = self.asked
        folder = asked.work / f"eclare_{asked.patches}" / f"{case.name}_{case.source.values.shape[2]}"
        self.result = eclare.run(case, asked.eclare, folder, asked.patches, asked.threads)
        yield as_stored(self.result.values, case)


@dataclass(frozen=True)
class SoupGanRun:
    """SOUP-GAN as a method, rounded as the scan is; its seconds are those of the program, start included."""

    program: soupgan.SoupGan

    def __call__(self, case: Case) -> Iterator[np.ndarray]:
        for made in self.program(case):
            yield as_stored(made, case)


def as_stored(values: np.ndarray, case: Case) -> np.ndarray:
    """Rounded and clipped to the scan's type, as CycleINR's own result is."""
    kind = case.source.values.dtype
    if kind.kind not in "iu":
        return values.astype(kind)
    limits = np.iinfo(kind)
    return np.clip(np.rint(values), limits.min, limits.max).astype(kind)


def _parameters(model: str) -> int:
    from CycleINRLib.network.weights import find_model, load_model

    return sum(value.numel() for value in load_model(find_model(model))[0].parameters())


# --- scores -------------------------------------------------------------------------------------------------------
def scored(ruler: ev.Ruler, one: Compared) -> dict[str, Any]:
    """Every figure of one method in one case."""
    score, _ = ruler.score(one.name, one.method)
    line = {**ruler.case.facts(), **asdict(score), "parameters": one.parameters, **(one.facts or {})}
    if isinstance(one.method, EclareRun) and one.method.result is not None:
        line |= {"seconds": round(one.method.result.seconds, 1), "shift": one.method.result.shift}
    return line


def truth_line(ruler: ev.Ruler) -> dict[str, Any]:
    """The truth as if it were a method: its own noise, and the PSNR that this noise allows."""
    ceiling = ruler.noise_ceiling()["psnr_db"]
    known = {"method": "the truth, and the PSNR that its noise allows", "psnr_generated": ceiling}
    nothing = dict.fromkeys(("ssim", "seconds", "parameters"))
    return {**ruler.case.facts(), **known, **nothing, **ruler.truth_figures()}


def table(lines: list[dict[str, Any]]) -> str:
    """One Markdown table: each case, then the mean over the cases that every method has."""
    rows = ["| scan | thick slices | method | " + " | ".join(title for title, *_ in COLUMNS) + " | parameters |"]
    rows.append("|" + " --- |" * (len(COLUMNS) + 4))
    for line in lines:
        protocol = Acquisition(line["z_scale"], line["profile"], line["ratio"])
        rows.append(_row([line["scan"], str(protocol), line["method"]], line))
    cases = {line["case"] for line in lines}
    for method in dict.fromkeys(line["method"] for line in lines):
        own = [line for line in lines if line["method"] == method]
        if len(own) == len(cases) > 1:
            means = {figure: _mean([line[figure] for line in own]) for _, figure, _ in COLUMNS}
            rows.append(_row(["mean", f"{len(own)} cases", method], {**own[0], **means}))
    return "\n".join(rows)


def _row(names: list[str], line: dict[str, Any]) -> str:
    cells = ["-" if line[figure] is None else f"{line[figure]:.{digits}f}" for _, figure, digits in COLUMNS]
    parameters = "-" if line["parameters"] is None else f"{line['parameters'] / 1e6:.2f} M"
    return "| " + " | ".join([*names, *cells, parameters]) + " |"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    asked = options(argv)
    cases = [case_of(text, asked.folder, asked.crop) for text in asked.cases]
    if set(asked.only) & set(training.RECIPES):
        import torch

        torch.set_num_threads(asked.threads)
    beside, lines, failed = compared(asked), [], 0
    for case in cases:
        ruler = ev.Ruler(case, asked.threads)
        lines.append(truth_line(ruler))
        for one in beside:
            try:
                lines.append(scored(ruler, one))
            except (eclare.EclareError, soupgan.SoupGanError) as error:
                failed += 1
                _say(f"peers: {case.name}: {error}")
                continue
            _say(f"{case.name}: {one.name}: {lines[-1]['psnr_generated']} dB")
        if asked.json:
            asked.json.write_text(json.dumps(lines, indent=1, allow_nan=False) + "\n")
    print(table(lines))
    if any("re-implementation" in line["method"] for line in lines):
        print("\n" + NO_VERDICT.format(minutes=asked.minutes))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
