"""The way of CUDA, on a device made of the CPU: nothing is left behind, and the numbers are those of the CPU."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

import pretend_cuda  # noqa: E402
from pretend_cuda import OnCuda, pretended  # noqa: E402
from random_network import random_network  # noqa: E402

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.errors import ResourceError  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.network import decode, infer, transfer  # noqa: E402
from CycleINRLib.network.device import DTYPES, cast_network, device_memory_bytes, place_network  # noqa: E402
from CycleINRLib.network.infer import codes_of, corrections  # noqa: E402
from CycleINRLib.network.model import Conditions, CycleINR, NetworkConfig  # noqa: E402
from CycleINRLib.upsampling import engine  # noqa: E402

SOURCE = np.random.default_rng(0).normal(0, 0.1, (5, 20, 25)).astype(np.float32)
TOLD = {"detail": 0.1, "conditions": Conditions(1.0, 0.0, 4.0, 0.4, 0.1)}
WINDOW = slice(4, 14), slice(2, 20)
ASKED = {"z_scale": 2, "noise": "acquired", "precision": "float32", "gain": 1.0}


@pytest.fixture
def network() -> CycleINR:
    return random_network(NetworkConfig(channels=8, blocks=2, codes=4, hidden=8, key=4)).eval().requires_grad_(False)


@pytest.fixture
def cuda(monkeypatch):
    with pretended(monkeypatch) as device:
        yield device


@pytest.fixture
def turing(monkeypatch):
    """A card whose matrix units know float16 alone."""
    with pretended(monkeypatch, capability=(7, 5)) as device:
        yield device


@pytest.fixture
def mps(monkeypatch):
    with pretended(monkeypatch, "mps") as device:
        yield device


@pytest.fixture(autouse=True)
def no_stopwatch(monkeypatch):
    """How fast the machine is does not matter here."""
    monkeypatch.setattr("CycleINRLib.upsampling.upsample.note_speed", lambda *_: None)


@pytest.fixture(scope="module")
def on_cpu(scan) -> np.ndarray:
    return cycleinr.upsample(scan, device="cpu", **ASKED).volume.values.astype(int)


@pytest.fixture(scope="module")
def scan(thick_ct) -> Volume:
    values = thick_ct.values[2:8, 8:48, 8:40]
    return thick_ct.with_values(values, thick_ct.geometry.cropped((2, 8, 8), values.shape))


def slabs_of(rows: int, monkeypatch) -> None:
    real = engine.cut
    monkeypatch.setattr(engine, "cut", lambda *told: real(*told[:4], min(rows, told[4] or rows)))


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
@pytest.mark.parametrize("precision, within", [("float32", 1e-6), ("bfloat16", 0.03), ("float16", 0.004)])
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


def test_a_whole_run_on_the_device_gives_the_volume_of_the_cpu(thick_ct, cuda):
    asked = {"z_scale": 2, "noise": "renew", "precision": "float32"}
    here, there = (cycleinr.upsample(thick_ct, device=device, **asked) for device in ("cpu", "cuda"))
    assert there.report["device"] == "cuda" and there.report["gain"] == pytest.approx(here.report["gain"], abs=1e-3)
    off = np.abs(there.volume.values.astype(int) - here.volume.values)
    assert off.max() <= 1 and np.mean(off > 0) < 0.01


def test_a_preview_on_the_device_gives_the_plane_of_the_cpu(thick_ct, cuda):
    asked = {"z_scale": 2, "noise": "acquired", "precision": "float32", "gain": 1.0}
    here, there = (cycleinr.preview(thick_ct, "coronal", device=device, **asked) for device in ("cpu", "cuda"))
    assert np.abs(there.values.astype(int) - here.values).max() <= 1


# --- what travels ---------------------------------------------------------------------------------------------
PINNED = 4 * 6 * 6  # bytes: two slices of `values` at a time


def values() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (9, 3, 6)).astype(np.float32)


def arrives(monkeypatch) -> np.ndarray:
    """What the device has of `values`, which are spoiled as soon as they were sent."""
    monkeypatch.setattr(transfer, "PIECE_BYTES", PINNED)
    sent = values()
    on_its_way = transfer.send(sent, torch.device("cuda", 0))
    sent[:] = 1e6
    return on_its_way.there().cpu().numpy()


def test_what_is_sent_in_pieces_arrives_whole_whatever_becomes_of_it_here(cuda, monkeypatch):
    np.testing.assert_array_equal(arrives(monkeypatch), values())
    assert cuda.copies == 5 and cuda.allocated == 0


def test_without_pinned_memory_values_arrive_too(cuda, monkeypatch):
    real = torch.empty

    def none_pinned(*shape, pin_memory=False, **told):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return real(*shape, **told)

    monkeypatch.setattr(torch, "empty", none_pinned)
    np.testing.assert_array_equal(arrives(monkeypatch), values())
    assert cuda.copies == 0


@pytest.mark.parametrize(
    "left_out, of",
    [
        ("synchronize", pretend_cuda.Event), ("wait_event", pretend_cuda.Stream),
        ("wait_stream", pretend_cuda.Stream), ("record_stream", OnCuda),
    ],
)  # fmt: skip
def test_each_wait_that_is_left_out_is_caught_by_the_pretended_device(cuda, monkeypatch, left_out, of):
    monkeypatch.setattr(of, left_out, lambda *_: None)
    try:
        found = arrives(monkeypatch)
    except RuntimeError as error:
        assert "memory" in str(error)
    else:
        assert not np.array_equal(found, values())


@pytest.mark.parametrize("waits", [True, False])
def test_a_result_is_there_once_its_copy_has_been_waited_for(cuda, monkeypatch, waits):
    if not waits:
        monkeypatch.setattr(pretend_cuda.Event, "synchronize", lambda _: None)
    fetch, made = transfer.Fetch(torch.device("cuda", 0)), torch.zeros(3, device="cuda")
    found = []
    for n in range(3):
        made += 1  # the same memory again, while the copy is on its way
        found += [values.copy() for _, values in fetch.put(slice(n, n + 1), made)]
        assert len(found) == n  # one behind
    found += [values.copy() for _, values in fetch.rest()]
    expected = np.repeat([[1], [2], [3]], 3, 1)
    assert np.array_equal(found, expected) if waits else np.isnan(found).all()


def test_the_next_slab_travels_while_one_is_computed_and_the_voxels_are_those_of_the_cpu(
    scan, on_cpu, cuda, monkeypatch
):
    slabs_of(10, monkeypatch)
    order: list[str] = []
    send, convolution = transfer.send, infer.relu_convolution

    def seen(name: str, then):
        def called(*told):
            if name == "sent" or order and order[-1] == "sent":  # the trial sends nothing ahead
                order.append(name)
            return then(*told)

        return called

    monkeypatch.setattr(transfer, "send", seen("sent", send))
    monkeypatch.setattr(infer, "relu_convolution", seen("computed", convolution))
    monkeypatch.setattr(transfer, "PIECE_BYTES", 4 * 40 * 32)  # a slice or two at a time
    there = cycleinr.upsample(scan, device="cuda", **ASKED)
    assert order == ["sent", "sent", "computed", "sent", "computed", "sent", "computed"]  # of the four slabs
    assert there.report["device"] == "cuda" and not any("emory" in one for one in there.report["warnings"])
    assert np.abs(there.volume.values - on_cpu).max() <= 1


# --- where it fails -------------------------------------------------------------------------------------------
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"
NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


def fails(monkeypatch, message: str, after: int, until: int = 10**9) -> None:
    """The encoder's convolutions raise on the device, from some call on until some other."""
    real, calls = infer.relu_convolution, []

    def convolution(x, weight, bias):
        if x.device.type == "cuda":
            calls.append(1)
            if after < len(calls) <= until:
                raise RuntimeError(message)
        return real(x, weight, bias)

    monkeypatch.setattr(infer, "relu_convolution", convolution)


