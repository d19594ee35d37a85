"""One training loop for every network of the benchmark: the same scans, the same drawing, the same minutes.

Each network keeps its own loss, batch and rate (`Recipe`); optimizer, warm-up and cosine over the minutes, clipping and
averaging of the weights are shared. What is minimized is the error in units of the scan's detail, as CycleINR does, so
that noisy and smooth scans count alike.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from CycleINRLib.modelcard import ModelCard, tensor_header
from CycleINRLib.network.model import CONFIGS, CycleINR
from CycleINRLib.network.weights import load_model, save_model
from CycleINRLib.training.patches import Batch, SampleConfig, Scan, draw_batch
from CycleINRLib.training.train import TrainConfig
from CycleINRLib.wholefile import write_whole

from .arssr import ArSSRStyle
from .sainr import SAINRStyle

WARMUP = 0.03  # of the minutes
LAST_RATE = 0.01  # of the peak
CLIP = 1.0
EMA = 0.999
LIGHT = TrainConfig()  # least error, the one thing that the peers are made for


@dataclass(frozen=True)
class Recipe:
    """What differs between the networks.

    loss : (network, batch) to what is minimized
    batch : patches a step; a voxel costs the peers 10 to 30 times more than `light`, so theirs are fewer and smaller
    rate : peak of the learning rate; the papers' 1e-4 is for days of training
    """

    title: str
    make: Callable[[], nn.Module]
    loss: Callable[[Any, Batch], Tensor]
    samples: SampleConfig
    batch: int
    rate: float
    decay: float


def _peer_loss(network: nn.Module, batch: Batch) -> Tensor:
    """L1, as published for both peers."""
    error = (answer(network, batch) - batch.truth) / batch.detail[:, None, None, None]
    return (error.abs() * batch.weight).sum() / batch.weight.sum()


SMALL = SampleConfig(crop=24)
RECIPES = {
    "light": Recipe(
        "CycleINR light",
        lambda: CycleINR(CONFIGS["light"]),
        LIGHT.objective.loss,
        LIGHT.samples,
        LIGHT.batch,
        LIGHT.rate,
        decay=1e-4,
    ),
    "arssr": Recipe("ArSSR-style", ArSSRStyle, _peer_loss, SMALL, batch=1, rate=1e-3, decay=0.0),
    "sainr": Recipe("SA-INR-style", SAINRStyle, _peer_loss, SMALL, batch=2, rate=1e-3, decay=0.0),
}


# --- a peer, asked in training and in use -----------------------------------------------------------------------
def answer(network: nn.Module, batch: Batch) -> Tensor:
    """A peer's slices at every place of the batch, normalized: (B, P, h, w)."""
    places, margin = batch.places, batch.margin
    B, P = places.t.shape
    row = torch.arange(B, device=places.t.device).repeat_interleave(P)
    below, t = places.below.flatten(), places.t.flatten()
    added = network.decode(network.encode(batch.source), row, below, t, margin)
    H, W = batch.source.shape[2:]
    inner = batch.source[..., margin : H - margin, margin : W - margin]
    linear = torch.lerp(inner[row, below], inner[row, below + 1], t[:, None, None])
    return (linear + added).reshape(B, P, *added.shape[1:])


@torch.inference_mode()
def slices(network: nn.Module, source: Tensor, positions: Sequence[float]) -> Iterator[Tensor]:
    """A peer's slices (J, I) at `positions`, of source slices (N, J, I), normalized; codes are computed once."""
    codes = network.encode(source[None])
    row = torch.zeros(1, dtype=torch.long)
    for position in positions:
        k = min(max(int(position + 1e-9), 0), len(source) - 2)
        t = torch.tensor([min(max(position - k, 0.0), 1.0)], dtype=source.dtype)
        added = network.decode(codes, row, torch.tensor([k]), t, 0)[0]
        yield torch.lerp(source[k], source[k + 1], t) + added


# --- training ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Trained:
    """The averaged network, with what its training was."""

    network: nn.Module
    steps: int
    seconds: float
    loss: float  # mean over the last tenth of the steps

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


def fit(
    recipe: Recipe, scans: Sequence[Scan], minutes: float, seed: int = 0, say: Callable[[str], None] = print
) -> Trained:
    """Trains for `minutes`, at least one step; the learning rate follows the clock, so each run ends its cosine."""
    torch.manual_seed(seed)
    network = recipe.make().train()
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.decay)
    losses: list[float] = []
    start = told = time.monotonic()
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(draw_batch, scans, recipe.samples, recipe.batch, seed, 0)
        while (passed := (time.monotonic() - start) / (60 * minutes)) < 1 or not losses:
            batch = coming.result()
            coming = ahead.submit(draw_batch, scans, recipe.samples, recipe.batch, seed, len(losses) + 1)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * share_of_rate(passed)
            losses.append(_step(recipe, network, average, optimizer, batch, len(losses)))
            if time.monotonic() - told > 30:
                told = time.monotonic()
                done = f"{100 * min(passed, 1):.0f} % of {minutes:g} min"
                say(f"{recipe.title}: step {len(losses)}, {done}, loss {_end(losses):.4f}")
    seconds = time.monotonic() - start
    return Trained(average.eval().requires_grad_(False), len(losses), seconds, _end(losses))


def share_of_rate(passed: float) -> float:
    """Linear warm-up, then half a cosine to 1 % of the peak; `passed` is the share of the minutes, from 0 to 1."""
    if passed < WARMUP:
        return max(passed / WARMUP, LAST_RATE)
    done = min(1.0, (passed - WARMUP) / (1 - WARMUP))
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def _step(recipe: Recipe, network: nn.Module, average: nn.Module, optimizer: Any, batch: Batch, step: int) -> float:
    loss = recipe.loss(network, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()
    decay = min(EMA, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    return float(loss.detach())


def _end(losses: list[float]) -> float:
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


# --- on disk ----------------------------------------------------------------------------------------------------
def save(name: str, trained: Trained, minutes: float, path: Path) -> None:
    """A safetensors file, replaced as a whole; that of `light` is a model file that CycleINR reads."""
    facts = {"minutes": minutes, "steps": trained.steps, "seconds": round(trained.seconds, 1), "loss": trained.loss}
    if name == "light":
        text = f"Trained from scratch for {minutes:g} minutes on CPU, beside the peers of a benchmark; not for use."
        card = ModelCard("light", CONFIGS["light"].to_dict(), description=text, training=facts)
        save_model(trained.network, card, path)
        return
    told = {key: str(value) for key, value in facts.items()}
    write_whole(path, lambda part: save_file(trained.network.state_dict(), part, told))


def load(name: str, path: Path) -> Trained:
    """Back from `save`."""
    if name == "light":
        network, card = load_model(path)
        facts = card.training
    else:
        network = RECIPES[name].make()
        network.load_state_dict(load_file(path))
        facts = tensor_header(path)["__metadata__"]
    network.eval().requires_grad_(False)
    return Trained(network, int(facts["steps"]), float(facts["seconds"]), float(facts["loss"]))
