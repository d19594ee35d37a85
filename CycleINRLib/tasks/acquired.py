"""Training samples of slices as a scanner acquired them: what scans teach that have no thin-slice truth (floor 3).

untrue    nothing lies between them: for the cycle-consistent loss alone
dropped   every second slice is the truth for the others, as in Sander et al., arXiv 2202.09258
direct    the thin slices of a synthetic volume are their truth: what Xuan et al. warn of
"""

from __future__ import annotations

import numpy as np

from ..imaging.intensity import IntensityScale
from .batches import LEAST_BODY, OUTSIDE, Sample, SampleConfig, sample_of
from .scans import Scan


def asks_acquired(config: SampleConfig, rng: np.random.Generator) -> bool:
    """Whether the next sample is made of acquired slices; else thick slices are made from thin ones."""
    return config.direct or rng.random() < config.acquired_share


def acquired_patch(scan: Scan, config: SampleConfig, rng: np.random.Generator) -> Sample | None:
    """A sample of the acquired slices of `scan`; None where they have no room for it, or hold too little body."""
    acquired = scan.acquired
    assert acquired is not None  # the caller asks scans that have some
    found = _window(scan, acquired, config, rng)
    if found is None:
        return None
    k, rows, columns = found
    if config.direct:
        z, truth = _thin_between(scan, k, rows, columns, config, rng)
    else:
        z, truth = np.sort(rng.random(config.places)) * (config.slices - 1), None
    source = acquired[k : k + config.slices, rows, columns]
    return _of_slices(scan, acquired, source, z, truth, config, rng)


def _thin_between(
    scan: Scan, k: int, rows: slice, columns: slice, config: SampleConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Places (P,) between the acquired slices k .. k + slices - 1, and the thin slices (P, crop, crop) there."""
    z_scale = scan.protocols[0].z_scale
    inside = np.arange(np.ceil(k * z_scale), np.floor((k + config.slices - 1) * z_scale) + 1)
    at = np.sort(rng.choice(inside, config.places, replace=len(inside) < config.places))
    return at / z_scale - k, scan.along(0)[:, rows, columns][at.astype(int)]


def _window(
    scan: Scan, acquired: np.ndarray, config: SampleConfig, rng: np.random.Generator
) -> tuple[int, slice, slice] | None:
    """(first slice, rows, columns) of a patch; None: no room, or too little body."""
    size = (config.slices, config.crop, config.crop)
    if any(n < m for n, m in zip(acquired.shape, size)):
        return None
    k, j, i = (int(rng.integers(n - m + 1)) for n, m in zip(acquired.shape, size))
    rows, columns = slice(j, j + config.crop), slice(i, i + config.crop)
    body = np.mean(acquired[k : k + config.slices, rows, columns] > scan.body_floor)
    return None if body < LEAST_BODY else (k, rows, columns)


def _of_slices(
    scan: Scan,
    acquired: np.ndarray,
    source: np.ndarray,
    z: np.ndarray,
    truth: np.ndarray | None,
    config: SampleConfig,
    rng: np.random.Generator,
) -> Sample:
    """A sample of `source`, some of those `acquired`, with its truth (P, crop, crop) at `z`; without one it cycles."""
    rim = slice(config.margin, config.crop - config.margin)
    shown = np.zeros((config.places, config.crop, config.crop), np.float32) if truth is None else truth
    shown = np.asarray(shown[:, rim, rim], np.float32)
    weight = np.where(shown > scan.body_floor, 1.0, OUTSIDE).astype(np.float32) * np.float32(truth is not None)
    whole = IntensityScale.of(acquired[:, :: max(1, acquired.shape[1] // 16)], scan.modality, scan.scale)
    images = (np.asarray(source, np.float32) / scan.scale, shown / scan.scale, weight)
    cycle = 1.0 if truth is None else 0.0
    return sample_of(images, np.asarray(z, float), scan.protocols[0], scan.spacing_mm, whole, cycle, config, rng)
