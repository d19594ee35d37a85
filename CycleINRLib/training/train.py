"""Training the network: one loop that can be followed with a finger (floor 3).

Runs with torch, numpy and safetensors alone, on CPU or CUDA, in one process or in several that torchrun starts. The
samples of a step are a function of the seed and the step: a killed run goes on where it stood and sees the same data,
and W processes see together what one sees.

Design: plain AdamW, warm-up and cosine, gradient clipping, an exponential moving average of the weights (EMA) that
is what gets saved as the model.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from ..errors import Cancelled, RequestError
from ..events import Listener, Progress
from ..network.model import CONFIGS, CycleINR, NetworkConfig
from .checkpoint import RunState, forget_after, log
from .grow import grown
from .objective import Objective, gain_db, predict, wanted
from .patches import Batch, SampleConfig, draw_batch
from .ranks import Ranks
from .scans import Scan


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    network: NetworkConfig = CONFIGS["light"]
    part: str = "network"  # what learns: "network", for least error, or "texture", what is added for natural noise
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
    log_every: int = 100

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


class Schedule(Protocol):
    """The part of a configuration that the course of a run depends on."""

    @property
    def steps(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def ema(self) -> float: ...
    @property
    def clip(self) -> float: ...


@dataclass
class Pace:
    """How far a run is: by its steps, or by the clock, so that the cosine ends when the minutes do.

    `before` are the seconds that earlier calls took. `minutes` are those of this call, or, where the clock rules
    (`fit`), of the whole run.
    """

    config: Schedule
    minutes: float | None = None
    fit: bool = False
    before: float = 0.0
    start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.before + time.monotonic() - self.start

    def done(self, step: int) -> float:
        """The share of the run that is done."""
        return self.seconds / (60 * self.minutes) if self.fit and self.minutes else step / max(1, self.config.steps)

    def is_over(self, step: int) -> bool:
        late = self.minutes is not None and self.seconds - self.before >= 60 * self.minutes
        return self.done(step) >= 1 or (late and not self.fit)


def train(
    scans: Sequence[Scan],
    state_path: Path,
    config: TrainConfig,
    *,
    start_from: CycleINR | None = None,
    held_out: Sequence[Scan] = (),
    minutes: float | None = None,
    fit: bool = False,
    device: str = "cpu",
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    workers: int = 0,
    progress: Listener | None = None,
    cancelled: Callable[[], bool] | None = None,
    on_save: Callable[[CycleINR, int], None] | None = None,
) -> CycleINR:
    """Trains until `config.steps`, or for `minutes` of this call, and gives the averaged network.

    A fresh run begins with the weights of `start_from` where it is given, which may be of a smaller network.
    `state_path` is read if it exists (resume) and replaced as a whole every `config.save_every` steps; beside it,
    `<name>.csv` gets one line per `config.log_every` steps. `on_save` receives the averaged network and the step.
    With `fit`, the run ends after `minutes` (all calls together) instead of `config.steps`, and so does the cosine;
    then the rates follow the clock, and no two runs are the same to the last bit.
    Of several ranks, each draws its share of every batch, and the first one alone writes, saves and tells. Samples
    are drawn ahead by a thread, or by `workers` processes of this rank.

    Raises
    ------
    RequestError : no scans, fewer patches than ranks, `fit` without `minutes`, a loss that is no number any more
    ModelError : the state belongs to another network, or `start_from` cannot grow into this one
    Cancelled : `cancelled()` turned true; the state is saved
    """
    _check(scans, config, ranks, minutes, fit)
    state = _begin(state_path, config, device, start_from)
    pace, saved, first = Pace(config, minutes, fit, state.seconds), state.step, state.step
    if ranks.is_first:
        forget_after(state_path.with_suffix(".csv"), state.step)

    def save() -> None:
        nonlocal saved
        state.seconds, saved = pace.seconds, state.step
        if ranks.is_first:
            state.save(state_path, config.to_dict())
            if on_save is not None:
                on_save(state.average, state.step)

    for batch in _batches(_Steps(scans, config, ranks.share(config.batch)), state.step, workers):
        wishes = cancelled is not None and cancelled()
        done, over, stopped = ranks.agree(pace.done(state.step), pace.is_over(state.step), wishes)
        if stopped:
            save()
            raise Cancelled()
        if over:
            break
        rate = learning_rate(state.step, config, done if fit else None)
        state.losses.append(_step(state, batch.to(device), rate, config, ranks))
        state.step += 1
        if state.step % config.log_every == 0:
            tell(state, state_path, pace, first, progress if ranks.is_first else None, ranks)
        if held_out and state.step % config.validate_every == 0:
            _validate_and_log(state, state_path, pace, config, held_out, device, ranks)
        if state.step % config.save_every == 0:
            save()
    if saved != state.step or not state_path.exists():
        save()
    return state.average


def _check(scans: Sequence[Scan], config: TrainConfig, ranks: Ranks, minutes: float | None, fit: bool) -> None:
    if not scans:
        raise RequestError("There is nothing to train on", "0 scans", "name a folder of thin-slice scans")
    if config.batch < ranks.world:
        found = f"{config.batch} patches a step for {ranks.world} processes"
        raise RequestError("Some processes would have nothing to do", found, "ask for a larger --batch")
    if fit and not minutes:
        raise RequestError("The schedule has no end to fit to", "--fit without --minutes", "add --minutes")


def _begin(path: Path, config: TrainConfig, device: str, start_from: CycleINR | None) -> RunState:
    """The state on disk, else a fresh one."""
    torch.manual_seed(config.seed)
    network = CycleINR(config.network).to(device)
    if start_from is not None:
        network.load_state_dict(grown(start_from, config.network).state_dict())
    learning = learning_part(network, config.part)
    optimizer = torch.optim.AdamW(learning, lr=config.rate, weight_decay=1e-4, betas=(0.9, 0.99))
    state = RunState(network, copy.deepcopy(network), optimizer)
    if path.exists():
        state.load(path, config.to_dict())
    return state


def learning_part(network: CycleINR, part: str) -> list[torch.nn.Parameter]:
    """The parameters of one part; the others hold still."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("texture.") == (part == "texture"))
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@dataclass(frozen=True, eq=False)
class _Steps:
    """One rank's share of the batch of each step, by number."""

    scans: Sequence[Scan]
    config: TrainConfig
    share: range

    def __getitem__(self, step: int) -> Batch:
        config = self.config
        return draw_batch(self.scans, config.samples, config.batch, config.seed, step, self.share)


