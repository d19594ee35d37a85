#!/usr/bin/env python3
"""Segmentation fidelity: do structures found in the upsampled scan agree with those of the thin scan?

    python Testing/benchmarks/segmentation.py DATA [--quick] [--scans ct_* mr_*] [--crop 112] [--jobs 2]
        [--model light] [--json table.json]

DATA is the folder of scans with the folders eval, thick and odd. Thin scans are thickened as in `cycleinr evaluate`
and upsampled again by linear, cubic B-spline, windowed sinc, histospline, cubic + projection (the best of 12 steps,
picked by the truth) and CycleINR with its noise as acquired, new in each slice, and removed. One fixed rule
(structures.py) finds the structures in every result and in the thin scan. Where the data have masks drawn by hand,
those are the reference, and the rule on the thin scan itself stands beside: the most that the rule can reach. Counted
are slices at least one source slice from the ends; "generated" are those between acquired slices. Markdown goes to
stdout, every figure to --json, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER)]  # runs from a bare checkout

import structures as st  # noqa: E402

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.evaluation import score as ev  # noqa: E402
from CycleINRLib.evaluation.case import Acquisition, Case, central_block  # noqa: E402
from CycleINRLib.evaluation.interpolators import INTERPOLATORS  # noqa: E402
from CycleINRLib.imaging import accuracy, intensity, noise  # noqa: E402
from CycleINRLib.imaging.interpolation import linear_weights  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402

THIN = "thin scan"  # the rule on the truth, beside drawn masks
OURS = {"CycleINR, acquired": "acquired", "CycleINR, renew": "renew", "CycleINR, remove": "remove"}  # to --noise
FIRST = next(iter(OURS))  # of ours, whose lead is told
MARGIN_PIXELS = 24  # around a small drawn mask


@dataclass(frozen=True)
class Scan:
    """One scan of the shared data and how its structures are found; `masks`: structure to file, drawn by hand."""

    path: str
    modality: str
    kind: str  # chest, head, brain, phantom, contour
    z_scales: tuple[float, ...] = (3, 5)
    profiles: tuple[str, ...] = ("skip", "box")
    masks: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return Path(self.path).name.split(".")[0]


PHANTOM, TUMOR, CORD = (
    "thick/ct_chestphantom_testrt_3mm",
    "thick/mr_brain_pyradiomics_brain1_6.5mm",
    "odd/nifti_mr_cord_sct_t2",
)
LUNGS = (("left lung", f"{PHANTOM}_mask_lung_l.nrrd"), ("right lung", f"{PHANTOM}_mask_lung_r.nrrd"))
MR = ("skip", "gaussian")
SCANS = (
    Scan("eval/ct_chest_stephamar_0117.nrrd", "CT", "chest"),
    Scan("eval/ct_head_itkwidgets_c3n01192.nrrd", "CT", "head"),
    Scan("eval/mr_t1_brain_brainmrt.nrrd", "MR", "brain", profiles=MR),
    Scan("eval/mr_t1_brain_fnndsc_adi.nrrd", "MR", "brain", profiles=MR),
    Scan("eval/mr_t1c_brain_cptac_c3n01196.nrrd", "MR", "brain", profiles=MR),
    Scan(f"{PHANTOM}.nrrd", "CT", "phantom", (2, 3), masks=(*LUNGS, ("trachea", f"{PHANTOM}_mask_trachea.nrrd"))),
    Scan(f"{TUMOR}.nrrd", "MR", "contour", (2,), ("skip",), (("contour", f"{TUMOR}_mask.nrrd"),)),
    Scan(f"{CORD}.nii.gz", "MR", "contour", (2, 3), MR, (("contour", f"{CORD}_mask.nii.gz"),)),
)
QUICK_CROP = 96


@dataclass(frozen=True)
class Agreement:
    """How one method's structure agrees with the reference; None where there is nothing to compare."""

    scan: str
    structure: str
    reference: str  # "thin scan" or "drawn mask"
    z_scale: float
    profile: str
    method: str
    dice_generated: float | None  # all voxels of generated slices together
    dice_all: float | None  # of all inner slices
    dice_per_slice: float | None  # mean of the generated slices' own
    volume_error_percent: float | None
    surface_mm: float | None  # mean distance of the surfaces, both ways
    hausdorff95_mm: float | None


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scans", nargs="+", default=["*"], metavar="PATTERN", help="file names, * allowed")
    parser.add_argument("--crop", type=int, default=112, help="central rows and columns of the thin scans")
    parser.add_argument("--quick", action="store_true", help=f"crop {QUICK_CROP}, and one profile for each z-scale")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--interpolators-only", action="store_true", help="without CycleINR: needs no torch")
    parser.add_argument("--json", type=Path, help="write every figure here")
    return parser.parse_args(argv)


