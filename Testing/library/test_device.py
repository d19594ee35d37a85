"""Where and how precisely the network runs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

from CycleINRLib.errors import ResourceError  # noqa: E402
from CycleINRLib.network import device as devices  # noqa: E402
from CycleINRLib.network.model import CycleINR, NetworkConfig  # noqa: E402


@pytest.fixture
def network() -> CycleINR:
    torch.manual_seed(0)
    network = CycleINR(NetworkConfig(channels=8, blocks=1, codes=4, hidden=8, key=4))
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(devices, "_CHOSEN", {})


def test_an_absent_device_is_refused_with_what_torch_sees():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ResourceError, match="sees no cuda device"):
        devices.choose_device("cuda")
    assert devices.choose_device("auto") == "cpu"


def test_an_asked_precision_is_taken_without_a_test(network, monkeypatch):
    monkeypatch.setattr(devices, "_trial", lambda *_: pytest.fail("tested"))
    assert devices.choose_precision("bfloat16", network, "cpu") == "bfloat16"


@pytest.mark.parametrize(
    ("reduced_s", "shift", "expected"), [(0.1, 0, "bfloat16"), (0.9, 0, "float32"), (0.1, 1, "float32")]
)
def test_bfloat16_is_taken_only_where_it_is_faster_and_close(network, monkeypatch, reduced_s, shift, expected):
    truth = torch.linspace(0, 1, 100)
    trials = {torch.float32: (truth, 1.0), torch.bfloat16: (truth + shift, reduced_s)}
    monkeypatch.setattr(devices, "_cpu_likes_bfloat16", lambda _: True)
    monkeypatch.setattr(devices, "_trial", lambda _, __, dtype: trials[dtype])
    assert devices.choose_precision("auto", network, "cpu") == expected


def test_a_processor_that_emulates_bfloat16_is_never_tested(network, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(devices, "_trial", lambda *_: pytest.fail("tested"))
    assert devices.choose_precision("auto", network, "cpu") == "float32"


def test_bfloat16_stays_close_to_float32(network):
    full, _ = devices._trial(network, "cpu", torch.float32)
    reduced, _ = devices._trial(network, "cpu", torch.bfloat16)
    assert float((full - reduced).square().mean().sqrt() / full.square().mean().sqrt()) < devices.CLOSE_ENOUGH


def test_a_cast_network_leaves_the_original_alone(network):
    half = devices.cast_network(network, "cpu", torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    assert next(network.parameters()).dtype == torch.float32
    assert devices.cast_network(network, "cpu", torch.float32) is network
