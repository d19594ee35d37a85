"""Where and how precisely the network runs."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

from random_network import random_network  # noqa: E402

from CycleINRLib.errors import ResourceError  # noqa: E402
from CycleINRLib.network import device as devices  # noqa: E402
from CycleINRLib.network.infer import corrections  # noqa: E402
from CycleINRLib.network.model import Conditions, CycleINR, NetworkConfig  # noqa: E402
from CycleINRLib.network.transfer import Fetch  # noqa: E402


@pytest.fixture
def network() -> CycleINR:
    return random_network(NetworkConfig(channels=8, blocks=1, codes=4, hidden=8, key=4)).eval()


def test_an_absent_device_is_refused_with_what_torch_sees():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ResourceError, match="sees no cuda device"):
        devices.choose_device("cuda")
    assert devices.choose_device("auto") == "cpu"


def amx(monkeypatch, there: bool = True) -> None:
    """As on a processor with, or without, the matrix units."""
    monkeypatch.setattr(devices, "_has_amx", lambda: there)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


def test_an_asked_precision_is_taken_as_it_is(monkeypatch):
    amx(monkeypatch, there=False)
    assert devices.choose_precision("bfloat16", "cpu") == "bfloat16"


@pytest.mark.parametrize(("there", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_where_matrix_units_compute_it(monkeypatch, there, expected):
    amx(monkeypatch, there)
    assert devices.choose_precision("auto", "cpu") == expected


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_bf16", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", "bfloat16"),
        ("ONEDNN_MAX_CPU_ISA", "ALL", "bfloat16"),
        ("DNNL_MAX_CPU_ISA", "AVX512_CORE", "float32"),
    ],
)
def test_auto_follows_what_onednn_is_held_to(monkeypatch, name, limit, expected):
    amx(monkeypatch)
    monkeypatch.setenv(name, limit)
    precision, why = devices.usual_precision("cpu")
    assert precision == expected and (limit.upper() in why or limit == "ALL")


def test_auto_follows_what_torch_is_held_to(monkeypatch):
    amx(monkeypatch)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert devices.choose_precision("auto", "cpu") == "float32"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_auto_on_cuda_follows_the_compute_capability(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert devices.choose_precision("auto", "cuda") == expected


def test_no_clock_decides():
    """The same machine gives the same answer, quiet or busy: the file knows no time."""
    assert "time" not in vars(devices) and len({devices.choose_precision("auto", "cpu") for _ in range(20)}) == 1


def test_a_cast_network_leaves_the_original_alone(network):
    half = devices.cast_network(network, "cpu", torch.bfloat16)
    assert half.enter.weight.dtype == torch.bfloat16 and half.first.weight.dtype == torch.float32
    assert next(network.parameters()).dtype == torch.float32
    assert devices.cast_network(network, "cpu", torch.float32) is network


def corrected(network) -> list[tuple[slice, np.ndarray]]:
    source = np.random.default_rng(0).normal(0, 0.1, (5, 20, 24)).astype(np.float32)
    named = {"detail": 0.1, "z_scale": 2.0, "conditions": Conditions(1.0, 0.0, 4.0, 0.4, 0.1)}
    return list(corrections(network, source, slice(0, 20), np.arange(9) / 2, **named))


def test_results_that_come_one_later_are_the_same_in_the_same_order(network, monkeypatch):
    """As from a GPU, whose copies run beside its kernels."""
    at_once = corrected(network)
    real = Fetch.__init__

    def ahead(fetch, device) -> None:
        real(fetch, device)
        fetch.ahead = 1

    monkeypatch.setattr(Fetch, "__init__", ahead)
    later = corrected(network)
    assert [part for part, _ in later] == [part for part, _ in at_once] and len(later) == 4
    for (_, one), (_, other) in zip(at_once, later):
        np.testing.assert_array_equal(one, other)


def test_a_gpu_computes_the_next_result_while_one_is_on_its_way():
    fetch = Fetch(torch.device("cuda"))
    results = [torch.full((2,), float(n)) for n in range(3)]
    handed = [[part.start for part, _ in fetch.put(slice(n, n + 1), one)] for n, one in enumerate(results)]
    assert handed == [[], [0], [1]]
    assert [(part.start, float(values[0])) for part, values in fetch.rest()] == [(2, 2.0)]
