"""The way of CUDA, on a device made of the CPU: nothing is left behind, and the numbers are those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

from pretend_cuda import OnCuda, pretended  # noqa: E402
from random_network import random_network  # noqa: E402

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.errors import ResourceError  # noqa: E402
from CycleINRLib.network import decode, infer  # noqa: E402
from CycleINRLib.network.device import DTYPES, cast_network  # noqa: E402
from CycleINRLib.network.infer import codes_of, corrections  # noqa: E402
from CycleINRLib.network.model import Conditions, CycleINR, NetworkConfig  # noqa: E402

SOURCE = np.random.default_rng(0).normal(0, 0.1, (5, 20, 25)).astype(np.float32)
TOLD = {"detail": 0.1, "conditions": Conditions(1.0, 0.0, 4.0, 0.4, 0.1)}
WINDOW = slice(4, 14), slice(2, 20)


@pytest.fixture
def network() -> CycleINR:
    return random_network(NetworkConfig(channels=8, blocks=2, codes=4, hidden=8, key=4)).eval().requires_grad_(False)


@pytest.fixture
def cuda(monkeypatch):
    with pretended(monkeypatch):
        yield


def corrected(network: CycleINR, codes=None) -> np.ndarray:
    rows, columns = WINDOW
    parts = corrections(
        network, SOURCE, rows, np.arange(9) / 2, columns=columns, z_scale=2.0, window=3, codes=codes, **TOLD
    )
    return np.concatenate([values.copy() for _, values in parts])


def test_a_tensor_of_the_cpu_is_not_mixed_with_those_of_the_device(cuda):
    there, here = torch.ones(2, device="cuda"), torch.ones(2)
    assert isinstance(there, OnCuda) and there.device.type == (there + 1).device.type == "cuda"
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(TypeError, match="to numpy"):
        there.numpy()
    assert float((there + here.to("cuda")).sum()) == 4 and type(there.cpu()) is torch.Tensor


@pytest.mark.parametrize("least", [0.0, 1.0], ids=["all neighbors", "the pixel itself"])
@pytest.mark.parametrize("precision, within", [("float32", 1e-6), ("bfloat16", 0.03)])
def test_encoder_lam_and_decoder_leave_nothing_on_the_cpu(network, cuda, monkeypatch, precision, within, least):
    monkeypatch.setattr(decode, "LEAST_BESIDE", least)  # of which of two ways LAM goes
    here = corrected(network)
    placed = cast_network(network, "cuda", DTYPES[precision])
    assert {weight.device.type for weight in placed.parameters()} == {"cuda"}
    there = corrected(placed)
    assert np.abs(there - here).max() <= within * np.abs(here).max()
    codes = codes_of(placed, SOURCE, *WINDOW, **TOLD)
    assert codes.device.type == "cuda"
    np.testing.assert_array_equal(corrected(placed, codes), there)


@pytest.mark.parametrize("noise", ["acquired", "renew"])
def test_a_whole_run_on_the_device_gives_the_volume_of_the_cpu(thick_ct, cuda, noise):
    asked = {"z_scale": 2, "noise": noise, "precision": "float32"}
    here, there = (cycleinr.upsample(thick_ct, device=device, **asked) for device in ("cpu", "cuda"))
    assert there.report["device"] == "cuda" and there.report["gain"] == pytest.approx(here.report["gain"], abs=1e-3)
    off = np.abs(there.volume.values.astype(int) - here.volume.values)
    assert off.max() <= 1 and np.mean(off > 0) < 0.01


def test_a_preview_on_the_device_gives_the_plane_of_the_cpu(thick_ct, cuda):
    asked = {"z_scale": 2, "noise": "acquired", "precision": "float32", "gain": 1.0}
    here, there = (cycleinr.preview(thick_ct, "coronal", device=device, **asked) for device in ("cpu", "cuda"))
    assert np.abs(there.values.astype(int) - here.values).max() <= 1


# --- where it fails -------------------------------------------------------------------------------------------
ASKED = {"z_scale": 2, "noise": "acquired", "precision": "float32", "gain": 1.0}
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"
NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


def fails(monkeypatch, message: str, after: int) -> None:
    """The encoder's convolutions raise on the device, from some call on."""
    real, calls = infer.relu_convolution, []

    def convolution(x, weight, bias):
        if x.device.type == "cuda":
            calls.append(1)
            if len(calls) > after:
                raise RuntimeError(message)
        return real(x, weight, bias)

    monkeypatch.setattr(infer, "relu_convolution", convolution)


@pytest.mark.parametrize("message", [NO_KERNEL, NO_MEMORY])
def test_a_device_that_cannot_run_the_network_is_left_before_anything_is_computed(thick_ct, cuda, monkeypatch, message):
    fails(monkeypatch, message, 0)
    result = cycleinr.upsample(thick_ct, **ASKED)
    assert result.report["device"] == "cpu"
    assert any("cuda is not used: CUDA" in warning for warning in result.report["warnings"])
    with pytest.raises(ResourceError, match="cuda cannot be used"):
        cycleinr.upsample(thick_ct, device="cuda", **ASKED)


def test_a_device_that_computes_something_else_is_not_used(thick_ct, cuda, monkeypatch):
    real = infer.relu_convolution
    monkeypatch.setattr(
        infer, "relu_convolution", lambda x, *rest: real(x, *rest) * (3 if x.device.type == "cuda" else 1)
    )
    result = cycleinr.upsample(thick_ct, **ASKED)
    assert result.report["device"] == "cpu"
    assert any("came out wrong" in warning for warning in result.report["warnings"])


@pytest.mark.parametrize("message, said", [(NO_KERNEL, "cuda failed"), (NO_MEMORY, "Memory of cuda ran out")])
def test_a_run_whose_device_fails_goes_on_with_the_cpu_to_the_same_result(thick_ct, cuda, monkeypatch, message, said):
    here = cycleinr.upsample(thick_ct, device="cpu", **ASKED)
    fails(monkeypatch, message, 14)  # the trial takes 10
    there = cycleinr.upsample(thick_ct, device="cuda", **ASKED)
    assert there.report["device"] == "cpu" and any(said in warning for warning in there.report["warnings"])
    assert np.abs(there.volume.values.astype(int) - here.volume.values).max() <= 1


def test_a_preview_whose_device_fails_goes_on_with_the_cpu(thick_ct, cuda, monkeypatch):
    here = cycleinr.preview(thick_ct, "coronal", device="cpu", **ASKED)
    fails(monkeypatch, NO_MEMORY, 14)
    there = cycleinr.preview(thick_ct, "coronal", device="cuda", **ASKED)
    assert np.abs(there.values.astype(int) - here.values).max() <= 1
