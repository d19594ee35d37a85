"""A variational autoencoder of single slices, with a code for every 4 x 4 pixels (floor 2).

Reading order is the order of the computation, shapes in brackets:

    slices   [B, 1, J, I]       normalized intensities (IntensityScale)
    encode   [B, 2L, J/4, I/4]  mean and log variance of the code, from 4 x 4 pixels folded into channels
    decode   [B, 1, J, I]       the slice of a code, or of a mix of the codes of two slices

Both begin as a cosine transform of the 4 x 4 pixels that keeps its lowest frequencies, beside which the convolutions
learn: the first slices are usable at once, and the mix of two codes starts as the mean of two slices.

The code is spatial: a code vector of a whole slice mixes shapes and so morphs anatomy, a code of a few pixels can only
blend what lies there. All convolutions run at a quarter of the in-plane resolution, so that a CPU trains it in minutes.

Source: stage 1 of Xuan et al., arXiv 2003.12627; mixing the codes of neighbors as in Sander et al., arXiv 2202.09258;
sizes are ours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FOLD = 4  # pixels along each in-plane axis that share a code
LOG_VARIANCE = (-12.0, 4.0)  # kept in this range: its exponential is taken
FIRST_SPREAD = -6.0  # log variance of an untrained code
SMALL = 0.1  # of the usual first weights, where something is added to what is there already


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the autoencoder."""

    codes: int = 12  # channels of the code, at most 16
    channels: int = 48
    blocks: int = 2  # of encoder and decoder each

    def to_dict(self) -> dict:
        return asdict(self)


class _Block(nn.Module):
    """x + convolution(SiLU(convolution(x))): [B, C, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(SMALL)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(x)))


class VAE(nn.Module):
    """Encoder and decoder; any slice size, padded to multiples of 4 inside and cropped back."""

    def __init__(self, config: VAEConfig = VAEConfig()) -> None:  # noqa: B008  frozen
        super().__init__()
        self.config = config
        wide, pixels = config.channels, FOLD * FOLD
        self.to_codes, self.to_pixels = nn.Conv2d(pixels, config.codes, 1), nn.Conv2d(config.codes, pixels, 1)
        self.encoder = nn.Sequential(
            nn.Conv2d(pixels, wide, 3, padding=1),
            *(_Block(wide) for _ in range(config.blocks)),
            nn.SiLU(),
            nn.Conv2d(wide, 2 * config.codes, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.codes, wide, 3, padding=1),
            *(_Block(wide) for _ in range(config.blocks)),
            nn.SiLU(),
            nn.Conv2d(wide, pixels, 3, padding=1),
        )
        self._begin()
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _begin(self) -> None:
        """A cosine transform there and back; the convolutions add little yet."""
        transform = _lowest_cosines(self.config.codes)
        for layer, weight in ((self.to_codes, transform), (self.to_pixels, transform.T)):
            layer.weight.copy_(weight[:, :, None, None])
            layer.bias.zero_()
        for network in (self.encoder, self.decoder):
            network[-1].weight.mul_(SMALL)
            network[-1].bias.zero_()
        self.encoder[-1].bias[self.config.codes :] = FIRST_SPREAD

    def encode(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the codes.

        slices : (B, J, I) float32, normalized
        two (B, L, ceil(J / 4), ceil(I / 4)) tensors
        """
        folded = F.pixel_unshuffle(_padded(slices)[:, None], FOLD).contiguous(memory_format=torch.channels_last)
        mean, spread = self.encoder(folded).chunk(2, 1)
        return self.to_codes(folded) + mean, spread.clamp(*LOG_VARIANCE)

    def decode(self, codes: Tensor, size: tuple[int, int]) -> Tensor:
        """Slices (B, J, I) of size (J, I) from codes (B, L, ceil(J / 4), ceil(I / 4))."""
        return F.pixel_shuffle(self.to_pixels(codes) + self.decoder(codes), FOLD)[:, 0, : size[0], : size[1]]


def _padded(slices: Tensor) -> Tensor:
    """Rows and columns repeated at the far ends up to multiples of `FOLD`."""
    J, I = slices.shape[-2:]  # noqa: E741  the array axes
    return F.pad(slices[:, None], (0, -I % FOLD, 0, -J % FOLD), mode="replicate")[:, 0]


def _lowest_cosines(count: int) -> Tensor:
    """(count, 16): the orthonormal cosines of 4 x 4 pixels, lowest frequencies first."""
    at = torch.arange(FOLD, dtype=torch.float64)
    cosines = torch.cos(math.pi * (at + 0.5) * at[:, None] / FOLD) * math.sqrt(2 / FOLD)
    cosines[0] = 1 / math.sqrt(FOLD)
    both = torch.einsum("aj,bi->abji", cosines, cosines).reshape(FOLD * FOLD, FOLD * FOLD)
    order = (at[:, None] ** 2 + at**2).flatten().argsort(stable=True)
    return both[order[:count]].float()
