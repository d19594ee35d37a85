"""One plane across the slices, before and after, small enough for a page of hundreds (floor 4)."""

from __future__ import annotations

import io

import numpy as np

from ..imaging.geometry import AXES
from ..imaging.volume import Volume

HEIGHT = 112  # pixels of the taller side
GAP = 4
CT_WINDOW_HU = (-160.0, 240.0)
MR_WINDOW = (1.0, 99.5)  # percentiles of the source


def thumbnail(source: Volume, output: Volume, axis: str, modality: str) -> bytes | None:
    """PNG: the middle plane of the source beside that of the output, both (K, J, I) with slices along `axis`.

    None where Pillow, which comes with the extra `batch`, is missing.
    """
    try:
        from PIL import Image
    except ImportError:
        return None
    window = _window(source.values, modality)
    pictures = [
        Image.fromarray(_plane(volume, axis, window)).resize(_size(volume, axis), Image.Resampling[how])
        for volume, how in ((source, "NEAREST"), (output, "BILINEAR"))
    ]
    width, height = sum(one.width for one in pictures) + GAP, max(one.height for one in pictures)
    sheet = Image.new("L", (width, height), 255)
    sheet.paste(pictures[0], (0, 0))
    sheet.paste(pictures[1], (width - pictures[1].width, 0))
    packed = io.BytesIO()
    sheet.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def _window(values: np.ndarray, modality: str) -> tuple[float, float]:
    if modality == "CT":
        return CT_WINDOW_HU
    low, high = np.percentile(values[:: max(1, len(values) // 16)], MR_WINDOW)
    return float(low), float(max(high, low + 1e-6))


def _plane(volume: Volume, axis: str, window: tuple[float, float]) -> np.ndarray:
    """(N, I) 8-bit gray, the slices downward from the head or the right."""
    values = np.moveaxis(volume.values, AXES.index(axis), 0)
    plane = values[:, values.shape[1] // 2].astype(np.float32)
    low, high = window
    gray = (np.clip((plane - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    along = volume.geometry.slices_first(axis).ijk_to_ras[:3, 2]
    return gray[::-1] if along[np.abs(along).argmax()] > 0 else gray


def _size(volume: Volume, axis: str) -> tuple[int, int]:
    geometry = volume.geometry.slices_first(axis)
    (n, _, i), (dn, _, di) = geometry.shape, geometry.spacing_mm
    tall, wide = n * dn, i * di
    scale = HEIGHT / max(tall, wide)
    return max(1, round(wide * scale)), max(1, round(tall * scale))
