"""What training minimizes (floor 3)."""

from __future__ import annotations

import torch
from torch import Tensor


def charbonnier(error: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Weighted mean of sqrt(error^2 + epsilon^2) - epsilon: squared for small errors, absolute for large ones.

    `error` is in units of the scan's detail, so that noisy and smooth scans count alike.
    """
    cost = torch.sqrt(error.square() + epsilon**2) - epsilon
    return (cost * weight).sum() / weight.sum()


def gain_db(error: Tensor, base_error: Tensor, weight: Tensor) -> Tensor:
    """PSNR of the output minus PSNR of the base, in dB: (P, h, w) each."""
    ours, theirs = ((weight * e.square()).sum() for e in (error, base_error))
    return 10 * torch.log10(theirs.clamp_min(1e-12) / ours.clamp_min(1e-12))
