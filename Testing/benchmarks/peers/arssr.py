"""A network of ArSSR's published sizes: residual dense encoder, then a multilayer perceptron asked point by point.

Written anew from the paper (Wu et al., arXiv 2110.14476) and its published sizes; no code of its authors. Where it
serves as a peer (`ArSSRStyle`), it differs from the paper in this:

- Only z is refined: points lie on in-plane pixels, so trilinear sampling of codes is linear along z (the same numbers).
- The answer is added to linear interpolation, and starts at it: training from absolute values takes days, not minutes.
- The last layer is signed. The published decoder ends in a ReLU, which cannot say values below its zero.
- The intensities are CycleINR's (CT: HU / 1000; MR: 99.9th percentile), not min-max of each volume.
- Training is that of this benchmark (`training.py`): our simulated slices, minutes on a CPU, not the authors' data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(channels: int, out: int, width: int = 3) -> nn.Conv3d:
    """A 3D convolution that keeps the size."""
    return nn.Conv3d(channels, out, width, padding=width // 2)


class Dense(nn.Module):
    """A residual dense block: each layer sees all layers before it. [B, C, K, J, I] -> the same."""

    def __init__(self, features: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(features + n * growth, growth) for n in range(layers))
        self.fuse = conv(features + layers * growth, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for layer in self.layers:
            seen = torch.cat([seen, torch.relu(layer(seen))], 1)
        return x + self.fuse(seen)


class Encoder(nn.Module):
    """A residual dense network in 3D, 5.92 M weights: [B, 1, K, J, I] -> [B, 128, K, J, I]."""

    def __init__(
        self, features: int = 64, growth: int = 64, blocks: int = 8, layers: int = 3, latent: int = 128
    ) -> None:
        super().__init__()
        self.first, self.second = conv(1, features), conv(features, features)
        self.blocks = nn.ModuleList(Dense(features, growth, layers) for _ in range(blocks))
        self.fuse = nn.Sequential(conv(features * blocks, features, 1), conv(features, features))
        self.last = conv(features, latent)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.first(x)
        x, seen = self.second(shallow), []
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        return self.last(self.fuse(torch.cat(seen, 1)) + shallow)


class Decoder(nn.Module):
    """Eight linear layers in two stages of four, 0.36 M weights: [N, 128 + 3] -> [N, 1]."""

    def __init__(self, inputs: int = 131, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.one = nn.Sequential(*_stage([inputs, *[width] * (depth - 1), inputs]), nn.ReLU())
        self.two = nn.Sequential(*_stage([inputs, *[width] * (depth - 1), 1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(x + self.one(x))


def _stage(widths: list[int]) -> list[nn.Module]:
    parts: list[nn.Module] = []
    for a, b in zip(widths, widths[1:]):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return parts[:-1]


class ArSSRStyle(nn.Module):
    """Encoder and decoder as a peer of `training.py`: codes of source slices, then answers at places along z."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        nn.init.zeros_(self.decoder.two[-1].weight)  # begins as linear interpolation
        nn.init.zeros_(self.decoder.two[-1].bias)

    def encode(self, source: Tensor) -> Tensor:
        """Source slices [B, N, H, W], normalized -> codes [B, 128, N, H, W]."""
        return self.encoder(source[:, None]).float()

    def decode(self, codes: Tensor, row: Tensor, below: Tensor, t: Tensor, rim: int) -> Tensor:
        """What is added to linear interpolation at P places, without a rim of the image: [P, h, w].

        row, below, t : [P] which of the B volumes, the source slice below, the offset in [0, 1]
        """
        N, H, W = codes.shape[2:]
        inner = (..., slice(rim, H - rim), slice(rim, W - rim))
        low, high = (codes[row, :, k][inner] for k in (below, below + 1))
        blend = torch.lerp(low, high, t[:, None, None, None]).permute(0, 2, 3, 1)  # [P, h, w, 128]
        z = (2 * (below + t) + 1) / N - 1  # cell-centered, -1 to 1 over what was encoded, as published
        y, x = ((2 * torch.arange(n, device=t.device) + 1) / n - 1 for n in (H, W))
        places = [z[:, None, None], y[inner[1], None], x[inner[2]]]
        places = [place.expand(blend.shape[:3]) for place in places]
        return self.decoder(torch.cat([blend, torch.stack(places, 3)], 3))[..., 0]
