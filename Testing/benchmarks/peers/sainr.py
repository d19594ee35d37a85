"""A network in the style of SA-INR: 3D EDSR encoder, attention in a 7 x 7 x 2 window, multilayer perceptron.

Written anew from the paper (Wang et al., arXiv 2205.11346, Medical Image Analysis 2024) and its published sizes; no
code of its authors. The interpolated code of a place asks the 98 codes around it; what it hears is added to it, a
perceptron turns the sum into a number, and the number is added to linear interpolation. It differs from the paper in:

- The gating mask that spares the attention in smooth places is left out: it saves time, not error.
- Keys and values are computed once for each source voxel, not for each question (the same numbers).
- The last layer starts at zero, so that training starts at linear interpolation.
- The intensities are CycleINR's (CT: HU / 1000; MR: 99.9th percentile), not min-max of each volume.
- Training is that of this benchmark (`training.py`): our simulated slices, minutes on a CPU, not the authors' data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 7  # pixels in-plane; two slices along z
REACH = WINDOW // 2


class Block(nn.Module):
    """x + convolution(ReLU(convolution(x))): [B, C, N, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv3d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(x)))


class SAINRStyle(nn.Module):
    """2.1 M weights; a peer of `training.py`: codes of source slices, then answers at places along z."""

    def __init__(self, channels: int = 64, blocks: int = 8, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.head = nn.Conv3d(1, channels, 3, padding=1)
        self.body = nn.Sequential(
            *(Block(channels) for _ in range(blocks)), nn.Conv3d(channels, channels, 3, padding=1)
        )
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        layers: list[nn.Module] = []
        for inputs in (channels, *[width] * (depth - 1)):
            layers += [nn.Linear(inputs, width), nn.ReLU()]
        self.perceptron = nn.Sequential(*layers, nn.Linear(width, 1))
        nn.init.zeros_(self.perceptron[-1].weight)  # begins as linear interpolation
        nn.init.zeros_(self.perceptron[-1].bias)

    def encode(self, source: Tensor) -> Tensor:
        """Source slices [B, N, H, W], normalized -> code, key, value side by side [B, 3 C, N, H + 6, W + 6]."""
        shallow = self.head(source[:, None])
        codes = shallow + self.body(shallow)
        keys, values = (_of_each(layer, codes) for layer in (self.key, self.value))
        return F.pad(torch.cat([codes, keys, values], 1).float(), (REACH, REACH, REACH, REACH, 0, 0), mode="replicate")

    def decode(self, codes: Tensor, row: Tensor, below: Tensor, t: Tensor, rim: int) -> Tensor:
        """What is added to linear interpolation at P places, without a rim of the image: [P, h, w].

        row, below, t : [P] which of the B volumes, the source slice below, the offset in [0, 1]
        """
        h, w = (n - 2 * REACH - 2 * rim for n in codes.shape[3:])
        around = (..., slice(rim, rim + h + 2 * REACH), slice(rim, rim + w + 2 * REACH))
        slices = [codes[row, :, k][around].chunk(3, 1) for k in (below, below + 1)]
        center = (..., slice(REACH, REACH + h), slice(REACH, REACH + w))
        low, high = (code[center] for code, _, _ in slices)
        blend = torch.lerp(low, high, t[:, None, None, None])  # [P, C, h, w]
        heard = blend + _attended(_of_each(self.query, blend).float(), slices)
        return self.perceptron(heard.permute(0, 2, 3, 1))[..., 0]


def _attended(query: Tensor, slices: list[tuple[Tensor, ...]]) -> Tensor:
    """Sum of values [P, C, h, w], weighted by the softmax of query . key over the window; not scaled, as published."""
    h, w = query.shape[2:]
    views = [(part, slice(y, y + h), slice(x, x + w)) for part in slices for y in range(WINDOW) for x in range(WINDOW)]
    logits = torch.stack([(query * key[:, :, y, x]).sum(1) for (_, key, _), y, x in views], 1)
    weights = torch.softmax(logits, 1)  # [P, 98, h, w]
    total = torch.zeros_like(query)
    for n, ((_, _, value), y, x) in enumerate(views):
        total = torch.addcmul(total, weights[:, n : n + 1], value[:, :, y, x])
    return total


def _of_each(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer over the channels of [B, C, ...]."""
    return layer(x.movedim(1, -1)).movedim(-1, 1)
