"""How much results are like a known truth: SSIM in space and in three planes, and the error of the gradient (floor 1).

One `Likeness` serves all results of one truth: what depends on the truth alone is computed once. PSNR has its home in
`metrics`, since the product's self-check needs it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from .intensity import CT_RANGE_HU, body_mask, value_range

SSIM_VARIANT = "Gaussian 1.5 voxels, 11 taps, K = (0.01, 0.03), population moments, mean over the body"
SIGMA, TRUNCATE = 1.5, 3.5
C1, C2 = 0.01**2, 0.03**2
DENSE = 256  # voxels along an axis up to which a matrix is faster than a filter
WINDOW_PLANES = ("ji", "ki", "kj")  # the axes that a window runs along; "ji" are the slices themselves


class Likeness:
    """Compares results with thin slices that are known.

    Parameters
    ----------
    truth : (K, J, I) array, HU or MR stored units; CT is clipped to [-1000, 1000] HU
    modality : "CT" or "MR"
    spacing_mm : (k, j, i)
    peak : the range; None: `intensity.value_range` of `truth`
    body : bool array; None: `intensity.body_mask`
    """

    def __init__(
        self,
        truth: np.ndarray,
        modality: str,
        spacing_mm: tuple[float, float, float],
        *,
        peak: float | None = None,
        body: np.ndarray | None = None,
    ) -> None:
        self.peak = value_range(truth, modality) if peak is None else peak
        self.body = body_mask(truth, modality, self.peak) if body is None else body
        self.modality, self.spacing_mm = modality, spacing_mm
        inside = max(1, int(np.count_nonzero(self.body)))
        self.weights = self.body.astype(np.float32).ravel() / np.float32(inside)
        self.truth = self._relative(truth)
        self.means, self.squares = dict(_smoothed(self.truth)), dict(_smoothed(self.truth * self.truth))
        self.slopes = self._slopes(self.truth)

    def figures(self, output: np.ndarray) -> dict[str, Any]:
        """ssim (3D), ssim_planes {ji, ki, kj} and gradient_error of (K, J, I) values; None where there is no body.

        gradient_error : RMS over the body of |gradient of output| - |gradient of truth|, central differences over mm,
            in % of the range a mm (CT: 1 % is 20 HU)
        """
        if not self.body.any():
            return {"ssim": None, "ssim_planes": dict.fromkeys(WINDOW_PLANES), "gradient_error": None}
        seen = self._relative(output)
        ssim = self._ssim(seen)
        slopes = self._slopes(seen)
        slopes -= self.slopes
        error = np.sqrt(self._mean(np.square(slopes)))
        return {
            "ssim": ssim.pop("3d"),
            "ssim_planes": ssim,
            "gradient_error": float(f"{100 * error:.4g}"),
        }

    def _ssim(self, seen: np.ndarray) -> dict[str, float]:
        """Mean similarity in the body for each window."""
        found = {}
        parts = zip(*(_smoothed(values) for values in (seen, seen * seen, seen * self.truth)))
        for (name, mean), (_, square), (_, product) in parts:
            true_mean = self.means[name]
            both = mean * true_mean
            covariance = product - both
            power = mean * mean + true_mean * true_mean
            variance = square + self.squares[name] - power
            similarity = (2 * both + C1) * (2 * covariance + C2) / ((power + C1) * (variance + C2))
            found[name] = round(self._mean(similarity), 5)
        return found

    def _mean(self, values: np.ndarray) -> float:
        """Over the body; slice by slice, so that float32 sums stay short."""
        rows = len(values)
        return float(np.einsum("kv,kv->k", values.reshape(rows, -1), self.weights.reshape(rows, -1)).sum(dtype=float))

    def _relative(self, values: np.ndarray) -> np.ndarray:
        """float32 parts of the range: moments of raw values would lose their digits in float32."""
        values = np.asarray(values, np.float32)
        if self.modality == "CT":
            values = np.clip(values, *CT_RANGE_HU)
        return values / np.float32(self.peak)

    def _slopes(self, values: np.ndarray) -> np.ndarray:
        """Gradient magnitude, range a mm; along an axis of one voxel there is none."""
        total = np.zeros(values.shape, np.float32)
        for axis, mm in enumerate(self.spacing_mm):
            if values.shape[axis] > 1:
                total += np.square(np.gradient(values, np.float32(mm), axis=axis))
        return np.sqrt(total, out=total)


def _smoothed(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Means over the windows of space and of all three planes, one at a time, in six passes instead of nine."""
    of_i = _along(values, 2)
    in_slices = _along(of_i, 1)
    yield "3d", _along(in_slices, 0)
    yield "ji", in_slices
    del in_slices
    yield "ki", _along(of_i, 0)
    yield "kj", _along(_along(values, 1), 0)


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    """The window's mean along one axis; short axes as a product of matrices, which is twice as fast."""
    count = values.shape[axis]
    if count > DENSE:
        return ndimage.gaussian_filter1d(values, SIGMA, axis=axis, truncate=TRUNCATE, output=np.float32)
    window = _window(count)
    if axis == 0:
        return (window @ values.reshape(count, -1)).reshape(values.shape)
    return np.matmul(window, values) if axis == 1 else values @ window.T


@lru_cache(maxsize=8)
def _window(count: int) -> np.ndarray:
    """(count, count) rows: the Gaussian around each place, mirrored at both ends."""
    return ndimage.gaussian_filter1d(np.eye(count), SIGMA, axis=0, truncate=TRUNCATE).astype(np.float32)


def psnr(
    output: np.ndarray, truth: np.ndarray, modality: str, *, peak: float | None = None, mask: np.ndarray | None = None
) -> float | None:
    """Peak signal-to-noise ratio in dB over a fixed range, inside the body (design section 6).

    Parameters
    ----------
    output, truth : arrays of one shape, HU or MR stored units; CT is clipped to [-1000, 1000] HU
    peak : the range; None: `value_range` of the truth. Give that of the whole truth where slices were picked
    mask : bool array; None: `body_mask` of the truth

    Returns
    -------
    dB; None where the mask is empty or both are equal
    """
    output, truth, peak, mask = _comparable(output, truth, modality, peak, mask)
    error = np.mean((output[mask] - truth[mask]) ** 2, dtype=np.float64) if mask.any() else 0.0
    return float(10 * np.log10(peak**2 / error)) if error > 0 else None


def _comparable(
    output: np.ndarray, truth: np.ndarray, modality: str, peak: float | None, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """float64 copies on one range, that range, and where they count."""
    peak = value_range(truth, modality) if peak is None else peak
    mask = body_mask(truth, modality, peak) if mask is None else mask
    output, truth = np.asarray(output, np.float64), np.asarray(truth, np.float64)
    if modality.upper() == "CT":
        output, truth = np.clip(output, *CT_RANGE_HU), np.clip(truth, *CT_RANGE_HU)
    return output, truth, peak, mask
