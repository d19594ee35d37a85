#!/usr/bin/env python3
"""What the split of signal and noise leaves of small lesions: the paired difference with and without them.

    python Testing/benchmarks/lesions_kept.py SCAN.nrrd[:EVERY] ... [--place flat|edge|lung] [--block 128] [--slices 14]
        [--detectability 4 6] [--seeds 20]

Spheres, cylinders (across the slices) and lines (within them, in any direction), 16 mm long, and disks of one slice,
of 2, 4 and 8 mm and of either sign, are added to acquired slices: at flat places, at the steepest tenth of the tissue,
or in the lung of a CT. Their contrast makes their detectability in these slices, contrast / noise x sqrt(independent
cells), what is asked. `:EVERY` takes every n-th slice of a thin scan alone. Printed: the share of the contrast that is
left in the signal, 1 being all of it, its 95 % interval, the number of lesions and the least mean of a scan.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.imaging.noise import Flatness, gradient_parts  # noqa: E402
from CycleINRLib.imaging.volume import guess_modality  # noqa: E402
from CycleINRLib.upsampling.noisemodel import BLOCK, NoiseModel  # noqa: E402
from CycleINRLib.upsampling.split import SLICES_AROUND, take  # noqa: E402

SHAPES = ("sphere", "cylinder", "line", "disk")
WIDTHS_MM = (2.0, 4.0, 8.0)
SAMPLES = 5
LENGTH_MM = 16.0
APART = 12  # pixels, and one slice, between what two lesions may change
RIM = 8  # pixels at the border where none is put
LUNG_HU = (-950.0, -700.0)
Found = dict[tuple[str, float, float], list[float]]


def half_size(kind: str, width: float, spacing: np.ndarray) -> np.ndarray:
    """Voxels on each side of a lesion's center."""
    along = [LENGTH_MM if kind == shape else width for shape in ("cylinder", "line", "line")]
    return np.ceil(np.array(along) / 2 / spacing + 0.5).astype(int)