@pytest.mark.parametrize("message", [NO_KERNEL, NO_MEMORY])
def test_a_device_that_cannot_run_the_network_is_left_before_anything_is_computed(scan, cuda, monkeypatch, message):
    fails(monkeypatch, message, 0)
    result = cycleinr.upsample(scan, **ASKED)
    assert result.report["device"] == "cpu"
    assert any("cuda is not used: CUDA" in warning for warning in result.report["warnings"])
    with pytest.raises(ResourceError, match="cuda cannot be used"):
        cycleinr.upsample(scan, device="cuda", **ASKED)


def test_a_device_that_computes_something_else_is_not_used(scan, cuda, monkeypatch):
    real = infer.relu_convolution
    monkeypatch.setattr(
        infer, "relu_convolution", lambda x, *rest: real(x, *rest) * (3 if x.device.type == "cuda" else 1)
    )
    result = cycleinr.upsample(scan, **ASKED)
    assert result.report["device"] == "cpu"
    assert any("came out wrong" in warning for warning in result.report["warnings"])


@pytest.mark.parametrize("message, said", [(NO_KERNEL, "cuda failed"), (NO_MEMORY, "Memory of cuda ran out")])
def test_a_run_whose_device_fails_goes_on_with_the_cpu_to_the_same_result(
    scan, on_cpu, cuda, monkeypatch, message, said
):
    fails(monkeypatch, message, 14)  # the trial takes 10
    there = cycleinr.upsample(scan, device="cuda", **ASKED)
    assert there.report["device"] == "cpu" and any(said in warning for warning in there.report["warnings"])
    assert np.abs(there.volume.values - on_cpu).max() <= 1


