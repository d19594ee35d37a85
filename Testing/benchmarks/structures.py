"""Structures found by fixed rules, and how well two masks of one structure agree.

A `Segmenter` is made once for each case from the thick source alone: thresholds from its values, regions from its
linear interpolation. It then finds the same structures in every volume on the target grid: each method's result and
the thin scan. So it never sees the truth when it decides, could be used in practice, and favors linear if any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from CycleINRLib.imaging.intensity import BODY_MR, MR_PERCENTILE

Spacing = tuple[float, float, float]  # (k, j, i) in mm

LUNG_HU = -400.0
OUTSIDE_AIR_HU = -950.0  # median of a component of air that no lung reaches
LUNG_ML, BONE_ML, BRIGHT_ML, DARK_ML = 5.0, 0.5, 0.2, 0.2  # smaller components are left out
VESSEL_HU, VESSEL_RIM_MM, VESSEL_CLOSING_MM = -600.0, 3.0, 5.0
BONE_HU, BONE_CLOSING_MM = 300.0, 2.0  # contrast in the heart reaches 300 HU
CELLS_HU, CELLS_CLOSING_MM = -400.0, 5.0
TRACHEA_HU, TRACHEA_ML = -850.0, 1.0
ENVELOPE_MM = 8.0
NEAR_CONTOUR = 0.25  # of the source spacing: how far from the interpolated contour the values decide
BEYOND_END = 0.5  # of the source spacing: how far outside a structure lies on a slice that shows none of it
RING_MM = 4.0
CLASSES_BINS = 128
SURFACE_POINTS = 20_000  # of each surface; more change the third digit

RULES = {
    "lung": "HU < -400, components of at least 5 ml but outside air (component median < -950 HU)",
    "lung vessels": "HU > -600 within the lung, closed by 5 mm, without its outer 3 mm",
    "bone": "HU > 300, closed by 2 mm, components of at least 0.5 ml",
    "air cells": "HU < -400 within the bone closed by 5 mm",
    "bright tissue": "above the upper threshold of three Otsu classes of the thick slices' body, components of at "
    "least 0.2 ml: white matter on T1; contrast enhancement and fat on T1 with contrast",
    "CSF": "below the lower of these thresholds, within all above it closed by 8 mm, components of at least 0.2 ml: "
    "ventricles and other dark spaces",
    "left lung": "the rule of lung, the half of larger i",
    "right lung": "the rule of lung, the half of smaller i",
    "trachea": "HU < -850, components of at least 1 ml that touch no side of the slices, where the mask has slices",
    "contour": "contours drawn on the acquired slices, interpolated by their signed distance (a slice without any: "
    "half a source spacing outside); within a quarter of the source spacing of that surface the value decides, by the "
    "middle of the means inside and within 4 mm around",
}


@dataclass(frozen=True, eq=False)
class Segmenter:
    """Finds structures by name in any volume on one target grid."""

    find: Callable[[np.ndarray], dict[str, np.ndarray]]  # (M, J, I) values to (M, J, I) bool masks

    def __call__(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return self.find(np.asarray(values, np.float32))


# --- rules ----------------------------------------------------------------------------------------------------
def chest(seen: np.ndarray, spacing: Spacing) -> Segmenter:
    """Lung, lung vessels and bone; `seen` is the linear interpolation of the source, (M, J, I) HU."""
    inside = ~near(~closed(lung(seen, spacing), spacing, VESSEL_CLOSING_MM), spacing, VESSEL_RIM_MM)

    def find(values: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "lung": lung(values, spacing),
            "lung vessels": inside & (values > VESSEL_HU),
            "bone": bone(values, spacing),
        }

    return Segmenter(find)


def head(seen: np.ndarray, spacing: Spacing) -> Segmenter:
    """Bone and the air cells within it; `seen` as for `chest`."""
    within = closed(bone(seen, spacing), spacing, CELLS_CLOSING_MM)

    def find(values: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "bone": bone(values, spacing),
            "air cells": within & (values < CELLS_HU),
        }

    return Segmenter(find)


def brain(seen: np.ndarray, spacing: Spacing, source: np.ndarray) -> Segmenter:
    """Bright tissue and CSF of T1 scans, with thresholds from the thick slices `source`."""
    dark, bright = three_classes(source)
    envelope = closed(of_at_least(seen > dark, spacing, LUNG_ML), spacing, ENVELOPE_MM)

    def find(values: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "bright tissue": of_at_least(values > bright, spacing, BRIGHT_ML),
            "CSF": of_at_least(envelope & (values < dark), spacing, DARK_ML),
        }

    return Segmenter(find)


def phantom(seen: np.ndarray, spacing: Spacing) -> Segmenter:
    """Left and right lung and trachea of a whole chest, patient supine, i toward the left; `seen` as for `chest`."""
    columns = lung(seen, spacing).sum((0, 1))
    third = len(columns) // 3
    middle = third + int(np.argmin(columns[third : 2 * third]))  # where the lungs are least

    def find(values: np.ndarray) -> dict[str, np.ndarray]:
        both = lung(values, spacing)
        left, right = both.copy(), both
        left[:, :, :middle], right[:, :, middle:] = False, False
        tube = of_at_least(values < TRACHEA_HU, spacing, TRACHEA_ML, touching_sides=False)
        return {"left lung": left, "right lung": right, "trachea": tube}

    return Segmenter(find)


def contour(source: np.ndarray, drawn: np.ndarray, positions: np.ndarray, spacing: Spacing) -> Segmenter:
    """A structure whose contours are known on the acquired slices alone.

    source, drawn : (N, J, I) thick slices and the contours on them; positions : (M,) target slices in source slices
    """
    gap = spacing[0] * (len(positions) - 1) / float(positions[-1] - positions[0])
    distance = np.stack([signed_distance(plane, spacing[1:], BEYOND_END * gap) for plane in drawn])
    shows = drawn.any((1, 2))[:, None, None]
    inside, ring = distance > 0, shows & (distance <= 0) & (distance > -RING_MM)
    within, around = float(source[inside].mean()), float(source[ring].mean())
    below = np.clip(positions.astype(int), 0, len(drawn) - 2)
    part = (positions - below)[:, None, None]
    shape, margin = (1 - part) * distance[below] + part * distance[below + 1], NEAR_CONTOUR * gap

    def find(values: np.ndarray) -> dict[str, np.ndarray]:
        fits = (values > (within + around) / 2) == (within > around)
        return {"contour": (shape > margin) | ((shape > -margin) & fits)}

    return Segmenter(find)


def lung(values: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The rule "lung" above."""
    labels, count = ndimage.label(values < LUNG_HU)
    large = np.flatnonzero(np.bincount(labels.ravel(), minlength=count + 1) >= voxels(LUNG_ML, spacing))
    large = [n for n in large if n and np.median(values[labels == n]) >= OUTSIDE_AIR_HU]
    return np.isin(labels, large)


