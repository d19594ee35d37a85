"""What one training step minimizes: the error, and the cycle-consistent loss where patches take part in it (floor 3).

    loss = error + cycle * L_cycle [+ gradient * L_gradient]

Slices that have no truth (scans that a model is adapted to) take part in the cycle alone.

Source: the cycle-consistent loss is that of CycleINR (CVPR 2024) as read in methods 1.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..network.model import CycleINR, source_features
from .patches import Batch, Places, Told, base_of

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


@dataclass(frozen=True)
class Objective:
    """Weights of the terms; errors count in units of the scan's detail."""

    epsilon: float = 0.3  # of Charbonnier
    cycle: float = 1.0
    gradient: float = 0.0
    precision: str = "float32"  # or "bfloat16": in which the network runs; losses are float32

    def loss(self, network: CycleINR, batch: Batch, mean: Mean = weighted_mean) -> Tensor:
        """The mean over the batch, ready for backward(); with `Ranks.mean`, this rank's part of it."""
        error = self.predict(network, batch.source, batch.scan, batch.places, batch.margin) - wanted(batch)
        loss = charbonnier(error, batch.weight, self.epsilon, mean)
        if self.gradient:
            loss = loss + self.gradient * gradient_difference(error, batch.weight, mean)
        if self.cycle:  # the mean is asked for even where no patch here takes part: one of another rank may
            terms = self.cycle * batch.cycle * self._cycle(network, batch)
            loss = loss + mean(terms, torch.ones_like(terms))
        return loss

    def predict(self, network: CycleINR, *of_batch) -> Tensor:
        """`predict` in this objective's precision; the result is float32."""
        kind, reduced = of_batch[0].device.type, self.precision == "bfloat16"
        with torch.autocast(kind, torch.bfloat16, enabled=reduced):
            return predict(network, *of_batch).float()

    def _cycle(self, network: CycleINR, batch: Batch) -> Tensor:
        """(B,): error of acquired slices predicted from slices that were predicted from them.

        Thin slices are one place each; thick ones are averaged over the slice profile in both passes. Patches whose
        weight is 0 are left out: two more passes of every patch would triple a step's time.
        """
        rows = (batch.cycle > 0).nonzero()[:, 0]
        if not len(rows):
            return torch.zeros_like(batch.cycle)
        return torch.zeros_like(batch.cycle).index_put((rows,), self._there_and_back(network, batch, rows))

    def _there_and_back(self, network: CycleINR, batch: Batch, rows: Tensor) -> Tensor:
        source, scan = batch.source[rows], batch.scan[rows]
        nodes, m = batch.nodes[rows], batch.margin
        step = 3 if bool((nodes[:, 0] == 1).all()) else 1  # three places a slice, or one where all are thin
        between = self._slices(network, source, scan, batch.first[rows].every(step), nodes, m)
        again = self._slices(network, between, scan, batch.second[rows].every(step), nodes, m)
        rim = slice(2 * m, source.shape[-1] - 2 * m)
        acquired = source[:, 2:-2, rim, rim]
        error = (again - acquired) / scan.detail[:, None, None, None]
        cost = torch.sqrt(error.square() + self.epsilon**2) - self.epsilon
        return cost.mean((1, 2, 3))

    def _slices(self, network: CycleINR, source: Tensor, scan: Told, places: Places, nodes: Tensor, m: int) -> Tensor:
        """Slices as the scanner would acquire them: (B, n, H - 2 m, W - 2 m) from n places, or 3 n of thick ones.

        `m` is the margin.
        """
        scale = scan.detail[:, None, None, None]
        values = base_of(source, places, m) + scale * self.predict(network, source, scan, places, m)
        if places.t.shape[1] <= source.shape[1]:
            return values
        return torch.einsum("bn,bknhw->bkhw", nodes, values.unflatten(1, (-1, 3)))


def predict(network: CycleINR, source: Tensor, scan: Told, places: Places, margin: int) -> Tensor:
    """The network's correction at every place: (B, P, H - 2 margin, W - 2 margin), in units of detail.

    Slices are chosen by `index_select`, whose gradient is summed in order: a resumed run repeats itself bit for bit,
    with several threads too.
    """
    features = source_features(source, scan.detail)
    codes = network.codes_of(network.encode(features, scan.condition), features)
    B, P = places.t.shape
    rows = torch.arange(B, device=codes.device).repeat_interleave(P)
    H, W = codes.shape[-2:]
    codes = codes[..., margin - 1 : H - margin + 1, margin - 1 : W - margin + 1]  # LAM looks one pixel around
    codes = codes.transpose(1, 2)  # (B, N, D, h + 2, w + 2)
    B, N, D, h, w = codes.shape
    slices = codes.reshape(B * N, D, h, w)
    below = rows * N + places.below.flatten()
    inner = slices[..., 1:-1, 1:-1]
    keys_below = keys_above = None
    if network.attend is not None:
        keys = network.attend.key_value(slices)
        keys_below, keys_above = keys.index_select(0, below), keys.index_select(0, below + 1)
    t, query = places.t.flatten().to(codes.dtype), places.query.flatten(0, 1)
    out = network.decode(
        inner.index_select(0, below), inner.index_select(0, below + 1), keys_below, keys_above, t, query
    )
    return out.reshape(B, P, *out.shape[-2:])


def wanted(batch: Batch) -> Tensor:
    """The correction that would make the base the truth, in units of detail."""
    return (batch.truth - batch.base) / batch.detail[:, None, None, None]
