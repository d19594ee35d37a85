"""What one training step minimizes: the error, and as far as texture is asked for, cycle and noise (floor 3).

    loss = error + texture * (cycle * L_cycle + noise * L_noise) [+ gradient * L_gradient]

Source: the cycle-consistent loss is that of CycleINR (CVPR 2024) as read in methods 1.5; the noise term is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..network.model import CycleINR, source_features
from .losses import charbonnier, gradient_difference, noise_difference
from .samples import Batch, Places, base_of

NOISE_FLOOR = 0.02  # of detail: noise far below it is none


@dataclass(frozen=True)
class Objective:
    """Weights of the terms; errors count in units of the scan's detail."""

    epsilon: float = 0.3  # of Charbonnier
    cycle: float = 1.0
    noise: float = 0.3
    gradient: float = 0.0

    def loss(self, network: CycleINR, batch: Batch) -> Tensor:
        """The mean over the batch, ready for backward()."""
        correction = predict(network, batch.source, batch.detail, batch.condition, batch.places, batch.margin)
        error = correction - wanted(batch)
        loss = charbonnier(error, batch.weight, self.epsilon)
        if self.gradient:
            loss = loss + self.gradient * gradient_difference(error, batch.weight)
        textured = batch.texture > 0
        if (self.cycle or self.noise) and bool(textured.any()):
            terms = self.noise * self._noise(batch, correction)
            if self.cycle:
                terms = terms + self.cycle * self._cycle(network, batch)
            loss = loss + (batch.texture * terms).mean()
        return loss

    def _noise(self, batch: Batch, correction: Tensor) -> Tensor:
        """(B,): how far the noise of generated slices is from that of the acquired slices around them."""
        scale = batch.detail[:, None, None, None]
        output = batch.base + batch.gate[..., None, None] * correction * scale
        m = batch.margin
        inner = batch.source[..., m : batch.source.shape[-2] - m, m : batch.source.shape[-1] - m]
        rows = torch.arange(len(inner), device=inner.device)[:, None]
        bracket = torch.stack([inner[rows, batch.places.below], inner[rows, batch.places.below + 1]])
        floor = NOISE_FLOOR * batch.detail
        found = noise_difference(output, bracket, batch.places.t, batch.weight, floor)
        return (found * batch.gate).mean(1)

    def _cycle(self, network: CycleINR, batch: Batch) -> Tensor:
        """(B,): error of acquired slices predicted from slices that were predicted from them.

        Thin slices are one place each; thick ones are averaged over the slice profile in both passes. The first patch
        that asks for texture stands for all that do, since two more passes of every patch would triple a step's time.
        """
        asking = (batch.texture > 0).nonzero()[:, 0]
        row = asking[:1]
        stands_for = batch.texture[asking].sum() / batch.texture[row]
        cost = stands_for * self._there_and_back(network, batch, row)
        return torch.zeros_like(batch.texture).index_put((row,), cost)

    def _there_and_back(self, network: CycleINR, batch: Batch, rows: Tensor) -> Tensor:
        source, scan = batch.source[rows], (batch.detail[rows], batch.condition[rows])
        nodes, m = batch.nodes[rows], batch.margin
        step = 3 if bool((nodes[:, 0] == 1).all()) else 1  # three places a slice, or one where all are thin
        between = _slices(network, source, scan, batch.first[rows].every(step), nodes, m)
        again = _slices(network, between, scan, batch.second[rows].every(step), nodes, m)
        rim = slice(2 * m, source.shape[-1] - 2 * m)
        acquired = source[:, 2:-2, rim, rim]
        error = (again - acquired) / scan[0][:, None, None, None]
        cost = torch.sqrt(error.square() + self.epsilon**2) - self.epsilon
        return cost.mean((1, 2, 3))


def _slices(network: CycleINR, source: Tensor, scan: tuple, places: Places, nodes: Tensor, margin: int) -> Tensor:
    """Slices as the scanner would acquire them: (B, n, H - 2 margin, W - 2 margin) from n places, or 3 n of thick ones.

    `scan` is detail (B,) and condition (B, 6).
    """
    scale = scan[0][:, None, None, None]
    values = base_of(source, places, margin) + scale * predict(network, source, *scan, places, margin)
    if places.t.shape[1] <= source.shape[1]:
        return values
    return torch.einsum("bn,bknhw->bkhw", nodes, values.unflatten(1, (-1, 3)))


def predict(
    network: CycleINR, source: Tensor, detail: Tensor, condition: Tensor, places: Places, margin: int
) -> Tensor:
    """The network's correction at every place: (B, P, H - 2 margin, W - 2 margin), in units of detail."""
    features = source_features(source, detail)
    codes = network.codes_of(network.encode(features, condition), features)
    B, P = places.t.shape
    rows = torch.arange(B, device=codes.device).repeat_interleave(P)
    H, W = codes.shape[-2:]
    codes = codes[..., margin - 1 : H - margin + 1, margin - 1 : W - margin + 1]  # LAM looks one pixel around
    codes = codes.transpose(1, 2)  # (B, N, D, h + 2, w + 2)
    B, N, D, h, w = codes.shape
    inner = (..., slice(1, -1), slice(1, -1))
    below, above = (rows, places.below.flatten()), (rows, places.below.flatten() + 1)
    keys_below = keys_above = None
    if network.attend is not None:
        keys = network.attend.key_value(codes.reshape(B * N, D, h, w)).reshape(B, N, -1, h, w)
        keys_below, keys_above = keys[below], keys[above]
    t, query = places.t.flatten(), places.query.flatten(0, 1)
    out = network.decode(codes[inner][below], codes[inner][above], keys_below, keys_above, t, query)
    return out.reshape(B, P, *out.shape[-2:])


def wanted(batch: Batch) -> Tensor:
    """The correction that would make the base the truth, in units of detail."""
    return (batch.truth - batch.base) / batch.detail[:, None, None, None]
