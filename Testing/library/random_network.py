"""A network of random weights, far from the start of training, where many layers are zero."""

from __future__ import annotations

import torch

from CycleINRLib.network.model import CycleINR, NetworkConfig


def random_network(config: NetworkConfig) -> CycleINR:
    torch.manual_seed(0)
    network = CycleINR(config)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network
