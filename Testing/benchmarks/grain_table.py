#!/usr/bin/env python3
"""What new noise gives and costs: grain, noise and PSNR beside cubic interpolation, least error and the thin truth.

    python Testing/benchmarks/grain_table.py SCAN.nrrd[:Z[:PROFILE]] ... [--block 112] [--picture FILE.png]

Thin scans are thickened Z times with the profile (skip, box or gaussian) and scored on generated slices inside the
body; with the profile `as-is` a thick clinical scan is upsampled Z times and measured without a truth. The picture
shows the middle row of each.
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


def rows_of(scan: Path, z: int, profile: str, pixels: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """One row for each method, and their volumes."""
    whole = block_of(cycleinr.read(scan), pixels)
    modality = guess_modality(whole)
    source, centers = (whole, None) if profile == AS_IS else thickened(whole, z, profile)
    asked = {"z_scale": float(z), "axis": "k", "profile": "auto" if profile == AS_IS else profile}
    results = {mode: cycleinr.upsample(source, noise=mode, **asked) for mode in MODES}
    volumes = {mode: result.volume.values for mode, result in results.items()}
    positions = np.arange(len(volumes["auto"])) / z
    cubic = np.tensordot(cubic_weights(positions, len(source.values)), source.values.astype(float), 1)
    volumes = {"cubic": np.rint(cubic), **volumes}
    truth = None
    if centers is not None:
        truth = whole.values[np.rint(centers[0] + positions * z).astype(int)].astype(np.float32)
        volumes["truth"] = truth
    inner = (np.abs(positions - np.rint(positions)) > 1e-3) & (positions >= 1) & (positions <= len(source.values) - 2)
    rows = []
    for name, values in volumes.items():
        noise = noise_readout(source.values, np.asarray(values, np.float32), z, modality, positions=positions)
        error = None
        if truth is not None and name != "truth":
            peak = value_range(whole.values, modality)
            error = psnr(values[inner].astype(np.float32), truth[inner], modality, peak=peak)
        facts = results[name].report if name in results else {}
        rows.append({
            "scan": scan.stem, "case": f"x{z} {profile}", "method": name, "psnr": error,
            "grain": noise["grain"]["output"], "noise_ratio": noise["noise_ratio"],
            "detrended": noise["snli_detrended"]["output"], "gap": noise["generated_gap"],
            "noise": facts.get("noise", ""), "taken": facts.get("noise_taken_ratio"),
        })  # fmt: skip
    return rows, volumes


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="SCAN[:Z[:PROFILE]]")
    parser.add_argument("--block", type=int, default=112, metavar="PIXELS")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args(argv)
    columns = ("scan", "case", "method", "psnr", "grain", "noise_ratio", "detrended", "gap", "noise", "taken")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    pictures = []
    for text in asked.cases:
        path, z, profile = (*text.split(":"), "4", "box")[:3] if text.count(":") != 1 else (*text.split(":"), "box")
        rows, volumes = rows_of(Path(path), int(z), profile, asked.block)
        pictures.append((Path(path).stem, volumes))
        for row in rows:
            cells = (f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name] or "") for name in columns)
            print("| " + " | ".join(cells) + " |", flush=True)
    if asked.picture:
        draw(asked.picture, pictures)


def draw(path: Path, pictures: list[tuple[str, dict[str, np.ndarray]]]) -> None:
    """Rows: scans. Columns: cubic, as acquired, removed, renewed and, where there is one, the truth."""
    from matplotlib.figure import Figure

    names = ("cubic", "acquired", "remove", "renew", "truth")
    figure = Figure(figsize=(3 * len(names), 3.4 * len(pictures)))
    for n, (scan, volumes) in enumerate(pictures):
        row = volumes["cubic"].shape[1] // 2
        low, high = np.percentile(volumes["cubic"][:, row], (2, 99.5))
        for m, name in enumerate(name for name in names if name in volumes):
            axes = figure.add_subplot(len(pictures), len(names), n * len(names) + m + 1)
            axes.imshow(volumes[name][::-1, row], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes.set_title(name if m else f"{scan}\n{name}", fontsize=7)
            axes.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=70)


if __name__ == "__main__":
    main()
