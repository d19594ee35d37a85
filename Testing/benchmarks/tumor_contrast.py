#!/usr/bin/env python3
"""What the whole product leaves of a real lesion's contrast, by noise mode.

    python Testing/benchmarks/tumor_contrast.py SCAN.nrrd MASK.nrrd [--z-scale 4] [--margin 24]

The scan is upsampled with its noise as acquired, new, and removed. Contrast is the mean inside the mask (on the grid of
the scan, linear between slices, from one half) less the mean of a ring of 2 to 6 pixels around it, of each output slice
with 30 pixels or more of both. Printed: the contrast of all slices together, and its ratio to `acquired`; least and
largest ratio of single slices.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.imaging.interpolation import linear_weights, weighted  # noqa: E402

MODES = ("acquired", "renew", "remove")
RING, LEAST_PIXELS = (2, 6), 30


def contrasts(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n, 2): contrast and pixels of each slice of (M, J, I) that shows enough of the lesion."""
    found = []
    for one, inside in zip(values.astype(float), mask):
        near, wide = (ndimage.binary_dilation(inside, iterations=n) for n in RING)
        ring = wide & ~near
        if min(inside.sum(), ring.sum()) >= LEAST_PIXELS:
            found.append((one[inside].mean() - one[ring].mean(), inside.sum()))
    return np.array(found)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--z-scale", type=float, default=4.0)
    parser.add_argument("--margin", type=int, default=24, metavar="PIXELS", help="around the lesion, of what is run")
    asked = parser.parse_args(argv)
    scan, mask = cycleinr.read(asked.scan), cycleinr.read(asked.mask).values > 0
    limits = (
        (0, len(mask)),
        *((max(0, at.min() - asked.margin), at.max() + asked.margin) for at in mask.nonzero()[1:]),
    )
    scan = scan.part(tuple((int(a), int(min(b, n))) for (a, b), n in zip(limits, mask.shape)))
    mask = mask[tuple(slice(a, b) for a, b in limits)]
    results = {mode: cycleinr.upsample(scan, z_scale=asked.z_scale, axis="k", noise=mode) for mode in MODES}
    count = len(results["acquired"].volume.values)
    between = weighted(linear_weights(np.arange(count) / asked.z_scale, len(mask)), mask.astype(np.float32)) > 0.5
    found = {mode: contrasts(result.volume.values, between) for mode, result in results.items()}
    print("| noise | slices | contrast | of acquired | least | largest |")
    print("|---|---|---|---|---|---|")
    base = found["acquired"]
    for mode, of in found.items():
        ratio = of[:, 0] / base[:, 0]
        mean, whole = (np.average(one[:, 0], weights=one[:, 1]) for one in (of, base))
        print(f"| {mode} | {len(of)} | {mean:.1f} | {mean / whole:.4f} | {ratio.min():.4f} | {ratio.max():.4f} |")
    for mode in MODES[1:]:
        print(f"{mode}: {results[mode].report['noise']}, noise taken {results[mode].report['noise_taken_ratio']}")


if __name__ == "__main__":
    main()
