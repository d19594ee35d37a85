"""The CycleINR network: encoder, local attention (LAM), implicit decoder (floor 2).

Reading order is the order of the computation, shapes in brackets:

    features  [B, 5, N, H, W]     what the encoder sees of N source slices (`source_features`)
    encode    [B, C, N, H/2, W/2] 2.5D residual blocks on 2 x 2 pixels folded into channels, a z-convolution in each
    codes     [B, D, N, H, W]     latent codes on the in-plane grid (`codes_of`)
    decode    [P, H, W]           the correction at P output places z = i + t, added to a closed-form base by the caller

Codes are computed once a source slice; an output slice asks the two bracketing slices of codes at its z offset t,
anywhere in [0, 1]. In-plane places coincide with source pixels, so plain sampling of codes is a linear blend of two
slices, and no voxel is looked up one by one.

Source: CycleINR (Fang et al., CVPR 2024) for the implicit representation and LAM; sizes and formulas are ours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 5
FEATURE_REACH = 3  # rows on each side that `source_features` looks at
CONDITIONS = 5  # of the encoder, see `Conditions.of_scan`
QUERY_CONDITIONS = 7  # of the decoder, see `Conditions.of_place`
NEIGHBORS = [(dz, dy, dx) for dz in (0, 1) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network; two sets of them are named: `light`, which is bundled, and `base`, larger, to train."""

    channels: int = 64  # of the encoder, on 2 x 2 folded pixels
    blocks: int = 10
    codes: int = 24  # latent code of one source voxel
    hidden: int = 48  # width of the decoder
    attention: bool = True  # LAM; off is plain interpolation of codes
    key: int = 8  # width of LAM's queries, keys and values

    def to_dict(self) -> dict:
        return asdict(self)


CONFIGS = {"light": NetworkConfig(), "base": NetworkConfig(channels=96, blocks=16)}


@dataclass(frozen=True)
class Conditions:
    """What the network is told beside the images: how the scan was sampled.

    ratio : slice thickness / spacing
    gaussian : form of the slice profile, 0 box (or skip), 1 Gaussian; trapezoids lie between
    anisotropy : slice spacing / in-plane spacing
    through, within : roughness along z and in-plane (IntensityScale)
    """

    ratio: float
    gaussian: float
    anisotropy: float
    through: float
    within: float

    def of_scan(self) -> list[float]:
        """For the encoder, `CONDITIONS` numbers."""
        return [self.ratio, self.ratio * self.gaussian, math.log(max(self.anisotropy, 0.25)), *self._seen()]

    def of_place(self, t: float, z_scale: float) -> list[float]:
        """For the decoder, `QUERY_CONDITIONS` numbers: of one output slice at z = i + t."""
        return [t, 1 - t, 1 / z_scale, self.ratio, self.ratio * self.gaussian, *self._seen()]

    def _seen(self) -> tuple[float, float]:
        """Brought to about [-1, 1]: along z, scans differ little from 0.45."""
        return 4 * (self.through - 0.45), self.within


def source_features(values: Tensor, detail: float | Tensor) -> Tensor:
    """What the encoder sees: absolute intensity, and high-pass copies in units of the scan's own detail.

    Parameters
    ----------
    values : (B, N, H, W) float32, normalized intensities (IntensityScale)
    detail : RMS of the second difference along z of the whole scan, same unit; (B, 1, 1, 1) or one number

    Returns
    -------
    (B, 5, N, H, W): intensity, difference to the slice below and above, in-plane high-pass over 3 x 3 and 7 x 7 pixels
    """
    B, N, H, W = values.shape
    step = values[:, 1:] - values[:, :-1]
    below = F.pad(step, (0, 0, 0, 0, 1, 0))
    above = F.pad(step, (0, 0, 0, 0, 0, 1))
    flat = values.reshape(B * N, 1, H, W)
    near, wide = ((flat - _box_mean(flat, size)).reshape(B, N, H, W) for size in (3, 7))
    unit = torch.as_tensor(detail, dtype=values.dtype, device=values.device).reshape(-1, 1, 1, 1, 1)
    seen = torch.stack([values.clamp(-1.5, 2.0), below, above, near, wide], 1)
    seen[:, 1:].div_(unit).clamp_(-20, 20).mul_(0.5)  # in place: it is memory that takes the time
    return seen


def _box_mean(image: Tensor, size: int) -> Tensor:
    """Mean over size x size pixels, of those inside the image; one axis after the other (`avg_pool2d` takes 7 times as
    long)."""
    reach = size // 2
    for axis in (-1, -2):
        count = image.shape[axis]
        total = image.clone()
        for k in range(1, min(reach, count - 1) + 1):
            total.narrow(axis, k, count - k).add_(image.narrow(axis, 0, count - k))
            total.narrow(axis, 0, count - k).add_(image.narrow(axis, k, count - k))
        n = torch.arange(count, device=image.device)
        inside = (n + reach).clamp(max=count - 1) - (n - reach).clamp(min=0) + 1
        image = total / inside.to(image.dtype).reshape(-1, *[1] * (-1 - axis))
    return image