def test_memory_that_ran_out_halves_the_slabs_and_the_device_goes_on(scan, on_cpu, cuda, monkeypatch):
    """What the failed slab took is held by the error, and must be free before the next one is cut to what is."""
    held, real = [], engine.cut
    monkeypatch.setattr(engine, "cut", lambda *told: held.append(cuda.allocated) or real(*told))
    fails(monkeypatch, NO_MEMORY, 14, 15)  # once, in the first slab
    there = cycleinr.upsample(scan, device="cuda", **ASKED)
    assert there.report["device"] == "cuda" and len(held) == 2 and held[1] == held[0] > 0
    assert [one for one in there.report["warnings"] if "emory" in one] == ["Memory ran out: slabs of 20 rows instead."]
    assert np.abs(there.volume.values - on_cpu).max() <= 1


def test_memory_that_torch_keeps_for_later_counts_as_free(cuda):
    assert device_memory_bytes("cuda") == (cuda.whole, cuda.whole)
    some = torch.ones(1000, device="cuda")
    assert device_memory_bytes("cuda") == (cuda.whole - 4000, cuda.whole)
    del some
    assert device_memory_bytes("cuda") == (cuda.whole, cuda.whole) > torch.cuda.mem_get_info()


@pytest.mark.parametrize("card, reduced", [("cuda", "bfloat16"), ("turing", "float16")])
@pytest.mark.parametrize("fails", [True, False])
def test_a_precision_that_fails_on_a_device_gives_way_to_float32_there(
    network, monkeypatch, request, card, reduced, fails
):
    request.getfixturevalue(card)
    real = infer.relu_convolution

    def convolution(x, weight, bias):
        made = real(x, weight, bias)
        return made * float("nan") if fails and x.device.type == "cuda" and x.dtype == DTYPES[reduced] else made

    monkeypatch.setattr(infer, "relu_convolution", convolution)
    placed = place_network(network, "auto", "auto")
    assert (placed.device, placed.precision) == ("cuda", "float32" if fails else reduced)
    assert (placed.doubt or "").startswith(f"{reduced} is not used on cuda") == fails


@pytest.mark.parametrize("after", [14, 44], ids=["while its rounding is looked at", "in the run"])
def test_numbers_beyond_the_range_of_float16_are_computed_in_float32_on_the_same_device(
    scan, on_cpu, turing, monkeypatch, after
):
    real, calls = infer.relu_convolution, []

    def convolution(x, weight, bias):
        made = real(x, weight, bias)
        if x.dtype == torch.float16:
            calls.append(1)
            if len(calls) > after:
                made[0, 5, 5, 0] = 7e4  # infinite in float16, in one place
        return made

    monkeypatch.setattr(infer, "relu_convolution", convolution)
    there = cycleinr.upsample(scan, **{**ASKED, "precision": "auto"})
    assert (there.report["device"], there.report["precision"]) == ("cuda", "float32")
    assert "Numbers left the range of float16: going on in float32." in there.report["warnings"]
    assert len(calls) > after and np.abs(there.volume.values - on_cpu).max() <= 1


def test_float16_is_taken_where_its_rounding_does_not_show(scan, on_cpu, turing):
    there = cycleinr.upsample(scan, **{**ASKED, "precision": "auto"})
    assert (there.report["device"], there.report["precision"]) == ("cuda", "float16")
    assert not any("range" in one for one in there.report["warnings"])
    assert np.abs(there.volume.values - on_cpu).max() <= 1


