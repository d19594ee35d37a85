"""The loop of every training: what can be stopped, killed and gone on from, step by step (floor 3).

The network and the autoencoder of `adapting` go through it. A batch is a function of the number of its step alone, so
that a run that was stopped goes on bit for bit, unless the clock rules it.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import Cancelled, RequestError
from ..events import Listener, Progress
from .checkpoint import RunState, forget_after, log
from .optimizer import Optimizer
from .ranks import Ranks


class Schedule(Protocol):
    """The part of a configuration that the course of a run depends on; `TrainConfig` says what each is."""

    @property
    def steps(self) -> int: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def ema(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def save_every(self) -> int: ...
    @property
    def log_every(self) -> int: ...

    def to_dict(self) -> dict: ...


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


def begin(network: torch.nn.Module, learning: Iterable[Tensor], config: Schedule, path: Path) -> RunState:
    """The state on disk, else a fresh one: this network, of which the parameters `learning` learn.

    Raises
    ------
    ModelError : the state is of another network or optimizer, or unreadable
    MissingPackageError : `config.optimizer` is "muon", and this PyTorch has none
    """
    average = copy.deepcopy(network)
    state = RunState(network, average, Optimizer(config.optimizer, learning, config.rate))
    if path.exists():
        state.load(path, config.to_dict())
    return state


def learn(
    state: RunState,
    path: Path,
    pace: Pace,
    batches: Iterable[Any],
    loss: Callable[[Any], Tensor],
    *,
    stage: str = "train",
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    progress: Listener | None = None,
    cancelled: Callable[[], bool] | None = None,
    on_save: Callable[[Any, int], None] | None = None,
    examine: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Takes steps until `pace` is over, and leaves the state in memory and at `path`.

    Parameters
    ----------
    path : the state; replaced as a whole every `save_every` steps; beside it, `<name>.csv` gets one line per
        `log_every` steps
    batches : from `state.step` on, see `ahead`
    loss : of a batch: this rank's share of it
    stage : of events.Progress, which `progress` is told
    cancelled : looked at before each step
    on_save : receives the averaged network and the step
    examine : asked after each step for more lines of the log

    Raises
    ------
    RequestError : a loss that is no number any more
    Cancelled : `cancelled()` turned true; the state is saved
    """
    config, first, saved, lines = pace.config, state.step, state.step, path.with_suffix(".csv")
    if ranks.is_first:
        forget_after(lines, state.step)

    def save() -> None:
        nonlocal saved
        state.seconds, saved = pace.seconds, state.step
        if ranks.is_first:
            state.save(path, config.to_dict())
            if on_save is not None:
                on_save(state.average, state.step)

    for batch in batches:
        wishes = cancelled is not None and cancelled()
        done, over, stopped = ranks.agree(pace.done(state.step), pace.is_over(state.step), wishes)
        if over:
            break
        if stopped:
            save()
            raise Cancelled()
        before = loss(batch)
        _descend(state, before, learning_rate(state.step, config, done if pace.fit else None), config, ranks)
        state.losses.append(float(ranks.sum(before)))
        state.step += 1
        if state.step % config.log_every == 0:
            _tell(state, lines, pace, first, progress if ranks.is_first else None, ranks, stage)
        for kind, value in (examine() if examine is not None else {}).items():
            if ranks.is_first:
                log(lines, state.step, kind, value, pace.seconds)
        if state.step % config.save_every == 0:
            save()
    if saved != state.step or not path.exists():
        save()


def ahead(steps: Any, step: int, workers: int = 0) -> Iterator[Any]:
    """`steps[n]` for n = `step`, `step` + 1, ... without end, drawn ahead by a thread, or by so many processes."""
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


def _descend(state: RunState, loss: torch.Tensor, rate: float, config: Schedule, ranks: Ranks) -> None:
    """One step of the optimizer down the gradient of `loss`, then of the average; does not count it."""
    state.optimizer.clear()
    loss.backward()
    ranks.add_gradients(state.optimizer.parameters)
    torch.nn.utils.clip_grad_norm_(state.optimizer.parameters, config.clip)
    state.optimizer.step(rate)
    _follow(state.average, state.network, min(config.ema, (1 + state.step) / (10 + state.step)))


def learning_rate(step: int, config: Schedule, done: float | None = None) -> float:
    """Linear warm-up, then half a cosine to 1 % of the peak; `done` in [0, 1] is its phase, None: by steps."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    if done is None:
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _tell(
    state: RunState, lines: Path, pace: Pace, first: int, progress: Listener | None, ranks: Ranks, stage: str
) -> None:
    """The mean loss since the last line, into the log and to the listener; this call began at step `first`."""
    loss, state.losses = sum(state.losses) / len(state.losses), []
    if not math.isfinite(loss):
        raise RequestError("The loss is no number any more", f"step {state.step}", "go on with a lower --rate")
    if ranks.is_first:
        log(lines, state.step, "loss", loss, pace.seconds)
    if progress is not None:
        of = max(state.step, round(state.step / max(1e-9, pace.done(state.step))))
        here = (time.monotonic() - pace.start) / (state.step - first)
        progress(Progress(stage, state.step, of, round(here * (of - state.step), 1)))


@torch.no_grad()
def _follow(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Moves the average a share of 1 - `decay` towards the network."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
