"""What training minimizes, on images alone (floor 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_FLAT = 30  # pixels: a place with fewer flat ones tells nothing of its noise
Mean = Callable[[Tensor, Tensor], Tensor]  # of values and weights; `Ranks.mean` is that of several processes


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)


def charbonnier(error: Tensor, weight: Tensor, epsilon: float, mean: Mean = weighted_mean) -> Tensor:
    """Weighted mean of sqrt(error^2 + epsilon^2) - epsilon: squared for small errors, absolute for large ones.

    `error` is in units of the scan's detail, so that noisy and smooth scans count alike.
    """
    return mean(torch.sqrt(error.square() + epsilon**2) - epsilon, weight)


def gradient_difference(error: Tensor, weight: Tensor, mean: Mean = weighted_mean) -> Tensor:
    """Weighted mean of the absolute in-plane first differences of an error (B, P, h, w)."""
    both = (error.diff(dim=-2).abs(), error.diff(dim=-1).abs())
    weights = (weight[..., 1:, :], weight[..., :, 1:])
    values, weight = (torch.cat([part.flatten() for part in parts]) for parts in (both, weights))
    return mean(values, weight)


def gain_db(error: Tensor, base_error: Tensor, weight: Tensor) -> Tensor:
    """PSNR of the output minus PSNR of the base, in dB: (P, h, w) each."""
    ours, theirs = ((weight * e.square()).sum() for e in (error, base_error))
    return 10 * torch.log10(theirs.clamp_min(1e-12) / ours.clamp_min(1e-12))


def noise_difference(output: Tensor, bracket: Tensor, t: Tensor, weight: Tensor, floor: Tensor) -> Tensor:
    """|log noise of the output - log noise of the acquired slices around it| for each place, (B, P).

    The noise is the mean absolute value of the mask of the measure (design section 6) over flat places: where the
    gradient of the linear interpolation is below its median in the body.

    Parameters
    ----------
    output : (B, P, h, w)
    bracket : (2, B, P, h, w), the acquired slices below and above each place
    t : (B, P)
    weight : (B, P, h, w), 1 in the body, less outside
    floor : (B,), added to both noise levels: what is far below it does not count
    """
    t = t[..., None, None]
    flat = _flat(torch.lerp(bracket[0], bracket[1], t), weight >= 1)
    acquired = torch.lerp(_level(bracket[0], flat), _level(bracket[1], flat), t[..., 0, 0])
    known = flat.sum((-2, -1)) >= LEAST_FLAT
    floor = floor[:, None]
    return torch.where(known, torch.log((_level(output, flat) + floor) / (acquired + floor)).abs(), 0.0)


def _level(image: Tensor, flat: Tensor) -> Tensor:
    """Mean absolute response to [[1, -2, 1], [-2, 4, -2], [1, -2, 1]] / 6 over flat places: (B, P)."""
    across = image[..., 2:] - 2 * image[..., 1:-1] + image[..., :-2]
    both = across[..., 2:, :] - 2 * across[..., 1:-1, :] + across[..., :-2, :]
    return (both.abs() * flat).sum((-2, -1)) / (6 * flat.sum((-2, -1)).clamp_min(1))


@torch.no_grad()
def _flat(image: Tensor, body: Tensor) -> Tensor:
    """(B, P, h - 2, w - 2) of 0 and 1: pixels of the body with a gradient below its median there."""
    smooth = image
    for _ in range(2):
        smooth = F.avg_pool2d(smooth, 5, 1, 2, count_include_pad=False)
    down = smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]
    across = smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]
    slope = torch.hypot(down, across).masked_fill(~body[..., 1:-1, 1:-1], float("nan"))
    median = slope.flatten(-2).nanmedian(-1).values[..., None, None]
    return (slope <= median).to(image.dtype)
