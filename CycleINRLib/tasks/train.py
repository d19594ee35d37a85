"""Training the network: one loop that can be followed with a finger (floor 3).

Runs with torch, numpy and safetensors alone, on CPU or CUDA, in the foreground or behind; a killed run resumes where
it stood and sees the same data, because the batch of a step is a function of the seed and the step.

Design: plain AdamW, warm-up and cosine, gradient clipping, an exponential moving average of the weights (EMA) that
is what gets saved as the model. The run's state is a safetensors file too, never a pickle.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..errors import Cancelled, ModelError, RequestError
from ..events import Listener, Progress
from ..network.grow import grown
from ..network.model import CONFIGS, CycleINR, NetworkConfig
from .losses import gain_db
from .objective import Objective, predict, wanted
from .samples import SampleConfig, Scan, draw_batch


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    network: NetworkConfig = CONFIGS["light"]
    samples: SampleConfig = field(default_factory=SampleConfig)
    steps: int = 20000  # length of the cosine; a run ends here
    batch: int = 4
    rate: float = 2e-3  # peak of the learning rate
    warmup: int = 200  # steps
    ema: float = 0.999
    clip: float = 1.0  # norm of the gradient
    objective: Objective = field(default_factory=Objective)
    seed: int = 0
    save_every: int = 250  # steps between states on disk
    validate_every: int = 1000

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: dict) -> TrainConfig:
        samples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["samples"].items()}
        parts = {
            "network": NetworkConfig(**facts["network"]),
            "samples": SampleConfig(**samples),
            "objective": Objective(**facts["objective"]),
        }
        return cls(**{**facts, **parts})


def train(
    scans: Sequence[Scan],
    state_path: Path,
    config: TrainConfig,
    *,
    start_from: CycleINR | None = None,
    held_out: Sequence[Scan] = (),
    minutes: float | None = None,
    device: str = "cpu",
    progress: Listener | None = None,
    cancelled: Callable[[], bool] | None = None,
    on_save: Callable[[CycleINR, int], None] | None = None,
) -> CycleINR:
    """Trains until `config.steps`, or for `minutes` of this call, and gives the averaged network.

    A fresh run begins with the weights of `start_from` where it is given, which may be of a smaller network.
    `state_path` is read if it exists (resume) and replaced as a whole every `config.save_every` steps; beside it,
    `<name>.csv` gets one line per hundred steps. `on_save` receives the averaged network and the step.

    Raises
    ------
    RequestError : no scans
    ModelError : the state belongs to another network, or `start_from` cannot grow into this one
    Cancelled : `cancelled()` turned true; the state is saved
    """
    if not scans:
        raise RequestError("There is nothing to train on", "0 scans", "name a folder of thin-slice scans")
    torch.manual_seed(config.seed)
    network = CycleINR(config.network).to(device)
    if start_from is not None:
        network.load_state_dict(grown(start_from, config.network).state_dict())
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=1e-4, betas=(0.9, 0.99))
    step = load_state(state_path, network, average, optimizer, config) if state_path.exists() else 0
    start, first, losses = time.monotonic(), step, []

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(draw_batch, scans, config.samples, config.batch, config.seed, step)
        while step < config.steps and (minutes is None or time.monotonic() - start < 60 * minutes):
            batch = coming.result().to(device)
            coming = ahead.submit(draw_batch, scans, config.samples, config.batch, config.seed, step + 1)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config)
            loss = config.objective.loss(network, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimizer.step()
            _follow(average, network, min(config.ema, (1 + step) / (10 + step)))
            step += 1
            losses.append(float(loss.detach()))
            stopped = cancelled is not None and cancelled()
            if step % 100 == 0:
                _log(state_path, step, sum(losses) / len(losses), time.monotonic() - start)
                losses = []
                if progress is not None:
                    pace = (time.monotonic() - start) / (step - first)
                    progress(Progress("train", step, config.steps, round(pace * (config.steps - step), 1)))
            if held_out and step % config.validate_every == 0:
                for texture in (0.0, 1.0) if config.samples.texture_share else (0.0,):
                    gain = validate(average, held_out, config, device, texture=texture)
                    _log(state_path, step, gain, kind=f"held_out_gain_db_texture_{texture:g}")
            if step % config.save_every == 0 or stopped:
                save_state(state_path, network, average, optimizer, config, step)
                if on_save is not None:
                    on_save(average, step)
            if stopped:
                raise Cancelled()
    save_state(state_path, network, average, optimizer, config, step)
    if on_save is not None:
        on_save(average, step)
    return average


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine to 1 % of the peak."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@torch.no_grad()
def validate(
    network: CycleINR,
    scans: Sequence[Scan],
    config: TrainConfig,
    device: str = "cpu",
    batches: int = 12,
    texture: float = 0.0,
) -> float:
    """Mean gain in dB over the closed-form base on fixed patches of scans that training never sees."""
    samples = replace(config.samples, texture_share=1.0, texture=(texture, texture))
    gains = []
    for n in range(batches):
        batch = draw_batch(scans, samples, config.batch, 1_000_003, n).to(device)
        base_error = wanted(batch)
        places = (batch.source, batch.detail, batch.condition, batch.places, batch.margin)
        error = predict(network, *places) - base_error
        gains += [float(gain_db(e, w, m)) for e, w, m in zip(error, base_error, batch.weight)]
    return sum(gains) / len(gains)


@torch.no_grad()
def _follow(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def save_state(path: Path, network, average, optimizer, config: TrainConfig, step: int) -> None:
    """Everything that the next step depends on, written beside `path` and renamed."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(
        {k: v.contiguous().clone() for k, v in tensors.items()},
        temporary,
        {"step": str(step), "config": json.dumps(config.to_dict())},
    )
    os.replace(temporary, path)


def load_state(path: Path, network, average, optimizer, config: TrainConfig) -> int:
    """Back from `save_state`; gives the step to go on with."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        facts = file.metadata()
    if json.loads(facts["config"])["network"] != config.network.to_dict():
        raise ModelError("The state is of another network", str(path), "name another state file or the same sizes")
    tensors = load_file(path)
    network.load_state_dict(_part(tensors, "network."))
    average.load_state_dict(_part(tensors, "average."))
    state: dict[int, dict] = {}
    for name, value in _part(tensors, "optimizer.").items():
        index, _, moment = name.partition(".")
        state.setdefault(int(index), {})[moment] = value
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
    return int(facts["step"])


def _part(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _log(state_path: Path, step: int, value: float, seconds: float | None = None, kind: str = "loss") -> None:
    path = state_path.with_suffix(".csv")
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "kind", "value", "seconds"])
        writer.writerow([step, kind, f"{value:.6f}", "" if seconds is None else f"{seconds:.1f}"])
