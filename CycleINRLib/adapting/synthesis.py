"""Synthetic volumes from thick-slice scans alone: stage 1 of learning without ground truth (floor 3).

A variational autoencoder learns the acquired slices of the scans. A synthetic slice between two of them is what it
decodes from the mix of their codes; noise that it took away comes back from the acquired slices (`residuals`). The mix
is that of the closed-form base (`interpolation`), which undoes the averaging over the slice thickness; the mix of
two neighbors alone, as published, leaves a volume that is thick already. The synthetic volume shows anatomy that is
likely, not the one that is there: it serves as truth to be degraded again and must not be paired with the real scan.

Source: Xuan et al., arXiv 2003.12627; skip-slice term as in Sander et al., arXiv 2202.09258; weights are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import Cancelled, RequestError, VolumeError
from ..events import Listener, Stopwatch
from ..imaging.interpolation import base_weights, linear_weights
from ..imaging.noise import target_positions
from ..imaging.volume import FEWEST_SLICES
from ..network.vae import FOLD, VAE, VAEConfig
from ..training.loop import Pace, ahead, begin, learn
from .residuals import Residuals

STAGE = "synthesize"
LEAST_PIXELS = 4 * FOLD  # rows and columns of a slice that can be learned from
LOOKS = 2  # random places of which a patch takes the one with most contrast: air teaches nothing


@dataclass(frozen=True)
class SynthesisConfig:
    """One training of the autoencoder."""

    network: VAEConfig = VAEConfig()
    steps: int = 800  # length of the cosine, where no minutes are given
    batch: int = 6
    crop: int = 64  # rows and columns of a patch
    optimizer: str = "adamw"
    rate: float = 2e-3  # peak of the learning rate
    warmup: int = 50  # steps
    ema: float = 0.99
    clip: float = 1.0  # norm of the gradient
    kl: float = 3e-4  # nats of a code element against the normalized error of a pixel
    kl_warmup: int = 300  # steps until `kl` has its full weight
    skip: float = 1.0  # weight of the skip-slice term
    save_every: int = 100  # steps between states on disk
    log_every: int = 20

    def to_dict(self) -> dict:
        return asdict(self)


def train_vae(
    stacks: Sequence[np.ndarray],
    path: Path,
    config: SynthesisConfig = SynthesisConfig(),  # noqa: B008  frozen
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Listener | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> VAE:
    """Learns the acquired slices of some scans; ends after `minutes` of all calls together, or after `steps`.

    The loss is |D(z_k) - x_k| + kl KL(z_k) + skip |D((mu_k-1 + mu_k+1) / 2) - x_k|, means over pixels and code
    elements. Its last term asks the mix of two codes for the slice that lies between them, which keeps anatomy from
    morphing. There is no adversarial term: it would let the decoder invent detail, here from a single scan, and
    natural noise comes from the acquired slices themselves.

    Parameters
    ----------
    stacks : acquired slices of each scan, (N, J, I) float32, normalized by `IntensityScale.scale`; those of fewer
        than 3 slices or 16 rows or columns are passed over
    path : the state; read if it exists and replaced as a whole every `config.save_every` steps, so that a killed run
        goes on bit for bit where `steps` rule; beside it `<name>.csv` logs the loss
    minutes : length of the whole run; the rates follow the clock
    steps : instead of `config.steps`
    progress : told events.Progress of the stage "synthesize"
    cancelled : looked at before each step

    Returns
    -------
    VAE with averaged weights, in evaluation mode, on `device`

    Raises
    ------
    RequestError : no stack that can be learned from, or a loss that is no number any more
    ModelError : the state is of another network, or unreadable
    Cancelled : `cancelled()` turned true; the state is saved
    """
    usable = [stack for stack in stacks if len(stack) >= FEWEST_SLICES and min(stack.shape[1:]) >= LEAST_PIXELS]
    if not usable:
        found = f"{len(stacks)} scans, none of {FEWEST_SLICES} slices and {LEAST_PIXELS} rows and columns"
        raise RequestError("There is nothing to learn from", found, "give a scan of more slices")
    config = config if steps is None else replace(config, steps=steps)
    torch.manual_seed(seed)
    network = VAE(config.network).to(device)
    state = begin(network, network.parameters(), config, path)

    def loss(drawn: tuple[Tensor, Tensor]) -> Tensor:
        batch, noise = drawn
        return _loss(state.network, batch.to(device), noise.to(device), config, state.step)

    pace = Pace(config, minutes, minutes is not None, state.seconds)
    batches = ahead(_Steps(usable, config, seed), state.step)
    learn(state, path, pace, batches, loss, stage=STAGE, progress=progress, cancelled=cancelled)
    return state.average.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class _Steps:
    """The patches of each step, by number."""

    stacks: Sequence[np.ndarray]
    config: SynthesisConfig
    seed: int

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return draw_patches(self.stacks, self.config, self.seed, step)


def draw_patches(stacks: Sequence[np.ndarray], config: SynthesisConfig, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The patches of one step, a function of seed and step alone.

    Returns
    -------
    (B, 3, h, w): three neighboring slices k - 1, k, k + 1, flipped at random along each axis (z too), h, w the crop
    or the smallest stack, a multiple of 4; (B, L, h / 4, w / 4) normal noise for the codes of slice k
    """
    random = np.random.default_rng([seed, step])
    sizes = [min(config.crop, *(stack.shape[axis] for stack in stacks)) // FOLD * FOLD for axis in (1, 2)]
    triples = np.array([len(stack) - 2 for stack in stacks])
    patches = []
    for n in random.choice(len(stacks), config.batch, p=triples / triples.sum()):
        looks = [_crop(stacks[n], sizes, random) for _ in range(LOOKS)]
        patch = max(looks, key=lambda look: float(look[1].std()))
        flips = tuple(slice(None, None, -1 if flip else 1) for flip in random.integers(0, 2, 3))
        patches.append(np.ascontiguousarray(patch[flips], np.float32))
    shape = (config.batch, config.network.codes, sizes[0] // FOLD, sizes[1] // FOLD)
    return torch.from_numpy(np.stack(patches)), torch.from_numpy(random.standard_normal(shape, np.float32))


def _crop(stack: np.ndarray, sizes: Sequence[int], random: np.random.Generator) -> np.ndarray:
    k, j, i = (int(random.integers(n - size + 1)) for n, size in zip(stack.shape, (3, *sizes)))
    return stack[k : k + 3, j : j + sizes[0], i : i + sizes[1]]


def _loss(vae: torch.nn.Module, batch: Tensor, noise: Tensor, config: SynthesisConfig, step: int) -> Tensor:
    """The three terms for patches (B, 3, h, w) and code noise (B, L, h / 4, w / 4); one number."""
    B, _, h, w = batch.shape
    mean, log_variance = vae.encode(batch.flatten(0, 1))
    mean, log_variance = mean.unflatten(0, (B, 3)), log_variance.unflatten(0, (B, 3))[:, 1]
    code = mean[:, 1] + noise * (0.5 * log_variance).exp()
    mix = 0.5 * (mean[:, 0] + mean[:, 2])
    again, between = vae.decode(torch.cat([code, mix]), (h, w)).split(B)
    divergence = 0.5 * (mean[:, 1].square() + log_variance.exp() - 1 - log_variance).mean()
    weight = config.kl * min(1.0, (step + 1) / max(1, config.kl_warmup))
    target = batch[:, 1]
    return (again - target).abs().mean() + weight * divergence + config.skip * (between - target).abs().mean()


def synthesize(
    values: np.ndarray,
    z_scale: float,
    vae: VAE,
    scale: float,
    seed: int,
    *,
    modality: str,
    ratio: float | None = 1.0,
    progress: Listener | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> np.ndarray:
    """A synthetic volume of reduced spacing: decoded mixes of neighboring codes, with the noise of the scan.

    Every slice is decoded, those at acquired positions too, so that all share one grain. Slices are computed one at
    a time; beside input and output, the codes (three quarters of the input in float32) and at most 26 slices of
    residuals are held.

    Parameters
    ----------
    values : (N, J, I) acquired slices, HU or MR stored units
    z_scale : source spacing / target spacing, above 1
    vae : of `train_vae`, on any device
    scale : IntensityScale.scale of these values
    seed : of the residuals that are drawn
    modality : "CT" or "MR" (any other counts as MR): what is body
    ratio : slice thickness / spacing, for the mix of codes; None: the mix of two neighbors by distance, D((1 - t) mu_k
        + t mu_k+1) at k + t
    progress : told events.Progress of the stage "synthesize"
    cancelled : looked at before each slice

    Returns
    -------
    (floor((N - 1) z_scale) + 1, J, I) float32 in the unit of `values` and within their range; slice j lies at
    j / z_scale source slices

    Raises
    ------
    VolumeError : fewer than 2 slices
    Cancelled : `cancelled()` turned true
    """
    if len(values) < 2:
        raise VolumeError("There are too few slices", str(len(values)), f"give at least {FEWEST_SLICES}")
    places = target_positions(int(np.floor((len(values) - 1) * z_scale + 1e-6)) + 1, z_scale)
    mix = linear_weights(places, len(values))
    if ratio is not None:
        mix = base_weights(places, len(values), ratio, 1 / z_scale)
    codes = Codes(values, vae, scale)
    residuals = Residuals(values, codes.slice, modality, seed)
    output = np.empty((len(places), *values.shape[1:]), np.float32)
    watch = Stopwatch(STAGE, len(places), progress)
    for j, weights in enumerate(mix):
        if cancelled is not None and cancelled():
            raise Cancelled()
        plain = codes.decode(weights)
        output[j] = plain + residuals.draw(plain, float(places[j]), j)
        watch.step()
    return np.clip(output, np.float32(values.min()), np.float32(values.max()), out=output)


class Codes:
    """The codes mu_k of all slices of a scan, and what is decoded from their mixes.

    Parameters
    ----------
    values, vae, scale : as for `synthesize`
    """

    def __init__(self, values: np.ndarray, vae: VAE, scale: float) -> None:
        self.vae, self.scale, self.size = vae, np.float32(scale), values.shape[1:]
        self.device = next(vae.parameters()).device
        with torch.inference_mode():
            self.means = torch.cat([self._mean(plane) for plane in values])

    def decode(self, weights: np.ndarray) -> np.ndarray:
        """D(sum of weights (N,) times codes): (J, I) float32 in the unit of the scan."""
        with torch.inference_mode():
            mixed = torch.as_tensor(weights, dtype=torch.float32, device=self.device)
            code = torch.tensordot(mixed, self.means, 1)[None]
            return self.vae.decode(code, self.size)[0].cpu().numpy() * self.scale

    def slice(self, k: int) -> np.ndarray:
        """D(mu_k), what is left of acquired slice k."""
        return self.decode(np.eye(1, len(self.means), k)[0])

    def _mean(self, plane: np.ndarray) -> Tensor:
        normalized = torch.from_numpy(np.asarray(plane, np.float32) / self.scale)
        return self.vae.encode(normalized[None].to(self.device))[0]