def test_a_device_that_fails_while_the_gain_is_fitted_gives_way_to_the_cpu(scan, cuda, monkeypatch):
    fails(monkeypatch, NO_KERNEL, 14)
    there = cycleinr.upsample(scan, device="cuda", **{**ASKED, "gain": None})
    assert there.report["device"] == "cpu" and any("cuda failed" in one for one in there.report["warnings"])


@pytest.mark.parametrize("least", [0.0, 1.0], ids=["all neighbors", "the pixel itself"])
def test_mps_computes_what_the_cpu_does_and_sees_no_float64(network, mps, monkeypatch, least):
    monkeypatch.setattr(decode, "LEAST_BESIDE", least)
    here = corrected(network)
    placed = place_network(network, "mps", "auto")
    assert (placed.device, placed.precision) == ("mps", "float32")
    there = corrected(placed.network)
    assert np.abs(there - here).max() <= 1e-6 * np.abs(here).max()
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2, dtype=torch.float64).to("mps")


def test_a_run_on_mps_asks_its_own_memory_and_gives_the_volume_of_the_cpu(scan, on_cpu, mps):
    there = cycleinr.upsample(scan, device="mps", **ASKED)
    assert there.report["device"] == "mps" and np.abs(there.volume.values - on_cpu).max() <= 1
    mps.whole = 1e5
    with pytest.raises(ResourceError, match="GB for the smallest slab"):
        cycleinr.upsample(scan, device="mps", **ASKED)


def test_a_card_without_kernels_is_left_and_named(network, cuda, monkeypatch):
    real = torch.ones

    def ones(*shape, **told):
        if str(told.get("device")) == "cuda":
            raise RuntimeError(NO_KERNEL)
        return real(*shape, **told)

    monkeypatch.setattr(torch, "ones", ones)
    placed = place_network(network, "auto", "float32")
    assert placed.device == "cpu" and placed.doubt == f"cuda is not used: {NO_KERNEL}."
    with pytest.raises(ResourceError, match="no kernel image"):
        place_network(network, "cuda", "float32")


OLD_DRIVER = "CUDA initialization: The NVIDIA driver on your system is too old (found version 10010)."


@pytest.mark.parametrize("said", [OLD_DRIVER, None])
def test_a_driver_that_is_too_old_is_told_and_a_machine_without_a_card_is_not_bothered(network, monkeypatch, said):
    def is_available() -> bool:
        if said:
            warnings.warn(f"{said} (Triggered internally at CUDAFunctions.cpp:109.)", UserWarning, stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    placed = place_network(network, "auto", "float32")
    assert placed.device == "cpu" and (said is None) == (placed.doubt is None)
    with pytest.raises(ResourceError, match="driver .* too old" if said else "sees no cuda device"):
        place_network(network, "cuda", "float32")
    assert said is None or placed.doubt is not None and placed.doubt.endswith("too old (found version 10010).")


@pytest.fixture
def as_torch_comes():
    """With what torch, or another library, lets CUDA do with float32."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    places = [(cudnn, "allow_tf32"), (products, "allow_tf32"), (cudnn, "benchmark"), (cudnn, "deterministic")]
    before = [getattr(*place) for place in places]
    for part, name in places[:3]:
        setattr(part, name, True)
    yield places
    for place, value in zip(places, before):
        setattr(*place, value)


def test_float32_on_cuda_is_float32_and_no_stopwatch_chooses_algorithms(network, cuda, monkeypatch, as_torch_comes):
    """cuDNN takes TF32 for it unless told otherwise."""
    seen, real = set(), infer.relu_convolution

    def convolution(x, weight, bias):
        if x.device.type == "cuda":
            seen.add(tuple(getattr(*place) for place in as_torch_comes))
        return real(x, weight, bias)

    monkeypatch.setattr(infer, "relu_convolution", convolution)
    place_network(network, "cuda", "float32")
    assert seen == {(False, False, False, True)}


def test_a_preview_whose_device_fails_goes_on_with_the_cpu(scan, cuda, monkeypatch):
    here = cycleinr.preview(scan, "coronal", device="cpu", **ASKED)
    fails(monkeypatch, NO_MEMORY, 14)
    there = cycleinr.preview(scan, "coronal", device="cuda", **ASKED)
    assert np.abs(there.values.astype(int) - here.values).max() <= 1
