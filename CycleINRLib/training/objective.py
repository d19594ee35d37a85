"""What one training step minimizes: the error, and as far as texture is asked for, cycle and noise (floor 3).

    loss = error + texture * (cycle * L_cycle + noise * L_noise) [+ gradient * L_gradient]

Slices that have no truth (scans that a model is adapted to) take part in the cycle alone, at any texture.

Source: the cycle-consistent loss is that of CycleINR (CVPR 2024) as read in methods 1.5; the noise term is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.model import CycleINR, source_features
from .patches import Batch, Places, Told, base_of

NOISE_FLOOR = 0.02  # of detail: noise far below it is none


_LEAST_FLAT = 30  # pixels: a place with fewer flat ones tells nothing of its noise


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
    known = flat.sum((-2, -1)) >= _LEAST_FLAT
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


@dataclass(frozen=True)
class Objective:
    """Weights of the terms; errors count in units of the scan's detail."""

    epsilon: float = 0.3  # of Charbonnier
    cycle: float = 1.0
    noise: float = 2.0
    gradient: float = 0.0
    precision: str = "float32"  # or "bfloat16": in which the network runs; losses are float32

    def loss(self, network: CycleINR, batch: Batch, mean: Mean = weighted_mean) -> Tensor:
        """The mean over the batch, ready for backward(); with `Ranks.mean`, this rank's part of it."""
        asked = bool(batch.texture.any())
        places = batch.places + batch.acquired if asked and self.noise else batch.places
        correction = self.predict(network, batch.source, batch.scan, places, batch.margin)
        count = batch.places.t.shape[1]
        error = correction[:, :count] - wanted(batch)
        loss = charbonnier(error, batch.weight, self.epsilon, mean)
        if self.gradient:
            loss = loss + self.gradient * gradient_difference(error, batch.weight, mean)
        cycles = bool(self.cycle) and bool((batch.cycle > 0).any())
        if cycles or (asked and self.noise):
            terms = torch.zeros_like(batch.texture)
            if asked and self.noise:
                noise = self.noise_of(batch, correction[:, :count], correction[:, count:])
                terms = terms + self.noise * batch.texture * noise
            if cycles:
                terms = terms + self.cycle * batch.cycle * self._cycle(network, batch)
            loss = loss + mean(terms, torch.ones_like(terms))
        return loss

    def predict(self, network: CycleINR, *of_batch) -> Tensor:
        """`predict` in this objective's precision; the result is float32."""
        kind, reduced = of_batch[0].device.type, self.precision == "bfloat16"
        with torch.autocast(kind, torch.bfloat16, enabled=reduced):
            return predict(network, *of_batch).float()

    def noise_of(self, batch: Batch, correction: Tensor, at_acquired: Tensor) -> Tensor:
        """(B,): how far the noise of generated slices is from that of the output at the acquired slices around them.

        There the output is the acquired slice itself where consistency keeps it, else the network's own, which is what
        generated slices must not be told from.
        """
        scale, m = batch.detail[:, None, None, None], batch.margin
        output = batch.base + batch.gate[..., None, None] * correction * scale
        rows, columns = (slice(m, n - m) for n in batch.source.shape[-2:])
        own = (base_of(batch.source, batch.acquired, m) + at_acquired * scale).detach()
        acquired = torch.where(batch.keeps[:, None, None, None], batch.source[..., rows, columns], own)
        patches = torch.arange(len(acquired), device=acquired.device)[:, None]
        below = batch.places.below
        bracket = torch.stack([acquired[patches, below], acquired[patches, below + 1]])
        floor = NOISE_FLOOR * batch.detail
        found = noise_difference(output, bracket, batch.places.t, batch.weight, floor)
        return (found * batch.gate).mean(1)

    def _cycle(self, network: CycleINR, batch: Batch) -> Tensor:
        """(B,): error of acquired slices predicted from slices that were predicted from them.

        Thin slices are one place each; thick ones are averaged over the slice profile in both passes. Patches whose
        weight is 0 are left out: two more passes of every patch would triple a step's time.
        """
        rows = (batch.cycle > 0).nonzero()[:, 0]
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
    texture = scan.texture.repeat_interleave(P) if bool(scan.texture.any()) else None
    out = network.decode(
        inner.index_select(0, below), inner.index_select(0, below + 1), keys_below, keys_above, t, query, texture
    )
    return out.reshape(B, P, *out.shape[-2:])


def wanted(batch: Batch) -> Tensor:
    """The correction that would make the base the truth, in units of detail."""
    return (batch.truth - batch.base) / batch.detail[:, None, None, None]