def lesion(kind: str, width: float, spacing: np.ndarray, half: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Share of each voxel of (2 half + 1) that is inside, by `SAMPLES` samples along each axis; its center lies within
    half a voxel of the middle one, and a line in any direction within slices."""
    offsets = (np.arange(SAMPLES) - (SAMPLES - 1) / 2) / SAMPLES
    away = rng.uniform(-0.5, 0.5, 3)
    sampled = [((np.arange(-r, r + 1)[:, None] + offsets).ravel() - c) * mm for r, c, mm in zip(half, away, spacing)]
    z, y, x = np.meshgrid(*sampled, indexing="ij", sparse=True)
    if kind == "sphere":
        inside = z**2 + y**2 + x**2 <= (width / 2) ** 2
    elif kind == "cylinder":
        inside = (np.abs(z) <= LENGTH_MM / 2) & (y**2 + x**2 <= (width / 2) ** 2)
    elif kind == "disk":
        inside = (np.abs(z + away[0] * spacing[0]) <= spacing[0] / 2) & (y**2 + x**2 <= (width / 2) ** 2)
    else:
        angle = rng.uniform(0, np.pi)
        along, across = y * np.sin(angle) + x * np.cos(angle), y * np.cos(angle) - x * np.sin(angle)
        inside = (across**2 + z**2 <= (width / 2) ** 2) & (np.abs(along) <= LENGTH_MM / 2)
    rows = np.broadcast_to(inside, [len(one) for one in sampled]).reshape(
        2 * half[0] + 1, SAMPLES, 2 * half[1] + 1, SAMPLES, 2 * half[2] + 1, SAMPLES
    )
    return rows.mean((1, 3, 5)).astype(np.float32)


def put(
    shape: tuple[int, ...], spacing: np.ndarray, places: np.ndarray, rng: np.random.Generator
) -> list[tuple[str, float, np.ndarray, tuple[slice, ...], np.ndarray]]:
    """(shape, mm, place, where, profile) of lesions of all kinds in turn, which do not change each other's places."""
    kinds = [(kind, width) for width in WIDTHS_MM for kind in SHAPES]
    first, made, boxes = int(rng.integers(len(kinds))), [], []
    gap = np.array([1, APART, APART])
    for place in rng.permutation(places)[:800]:
        kind, width = kinds[(first + len(made)) % len(kinds)]
        half = half_size(kind, width, spacing)
        low, high = place - half, place + half + 1
        if (low[1:] < RIM).any() or (high[1:] > np.array(shape[1:]) - RIM).any():
            continue
        if any((low - gap < other[1]).all() and (other[0] < high + gap).all() for other in boxes):
            continue
        one = lesion(kind, width, spacing, half, rng)[max(0, -low[0]) : shape[0] - low[0]]
        low[0], high[0] = max(0, low[0]), min(shape[0], high[0])
        if one.any():
            boxes.append((low, high))
            made.append((kind, width, place, tuple(slice(*pair) for pair in zip(low, high)), one))
    return made


def kept(path: Path, every: int, asked: argparse.Namespace) -> Found:
    """(shape, width, detectability) to the share of each lesion's contrast that is left."""
    volume = cycleinr.read(path)
    source = volume.slices_first("k")
    spacing, modality = np.array(source.spacing_mm) * (every, 1, 1), guess_modality(volume)
    thick = source.values[::every]
    middle = [
        slice(max(0, (n - m) // 2), (n + m) // 2) for n, m in zip(thick.shape, (asked.slices, *[asked.block] * 2))
    ]
    values = np.ascontiguousarray(thick[tuple(middle)], np.float32)
    model = NoiseModel.of(values, tuple(spacing), modality)
    if model is None:
        sys.exit(f"lesions_kept: {path} has too few flat places")
    places = wanted_places(values, modality, asked.place)
    taken = take(values, model).noise
    coarse = np.hypot(*np.mgrid[:BLOCK, :BLOCK])
    there = model.spectrum > 0
    area = np.mean(model.spectrum[there & (coarse <= np.sort(coarse[there])[2])] ** 2)  # of broad noise
    found: Found = {}
    for wanted in asked.detectability:
        for seed in range(asked.seeds):
            rng = np.random.default_rng([seed, int(10 * wanted)])
            made = []
            changed = values.copy()
            for kind, width, place, where, one in put(values.shape, spacing, places, rng):
                level = model.level_at(place[0], place[1], 1, place[2], 1)[0, 0]
                contrast = wanted * level * np.sqrt(area / np.sum(one**2)) * rng.choice((-1, 1))
                made.append((kind, width, where, np.float32(contrast) * one))
                changed[where] += made[-1][3]
            change = take(changed, model).noise - taken
            for kind, width, where, one in made:
                share = 1 - float(np.sum(change[where] * one) / np.sum(one**2))
                found.setdefault((kind, width, wanted), []).append(share)
    return found


def wanted_places(values: np.ndarray, modality: str, place: str) -> np.ndarray:
    """(n, 3) voxels at which lesions may be put."""
    flatness = Flatness.of(values, modality)
    steep = np.stack([np.hypot(*gradient_parts(one)) for one in values])
    if place == "flat":
        masks = [flatness.mask(one, gradient) for one, gradient in zip(values, steep)]
        chosen = np.stack([np.zeros(values.shape[1:], bool) if mask is None else mask for mask in masks])
    elif place == "edge":
        body = ndimage.binary_erosion((values > flatness.low) & (values < flatness.high), np.ones((1, 5, 5)))
        chosen = body & (steep > np.quantile(steep[body], 0.9))
    else:
        smooth = ndimage.gaussian_filter(values, (0, 2, 2))
        chosen = ndimage.binary_erosion((smooth > LUNG_HU[0]) & (smooth < LUNG_HU[1]), np.ones((1, 5, 5)))
    chosen[:SLICES_AROUND] = chosen[len(chosen) - SLICES_AROUND :] = False
    return np.argwhere(chosen)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", metavar="SCAN[:EVERY]")
    parser.add_argument("--place", choices=("flat", "edge", "lung"), default="flat")
    parser.add_argument("--block", type=int, default=128, metavar="PIXELS")
    parser.add_argument("--slices", type=int, default=14)
    parser.add_argument("--detectability", type=float, nargs="+", default=[4.0, 6.0])
    parser.add_argument("--seeds", type=int, default=20)
    asked = parser.parse_args(argv)
    found = []
    for text in asked.scans:
        path, _, every = text.partition(":")
        found.append(kept(Path(path), int(every or 1), asked))
    print("| shape | mm | detectability | contrast left | lesions | least scan |\n|---|---|---|---|---|---|")
    for key in sorted({key for one in found for key in one}, key=lambda key: (SHAPES.index(key[0]), *key[1:])):
        shares = [one[key] for one in found if key in one]
        together = np.concatenate(shares)
        half = 1.96 * together.std() / np.sqrt(len(together))
        least = min(np.mean(one) for one in shares)
        print(
            f"| {key[0]} | {key[1]:g} | {key[2]:g} | {together.mean():.3f} ± {half:.3f} | {len(together)} |"
            f" {least:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
