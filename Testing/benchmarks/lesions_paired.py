#!/usr/bin/env python3
"""What the whole product leaves of small lesions, and what it invents: pairs with and without them, thin truth beside.

    python Testing/benchmarks/lesions_paired.py THIN_SCAN[:Z[:PROFILE]] ... [--block 96] [--slices 48] [--seeds 3]
        [--detectability 4 6] [--of thin|acquired]

Spheres and lines of 2, 4 and 8 mm are put into thin scans at flat places, of both signs, with a contrast that makes
their detectability (contrast / noise x sqrt(independent cells)) what is asked: in the thin scan, or in the acquired
slices. What it is in the other stands beside it. The scan is thickened with and without them and upsampled with its
noise as acquired, new, and removed; both runs share the seed of the new noise. Printed, with 95 % intervals over
lesions:

- *kept*: contrast of the paired difference, projected on the lesion, over that of `acquired`;
- *AUC*: how well matched filters (2, 4, 8 mm) tell places with a lesion from the same places without, and the
  difference to `acquired` with its standard error (bootstrap over lesions);
- *found per cm3*: how often a matched filter exceeds 4.5 standard deviations where nothing was added: those of each
  volume itself, and those of the thin truth for all, which are higher, since what lies between slices is smoother.
  *Not in the thin truth*: the part of the former that is further than two voxels from any place where the truth has
  2.5 of its own deviations of the same sign; a place chosen at random beside.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER)]

from grain_table import block_of, thickened  # noqa: E402
from lesions_kept import lesion  # noqa: E402

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.imaging.noise import Flatness, gradient_parts  # noqa: E402
from CycleINRLib.imaging.profile import profile_weights  # noqa: E402
from CycleINRLib.imaging.volume import Volume, guess_modality  # noqa: E402
from CycleINRLib.upsampling import grain as treatment  # noqa: E402

MODES = ("acquired", "renew", "remove")
BORNE_OUT_SD, BOOTSTRAPS = 2.5, 400
SHAPES, WIDTHS_MM = ("sphere", "line"), (2.0, 4.0, 8.0)
APART_MM, FALSE_SD = 14.0, 4.5


def noise_at(thin: np.ndarray, spacing: tuple[float, ...], flat: np.ndarray, width: float) -> float:
    """Standard deviation of white noise that is as strong as the scan's at the size of `width` mm."""
    impulse = np.zeros([1 + 2 * int(np.ceil(3 * width / mm)) for mm in spacing])
    impulse[tuple(n // 2 for n in impulse.shape)] = 1
    answer = filtered(thin, spacing, width)[flat]
    return float(np.median(np.abs(answer)) / 0.6745 / np.sqrt(np.sum(filtered(impulse, spacing, width) ** 2)))


class Thickening:
    """How detectable a lesion of contrast 1 is in a thin scan, and in the slices made of it.

    flat : (K, J, I) places of the thin scan at which lesions are put
    """

    def __init__(self, thin: Volume, flat: np.ndarray, z: int, profile: str) -> None:
        thick, centers = thickened(thin, z, profile)
        self.flat, self.spacing = flat, thin.spacing_mm
        self.weights = profile_weights(centers, 0 if profile == "skip" else z, len(flat), profile)
        self.sigmas = {
            width: (
                noise_at(thin.values, thin.spacing_mm, flat, width),
                noise_at(thick.values, thick.spacing_mm, flat[centers.astype(int)], width),
            )
            for width in WIDTHS_MM
        }

    def of(self, one: np.ndarray, slices: slice, width: float) -> tuple[float, float]:
        """In the thin scan, in the acquired slices."""
        seen = np.tensordot(self.weights[:, slices], one, 1)
        return tuple(float(np.sqrt(np.sum(part**2)) / sigma) for part, sigma in zip((one, seen), self.sigmas[width]))


def put(thin: Volume, thickening: Thickening, wanted: float, of: str, seed: int) -> list[tuple]:
    """(shape, mm, where, profile of the lesion, contrast, detectability in the other) of lesions that lie apart."""
    rng = np.random.default_rng(seed)
    spacing, shape = np.array(thin.spacing_mm), thin.values.shape
    reach = np.ceil(12.0 / spacing).astype(int)
    chosen: list[np.ndarray] = []
    made = []
    kinds = [(kind, width) for width in WIDTHS_MM for kind in SHAPES]
    for place in rng.permutation(np.argwhere(thickening.flat))[:20000]:
        if (place < reach).any() or (place >= np.array(shape) - reach).any():
            continue
        if any(np.abs((place - other) * spacing).max() < APART_MM for other in chosen):
            continue
        kind, width = kinds[len(made) % len(kinds)]
        where = tuple(slice(p - r, p + r + 1) for p, r in zip(place, reach))
        one = lesion(kind, width, spacing, reach, rng)
        in_thin, in_acquired = thickening.of(one, where[0], width)
        of_one, other = (in_thin, in_acquired) if of == "thin" else (in_acquired, in_thin)
        if not of_one:  # between the acquired slices
            continue
        chosen.append(place)
        contrast = wanted / of_one
        made.append((kind, width, where, one, contrast * rng.choice((-1, 1)), contrast * other))
    return made


def filtered(values: np.ndarray, spacing: tuple[float, ...], width: float) -> np.ndarray:
    """Difference of Gaussians, the matched filter of a round thing `width` mm wide."""
    sigma = width / 2.3548 / np.array(spacing)
    return ndimage.gaussian_filter(values, sigma) - ndimage.gaussian_filter(values, 1.8 * sigma)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    return float(np.mean(positive[:, None] > negative[None]) + 0.5 * np.mean(positive[:, None] == negative[None]))


def areas_of(scores: dict[str, tuple[list[float], list[float]]]) -> str:
    """AUC by mode, and its difference to `acquired` with the standard error."""
    areas = {mode: [auc(*map(np.array, pair))] for mode, pair in scores.items()}
    rng = np.random.default_rng(0)
    count = len(scores["acquired"][0])
    for _ in range(BOOTSTRAPS):
        chosen = rng.integers(0, count, count)
        for mode, pair in scores.items():
            areas[mode].append(auc(*(np.array(one)[chosen] for one in pair)))
    parts = [f"acquired {areas['acquired'][0]:.3f}"]
    for mode in MODES[1:]:
        off = np.subtract(areas[mode], areas["acquired"])
        parts.append(f"{mode} {areas[mode][0]:.3f} ({off[0]:+.3f}, standard error {off[1:].std():.3f})")
    return ", ".join(parts) + f"; {count} lesions"


def one_scan(path: Path, z: int, profile: str, asked: argparse.Namespace) -> None:
    whole = block_of(cycleinr.read(path), asked.block)
    first = max(0, (len(whole.values) - asked.slices) // 2)
    limits = ((first, min(len(whole.values), first + asked.slices)), *((0, n) for n in whole.values.shape[1:]))
    thin = whole.part(limits)
    thin = thin.with_values(thin.values.astype(np.float32))
    modality = guess_modality(whole)
    flatness = Flatness.of(thin.values, modality)
    masks = (flatness.mask(one, np.hypot(*gradient_parts(one))) for one in thin.values)
    flat = np.stack([np.zeros(thin.values.shape[1:], bool) if one is None else one for one in masks])
    thickening = Thickening(thin, flat, z, profile)
    options = {"z_scale": float(z), "axis": "k", "profile": profile, "modality": modality.lower()}

    def runs(values: np.ndarray, gain: float | None = None) -> tuple[dict[str, np.ndarray], int, float]:
        source, centers = thickened(thin.with_values(values), z, profile)
        found, kept_gain = {}, gain
        for mode in MODES:
            result = cycleinr.upsample(source, noise=mode, gain=kept_gain, **options)
            kept_gain = result.report["gain"]
            found[mode] = result.volume.values.astype(np.float32)
        return found, int(centers[0]), float(kept_gain)

    without, start, gain = runs(thin.values)
    seed_of_scan = treatment.seed_of(thickened(thin, z, profile)[0].values)
    size = len(without["acquired"])
    rows: dict[tuple, list[tuple[float, ...]]] = {}
    scores: dict[str, tuple[list[float], list[float]]] = {mode: ([], []) for mode in MODES}
    for wanted in asked.detectability:
        for seed in range(asked.seeds):
            lesions = put(thin, thickening, wanted, asked.of, seed)
            values = thin.values.copy()
            for _, _, where, one, contrast, _ in lesions:
                values[where] += contrast * one
            real, treatment.seed_of = treatment.seed_of, lambda _: seed_of_scan
            try:
                there, _, _ = runs(values, gain)
            finally:
                treatment.seed_of = real
            for kind, width, where, one, contrast, other in lesions:
                at = slice(where[0].start - start, where[0].stop - start)
                if at.start < 0 or at.stop > size:
                    continue
                inside = (at, *where[1:])
                share = {
                    mode: float(np.sum((there[mode][inside] - without[mode][inside]) * one) / contrast / np.sum(one**2))
                    for mode in MODES
                }
                rows.setdefault((kind, width, wanted), []).append((*(share[mode] for mode in MODES), other))
                middle = tuple(n // 2 for n in one.shape)
                for mode, (with_it, without_it) in scores.items():
                    for store, volume in ((with_it, there[mode]), (without_it, without[mode])):
                        answer = filtered(volume[inside], thin.spacing_mm, width)[middle]
                        store.append(float(np.sign(contrast) * answer))
    name = f"{path.stem} x{z} {profile}"
    for (kind, width, wanted), shares in sorted(rows.items()):
        acquired, renew, remove, others = np.array(shares).T
        total = acquired.sum()
        line = f"| {name} | {kind} | {width:g} | {wanted:g} | {others.mean():.1f} | {len(shares)} |"
        line += f" {acquired.mean():.2f} |"
        for of in (renew, remove):
            rest = of - acquired * of.sum() / total
            half = 1.96 * rest.std() * np.sqrt(len(shares)) / abs(total)
            line += f" {of.sum() / total:.3f} ± {half:.3f} |"
        print(line, flush=True)
    print(f"AUC of {name}: {areas_of(scores)}", flush=True)
    truth = thin.values[start : start + size]
    body = flat[start : start + size]
    volume_cm3 = body.sum() * float(np.prod(thin.spacing_mm)) / 1000
    for width in WIDTHS_MM:
        answers = {
            mode: filtered(volume, thin.spacing_mm, width) for mode, volume in (*without.items(), ("truth", truth))
        }
        spreads = {mode: np.median(np.abs(answer[body])) / 0.6745 for mode, answer in answers.items()}
        borne_out = [
            ndimage.maximum_filter(sign * answers["truth"], 5) > BORNE_OUT_SD * spreads["truth"] for sign in (1, -1)
        ]
        by_chance = 1 - np.mean([there[body].mean() for there in borne_out])
        for mode, answer in answers.items():
            peaks = (np.abs(answer) == ndimage.maximum_filter(np.abs(answer), 5)) & body
            own, same = (peaks & (np.abs(answer) > FALSE_SD * spreads[of]) for of in (mode, "truth"))
            without_reason = own & ~np.where(answer > 0, *borne_out)
            shown = (
                f"{n / volume_cm3:.2f} ± {1.96 * np.sqrt(max(n, 1)) / volume_cm3:.2f}" for n in (own.sum(), same.sum())
            )
            print(
                f"Found per cm3 by {width:g} mm, {name}, {mode}: {next(shown)}, "
                f"at the truth's deviations {next(shown)}; "
                f"not in the thin truth {without_reason.sum()} of {own.sum()} (at random {by_chance:.0%})",
                flush=True,
            )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="SCAN[:Z[:PROFILE]]")
    parser.add_argument("--block", type=int, default=96, metavar="PIXELS")
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--detectability", type=float, nargs="+", default=[4.0, 6.0])
    parser.add_argument("--of", choices=("thin", "acquired"), default="thin", help="where the detectability is that")
    asked = parser.parse_args(argv)
    other = "acquired" if asked.of == "thin" else "thin"
    print(f"| scan | shape | mm | in {asked.of} | in {other} | lesions | acquired | renew | remove |")
    print("|---|---|---|---|---|---|---|---|---|")
    for text in asked.cases:
        path, z, profile = (*text.split(":"), *("4", "box")[text.count(":") :])
        one_scan(Path(path), int(z), profile, asked)


if __name__ == "__main__":
    main()