# --- cases ----------------------------------------------------------------------------------------------------
def work(asked: argparse.Namespace) -> list[tuple[Scan, Acquisition]]:
    """Every scan and protocol asked for; --quick alternates the profiles over z-scales and all scans, chosen or not."""
    chosen = [scan for scan in SCANS if any(fnmatch(scan.name, f"{pattern}*") for pattern in asked.scans)]
    if not chosen:
        sys.exit(f"segmentation: no scan fits {' '.join(asked.scans)}")
    found = []
    for scan in chosen:
        for z, z_scale in enumerate(scan.z_scales):
            quick = scan.profiles[(SCANS.index(scan) + z) % len(scan.profiles)]
            profiles = [quick] if asked.quick else scan.profiles
            found += [(scan, Acquisition(z_scale, profile)) for profile in profiles]
    return found


def read(data: Path, scan: Scan, crop: int) -> tuple[Volume, dict[str, np.ndarray]]:
    """The thin scan and its drawn masks: the central block, or the block around small masks."""
    volume = replace(cycleinr.read(data / scan.path), name=scan.name, modality=scan.modality, slice_axis="k")
    masks = {name: cycleinr.read(data / path).values > 0 for name, path in scan.masks}
    if scan.kind != "contour":
        return (volume, masks) if masks else (central_block(volume, crop), {})
    places = np.argwhere(masks["contour"])
    low = np.maximum(places.min(0) - MARGIN_PIXELS, 0) * (0, 1, 1)
    high = np.minimum(places.max(0) + 1 + MARGIN_PIXELS, volume.values.shape)
    block = (slice(None), slice(low[1], high[1]), slice(low[2], high[2]))
    shape = volume.values[block].shape
    geometry = volume.geometry.cropped((0, int(low[1]), int(low[2])), shape)
    return volume.with_values(volume.values[block], geometry), {"contour": masks["contour"][block]}


def segmenter(scan: Scan, case: Case, masks: Mapping[str, np.ndarray]) -> st.Segmenter:
    """The rules for this case, fixed from its thick source."""
    source, positions = case.source.values.astype(np.float32), case.positions
    spacing = case.truth.spacing_mm
    if scan.kind == "contour":
        step = round(case.protocol.z_scale)
        drawn = masks["contour"][case.first :: step][: len(source)]
        return st.contour(source, drawn, positions, spacing)
    seen = np.tensordot(linear_weights(positions, len(source)).astype(np.float32), source, 1)
    if scan.kind == "brain":
        return st.brain(seen, spacing, source)
    return {"chest": st.chest, "head": st.head, "phantom": st.phantom}[scan.kind](seen, spacing)


def methods(asked: argparse.Namespace) -> dict[str, ev.Method]:
    """The interpolators, and CycleINR with each noise."""
    found: dict[str, ev.Method] = dict(INTERPOLATORS)
    if not asked.interpolators_only:
        choice = {"model": asked.model, "device": asked.device}
        found |= {name: ev.product(noise=noise_of, **choice) for name, noise_of in OURS.items()}
    return found