def _batches(steps: _Steps, step: int, workers: int) -> Iterator[Batch]:
    """The batches from `step` on without end, drawn ahead by a thread, or by as many processes as there are workers."""
    if workers:
        ahead = {"num_workers": workers, "prefetch_factor": 2, "multiprocessing_context": "spawn"}
        yield from DataLoader(steps, batch_size=None, sampler=count(step), worker_init_fn=_leave_stopping, **ahead)
        return
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(steps.__getitem__, step)
        for following in count(step + 1):
            batch, coming = coming.result(), thread.submit(steps.__getitem__, following)
            yield batch


def _leave_stopping(_: int) -> None:
    """A terminal's Ctrl-C reaches workers too; only the loop may act on it, since it saves first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _step(state: RunState, batch: Batch, rate: float, config: TrainConfig, ranks: Ranks) -> float:
    """One step of optimizer and average; the loss of the whole batch before it."""
    loss = config.objective.loss(state.network, batch, ranks.mean)
    descend(state, loss, rate, config, ranks)
    return float(ranks.sum(loss))


def descend(state: RunState, loss: torch.Tensor, rate: float, config: Schedule, ranks: Ranks = Ranks()) -> None:  # noqa: B008
    """One step of the optimizer down the gradient of `loss`, then of the average; does not count it."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    learning = state.optimizer.param_groups[0]["params"]
    ranks.add_gradients(learning)
    torch.nn.utils.clip_grad_norm_(learning, config.clip)
    state.optimizer.step()
    follow(state.average, state.network, min(config.ema, (1 + state.step) / (10 + state.step)))


def learning_rate(step: int, config: Schedule, done: float | None = None) -> float:
    """Linear warm-up, then half a cosine to 1 % of the peak; `done` in [0, 1] is its phase, None: by steps."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    if done is None:
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def tell(
    state: RunState,
    state_path: Path,
    pace: Pace,
    first: int,
    progress: Listener | None,
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    stage: str = "train",
) -> None:
    """The mean loss since the last line, into the log and to the listener; this call began at step `first`."""
    loss, state.losses = sum(state.losses) / len(state.losses), []
    if not math.isfinite(loss):
        raise RequestError("The loss is no number any more", f"step {state.step}", "go on with a lower --rate")
    if ranks.is_first:
        log(state_path.with_suffix(".csv"), state.step, "loss", loss, pace.seconds)
    if progress is not None:
        of = max(state.step, round(state.step / max(1e-9, pace.done(state.step))))
        here = (time.monotonic() - pace.start) / (state.step - first)
        progress(Progress(stage, state.step, of, round(here * (of - state.step), 1)))


def _validate_and_log(
    state: RunState, state_path: Path, pace: Pace, config: TrainConfig, held_out, device: str, ranks: Ranks
) -> None:
    gain = validate(state.average, held_out, config, device, ranks=ranks)
    if ranks.is_first:
        log(state_path.with_suffix(".csv"), state.step, "held_out_gain_db", gain, pace.seconds)


@torch.no_grad()
def validate(
    network: CycleINR,
    scans: Sequence[Scan],
    config: TrainConfig,
    device: str = "cpu",
    batches: int = 12,
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
) -> float:
    """Mean gain in dB over the closed-form base on fixed patches of scans that training never sees."""
    total = torch.zeros(2, dtype=torch.float64, device=device)  # of the gains; how many they are
    for n in ranks.share(batches):
        batch = draw_batch(scans, config.samples, config.batch, 1_000_003, n).to(device)
        base_error = wanted(batch)
        error = predict(network, batch.source, batch.scan, batch.places, batch.margin) - base_error
        for e, w, m in zip(error, base_error, batch.weight):
            total += torch.stack([gain_db(e, w, m), torch.ones((), device=device)])
    gains, count = ranks.sum(total).tolist()
    return gains / count


@torch.no_grad()
def follow(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Moves the average a share of 1 - `decay` towards the network."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