def bone(values: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The rule "bone" above."""
    return of_at_least(closed(values > BONE_HU, spacing, BONE_CLOSING_MM), spacing, BONE_ML)


# --- tools ----------------------------------------------------------------------------------------------------
def three_classes(source: np.ndarray) -> tuple[float, float]:
    """The two thresholds that part the body of an MR scan into three classes (Otsu 1979, two thresholds)."""
    peak = float(np.percentile(source, MR_PERCENTILE))
    body = source[source > BODY_MR * peak]
    high = float(np.percentile(body, 99))
    counts, edges = np.histogram(np.clip(body, 0, high), CLASSES_BINS, (0, high))
    centers = (edges[1:] + edges[:-1]) / 2
    share = np.cumsum(counts / counts.sum())
    mass = np.cumsum(counts * centers / counts.sum())
    first, second = np.triu_indices(CLASSES_BINS - 1, 1)
    parts = share[first], share[second] - share[first], 1 - share[second]
    masses = mass[first], mass[second] - mass[first], mass[-1] - mass[second]
    between = sum(m**2 / np.maximum(w, 1e-9) for m, w in zip(masses, parts))
    best = int(np.argmax(between))
    return float(edges[first[best] + 1]), float(edges[second[best] + 1])


def voxels(millilitres: float, spacing: Spacing) -> float:
    return millilitres * 1000 / float(np.prod(spacing))


def of_at_least(mask: np.ndarray, spacing: Spacing, millilitres: float, *, touching_sides: bool = True) -> np.ndarray:
    """Face-connected components of that size; those that touch a side of the slices only where allowed."""
    labels, count = ndimage.label(mask)
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= voxels(millilitres, spacing)
    kept[0] = False
    if not touching_sides:
        sides = (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
        kept[np.unique(np.concatenate([side.ravel() for side in sides]))] = False
    return kept[labels]


def near(mask: np.ndarray, spacing: Spacing, mm: float) -> np.ndarray:
    """Voxels at most `mm` from the mask; none where the mask is empty."""
    if not mask.any():
        return np.zeros_like(mask)
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= mm


def closed(mask: np.ndarray, spacing: Spacing, mm: float) -> np.ndarray:
    """The mask closed by a ball of `mm`; beyond the border the volume goes on as it ends."""
    pad = [int(np.ceil(mm / step)) + 1 for step in spacing]
    wide = np.pad(mask, [(n, n) for n in pad], mode="edge")
    filled = ~near(~near(wide, spacing, mm), spacing, mm)
    return filled[tuple(slice(n, -n) for n in pad)]


def signed_distance(plane: np.ndarray, spacing: tuple[float, float], empty_mm: float) -> np.ndarray:
    """(J, I) mm to the border of the mask, positive inside; -`empty_mm` throughout where there is no mask."""
    if not plane.any():
        return np.full(plane.shape, -empty_mm)
    inside = ndimage.distance_transform_edt(plane, sampling=spacing)
    return inside - ndimage.distance_transform_edt(~plane, sampling=spacing)


# --- agreement ------------------------------------------------------------------------------------------------
def dice(found: np.ndarray, reference: np.ndarray) -> float | None:
    """2 |A and B| / (|A| + |B|); None where both are empty."""
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(found & reference)) / total if total else None


def dice_per_slice(found: np.ndarray, reference: np.ndarray) -> float | None:
    """Mean over the slices that hold any of the two."""
    each = [dice(a, b) for a, b in zip(found, reference)]
    known = [value for value in each if value is not None]
    return float(np.mean(known)) if known else None


def volume_error_percent(found: np.ndarray, reference: np.ndarray) -> float | None:
    """100 (A - B) / B; None where the reference is empty."""
    size = int(np.count_nonzero(reference))
    return 100 * (int(np.count_nonzero(found)) - size) / size if size else None


@dataclass(frozen=True, eq=False)
class Surface:
    """The border voxels of a mask, as points in mm."""

    points: np.ndarray  # (n, 3)
    tree: cKDTree

    @classmethod
    def of(cls, mask: np.ndarray, spacing: Spacing) -> Surface | None:
        """Voxels with a face neighbor outside; the ends of the volume are no border. None for an empty mask."""
        inner = ndimage.binary_erosion(mask, border_value=1)
        places = np.argwhere(mask & ~inner)
        if not len(places):
            return None
        points = places[:: -(-len(places) // SURFACE_POINTS)] * np.asarray(spacing)
        return cls(points, cKDTree(places * np.asarray(spacing)))


def surface_distances(one: Surface | None, other: Surface | None) -> tuple[float | None, float | None]:
    """(mean, 95th percentile) in mm of the distances between two surfaces, both ways; the worse side's percentile."""
    if one is None or other is None:
        return None, None
    there, back = other.tree.query(one.points)[0], one.tree.query(other.points)[0]
    worst = max(np.percentile(there, 95), np.percentile(back, 95))
    return float((there.mean() + back.mean()) / 2), float(worst)
