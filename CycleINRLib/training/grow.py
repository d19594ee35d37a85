"""A larger network that computes what a smaller one computed: `base` begins with the weights of `light` (floor 3).

New channels and blocks begin without a way into the output, so nothing is lost, and gradients reach them at once.

Source: Net2Net (Chen et al., ICLR 2016), here for residual blocks.
"""

from __future__ import annotations

import torch

from ..errors import ModelError
from ..network.model import CycleINR, NetworkConfig

FIXED = ("codes", "hidden", "attention", "key")  # sizes that do not grow


def grown(network: CycleINR, config: NetworkConfig) -> CycleINR:
    """The network of `config` with the function of `network`; draws its new weights from torch's generator.

    Raises
    ------
    ModelError : `config` has fewer channels or blocks, or differs in sizes that do not grow
    """
    small = network.config
    fits = config.channels >= small.channels and config.blocks >= small.blocks
    if not fits or any(getattr(config, name) != getattr(small, name) for name in FIXED):
        found = f"{small} to {config}"
        raise ModelError("The network cannot grow from these weights", found, "start from weights of fewer channels")
    large = CycleINR(config)
    old = network.state_dict()
    with torch.no_grad():
        for name, value in large.state_dict().items():
            if name in old:
                _widen(name, value, old[name])
        for block in large.blocks[small.blocks :]:
            torch.nn.init.zeros_(block.through.weight)  # a new block adds nothing yet
    return large


def _widen(name: str, new: torch.Tensor, old: torch.Tensor) -> None:
    """Old weights into the corner of `new`; old outputs do not see new inputs, new outputs see all."""
    outputs = len(old) if old.dim() else 0
    if new.dim() > 1:
        new[:outputs, old.shape[1] :] = 0
    new[tuple(slice(0, n) for n in old.shape)] = old
