#!/usr/bin/env python3
"""What new noise gives and costs: grain, noise and PSNR beside cubic interpolation, least error and the thin truth.

    python Testing/benchmarks/grain_table.py SCAN.nrrd[:Z[:PROFILE]] ... [--block 112] [--picture FILE.png]

Thin scans are thickened Z times with the profile (skip, box or gaussian) and scored on generated slices inside the
body: against the thin scan (psnr), and against it without the noise that the split takes of it (low_noise), where its
noise can be measured. With the profile `as-is` a thick clinical scan is upsampled Z times and measured without a truth.
The picture shows the middle row of each, beside the thin scan or, without one, beside the acquired slices.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.imaging.accuracy import psnr, value_range  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.interpolation import cubic_weights  # noqa: E402
from CycleINRLib.imaging.noise import noise_readout  # noqa: E402
from CycleINRLib.imaging.profile import profile_weights  # noqa: E402
from CycleINRLib.imaging.volume import Volume, guess_modality  # noqa: E402
from CycleINRLib.upsampling.noisemodel import NoiseModel  # noqa: E402
from CycleINRLib.upsampling.split import take  # noqa: E402

MODES = ("acquired", "renew", "remove", "auto")
AS_IS = "as-is"


def block_of(volume: Volume, pixels: int) -> Volume:
    """The middle of each slice."""
    limits = [
        (0, volume.values.shape[0]),
        *((max(0, (n - pixels) // 2), (n + pixels) // 2) for n in volume.values.shape[1:]),
    ]
    values = np.ascontiguousarray(volume.values[tuple(slice(*pair) for pair in limits)])
    return volume.with_values(values, volume.geometry.cropped(tuple(pair[0] for pair in limits), values.shape))


def thickened(thin: Volume, z: int, profile: str) -> tuple[Volume, np.ndarray]:
    """Thick slices, and where they lie in thin ones."""
    count = len(thin.values)
    first = 0 if profile == "skip" else math.ceil(z / 2)
    centers = np.arange(first, count - first, z)
    weights = profile_weights(centers, 0 if profile == "skip" else z, count, profile)
    values = np.rint(np.tensordot(weights, thin.values, 1)).astype(thin.values.dtype)
    matrix = thin.geometry.ijk_to_ras.copy()
    matrix[:3, 3] += first * matrix[:3, 2]
    matrix[:3, 2] *= z
    spacing = thin.spacing_mm[0]
    geometry = Geometry(values.shape, matrix)
    thickness = 0.01 * spacing if profile == "skip" else z * spacing
    return dataclasses.replace(thin, values=values, geometry=geometry, thickness_mm=thickness), centers


def signal_of(thin: Volume) -> np.ndarray | None:
    """The thin scan without the noise that the split takes of it; None where its noise cannot be measured."""
    values = thin.values.astype(np.float32)
    model = NoiseModel.of(values, thin.spacing_mm, guess_modality(thin))
    return None if model is None else values - take(values, model).noise


def rows_of(scan: Path, z: int, profile: str, pixels: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], float]:
    """One row for each method, their volumes, and height / width of a pixel of their middle rows."""
    whole = block_of(cycleinr.read(scan), pixels)
    modality = guess_modality(whole)
    source, centers = (whole, None) if profile == AS_IS else thickened(whole, z, profile)
    asked = {"z_scale": float(z), "axis": "k", "profile": "auto" if profile == AS_IS else profile}
    results = {mode: cycleinr.upsample(source, noise=mode, **asked) for mode in MODES}
    volumes = {mode: result.volume.values for mode, result in results.items()}
    positions = np.arange(len(volumes["auto"])) / z
    cubic = np.tensordot(cubic_weights(positions, len(source.values)), source.values.astype(float), 1)
    volumes = {"cubic": np.rint(cubic), **volumes}
    truth = quiet = None
    if centers is not None:
        at = np.rint(centers[0] + positions * z).astype(int)
        truth, quiet = (None if one is None else one[at] for one in (whole.values.astype(np.float32), signal_of(whole)))
        volumes["truth"] = truth
    else:
        volumes["acquired slices"] = source.values[np.floor(positions + 0.5).astype(int)]
    inner = (np.abs(positions - np.rint(positions)) > 1e-3) & (positions >= 1) & (positions <= len(source.values) - 2)
    rows = []
    for name, values in volumes.items():
        if name == "acquired slices":
            continue
        noise = noise_readout(source.values, np.asarray(values, np.float32), z, modality, positions=positions)
        peak = value_range(whole.values, modality)
        error, quiet_error = (
            None
            if one is None or name == "truth"
            else psnr(values[inner].astype(np.float32), one[inner], modality, peak=peak)
            for one in (truth, quiet)
        )
        facts = results[name].report if name in results else {}
        rows.append({
            "scan": scan.stem, "case": f"x{z} {profile}", "method": name, "psnr": error, "low_noise": quiet_error,
            "grain": noise["grain"]["output"], "noise_ratio": noise["noise_ratio"],
            "detrended": noise["snli_detrended"]["output"], "gap": noise["generated_gap"],
            "noise": facts.get("noise", ""), "taken": facts.get("noise_taken_ratio"),
        })  # fmt: skip
    return rows, volumes, source.spacing_mm[0] / z / source.spacing_mm[2]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="SCAN[:Z[:PROFILE]]")
    parser.add_argument("--block", type=int, default=112, metavar="PIXELS")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args(argv)
    columns = tuple("scan case method psnr low_noise grain noise_ratio detrended gap noise taken".split())
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    pictures = []
    for text in asked.cases:
        path, z, profile = (*text.split(":"), "4", "box")[:3] if text.count(":") != 1 else (*text.split(":"), "box")
        rows, volumes, pixel = rows_of(Path(path), int(z), profile, asked.block)
        pictures.append((volumes, pixel))
        for row in rows:
            cells = (f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name] or "") for name in columns)
            print("| " + " | ".join(cells) + " |", flush=True)
    if asked.picture:
        draw(asked.picture, pictures)


def draw(path: Path, pictures: list[tuple[dict[str, np.ndarray], float]]) -> None:
    """Rows: scans, with height / width of a pixel. Columns: cubic, as acquired, removed, new in each slice, and the
    thin scan or, without one, the acquired slices as they are. One window a row."""
    from matplotlib.figure import Figure

    titles = {"cubic": "cubic", "acquired": "noise as acquired", "remove": "removed", "renew": "new in each slice"}
    titles |= {"truth": "thin scan", "acquired slices": "acquired slices"}
    shapes = [volumes["cubic"].shape[0] * pixel / volumes["cubic"].shape[2] for volumes, pixel in pictures]
    width, title = 3.0, 0.4
    heights = [width * shape + title for shape in shapes]
    figure = Figure(figsize=(5 * width, sum(heights)))
    grid = figure.add_gridspec(len(pictures), 5, height_ratios=heights, wspace=0.02, hspace=0.08)
    grid.update(left=0.002, right=0.998, bottom=0.002, top=1 - title / sum(heights))
    for n, (volumes, pixel) in enumerate(pictures):
        row = volumes["cubic"].shape[1] // 2
        low, high = np.percentile(volumes["cubic"][:, row], (2, 99.5))
        for m, name in enumerate(name for name in titles if name in volumes):
            axes = figure.add_subplot(grid[n, m])
            look = {"cmap": "gray", "vmin": low, "vmax": high, "interpolation": "nearest", "aspect": pixel}
            axes.imshow(volumes[name][::-1, row], **look)
            axes.set_title(titles[name], fontsize=10)
            axes.axis("off")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
