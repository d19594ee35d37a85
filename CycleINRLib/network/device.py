"""Where and how precisely the network runs (floor 2)."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from ..errors import ResourceError
from .model import Conditions, CycleINR, source_features

CLOSE_ENOUGH = 0.03  # relative RMS between reduced and full precision that the self-test accepts
FASTER = 1.2  # reduced precision must be at least this much faster
_CHOSEN: dict[tuple, str] = {}  # a process tests once, so that repeated jobs give the same bytes
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(asked: str) -> str:
    """ "cuda", "mps" or "cpu"; "auto" takes CUDA where a kernel really runs, else the CPU (MPS only when asked for).

    Raises
    ------
    ResourceError : the asked device is absent or runs no kernel
    """
    if asked == "cpu":
        return "cpu"
    if asked in ("cuda", "mps"):
        problem = _problem(asked)
        if problem:
            raise ResourceError(f"The device {asked} cannot be used", problem, "use --device cpu")
        return asked
    return "cuda" if _problem("cuda") is None else "cpu"


def _problem(device: str) -> str | None:
    """Why a device cannot be used, in words; None where a small kernel gives the right sum."""
    there = torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
    if not there:
        return f"this torch ({torch.__version__}) sees no {device} device"
    try:
        if float(torch.ones(64, device=device).sum()) == 64:
            return None
        return "a test sum came out wrong"
    except RuntimeError as error:
        return str(error).splitlines()[0]


def describe(device: str) -> str:
    """The device in words, for the report."""
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)" if device == "cpu" else device


def choose_precision(asked: str, network: CycleINR, device: str) -> str:
    """The precision to run in: "auto" takes bfloat16 only where a short self-test shows it faster and close enough."""
    if asked != "auto":
        return asked
    key = (network.config, device)
    if key not in _CHOSEN:
        _CHOSEN[key] = _faster_precision(network, device)
    return _CHOSEN[key]


def _faster_precision(network: CycleINR, device: str) -> str:
    if device == "mps" or (device == "cpu" and not _cpu_likes_bfloat16(network.config.channels)):
        return "float32"
    full, full_s = _trial(network, device, torch.float32)
    reduced, reduced_s = _trial(network, device, torch.bfloat16)
    error = float((full - reduced).square().mean().sqrt() / full.square().mean().sqrt().clamp_min(1e-9))
    return "bfloat16" if reduced_s * FASTER < full_s and error <= CLOSE_ENOUGH else "float32"


def _cpu_likes_bfloat16(channels: int) -> bool:
    """Whether one small convolution is faster in bfloat16: processors without AVX-512 emulate it, 50 times slower."""
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(1, channels, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.ones(channels, channels, 3, 3, dtype=dtype)
        seconds.append(_best_seconds(lambda x=x, weight=weight: F.conv2d(x, weight, padding=1)))
    return seconds[1] * FASTER < seconds[0]


@torch.inference_mode()
def _trial(network: CycleINR, device: str, dtype: torch.dtype):
    """The correction of one slice of a fixed textured block, and the seconds of the best of three runs."""
    k, j, i = torch.meshgrid(torch.arange(6.0), torch.arange(64.0), torch.arange(64.0), indexing="ij")
    values = torch.sin(j / 3 + k) * torch.cos(i / 5 - k) * 0.3 + 0.05 * torch.sin(17 * j * i + k)
    model = cast_network(network, device, dtype)
    features = source_features(values[None].to(device), 0.1).to(dtype)
    told = Conditions(ratio=1.0, gaussian=0.0, anisotropy=4.0, through=0.3, within=0.0)
    condition = torch.tensor([told.of_scan()], device=device, dtype=dtype)
    query = torch.tensor([told.of_place(0.5, 4.0)], device=device, dtype=dtype)
    t = torch.tensor([0.5], device=device, dtype=dtype)

    def run() -> torch.Tensor:
        codes = model.codes_of(model.encode(features, condition), features)
        below, above = codes[:, :, 2], codes[:, :, 3]
        return model.decode(below, above, model.keys_of(below), model.keys_of(above), t, query).float().cpu()

    return run(), _best_seconds(run)


def _best_seconds(run, times: int = 3) -> float:
    run()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def cast_network(network: CycleINR, device: str, dtype: torch.dtype) -> CycleINR:
    """A copy of the network there and in that precision; the network itself where nothing changes."""
    first = next(network.parameters())
    if first.device.type == device and first.dtype == dtype:
        return network
    copy = CycleINR(network.config).to(device=device, dtype=dtype)
    copy.load_state_dict(network.state_dict())
    return copy.eval().requires_grad_(False)


def free_memory_bytes() -> float:
    """Free memory of the CUDA device."""
    return float(torch.cuda.mem_get_info()[0])
