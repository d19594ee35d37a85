"""Training samples of slices as a scanner acquired them: what scans teach that have no thin-slice truth (floor 3).

untrue    nothing lies between them: for the cycle-consistent loss alone
dropped   every second slice is the truth for the others, as in Sander et al., arXiv 2202.09258
direct    the thin slices of a synthetic volume are their truth: what Xuan et al. warn of
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..imaging.intensity import IntensityScale
from .batches import LEAST_BODY, OUTSIDE, Sample, SampleConfig, sample_of
from .scans import Scan

Maker = Callable[[Scan, np.ndarray, SampleConfig, np.random.Generator], Sample | None]


def of_acquired(config: SampleConfig, rng: np.random.Generator) -> Maker | None:
    """How a sample is made of acquired slices; None: it is not, thick slices are made from thin ones."""
    if config.direct:
        return _direct_patch
    return _untrue_patch if rng.random() < config.acquired_share else None


def _untrue_patch(scan: Scan, acquired: np.ndarray, config: SampleConfig, rng: np.random.Generator) -> Sample | None:
    """Slices as acquired, without a truth: for the cycle alone."""
    found = _window(scan, acquired, config.slices, config, rng)
    if found is None:
        return None
    k, rows, columns = found
    source = acquired[k : k + config.slices, rows, columns]
    z = np.sort(rng.random(config.places)) * (config.slices - 1)
    truth = np.zeros((config.places, config.crop, config.crop), np.float32)
    return _of_slices(scan, acquired, source, truth, z, 1.0, config, rng, known=False)


def _direct_patch(scan: Scan, acquired: np.ndarray, config: SampleConfig, rng: np.random.Generator) -> Sample | None:
    """Slices as acquired, with the thin slices that the scan holds between them."""
    found = _window(scan, acquired, config.slices, config, rng)
    if found is None:
        return None
    k, rows, columns = found
    source = acquired[k : k + config.slices, rows, columns]
    protocol = scan.protocols[0]
    inside = np.arange(np.ceil(k * protocol.z_scale), np.floor((k + config.slices - 1) * protocol.z_scale) + 1)
    at = np.sort(rng.choice(inside, config.places, replace=len(inside) < config.places))
    truth = scan.along(0)[:, rows, columns][at.astype(int)]
    z = at / protocol.z_scale - k
    return _of_slices(scan, acquired, source, truth, z, 0.0, config, rng)


def _window(
    scan: Scan, acquired: np.ndarray, count: int, config: SampleConfig, rng: np.random.Generator
) -> tuple[int, slice, slice] | None:
    """(first slice, rows, columns) of `count` acquired slices of a patch; None: no room, or too little body."""
    size = (count, config.crop, config.crop)
    if any(n < m for n, m in zip(acquired.shape, size)):
        return None
    k, j, i = (int(rng.integers(n - m + 1)) for n, m in zip(acquired.shape, size))
    rows, columns = slice(j, j + config.crop), slice(i, i + config.crop)
    body = np.mean(acquired[k : k + count, rows, columns] > scan.body_floor)
    return None if body < LEAST_BODY else (k, rows, columns)


def _of_slices(
    scan: Scan,
    acquired: np.ndarray,
    source: np.ndarray,
    truth: np.ndarray,
    z: np.ndarray,
    cycle: float,
    config: SampleConfig,
    rng: np.random.Generator,
    known: bool = True,
) -> Sample:
    """A sample of acquired slices: `source` of those `acquired`, `truth` (P, crop, crop) at `z`, if it is `known`."""
    rim = slice(config.margin, config.crop - config.margin)
    truth = np.asarray(truth[:, rim, rim], np.float32)
    weight = np.where(truth > scan.body_floor, 1.0, OUTSIDE).astype(np.float32) * np.float32(known)
    whole = IntensityScale.of(acquired[:, :: max(1, acquired.shape[1] // 16)], scan.modality, scan.scale)
    images = (np.asarray(source, np.float32) / scan.scale, truth / scan.scale, weight)
    return sample_of(images, np.asarray(z, float), scan.protocols[0], scan.spacing_mm, whole, cycle, config, rng)