class Block(nn.Module):
    """x + z-convolution(ReLU(in-plane convolution(x) + condition)): [B, C, N, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.plane = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
        self.through = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.condition = nn.Linear(CONDITIONS, channels)
        nn.init.kaiming_normal_(self.plane.weight, nonlinearity="relu")
        nn.init.normal_(self.through.weight, std=0.1 / math.sqrt(3 * channels))  # a block starts near the identity
        for layer in (self.plane, self.through, self.condition):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.condition.weight)

    def inner(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, C, n, h, w], any number of slices: the part that looks within slices only."""
        return F.relu_(self.plane(x) + self.condition(condition)[:, :, None, None, None])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + self.through(self.inner(x, condition))


class LocalAttention(nn.Module):
    """LAM: the blended code asks its 2 x 3 x 3 neighbors for what the blend lost.

    logit_n = q . k_n / sqrt(d) + b(D_n) + g log(w_n + 0.01), with D_n the relative position, w_n the weight of plain
    interpolation (0 off the two central codes), b a small network, g a learned number that starts at 1.
    The output layer starts at zero: then the network is the plain interpolation of codes.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.key = config.key
        self.query = nn.Conv2d(config.codes, config.key, 1)
        self.key_value = nn.Conv2d(config.codes, 2 * config.key, 1)
        self.position = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
        self.gain = nn.Parameter(torch.ones(()))
        self.output = nn.Conv2d(config.key, config.hidden, 1, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, blend: Tensor, below: Tensor, above: Tensor, t: Tensor) -> Tensor:
        """Blend [P, D, H, W], keys and values of both slices [P, 2d, H + 2, W + 2], t [P] -> [P, d, H, W].

        That is the sum of a_n v_n. The output layer is applied by the decoder, together with its own first layer.
        """
        H, W = blend.shape[-2:]
        query = self.query(blend) / math.sqrt(self.key)
        prior = self.prior(t)  # [P, 18]
        views = [(above if dz else below)[..., 1 + dy : 1 + dy + H, 1 + dx : 1 + dx + W] for dz, dy, dx in NEIGHBORS]
        logits = torch.stack([(query * view[:, : self.key]).sum(1) for view in views], 1)  # [P, 18, H, W]
        weights = torch.softmax(logits + prior[:, :, None, None], 1)
        total = views[0][:, self.key :] * weights[:, :1]
        for n in range(1, len(views)):
            total = torch.addcmul(total, views[n][:, self.key :], weights[:, n : n + 1])
        return total

    def prior(self, t: Tensor) -> Tensor:
        """[P] -> [P, 18]: the part of the logits that depends on the relative position alone."""
        places = torch.tensor(NEIGHBORS, dtype=t.dtype, device=t.device)  # [18, 3]
        offset = places[None].repeat(len(t), 1, 1)
        offset[:, :, 0] -= t[:, None]
        central = (places[:, 1] == 0) & (places[:, 2] == 0)
        plain = torch.where(central, 1 - offset[:, :, 0].abs(), torch.zeros_like(offset[:, :, 0]))
        return self.position(offset)[..., 0] + self.gain * torch.log(plain + 1e-2)


class CycleINR(nn.Module):
    """Correction to a closed-form base at any z, from one set of weights for every z-scale."""

    def __init__(self, config: NetworkConfig = CONFIGS["light"]) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Conv3d(4 * FEATURES, config.channels, (1, 3, 3), padding=(0, 1, 1))
        self.blocks = nn.ModuleList([Block(config.channels) for _ in range(config.blocks)])
        self.leave = nn.Conv3d(config.channels, 4 * config.codes, 1)
        self.skip = nn.Conv3d(FEATURES, config.codes, 1)  # detail of single pixels goes around the folded encoder
        self.attend = LocalAttention(config) if config.attention else None
        self.first = nn.Conv2d(config.codes, config.hidden, 1)
        self.second = nn.Conv2d(config.hidden, config.hidden, 1)
        self.last = nn.Conv2d(config.hidden, 1, 1)  # signed, in units of detail: no closing activation
        self.modulate = nn.Sequential(nn.Linear(QUERY_CONDITIONS, 32), nn.ReLU(), nn.Linear(32, 4 * config.hidden))
        nn.init.kaiming_normal_(self.enter.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.second.weight, nonlinearity="relu")
        nn.init.normal_(self.last.weight, std=1e-2)
        nn.init.zeros_(self.last.bias)
        nn.init.zeros_(self.modulate[-1].weight)
        nn.init.zeros_(self.modulate[-1].bias)
        for module in self.modules():  # a mixed model cannot be converted at once
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)

    @property
    def reach(self) -> int:
        """Rows on each side that one output row depends on (the halo); even, since pixels are folded by two."""
        rows = 2 * (1 + len(self.blocks)) + FEATURE_REACH + (1 if self.attend is not None else 0)
        return rows + 1 + (rows + 1) % 2  # one more for a fold that starts on the other row

    # --- encoder: once a source slice -------------------------------------------------------------------------
    def encode(self, features: Tensor, condition: Tensor) -> Tensor:
        """Features [B, 5, N, H, W] (H, W even), condition [B, 5] -> [B, C, N, H/2, W/2]."""
        x = self.enter(fold(features))
        for block in self.blocks:
            x = block(x, condition)
        return x

    def codes_of(self, encoded: Tensor, features: Tensor) -> Tensor:
        """Encoded [B, C, N, H/2, W/2] and features [B, 5, N, H, W] -> codes [B, D, N, H, W]; any N."""
        return unfold(self.leave(encoded)) + self._skipped(features)

    def _skipped(self, features: Tensor) -> Tensor:
        """`skip` as a matrix product: as a convolution in bfloat16, its gradient takes four times as long on CPUs, and
        oneDNN 3.11 writes beyond its memory for slices of 80 x 80 pixels and more."""
        weight, bias = self.skip.weight[:, :, 0, 0, 0], self.skip.bias
        product = torch.matmul(weight, features.flatten(2))
        return (product + bias[:, None].to(product.dtype)).unflatten(2, features.shape[2:])

    # --- decoder: once an output slice ------------------------------------------------------------------------
    def decode(
        self,
        below: Tensor,
        above: Tensor,
        keys_below: Tensor | None,
        keys_above: Tensor | None,
        t: Tensor,
        query: Tensor,
    ) -> Tensor:
        """Codes of both bracketing slices [P, D, H, W], their keys, t [P], query [P, 7] -> correction [P, H, W].

        The correction is in units of detail; `query` is `Conditions.of_place` of each place.
        """
        P, _, H, W = below.shape
        hidden = self.decode_hidden(below, above, keys_below, keys_above, t, query)
        last = self.last.weight[:, :, 0, 0].expand(P, -1, -1)
        return torch.baddbmm(self.last.bias[:, None].expand(P, -1, -1), last, hidden).reshape(P, H, W)

    def decode_hidden(
        self,
        below: Tensor,
        above: Tensor,
        keys_below: Tensor | None,
        keys_above: Tensor | None,
        t: Tensor,
        query: Tensor,
    ) -> Tensor:
        """What the last layer of `decode` sees: [P, hidden, H * W]."""
        blend = torch.lerp(below, above, t[:, None, None, None])
        scale1, shift1, scale2, shift2 = self.modulate(query)[:, :, None].chunk(4, 1)  # [P, hidden, 1] each
        # scale and shift go into the weights of the place, so that pixels see matrix products alone
        hidden = torch.baddbmm(*_modulated(self.first, scale1, shift1), blend.flatten(2))
        if self.attend is not None:
            attended = self.attend(blend, keys_below, keys_above, t).flatten(2)
            hidden = torch.baddbmm(hidden, self.attend.output.weight[:, :, 0, 0] * (1 + scale1), attended)
        return F.relu(torch.baddbmm(*_modulated(self.second, scale2, shift2), F.relu(hidden)))


def _modulated(layer: nn.Conv2d, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Bias [P, hidden, 1] and weight [P, hidden, in] of (1 x 1 layer) * (1 + scale) + shift."""
    return layer.bias[:, None] * (1 + scale) + shift, layer.weight[:, :, 0, 0] * (1 + scale)


def fold(x: Tensor) -> Tensor:
    """[B, C, N, H, W] -> [B, 4C, N, H/2, W/2]: each 2 x 2 pixels become channels."""
    B, C, N, H, W = x.shape
    x = x.reshape(B, C, N, H // 2, 2, W // 2, 2).permute(0, 1, 4, 6, 2, 3, 5)
    return x.reshape(B, 4 * C, N, H // 2, W // 2).contiguous(memory_format=torch.channels_last_3d)


def unfold(x: Tensor) -> Tensor:
    """Undoes `fold`: [B, 4C, N, h, w] -> [B, C, N, 2h, 2w]."""
    B, C, N, h, w = x.shape
    x = x.reshape(B, C // 4, 2, 2, N, h, w).permute(0, 1, 4, 5, 2, 6, 3)
    return x.reshape(B, C // 4, N, 2 * h, 2 * w)
