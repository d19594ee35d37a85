"""What takes the steps of a run: AdamW, or Muon for the weights of layers beside AdamW for all else (floor 3).

Source: Muon, Jordan et al. (2024), orthogonalized momentum; its steps have the size of AdamW's (Liu et al., "Muon is
scalable for LLM training", 2025), so that both share one learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import MissingPackageError

DECAY = 1e-4  # of the weights, in units of the learning rate
LEAST_MATRIX = 16  # rows and columns of weights that Muon steps; smaller layers are left to AdamW


class Optimizer:
    """One rate for all parameters that learn.

    parameters : those that learn
    parts : torch's optimizers by the name under which a state keeps what they remember
    """

    def __init__(self, kind: str, learning: Iterable[Tensor], rate: float) -> None:
        self.parameters = list(learning)
        matrices = [one for one in self.parameters if kind == "muon" and _is_matrix(one)]
        others = [one for one in self.parameters if all(one is not matrix for matrix in matrices)]
        self.parts: dict[str, torch.optim.Optimizer] = {
            "optimizer": torch.optim.AdamW(others, lr=rate, weight_decay=DECAY, betas=(0.9, 0.99))
        }
        # Muon takes matrices alone: kernels of convolutions are shown to it as such, in the same memory
        self._shown = [(one, torch.nn.Parameter(_ordered(one, one.detach()).view(len(one), -1))) for one in matrices]
        if matrices:
            self.parts["muon"] = _muon([matrix for _, matrix in self._shown], rate)

    def clear(self) -> None:
        """Forgets the gradients."""
        for one in self.parameters:
            one.grad = None

    def step(self, rate: float) -> None:
        """Down the gradients of `parameters`."""
        for kernel, matrix in self._shown:
            matrix.grad = None if kernel.grad is None else _ordered(kernel, kernel.grad).flatten(1)
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = rate
            part.step()


def _is_matrix(one: Tensor) -> bool:
    return one.ndim > 2 and min(one.flatten(1).shape) >= LEAST_MATRIX


def _ordered(kernel: Tensor, values: Tensor) -> Tensor:
    """Values shaped like the kernel with their axes but the first in the order in which the kernel lies in memory: a
    mere permutation of a matrix's columns, which Muon's steps follow."""
    return values.permute(0, *sorted(range(1, kernel.ndim), key=kernel.stride, reverse=True))


def _muon(matrices: list[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise MissingPackageError(
            "This PyTorch has no Muon", f"torch {torch.__version__}", "install torch 2.9 or later, or take adamw"
        )
    return torch.optim.Muon(matrices, lr=rate, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
