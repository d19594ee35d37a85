"""How far synthetic slices can be told from acquired ones: sharpness, noise, and a two-sample test (floor 3).

The test takes random patches of both kinds, describes each by a few fixed features, and asks twice: by the kernel
maximum mean discrepancy (MMD) with a p-value from permutations, and by how well a linear classifier learns to tell
them on other places of the scan (AUC, 0.5: not at all). Both are also asked of the even against the odd acquired
slices: that is what a perfect synthesis would reach.

Source: Gretton et al., JMLR 13 (2012), unbiased MMD; Lopez-Paz and Oquab, ICLR 2017, classifier two-sample test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.fft import fftfreq, rfft2, rfftfreq
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from ..imaging.figures import LEAST_ACQUIRED
from ..imaging.intensity import body_mask, value_range
from ..imaging.noise import ACQUIRED_TOLERANCE, noise_readout, target_positions

PATCH = 8  # pixels
PATCHES = 240  # of each kind
MOST_SLICES = 48  # of each kind that are looked at, evenly spread
PERMUTATIONS = 500
FOLDS = 4  # parts of the scan along z; the classifier is tested on the one that it has not seen
RIDGE = 1e-3  # of the covariance, so that it can be inverted
BINS = 24  # of the in-plane spectrum, 0 to 0.5 cycles a pixel
UPPER_HALF = 0.25  # cycles a pixel
EDGE_SIGMA = 1.0  # pixels of the Gaussian gradient
PATCH_FEATURES = ("mean", "log spread", "log gradient", "log Laplacian", "neighbor correlation")


@dataclass(frozen=True, eq=False)
class PatchSample:
    """Patches of one kind of slice.

    features : (n, F) see `PATCH_FEATURES`
    place : (n,) where each lies along z, 0 to 1
    """

    features: np.ndarray
    place: np.ndarray


def realism(
    acquired: np.ndarray, synthetic: np.ndarray, z_scale: float, modality: str, *, seed: int = 0
) -> dict[str, Any]:
    """Synthetic slices against the acquired ones of their scan.

    Parameters
    ----------
    acquired : (N, J, I) HU or MR stored units
    synthetic : (M, J, I) the same unit; slice j lies at j / z_scale source slices
    z_scale : source spacing / target spacing
    modality : "CT" or "MR"
    seed : of patches and permutations

    Returns
    -------
    dict ready for JSON, None where not measurable (at_acquired: fewer than 5 slices lie there):
    sharpness {between, at_acquired}: RMS gradient in the body (Gaussian, 1 pixel) over that of the acquired slices;
    fine_power {the same}: power in the upper half of the in-plane band, likewise;
    noise_ratio, generated_gap, snli_detrended, noise_per_slice {input, output}: `imaging.noise`;
    two_sample: {features, patches, mmd2, p, auc, acquired: {mmd2, p, auc}} of slices between acquired ones;
    spectra: {frequency, acquired, between, at_acquired}, mean power at cycles a pixel
    """
    places = target_positions(len(synthetic), z_scale)
    on_grid = np.abs(places - np.round(places)) < ACQUIRED_TOLERANCE
    enough = on_grid & (on_grid.sum() >= LEAST_ACQUIRED)  # a few slices differ by their anatomy
    kinds = {"acquired": acquired, "between": synthetic[~on_grid], "at_acquired": synthetic[enough]}
    peak = value_range(acquired, modality)
    edges = {name: edge_strength(values, modality, peak) for name, values in kinds.items()}
    spectra = {name: spectrum(values) for name, values in kinds.items()}
    fine = {name: _upper_half(power) for name, power in spectra.items()}
    noise = noise_readout(acquired, synthetic, z_scale, modality)
    return {
        "sharpness": _over_acquired(edges),
        "fine_power": _over_acquired(fine),
        "noise_ratio": noise["noise_ratio"],
        "generated_gap": noise["generated_gap"],
        "snli_detrended": noise["snli_detrended"]["output"],
        "noise_per_slice": {name: noise["noise_per_slice"][name] for name in ("input", "output")},
        "two_sample": two_sample(acquired, kinds["between"], modality, peak, seed),
        "spectra": {
            "frequency": [round(float(f), 4) for f in _centers()],
            **{name: None if p is None else [float(f"{value:.4g}") for value in p] for name, p in spectra.items()},
        },
    }


def _over_acquired(values: dict[str, float | None]) -> dict[str, float | None]:
    acquired = values["acquired"]
    return {
        name: round(value / acquired, 4) if value is not None and acquired else None
        for name, value in values.items()
        if name != "acquired"
    }


def _some(values: np.ndarray) -> np.ndarray:
    """Numbers of at most `MOST_SLICES` slices, evenly spread."""
    return np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_SLICES)).round().astype(int))


# --- sharpness ------------------------------------------------------------------------------------------------
def edge_strength(values: np.ndarray, modality: str, peak: float) -> float | None:
    """RMS gradient in the body of (N, J, I) slices, in their unit a pixel; None where there is no body.

    Edges rule a mean of squares, and a blur can only lower it.
    """
    found = []
    for k in _some(values):
        plane = np.asarray(values[k], np.float32)
        body = body_mask(plane, modality, peak)
        if body.any():
            gradient = ndimage.gaussian_gradient_magnitude(plane, EDGE_SIGMA)[body]
            found.append(np.mean(gradient**2, dtype=np.float64))
    return float(np.sqrt(np.mean(found))) if found else None


def spectrum(values: np.ndarray) -> np.ndarray | None:
    """(BINS,) mean in-plane power of (N, J, I) slices by frequency, 0 to 0.5 cycles a pixel; None without slices.

    Slices end abruptly, which would look like detail, so they are faded out towards their borders (Hann).
    """
    if not len(values):
        return None
    J, I = values.shape[1:]  # noqa: E741  the array axes
    fade = np.outer(np.hanning(J), np.hanning(I)).astype(np.float32)
    which = np.minimum((np.hypot(fftfreq(J)[:, None], rfftfreq(I)) * 2 * BINS).astype(int), BINS)
    count = np.bincount(which.ravel(), minlength=BINS + 1)
    power = np.zeros(BINS + 1)
    for k in _some(values):
        plane = np.asarray(values[k], np.float32)
        transform = np.abs(rfft2((plane - plane.mean()) * fade)) ** 2
        power += np.bincount(which.ravel(), transform.ravel(), BINS + 1) / np.maximum(count, 1)
    return power[:BINS] / len(_some(values)) / np.mean(fade**2) / (J * I)


def _centers() -> np.ndarray:
    return (np.arange(BINS) + 0.5) / (2 * BINS)


def _upper_half(power: np.ndarray | None) -> float | None:
    """Power beyond a quarter cycle a pixel, each frequency by the area of its ring."""
    upper = _centers() >= UPPER_HALF
    return None if power is None else float(np.average(power[upper], weights=_centers()[upper]))


# --- two samples ----------------------------------------------------------------------------------------------
def two_sample(
    acquired: np.ndarray, synthetic: np.ndarray, modality: str, peak: float, seed: int
) -> dict[str, Any] | None:
    """Both tests of synthetic against acquired slices, and of even against odd acquired ones; None: too little body."""
    random = np.random.default_rng(seed)
    parts = [acquired, synthetic, acquired[::2], acquired[1::2]]
    drawn = [draw_sample(part, modality, peak, random) for part in parts]
    samples = [sample for sample in drawn if sample is not None]
    if len(samples) < len(parts):
        return None
    return {
        "features": list(PATCH_FEATURES),
        "patches": len(samples[1].place),
        **compare(samples[0], samples[1], random),
        "acquired": compare(samples[2], samples[3], random),
    }


def draw_sample(
    values: np.ndarray, modality: str, peak: float, random: np.random.Generator, patches: int = PATCHES
) -> PatchSample | None:
    """Random patches whose center lies in the body, as many from each slice; None where no slice has body."""
    if not len(values) or min(values.shape[1:]) < PATCH:
        return None
    found, place = [], []
    chosen = _some(values)
    for k in chosen:
        plane = np.asarray(values[k], np.float32)
        half = PATCH // 2
        centers = np.argwhere(body_mask(plane, modality, peak)[half : 1 - half, half : 1 - half])
        if len(centers):
            count = -(-patches // len(chosen))
            corners = centers[random.integers(0, len(centers), count)]
            found += [features_of(plane[j : j + PATCH, i : i + PATCH] / peak) for j, i in corners]
            place += [k / max(1, len(values) - 1)] * count
    return PatchSample(np.array(found), np.array(place)) if found else None


def features_of(patch: np.ndarray) -> list[float]:
    """The `PATCH_FEATURES` of a (8, 8) patch of values over the range of the scan."""
    rows, columns = np.diff(patch, axis=0), np.diff(patch, axis=1)
    bend = np.diff(np.diff(patch, 2, axis=0), 2, axis=1)
    strength = float(np.mean(bend**2))
    neighbors = float(np.mean(bend[:, 1:] * bend[:, :-1]) + np.mean(bend[1:] * bend[:-1])) / 2
    energies = patch.std(), np.sqrt(np.mean(rows**2) + np.mean(columns**2)), np.sqrt(strength)
    return [float(patch.mean()), *(float(np.log(e + 1e-5)) for e in energies), neighbors / (strength + 1e-10)]


def compare(one: PatchSample, other: PatchSample, random: np.random.Generator) -> dict[str, float]:
    """mmd2 (unbiased, may be below 0), its p-value by permutation, and the AUC of the classifier."""
    features = np.concatenate([one.features, other.features])
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    labels = np.repeat([0, 1], [len(one.place), len(other.place)])
    place = np.concatenate([one.place, other.place])
    mmd2, p = mmd_test(features, labels, random)
    return {"mmd2": round(mmd2, 5), "p": round(p, 4), "auc": round(classifier_auc(features, labels, place), 4)}


def mmd_test(features: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> tuple[float, float]:
    """Unbiased MMD^2 of two samples, Gaussian kernel of the median distance, and its p-value.

    features : (n, F) standardized
    labels : (n,) 0 or 1; permuted `PERMUTATIONS` times
    """
    distance = cdist(features, features, "sqeuclidean")
    width = max(float(np.median(distance[np.triu_indices(len(labels), 1)])), 1e-12)
    kernel = np.exp(-distance / width)
    np.fill_diagonal(kernel, 0)
    all_labels = np.stack([labels, *(random.permutation(labels) for _ in range(PERMUTATIONS))])
    ones = all_labels.astype(float)
    counts = ones.sum(1)[0], (1 - ones).sum(1)[0]
    of_ones, of_zeros = (np.einsum("pn,pn->p", side @ kernel, side) for side in (ones, 1 - ones))
    across = np.einsum("pn,pn->p", ones @ kernel, 1 - ones)
    within = of_ones / (counts[0] * (counts[0] - 1)) + of_zeros / (counts[1] * (counts[1] - 1))
    statistic = within - 2 * across / (counts[0] * counts[1])
    return float(statistic[0]), float(np.mean(statistic >= statistic[0] - 1e-12))


def classifier_auc(features: np.ndarray, labels: np.ndarray, place: np.ndarray) -> float:
    """Mean over the parts of the scan of the AUC of a linear discriminant learned on the other parts.

    place : (n,) 0 to 1 along z. Features enter with their squares, so that a change of spread is seen too.
    """
    known = np.concatenate([features, features**2], 1)
    fold = np.minimum((place * FOLDS).astype(int), FOLDS - 1)
    found = []
    for n in range(FOLDS):
        test, learn = fold == n, fold != n
        sides = [[known[part & (labels == label)] for label in (0, 1)] for part in (test, learn)]
        if min(len(side) for part in sides for side in part) < 2:
            continue
        centered = np.concatenate([side - side.mean(0) for side in sides[1]])
        covariance = np.cov(centered.T) + RIDGE * np.eye(known.shape[1])
        direction = np.linalg.solve(covariance, sides[1][1].mean(0) - sides[1][0].mean(0))
        found.append(_auc(sides[0][0] @ direction, sides[0][1] @ direction))
    return float(np.mean(found)) if found else 0.5


def _auc(zeros: np.ndarray, ones: np.ndarray) -> float:
    """The chance that one of `ones` lies above one of `zeros`."""
    ranks = rankdata(np.concatenate([zeros, ones]))[len(zeros) :]
    return float((ranks.sum() - len(ones) * (len(ones) + 1) / 2) / (len(zeros) * len(ones)))
