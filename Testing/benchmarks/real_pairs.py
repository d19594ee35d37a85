#!/usr/bin/env python3
"""Two real scans of one body: the thick one is upsampled onto the other's grid and compared, nothing is simulated.

    python Testing/benchmarks/real_pairs.py DATA/pairs [--quick] [--pairs phantom knee brain] [--jobs 2]
        [--model light] [--json pairs.json]

Three kinds of pairs, every method at the same places, ours through `cycleinr.upsample(volume, like=...)`:

thick and thin (a head phantom, 5 mm and 1 mm, one acquisition, one frame): onto the 1 mm slices. PSNR, also after the
best line of intensities, SSIM, sharpness along z; generated slices, one thick slice of margin. Twice: with the box
profile that is taken for CT where nobody says otherwise, and with the Gaussian one that the two scans themselves show
(`thick_minus_mean_of_thin_rms_hu` says how well either joins them).

orthogonal stacks of one contrast (a knee, sagittal, coronal, axial): the upsampled axis of the one is a sharp in-plane
axis of the other. First the reference is registered to the source (rigid, mutual information, on the stacks as they
are): one movement for all methods. Each method gives the isotropic volume, resampled by B-spline to slices 0.7 mm
apart at the reference's place, and averaged over the reference's Gaussian slice profile, since the reference is thick
along its own axis. Figures in `pairing.same_contrast`: within the body, where source slices lie on both sides.

scans of one head in different contrasts: likewise, but no difference of values means anything; figures in
`pairing.other_contrast`. A thin reference is not averaged.

Cubic + projection shows its best of steps 2, 4, 8 and 12, picked by the first figure of each table. Markdown goes to
stdout, every figure to --json, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER)]  # runs from a bare checkout

import pairing  # noqa: E402
from thick_thin import ThinScorer, agreement, pair_case  # noqa: E402

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.evaluation.case import Acquisition, Case  # noqa: E402
from CycleINRLib.evaluation.interpolators import INTERPOLATORS  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry, isotropic_z_scale  # noqa: E402
from CycleINRLib.imaging.profile import profile_weights  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.io.resample import resampled  # noqa: E402

OURS = {"CycleINR, acquired": "acquired", "CycleINR, renew": "renew", "CycleINR, remove": "remove"}  # to --noise
FIRST = next(iter(OURS))  # of ours, whose lead is told
STEPS = (2, 4, 8, 12)  # of cubic + projection
HALF_MM, QUICK_HALF_MM = 32.0, 24.0  # half the edge of the cube that is compared
REACH_MM = 8.0  # in-plane beyond that cube: what network and B-spline look at
REACH_SLICES = 2


@dataclass(frozen=True)
class Pair:
    """Source and reference: files of DATA/pairs (or beside it), modality, slice thickness in mm where it is known."""

    group: str  # phantom, knee, brain: what --pairs names
    kind: str  # "thick and thin", "one contrast", "two contrasts"
    source: str
    reference: str
    modality: str
    source_mm: float  # slice thickness
    reference_mm: float | None  # None: thin, not averaged
    profile: str = "auto"
    quick: bool = True  # False: left out by --quick

    @property
    def name(self) -> str:
        profile = "" if self.profile == "auto" else f", {self.profile} profile"
        return f"{_short(self.source)} onto {_short(self.reference)}{profile}"


def _short(file: str) -> str:
    return Path(file).name.removesuffix(".nrrd").split("_", 1)[1]


KNEE = {
    "sag": ("mr_pdfs_knee_flothesof_sag.nrrd", 3.3),
    "cor": ("mr_pdfs_knee_flothesof_cor.nrrd", 3.0),
    "ax": ("mr_pdfs_knee_flothesof_ax.nrrd", 3.5),
}
BRAINMRT, ADI = "../eval/mr_t1_brain_brainmrt.nrrd", "../eval/mr_t1_brain_fnndsc_adi.nrrd"


def _knee(source: str, reference: str, quick: bool) -> Pair:
    (one, one_mm), (other, other_mm) = KNEE[source], KNEE[reference]
    return Pair("knee", "one contrast", one, other, "MR", one_mm, other_mm, quick=quick)


THICK, THIN = "ct_headphantom_dcmqact_s2010_5mm.nrrd", "ct_headphantom_dcmqact_s2020_1mm.nrrd"
FLAIR, T1 = "mr_flair_brain_ubermuda_tra4.8mm.nrrd", "mr_t1_brain_ubermuda_sag6mm.nrrd"
PAIRS = (
    Pair("phantom", "thick and thin", THICK, THIN, "CT", 5.0, None),  # box, as nobody says otherwise
    Pair("phantom", "thick and thin", THICK, THIN, "CT", 5.0, None, "gaussian"),  # as the two scans themselves say
    *(_knee(*names, quick=True) for names in (("sag", "cor"), ("cor", "ax"), ("ax", "sag"))),
    *(_knee(*names, quick=False) for names in (("sag", "ax"), ("cor", "sag"), ("ax", "cor"))),
    Pair("brain", "two contrasts", "mr_t2_brain_brainmrt_sag3.3mm.nrrd", BRAINMRT, "MR", 3.0, None),
    Pair("brain", "two contrasts", "mr_flair_brain_brainmrt_cor4.8mm.nrrd", BRAINMRT, "MR", 4.0, None),
    Pair("brain", "two contrasts", "mr_t2_brain_fnndsc_adi_ax2.5mm.nrrd", ADI, "MR", 2.5, None, quick=False),
    Pair("brain", "two contrasts", T1, FLAIR, "MR", 5.0, 4.0, quick=False),
)
GROUPS = ("phantom", "knee", "brain")
LEADING = {"thick and thin": "psnr", "one contrast": "local_ncc", "two contrasts": "mutual_information"}


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--pairs", nargs="+", choices=("phantom", "knee", "brain"), default=["phantom", "knee", "brain"]
    )
    parser.add_argument("--quick", action="store_true", help="fewer pairs and a smaller cube")
    parser.add_argument("--half-mm", type=float, help="half the edge of the cube that is compared")
    parser.add_argument("--jobs", type=int, default=1, help="pairs at a time")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--interpolators-only", action="store_true", help="without CycleINR: needs no torch")
    parser.add_argument("--json", type=Path, help="write every figure here")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Row:
    """One method on one pair."""

    pair: str
    kind: str
    method: str
    figures: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """All methods on one pair, and what was found about the pair itself."""

    facts: dict[str, object]
    rows: list[Row]


def one_pair(pair: Pair, asked: argparse.Namespace) -> Outcome:
    """Runs in a process of its own where --jobs asks for it."""
    start = time.monotonic()
    source, reference = (_read(asked.folder / file, pair.modality) for file in (pair.source, pair.reference))
    if pair.kind == "thick and thin":
        outcome = thick_and_thin(pair, source, reference, asked)
    else:
        outcome = orthogonal(pair, source, reference, asked)
    print(f"{pair.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return outcome


def _read(path: Path, modality: str) -> Volume:
    return replace(cycleinr.read(path), name=path.name.split(".")[0], modality=modality, slice_axis="k")


def columns(asked: argparse.Namespace) -> dict[str, str]:
    """Ours, with the noise of each."""
    return {} if asked.interpolators_only else OURS


def ours(source: Volume, like: Geometry, pair: Pair, noise: str, asked: argparse.Namespace) -> np.ndarray:
    """CycleINR on the grid `like`, as a user would ask for it."""
    physics = {"modality": pair.modality.lower(), "thickness_mm": pair.source_mm, "profile": pair.profile}
    choice = {"model": asked.model, "device": asked.device, "noise": noise}
    return cycleinr.upsample(source, like=like, axis="k", **physics, **choice).volume.values


def interpolators(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """(name, values) of every interpolator; cubic + projection several times."""
    for name, method in INTERPOLATORS.items():
        several = name == "cubic + projection"
        for step, attempt in enumerate(method(case)):
            if not several or step in STEPS:
                yield name, attempt.values


def best(rows: Sequence[Row]) -> list[Row]:
    """One row for each method: the one with the best leading figure."""
    found: dict[str, Row] = {}
    for row in rows:
        figure = LEADING[row.kind]
        if row.method not in found or row.figures[figure] > found[row.method].figures[figure]:
            found[row.method] = row
    return list(found.values())


# --- thick and thin -------------------------------------------------------------------------------------------
def thick_and_thin(pair: Pair, thick: Volume, thin: Volume, asked: argparse.Namespace) -> Outcome:
    """One frame, one acquisition: the thin slices are the truth, apart from kernel and noise."""
    case = pair_case(thick, thin, pair.source_mm, "box" if pair.profile == "auto" else pair.profile)
    scorer = ThinScorer(case)
    rows = [Row(pair.name, pair.kind, name, scorer(values)) for name, values in interpolators(case)]
    target = slice(case.first, case.first + len(case.positions))
    for name, noise in columns(asked).items():
        values = ours(thick, thin.geometry, pair, noise, asked)[target]
        rows.append(Row(pair.name, pair.kind, name, scorer(values)))
    averaged = np.tensordot(case.weights, thin.values.astype(np.float32), 1)
    return Outcome({"pair": pair.name, "kind": pair.kind, **agreement(averaged, thick.values)}, best(rows))


# --- orthogonal stacks ----------------------------------------------------------------------------------------
def orthogonal(pair: Pair, source: Volume, reference: Volume, asked: argparse.Namespace) -> Outcome:
    """A stack of slices against another of other slices, with or without the same contrast."""
    motion = pairing.Motion.between(reference, source)
    half = asked.half_mm or (QUICK_HALF_MM if asked.quick else HALF_MM)
    source, reference = compared(source, reference, motion, half)
    geometry = motion.of(reference.geometry)
    mask = pairing.covered(geometry, source.geometry, (1, 2, 2)) & pairing.body(reference.values)
    axis = pairing.upsampled_axis(geometry, source.geometry)
    figures_of = pairing.same_contrast if pair.kind == "one contrast" else pairing.other_contrast
    fine = pairing.SubSlices.of(geometry, pair.reference_mm)

    def row(name: str, values: np.ndarray) -> Row:
        figures = figures_of(fine.averaged(values), reference.values, mask, reference.spacing_mm, axis)
        return Row(pair.name, pair.kind, name, figures)

    rows = [
        row(name, on_grid(values)) for name, values, on_grid in isotropic_interpolators(pair, source, fine.geometry)
    ]
    rows += [row(name, ours(source, fine.geometry, pair, noise, asked)) for name, noise in columns(asked).items()]
    facts = {
        "pair": pair.name,
        "kind": pair.kind,
        "shift_mm": round(motion.shift_mm, 2),
        "turn_deg": round(motion.turn_deg, 2),
        "registration_used": motion.accepted,
        "voxels_compared": int(mask.sum()),
        "source_spacing_mm": [round(mm, 3) for mm in source.spacing_mm],
    }
    return Outcome(facts, best(rows))


def compared(source: Volume, reference: Volume, motion: pairing.Motion, half: float) -> tuple[Volume, Volume]:
    """Both cut to a cube around the middle of what they share; the source with what a method needs beside it."""
    middles = [volume.geometry.ras_of((np.array(volume.values.shape) - 1) / 2) for volume in (reference, source)]
    moved = motion.matrix[:3, :3] @ middles[0] + motion.matrix[:3, 3]
    in_source = (moved + middles[1]) / 2
    in_reference = np.linalg.inv(motion.matrix) @ np.append(in_source, 1)
    beside = REACH_SLICES * source.spacing_mm[0]
    block = pairing.around(source, in_source, (half + beside, half + REACH_MM, half + REACH_MM))
    return block, pairing.around(reference, in_reference[:3], (half, half, half))


def isotropic_interpolators(
    pair: Pair, source: Volume, like: Geometry
) -> Iterator[tuple[str, np.ndarray, Callable[[np.ndarray], np.ndarray]]]:
    """(name, isotropic values, what resamples them to `like` as the product resamples its own) of each interpolator."""
    z_scale = isotropic_z_scale(source.geometry, "k")
    target = source.geometry.resliced(z_scale)
    ratio = pair.source_mm / source.spacing_mm[0]
    center, count = int(np.ceil(z_scale)), len(source.values)
    places = center + z_scale * np.arange(count)  # on a grid that goes on by one source slice at both ends
    slices = center + target.shape[0] + int(np.ceil(z_scale))
    weights = profile_weights(places, ratio * z_scale, slices, "gaussian")
    # no thin scan is known: only its number of slices is asked for
    unknown = np.broadcast_to(np.zeros((), source.values.dtype), (slices, *source.values.shape[1:]))
    matrix = np.array(target.ijk_to_ras)
    matrix[:3, 3] -= center * matrix[:3, 2]
    truth = source.with_values(unknown, Geometry(unknown.shape, matrix))
    case = Case(truth, source, Acquisition(z_scale, "gaussian", ratio), "MR", weights, float(center), center)

    def on_grid(values: np.ndarray) -> np.ndarray:
        place = target.cropped((0, 0, 0), values.shape)
        return resampled(replace(source, values=np.asarray(values, np.float32), geometry=place), like).values

    for name, values in interpolators(case):
        yield name, values, on_grid


# --- tables ---------------------------------------------------------------------------------------------------
ABOUT = {
    "psnr": ("PSNR, dB", 2),
    "psnr_line": ("PSNR after one line of intensities, dB", 2),
    "ssim": ("SSIM", 4),
    "gradient_error": ("gradient error, % / mm", 3),
    "sharpness": ("sharpness (1: as the reference)", 3),
    "local_ncc": ("local correlation", 4),
    "psnr_local_fit": ("PSNR after a local line, dB", 2),
    "gradient_correlation": ("correlation of gradients along the upsampled axis", 4),
    "mutual_information": ("normalized mutual information", 4),
    "gradient_alignment": ("alignment of gradients", 4),
    "edge_sharpness": ("edge sharpness along the upsampled axis (1: as the reference)", 3),
}
LOWER, TO_ONE = ("gradient_error",), ("sharpness", "edge_sharpness")  # better: lower; nearer to 1


def table(outcomes: Sequence[Outcome], figure: str) -> str:
    """One figure: pairs down, methods across, the best bold, and our lead over the best interpolator."""
    title, digits = ABOUT[figure]
    chosen = [outcome.rows for outcome in outcomes if figure in outcome.rows[0].figures]
    names = list(dict.fromkeys(row.method for rows in chosen for row in rows))
    header = ["pair", *names, *(["our lead"] if FIRST in names else [])]
    lines = [f"### {title}", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for rows in chosen:
        worth = {row.method: _worth(figure, row.figures[figure]) for row in rows}
        first = max(worth, key=lambda name: worth[name])
        cells = [f"{row.figures[figure]:.{digits}f}" for row in rows]
        cells = [f"**{text}**" if row.method == first else text for row, text in zip(rows, cells)]
        if FIRST in worth:
            others = max(value for name, value in worth.items() if name not in OURS)
            cells.append(f"{worth[FIRST] - others:+.{digits}f}")
        lines.append("| " + " | ".join([rows[0].pair, *cells]) + " |")
    return "\n".join(lines)


def _worth(figure: str, value: float) -> float:
    if figure in TO_ONE:
        return -abs(value - 1)
    return -value if figure in LOWER else value


def all_pairs(asked: argparse.Namespace) -> Iterator[Outcome]:
    chosen = [pair for pair in PAIRS if pair.group in asked.pairs and (pair.quick or not asked.quick)]
    if asked.jobs <= 1:
        yield from (one_pair(pair, asked) for pair in chosen)
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // asked.jobs))  # read by the children
    with ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(one_pair, chosen, [asked] * len(chosen))


def main(argv: list[str] | None = None) -> None:
    asked = options(argv)
    start = time.monotonic()
    outcomes: list[Outcome] = []
    for outcome in all_pairs(asked):
        outcomes.append(outcome)
        if asked.json:
            asked.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=1, allow_nan=False) + "\n")
    print("### Pairs\n")
    for outcome in outcomes:
        print("- " + ", ".join(f"{name} {value}" for name, value in outcome.facts.items()))
    for figure in ABOUT:
        if any(figure in outcome.rows[0].figures for outcome in outcomes):
            print(f"\n{table([o for o in outcomes if figure in o.rows[0].figures], figure)}")
    if not asked.interpolators_only:
        from CycleINRLib.network.weights import find_model, weights_sha256  # loads torch

        print(f"\nMade with the weights {weights_sha256(find_model(asked.model))[:8]}.")
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes", file=sys.stderr)


if __name__ == "__main__":
    main()
