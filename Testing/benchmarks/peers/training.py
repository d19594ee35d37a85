"""One training loop for every network of the benchmark: the same scans, the same drawing, the same minutes.

Each network keeps its own loss, batch and rate (`Recipe`); optimizer, warm-up and cosine over the minutes, clipping and
averaging of the weights are shared. What is minimized is the error in units of the scan's detail, as CycleINR does, so
that noisy and smooth scans count alike. Minutes are those of the processor: other programs beside it take none away.
The loss on scans that are held out is looked at ten times on the way. It tells whether longer would help, and the
weights of the lowest look are the ones kept: no peer is scored after its training broke down or began to overfit.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
LOOKS = 10  # at the held-out scans
SHOWN = 12  # batches of them, the same at each look
LIGHT = TrainConfig()  # least error, the one thing that the peers are made for


@dataclass(frozen=True)
class Recipe:
    """What differs between the networks.

    loss : (network, batch, precision) to what is minimized
    batch : patches a step; a voxel costs the peers 10 to 30 times more than `light`, so theirs are fewer and smaller
    rate : peak of the learning rate; the papers' 1e-4 is for days of training. At 1e-3 the ArSSR-style network fell
        back to linear interpolation after 1,900 steps, and was still there when it was ended at 2,284
    """

    title: str
    make: Callable[[], nn.Module]
    loss: Callable[[Any, Batch, str], Tensor]
    samples: SampleConfig
    batch: int
    rate: float
    decay: float


def _peer_loss(network: nn.Module, batch: Batch, precision: str) -> Tensor:
    """L1, as published for both peers."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        made = answer(network, batch)
    error = (made - batch.truth) / batch.detail[:, None, None, None]
    return (error.abs() * batch.weight).sum() / batch.weight.sum()


def _own_loss(network: nn.Module, batch: Batch, precision: str) -> Tensor:
    return replace(LIGHT.objective, precision=precision).loss(network, batch)


SMALL = SampleConfig(crop=24)
RECIPES = {
    "light": Recipe(
        "CycleINR light",
        lambda: CycleINR(CONFIGS["light"]),
        _own_loss,
        LIGHT.samples,
        LIGHT.batch,
        LIGHT.rate,
        decay=1e-4,
    ),
    "arssr": Recipe("ArSSR-style", ArSSRStyle, _peer_loss, SMALL, batch=1, rate=3e-4, decay=0.0),
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
    """The averaged network at its lowest look, at the end where nothing is held out, with what its training was."""

    network: nn.Module
    steps: int
    seconds: float  # of the processor
    loss: float  # mean over the last tenth of the steps
    held_out: tuple[float, ...] = ()  # loss of the averaged weights on held-out scans, ten looks on the way

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


def fit(
    recipe: Recipe,
    scans: Sequence[Scan],
    minutes: float,
    held_out: Sequence[Scan] = (),
    precision: str = "float32",
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Trained:
    """Trains for `minutes` of processor time, at least one step; the rate follows that clock to its end."""
    torch.manual_seed(seed)
    network = recipe.make().train()
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.decay)
    kept = copy.deepcopy(average)
    losses: list[float] = []
    looks: list[float] = []
    # far from the training's own numbers, whatever its length
    shown = [draw_batch(held_out, recipe.samples, recipe.batch, seed + 1, n) for n in range(SHOWN if held_out else 0)]
    start = told = time.process_time()
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(draw_batch, scans, recipe.samples, recipe.batch, seed, 0)
        while (passed := (time.process_time() - start) / (60 * minutes)) < 1 or not losses:
            batch = coming.result()
            coming = ahead.submit(draw_batch, scans, recipe.samples, recipe.batch, seed, len(losses) + 1)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * share_of_rate(passed)
            losses.append(_step(recipe, network, average, optimizer, batch, len(losses), precision))
            if shown and passed >= (len(looks) + 1) / LOOKS:
                looks.append(_look(recipe, average, shown, precision))
                _keep_lowest(kept, average, looks)
            if time.process_time() - told > 30:
                told = time.process_time()
                done = f"{100 * min(passed, 1):.0f} % of {minutes:g} min"
                say(f"{recipe.title}: step {len(losses)}, {done}, loss {_end(losses):.4f}, held out {looks[-1:]}")
    if shown:
        looks.append(_look(recipe, average, shown, precision))
    _keep_lowest(kept, average, looks)
    seconds = time.process_time() - start
    return Trained(kept.eval().requires_grad_(False), len(losses), seconds, _end(losses), tuple(looks))


def _keep_lowest(kept: nn.Module, average: nn.Module, looks: Sequence[float]) -> None:
    if not looks or looks[-1] == min(looks):
        kept.load_state_dict(average.state_dict())


@torch.no_grad()
def _look(recipe: Recipe, average: nn.Module, shown: Sequence[Batch], precision: str) -> float:
    return sum(float(recipe.loss(average, batch, precision)) for batch in shown) / len(shown)


def share_of_rate(passed: float) -> float:
    """Linear warm-up, then half a cosine to 1 % of the peak; `passed` is the share of the minutes, from 0 to 1."""
    if passed < WARMUP:
        return max(passed / WARMUP, LAST_RATE)
    done = min(1.0, (passed - WARMUP) / (1 - WARMUP))
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def _step(
    recipe: Recipe, network: nn.Module, average: nn.Module, optimizer: Any, batch: Batch, step: int, precision: str
) -> float:
    loss = recipe.loss(network, batch, precision)
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
    facts: dict[str, Any] = {"minutes": minutes, "steps": trained.steps, "seconds": round(trained.seconds, 1)}
    facts |= {"loss": trained.loss, "held_out": list(trained.held_out)}
    if name == "light":
        text = f"Trained from scratch for {minutes:g} minutes on CPU, beside the peers of a benchmark; not for use."
        card = ModelCard("light", CONFIGS["light"].to_dict(), description=text, training=facts)
        save_model(trained.network, card, path)
        return
    told = {key: json.dumps(value) for key, value in facts.items()}
    write_whole(path, lambda part: save_file(trained.network.state_dict(), part, told))


def load(name: str, path: Path) -> Trained:
    """Back from `save`."""
    if name == "light":
        network, card = load_model(path)
        facts = card.training
    else:
        network = RECIPES[name].make()
        network.load_state_dict(load_file(path))
        facts = {key: json.loads(value) for key, value in tensor_header(path)["__metadata__"].items()}
    network.eval().requires_grad_(False)
    return Trained(network, facts["steps"], facts["seconds"], facts["loss"], tuple(facts["held_out"]))
