"""Masks between the slices on which they were drawn (floor 1)."""

from __future__ import annotations

import numpy as np

MARGIN = 1  # pixels around a mask, so that its outline lies inside


def mask_between(mask: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    """The mask at positions between its slices: shape-based interpolation (Raya and Udupa, IEEE TMI 1990;9:32-42).

    The distance to the outline, within each slice, is interpolated along the slice axis; inside is where it is
    positive. At whole positions this is the mask as it was drawn, pixel for pixel. Beside its last slice it tapers off
    half way to the next.

    Parameters
    ----------
    mask : (K, J, I) bool
    axis : array position of the slice axis
    positions : (N,) in slices of the mask; outside its slices nothing is inside

    Returns
    -------
    bool array, N along `axis`
    """
    slices = np.moveaxis(np.asarray(mask, bool), axis, 0)
    out = np.zeros((len(positions), *slices.shape[1:]), bool)
    box = _box_of(slices)
    if box is not None:
        rows, columns = box
        distances = [_signed_distance(one[rows, columns]) for one in slices]
        for n, position in enumerate(positions):
            below, last = int(np.floor(position)), len(slices) - 1
            if below >= 0 and position <= last:
                pair = distances[below], distances[min(below + 1, last)]
                out[n, rows, columns] = _blend(*pair, float(position - below))
    return np.moveaxis(out, 0, axis)


def _box_of(slices: np.ndarray) -> tuple[slice, ...] | None:
    """Rows and columns that hold all of the mask; None where it is empty."""
    rows, columns = np.nonzero(slices.any(axis=0))
    if not len(rows):
        return None
    return tuple(slice(max(0, int(at.min()) - MARGIN), int(at.max()) + 1 + MARGIN) for at in (rows, columns))


def _blend(below: np.ndarray | None, above: np.ndarray | None, share: float) -> np.ndarray | bool:
    """Inside at `share` of the way; a slice without mask is as far out as the other one's middle is inside."""
    if below is not None and above is not None:
        return (1 - share) * below + share * above > 0
    if above is not None:
        return share * above - (1 - share) * above.max() > 0
    if below is not None:
        return (1 - share) * below - share * below.max() > 0
    return False


def _signed_distance(inside: np.ndarray) -> np.ndarray | None:
    """(J, I) float32 distance to the outline in pixels, > 0 inside; None without mask."""
    from scipy.ndimage import distance_transform_edt

    if not inside.any():
        return None
    padded = np.pad(inside, 1)  # whatever lies at the edge of the image ends there
    out = distance_transform_edt(padded) - distance_transform_edt(~padded)
    return (out - np.sign(out) * 0.5)[1:-1, 1:-1].astype(np.float32)
