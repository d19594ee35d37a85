"""A network that grew computes what it computed before, and learns in its new parts."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

from keys import keys_of  # noqa: E402
from random_network import random_network  # noqa: E402

from CycleINRLib.errors import ModelError  # noqa: E402
from CycleINRLib.network.model import Conditions, CycleINR, NetworkConfig, source_features  # noqa: E402
from CycleINRLib.training.grow import grown  # noqa: E402

SMALL = NetworkConfig(channels=16, blocks=2, codes=8, hidden=12, key=4)
LARGE = dataclasses.replace(SMALL, channels=24, blocks=4)
TOLD = Conditions(1.0, 1.0, 3.0, 0.4, 0.1)


def _output(network: CycleINR) -> torch.Tensor:
    values = torch.randn(1, 5, 20, 24, generator=torch.Generator().manual_seed(1))
    features = source_features(values, 0.3)
    codes = network.codes_of(network.encode(features, torch.tensor([TOLD.of_scan()])), features)
    below, above = codes[:, :, 2], codes[:, :, 3]
    keys = keys_of(network, below), keys_of(network, above)
    return network.decode(below, above, *keys, torch.tensor([0.3]), torch.tensor([TOLD.of_place(0.3, 4.0)]))


@pytest.fixture
def small() -> CycleINR:
    return random_network(SMALL)


def test_a_grown_network_computes_what_it_computed(small):
    before, after = _output(small).detach(), _output(grown(small, LARGE)).detach()
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 * float(before.abs().max()))


def test_gradients_reach_the_new_channels_and_blocks_within_two_steps(small):
    large = grown(small, LARGE)
    optimizer = torch.optim.SGD(large.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        _output(large).square().mean().backward()
        optimizer.step()
    for part in (large.leave.weight[:, 16:], large.enter.weight[16:], large.blocks[3].plane.weight):
        assert float(part.detach().abs().sum()) > 0
    optimizer.zero_grad()
    _output(large).square().mean().backward()
    for layer in (large.leave, large.enter, large.blocks[0].through, large.blocks[3].plane, large.blocks[3].through):
        assert float(layer.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("change", [{"channels": 8}, {"blocks": 1}, {"codes": 16}, {"hidden": 24}])
def test_what_cannot_grow_is_refused(small, change):
    with pytest.raises(ModelError, match="cannot grow"):
        grown(small, dataclasses.replace(LARGE, **change))
