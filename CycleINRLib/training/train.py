"""Training the network: what is drawn, learned and validated; the loop itself is `loop` (floor 3).

Runs with torch, numpy and safetensors alone, on CPU or CUDA, in one process or in several that torchrun starts. The
samples of a step are a function of the seed and the step: a killed run goes on where it stood and sees the same data,
and W processes see together what one sees.

Design: AdamW or Muon, warm-up and cosine, gradient clipping, an exponential moving average of the weights (EMA) that
is what gets saved as the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import RequestError
from ..events import Listener
from ..network.model import CONFIGS, CycleINR, NetworkConfig
from .checkpoint import RunState
from .grow import grown
from .loop import Pace, ahead, begin, learn
from .objective import Objective, gain_db, predict, wanted
from .patches import Batch, SampleConfig, draw_batch
from .ranks import Ranks
from .scans import Scan


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    network: NetworkConfig = CONFIGS["light"]
    samples: SampleConfig = field(default_factory=SampleConfig)
    steps: int = 20000  # length of the cosine; a run ends here
    batch: int = 4
    optimizer: str = "adamw"  # or "muon"
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

    def loss(batch: Batch) -> torch.Tensor:
        return config.objective.loss(state.network, batch.to(device), ranks.mean)

    def examine() -> dict[str, float]:
        if not held_out or state.step % config.validate_every:
            return {}
        return {"held_out_gain_db": validate(state.average, held_out, config, device, ranks=ranks)}

    pace = Pace(config, minutes, fit, state.seconds)
    hear: dict[str, Any] = {"progress": progress, "cancelled": cancelled, "on_save": on_save, "examine": examine}
    learn(
        state,
        state_path,
        pace,
        ahead(_Steps(scans, config, ranks.share(config.batch)), state.step, workers),
        loss,
        ranks=ranks,
        **hear,
    )
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
    return begin(network, network.parameters(), config, path)


@dataclass(frozen=True, eq=False)
class _Steps:
    """One rank's share of the batch of each step, by number."""

    scans: Sequence[Scan]
    config: TrainConfig
    share: range

    def __getitem__(self, step: int) -> Batch:
        config = self.config
        return draw_batch(self.scans, config.samples, config.batch, config.seed, step, self.share)


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
