"""Small filters within a slice, as torch computes them fastest (floor 3); edges are mirrored, the edge pixel twice."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

ABREAST = 16  # neighboring columns that one step of a convolution gives


def smoothed(one: np.ndarray, sigma: float, less: float = 0.0, truncate: float = 4.0) -> np.ndarray:
    """(J, I) float32: a Gaussian of `sigma` pixels, cut at `truncate` of these; minus one of `less` pixels, where that
    is not 0. A tenth to a half of ndimage's time."""
    import torch

    weights, reach = _weights(sigma, less, truncate)
    padded = np.pad(one, ((reach, reach), (reach, reach + -one.shape[1] % ABREAST)), mode="symmetric")
    with torch.inference_mode():
        found = torch.nn.functional.conv2d(torch.from_numpy(padded)[None, None], weights, stride=(1, ABREAST))
        return found[0].permute(1, 2, 0).flatten(1)[:, : one.shape[1]].numpy()


@lru_cache(maxsize=8)
def _weights(sigma: float, less: float, truncate: float) -> tuple[Any, int]:
    """The kernel `abreast`, and its reach."""
    reach = int(truncate * max(sigma, less) + 0.5)
    point = np.zeros((2 * reach + 1, 2 * reach + 1))
    point[reach, reach] = 1
    kernel = ndimage.gaussian_filter(point, sigma, truncate=truncate, mode="constant")
    if less:
        kernel -= ndimage.gaussian_filter(point, less, truncate=truncate, mode="constant")
    return abreast(kernel.astype(np.float32)), reach


def abreast(kernel: np.ndarray) -> Any:
    """(2 R + 1, 2 R + 1) float32 to (16, 1, 2 R + 1, 2 R + 16): the kernel at each of so many neighboring columns."""
    import torch

    weights = np.zeros((ABREAST, 1, len(kernel), len(kernel) + ABREAST - 1), np.float32)
    for column, of in enumerate(weights):
        of[0, :, column : column + len(kernel)] = kernel
    return torch.from_numpy(weights)


def blurred(one: np.ndarray, sigma: float) -> np.ndarray:
    """(J, I) float32: a Gaussian of less than half a pixel, of 3 x 3 pixels."""
    beside = np.float32(np.exp(-0.5 / sigma**2) / (1 + 2 * np.exp(-0.5 / sigma**2)))
    padded = np.pad(one, 1, mode="edge")
    rows = padded[:-2] + padded[2:]
    rows *= beside
    rows += (1 - 2 * beside) * padded[1:-1]
    found = rows[:, :-2] + rows[:, 2:]
    found *= beside
    found += (1 - 2 * beside) * rows[:, 1:-1]
    return found


def largest_near(one: np.ndarray) -> np.ndarray:
    """(J, I): the largest of each 3 x 3 pixels."""
    padded = np.pad(one, 1, mode="edge")
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def constant(one: np.ndarray) -> np.ndarray:
    """(J, I) bool: pixels alike to all of their neighbors, as in padding, masks, clipped air and saturation."""
    rows = _either_side(one[:, 1:] != one[:, :-1], 1)
    unlike = _either_side(one[1:] != one[:-1], 0) | rows
    unlike[1:] |= rows[:-1]
    unlike[:-1] |= rows[1:]
    return ~unlike


def _either_side(steps: np.ndarray, axis: int) -> np.ndarray:
    """Of pixels along an axis, whether there is a step before or after each; `steps`: between neighbors."""
    none = [(1, 1) if n == axis else (0, 0) for n in (0, 1)]
    padded = np.pad(steps, none)
    return padded[1:] | padded[:-1] if axis == 0 else padded[:, 1:] | padded[:, :-1]
