#!/usr/bin/env python3
"""What the split of signal and noise leaves of small lesions: the paired difference with and without them.

    python Testing/benchmarks/lesions_kept.py THICK_SCAN.nrrd ... [--block 128] [--slices 14] [--detectability 4 6]

Spheres and lines (16 mm long, within slices) of 2, 4 and 8 mm are added to real scans at up to 24 flat places, with a
contrast that makes their detectability, contrast / noise x sqrt(independent cells), what is asked. Printed: the share
of the contrast that is left in the signal, 1 being all of it, with the number of lesions and the least mean of a scan.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.imaging.noise import Flatness, gradient_parts  # noqa: E402
from CycleINRLib.imaging.volume import guess_modality  # noqa: E402
from CycleINRLib.upsampling.noisemodel import BLOCK, NoiseModel  # noqa: E402
from CycleINRLib.upsampling.split import take  # noqa: E402

SHAPES = ("sphere", "line")
WIDTHS_MM = (2.0, 4.0, 8.0)
MOST, APART_MM, SAMPLES = 24, 26.0, 5
LENGTH_MM = 16.0


def lesion(
    shape: tuple[int, ...], spacing: tuple[float, ...], center: np.ndarray, kind: str, width: float
) -> np.ndarray:
    """Share of each voxel of (K, J, I) that is inside, by `SAMPLES` samples along each axis; center in voxels."""
    offsets = (np.arange(SAMPLES) - (SAMPLES - 1) / 2) / SAMPLES
    sampled = [((np.arange(n)[:, None] + offsets).ravel() - c) * mm for n, c, mm in zip(shape, center, spacing)]
    near = [np.abs(one) < LENGTH_MM for one in sampled]
    z, y, x = np.meshgrid(*(one[inside] for one, inside in zip(sampled, near)), indexing="ij", sparse=True)
    if kind == "sphere":
        inside = z**2 + y**2 + x**2 <= (width / 2) ** 2
    else:
        inside = ((y - x) ** 2 / 2 + z**2 <= (width / 2) ** 2) & (np.abs(y + x) <= LENGTH_MM / np.sqrt(2))
    found = np.zeros([len(one) for one in sampled], np.float32)
    found[np.ix_(*near)] = inside
    return found.reshape(shape[0], SAMPLES, shape[1], SAMPLES, shape[2], SAMPLES).mean((1, 3, 5))


def kept(path: Path, asked: argparse.Namespace) -> dict[tuple[str, float, float], list[float]]:
    """(shape, width, detectability) to the share of each lesion's contrast that is left."""
    volume = cycleinr.read(path)
    source = volume.slices_first("k")
    spacing, modality = source.spacing_mm, guess_modality(volume)
    middle = [
        slice(max(0, (n - m) // 2), (n + m) // 2)
        for n, m in zip(source.values.shape, (asked.slices, *[asked.block] * 2))
    ]
    values = np.ascontiguousarray(source.values[tuple(middle)], np.float32)
    model = NoiseModel.of(values, spacing, modality)
    if model is None:
        sys.exit(f"lesions_kept: {path} has too few flat places")
    signal = values - take(values, model).noise
    flatness = Flatness.of(values, modality)
    masks = [flatness.mask(one, np.hypot(*gradient_parts(one))) for one in values]
    flat = np.argwhere(np.stack([np.zeros(values.shape[1:], bool) if mask is None else mask for mask in masks]))
    rng = np.random.default_rng(0)
    there = model.spectrum[model.spectrum > 0]
    lowest = np.sort(np.hypot(*np.mgrid[:BLOCK, :BLOCK])[model.spectrum > 0])[2]
    area = np.mean(model.spectrum[(model.spectrum > 0) & (np.hypot(*np.mgrid[:BLOCK, :BLOCK]) <= lowest)] ** 2)
    assert there.size  # a model has a spectrum
    found: dict[tuple[str, float, float], list[float]] = {}
    for kind in SHAPES:
        for width in WIDTHS_MM:
            for wanted in asked.detectability:
                added, each, chosen = np.zeros_like(values), [], []
                for place in rng.permutation(flat):
                    mm = place * spacing
                    rim = min(min(mm[1:]), *(np.array(values.shape[1:]) * spacing[1:] - mm[1:]))
                    if rim < 13 or not 2 <= place[0] < len(values) - 2 or len(each) >= MOST:
                        continue
                    if any(np.abs(mm - other).max() < APART_MM for other in chosen):
                        continue
                    one = lesion(values.shape, spacing, place + rng.uniform(-0.5, 0.5, 3), kind, width)
                    power = float(np.sum(one**2))
                    if power == 0:
                        continue
                    chosen.append(mm)
                    sigma = model.level_at(place[0], place[1], 1, place[2], 1)[0, 0]
                    each.append(np.float32(wanted * sigma * np.sqrt(area / power) * rng.choice((-1, 1))) * one)
                    added += each[-1]
                changed = values + added
                change = changed - take(changed, model).noise - signal
                shares = [float(np.sum(change * one) / np.sum(one**2)) for one in each]
                found[kind, width, wanted] = shares
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--block", type=int, default=128, metavar="PIXELS")
    parser.add_argument("--slices", type=int, default=14)
    parser.add_argument("--detectability", type=float, nargs="+", default=[4.0, 6.0])
    asked = parser.parse_args(argv)
    found = [kept(path, asked) for path in asked.scans]
    print("| shape | mm | detectability | contrast left | lesions | least scan |\n|---|---|---|---|---|---|")
    for key in found[0]:
        shares = [one[key] for one in found if one[key]]
        least = min(np.mean(one) for one in shares)
        together = np.concatenate(shares)
        print(
            f"| {key[0]} | {key[1]:g} | {key[2]:g} | {together.mean():.3f} | {len(together)} | {least:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