def one_case(scan: Scan, protocol: Acquisition, asked: argparse.Namespace) -> list[Agreement]:
    """All methods on one scan and protocol; runs in a process of its own where --jobs asks for it."""
    start = time.monotonic()
    truth, drawn = read(asked.data, scan, QUICK_CROP if asked.quick else asked.crop)
    case = Case.of(truth, protocol)
    rules = segmenter(scan, case, drawn)
    target = slice(case.first, case.first + len(case.positions))
    reference = {name: mask[target] for name, mask in drawn.items()} or rules(case.wanted)
    judge = Judge(scan, case, reference, "drawn mask" if drawn else THIN)
    found = judge(THIN, rules(case.wanted)) if drawn else []
    for name, method in methods(asked).items():
        found += judge(name, rules(best(case, [attempt.values for attempt in method(case)])))
    print(f"{scan.name} {protocol}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return found


def best(case: Case, results: Sequence[np.ndarray]) -> np.ndarray:
    """The result of highest PSNR on generated slices: generous to an interpolator that gives several."""
    if len(results) == 1:
        return results[0]
    _, generated = counted(case)
    truth, peak = case.wanted[generated], intensity.value_range(case.truth.values, case.modality)
    return max(results, key=lambda values: accuracy.psnr(values[generated], truth, case.modality, peak=peak) or 0.0)


def counted(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(M,) bool: slices at least one source slice from the ends; those of them that are generated."""
    t, last = case.positions, len(case.source.values) - 1
    inner = (t >= 1 - 1e-6) & (t <= last - 1 + 1e-6)
    return inner, inner & (np.abs(t - np.round(t)) >= noise.ACQUIRED_TOLERANCE)


class Judge:
    """Compares masks with the reference of one case; its surfaces are found once."""

    def __init__(self, scan: Scan, case: Case, reference: Mapping[str, np.ndarray], kind: str) -> None:
        self.scan, self.case, self.reference, self.kind = scan, case, reference, kind
        self.spacing = case.truth.spacing_mm
        inner, generated = counted(case)
        self.chosen = {name: self._covered(mask, inner, generated) for name, mask in reference.items()}
        self.surfaces = {name: self._surface(mask, name) for name, mask in reference.items()}

    def _covered(self, mask: np.ndarray, inner: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slices that count; of a drawn trachea only those that its mask covers, since its drawer stopped early."""
        covered = mask.any((1, 2)) if self.kind != THIN and self.scan.kind == "phantom" else np.ones(len(mask), bool)
        return inner & covered, generated & covered

    def _surface(self, mask: np.ndarray, name: str) -> st.Surface | None:
        return st.Surface.of(mask[self.chosen[name][0]], self.spacing)

    def __call__(self, method: str, found: Mapping[str, np.ndarray]) -> list[Agreement]:
        return [self._one(method, name, found[name]) for name in self.reference]

    def _one(self, method: str, name: str, mask: np.ndarray) -> Agreement:
        inner, generated = self.chosen[name]
        wanted = self.reference[name]
        surface_mm, hausdorff95_mm = st.surface_distances(self._surface(mask, name), self.surfaces[name])
        protocol = self.case.protocol
        figures = (
            st.dice(mask[generated], wanted[generated]),
            st.dice(mask[inner], wanted[inner]),
            st.dice_per_slice(mask[generated], wanted[generated]),
            st.volume_error_percent(mask[inner], wanted[inner]),
            surface_mm,
            hausdorff95_mm,
        )
        rounded = [None if value is None else round(value, 4) for value in figures]
        return Agreement(self.scan.name, name, self.kind, protocol.z_scale, protocol.profile, method, *rounded)


def all_cases(asked: argparse.Namespace) -> Iterator[list[Agreement]]:
    cases = [(*each, asked) for each in work(asked)]
    if asked.jobs <= 1:
        yield from (one_case(*each) for each in cases)
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // asked.jobs))  # read by the children
    with ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(one_case, *zip(*cases))


# --- tables ---------------------------------------------------------------------------------------------------
def table(found: Sequence[Agreement], figure: str, digits: int) -> str:
    """One figure: structure and protocol down, methods across, the best method bold (nearest to 0 unless Dice)."""
    names = [name for name in dict.fromkeys(each.method for each in found) if name != THIN]
    limits = [THIN] if any(each.method == THIN for each in found) else []
    header = [
        "scan",
        "structure",
        "reference",
        "z-scale",
        "profile",
        *names,
        *(["rule on the thin scan"] if limits else []),
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for key in dict.fromkeys(_case(each) for each in found):
        row = {each.method: getattr(each, figure) for each in found if _case(each) == key}
        winner = _winner({name: row.get(name) for name in names}, figure)
        cells = [*key[:3], f"{key[3]:g}", key[4]]
        cells += [_cell(row.get(name), digits, name == winner) for name in names]
        cells += [_cell(row.get(name), digits) for name in limits]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(found: Sequence[Agreement]) -> str:
    """Mean Dice on generated slices for each structure over all its cases, the winner, and our lead."""
    names = [name for name in dict.fromkeys(each.method for each in found) if name != THIN]
    interpolators = [name for name in names if name not in OURS]
    header = ["structure", "cases", *names, "winner", "our lead", "mean surface mm, best interpolator / ours"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for structure in dict.fromkeys((each.scan, each.structure) for each in found):
        mine = [each for each in found if (each.scan, each.structure) == structure and each.dice_generated is not None]
        means = {name: _mean(each.dice_generated for each in mine if each.method == name) for name in names}
        surface = {name: _mean(each.surface_mm for each in mine if each.method == name) for name in names}
        winner = _winner(means, "dice_generated")
        best_interpolator = max((means[name] for name in interpolators if means[name] is not None), default=None)
        ours = means.get(FIRST)
        lead = "-" if ours is None or best_interpolator is None else f"{ours - best_interpolator:+.4f}"
        nearest = min((surface[name] for name in interpolators if surface[name] is not None), default=None)
        count = len({_case(each) for each in mine})
        cells = [f"{structure[1]} ({structure[0]})", str(count)]
        cells += [_cell(means[name], 4, name == winner) for name in names]
        cells += [winner or "-", lead, f"{_cell(nearest, 3)} / {_cell(surface.get(FIRST), 3)}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _case(each: Agreement) -> tuple[str, str, str, float, str]:
    return each.scan, each.structure, each.reference, each.z_scale, each.profile


def _winner(row: Mapping[str, float | None], figure: str) -> str | None:
    known = {name: value for name, value in row.items() if value is not None}
    if not known:
        return None
    return max(known, key=lambda name: known[name] if figure.startswith("dice") else -abs(known[name]))


def _mean(values) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _cell(value: float | None, digits: int, bold: bool = False) -> str:
    text = "-" if value is None else f"{value:.{digits}f}"
    return f"**{text}**" if bold else text


TABLES = (
    ("Dice on generated slices", "dice_generated", 4),
    ("Dice on all inner slices", "dice_all", 4),
    ("Dice, mean of the generated slices' own", "dice_per_slice", 4),
    ("Volume error, %", "volume_error_percent", 2),
    ("Mean surface distance, mm", "surface_mm", 3),
    ("Hausdorff distance (95th percentile), mm", "hausdorff95_mm", 2),
)


def main(argv: list[str] | None = None) -> None:
    asked = options(argv)
    start = time.monotonic()
    found: list[Agreement] = []
    for case in all_cases(asked):
        found += case
        if asked.json:
            asked.json.write_text(json.dumps([asdict(each) for each in found], indent=1, allow_nan=False) + "\n")
    print(f"### Structures: mean Dice on generated slices\n\n{summary(found)}")
    for title, figure, digits in TABLES:
        print(f"\n### {title}\n\n{table(found, figure, digits)}")
    used = dict.fromkeys(each.structure for each in found)
    print("\nRules: " + "; ".join(f"{name}: {st.RULES[name]}" for name in used) + ".")
    if not asked.interpolators_only:
        from CycleINRLib.network.weights import find_model, weights_sha256  # loads torch

        print(f"\nMade with the weights {weights_sha256(find_model(asked.model))[:8]}.")
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes", file=sys.stderr)


if __name__ == "__main__":
    main()
