"""Several processes that train one network, as torchrun starts them (floor 3).

Each rank draws its share of the same batch. Sums over all ranks make every mean and every gradient that of the whole
batch, so that W ranks take the steps that one process takes, to float tolerance.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import RequestError

_NEEDED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class Ranks:
    """This process among all that train: number `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` things are this one's: equal parts, one more for some where it does not divide."""
        return range(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, the same on each; no gradient flows through it."""
        if self.world == 1:
            return value.detach()
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, values: Tensor, weight: Tensor) -> Tensor:
        """This rank's part of the weighted mean over all ranks; the parts add up to the mean."""
        return (values * weight).sum() / self.sum(weight.sum()).clamp_min(1e-6)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Puts the sum over all ranks into each gradient; a parameter without one counts as zero."""
        if self.world == 1:
            return
        parameters = [one for one in parameters if one.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        for parameter, total in zip(parameters, flat.split([p.numel() for p in parameters])):
            parameter.grad = total.view_as(parameter).clone()

    def agree(self, done: float, over: bool, stopped: bool) -> tuple[float, bool, bool]:
        """How far the run is and whether it is over by the first rank's clock, and whether any rank was stopped."""
        if self.world == 1:
            return done, over, stopped
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        own = (done * self.is_first, float(over and self.is_first), float(stopped))
        total = self.sum(torch.tensor(own, dtype=torch.float64, device=device)).tolist()
        return total[0], total[1] > 0, total[2] > 0


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun's environment variables tell of; alone where there are none.

    Raises
    ------
    RequestError : some of the variables are missing or make no sense
    """
    if "WORLD_SIZE" not in os.environ and "RANK" not in os.environ:
        yield Ranks()
        return
    rank, world, local = (_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if missing := [name for name in _NEEDED if name not in os.environ]:
        raise RequestError("The other processes cannot be found", f"no {', '.join(missing)}", "start with torchrun")
    if not 0 <= rank < world:
        raise RequestError("The number of this process makes no sense", f"{rank} of {world}", "start with torchrun")
    if device == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Ranks(rank, world)
    finally:
        dist.destroy_process_group()


def _number(name: str) -> int:
    text = os.environ.get(name, "0")
    if not text.isdigit():
        raise RequestError(f"The variable {name} is no number", repr(text), "start with torchrun")
    return int(text)
