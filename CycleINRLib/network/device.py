"""Where and how precisely the network runs (floor 2)."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch

from ..errors import ResourceError
from ..machine import usable_cores
from .infer import corrections
from .model import Conditions, CycleINR

MATRIX_UNITS = ("AMX", "AVX10")  # of the names of ONEDNN_MAX_CPU_ISA: those that leave the matrix units in use
AMPERE = (8, 0)  # CUDA compute capability from which bfloat16 has matrix units
LARGEST_OFF = 0.1  # of what the network computes of a trial: bfloat16 is off by 0.01, a broken kernel by all
_TRIAL = (3, 12, 12)  # slices, rows and columns
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(asked: str) -> str:
    """ "cuda", "mps" or "cpu"; "auto" takes CUDA where a kernel really runs, else the CPU (MPS only when asked for).

    Raises
    ------
    ResourceError : the asked device is absent or runs no kernel
    """
    _stay_within_cores()
    if asked == "cpu":
        return "cpu"
    if asked in ("cuda", "mps"):
        problem = _problem(asked)
        if problem:
            raise ResourceError(f"The device {asked} cannot be used", problem, "use --device cpu")
        return asked
    return "cuda" if _problem("cuda") is None else "cpu"


def _stay_within_cores() -> None:
    """No more threads than the process may use cores: torch counts those of the whole machine where a control group
    grants fewer."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


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


def choose_precision(asked: str, device: str) -> str:
    """The precision to run in; "auto" is that of `usual_precision`."""
    return usual_precision(device)[0] if asked == "auto" else asked


def usual_precision(device: str) -> tuple[str, str]:
    """What "auto" takes on a device, and why: decided by what the machine is, never by a stopwatch or by its load.

    A scan may still be computed in float32, see `upsampling.settings.in_believed_precision`.
    bfloat16 where matrix units compute it: 6 times the rate of float32 convolutions on AMX. AVX-512 BF16 alone is half
    as fast as float32 there, anything older emulates it (measured with oneDNN's ONEDNN_MAX_CPU_ISA).
    """
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        found = f"compute capability {major}.{minor}"
        return ("bfloat16" if (major, minor) >= AMPERE else "float32"), found
    if device != "cpu":
        return "float32", f"bfloat16 is not tried on {device}"
    if not _has_amx():
        return "float32", "the processor has no AMX"
    if not torch.backends.mkldnn.is_available():
        return "float32", "this torch has no oneDNN"
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return "float32", f"torch is held to {torch.backends.cpu.get_cpu_capability()}"
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):  # oneDNN takes the first one that is set
        limit = os.environ.get(name, "").upper()
        if limit and limit not in ("ALL", "DEFAULT"):
            held = any(unit in limit for unit in MATRIX_UNITS)
            return ("bfloat16" if held else "float32"), f"{name} is {limit}"
    return "bfloat16", "AMX"


def _has_amx() -> bool:
    """Whether the processor has AMX and the system lets it be used; False where this torch does not say."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def cast_network(network: CycleINR, device: str, dtype: torch.dtype) -> CycleINR:
    """A copy of the network there, its encoder in that precision; the network itself where nothing changes."""
    first = next(network.parameters())
    if first.device.type == device and first.dtype == dtype:
        return network
    copy = CycleINR(network.config).to(device=device)
    for part in (copy.enter, copy.blocks, copy.leave, copy.skip):
        part.to(dtype)  # the decoder stays in float32: there rounding shows, see `infer`
    copy.load_state_dict(network.state_dict())
    return copy.eval().requires_grad_(False)


class Placed(NamedTuple):
    """A network where it runs, and in what precision; `doubt` says why that is not where it was to be."""

    network: CycleINR
    device: str
    precision: str
    doubt: str | None = None


def place_network(network: CycleINR, device: str, precision: str) -> Placed:
    """The network on the asked device in the asked precision; on the CPU where "auto" finds one that cannot run it.

    Raises
    ------
    ResourceError : the asked device is absent, or computes something else than the CPU
    """
    found = choose_device(device)
    taken = choose_precision(precision, found)
    try:
        placed = cast_network(network, found, DTYPES[taken])
        problem = None if found == "cpu" else _trial(placed, network)
    except RuntimeError as error:  # no kernel for this card or type; no memory
        problem = str(error).splitlines()[0]
    if problem is None:
        return Placed(placed, found, taken)
    if device != "auto":
        raise ResourceError(f"The device {device} cannot be used", problem, "use --device cpu")
    return place_network(network, "cpu", precision)._replace(doubt=f"{found} is not used: {problem}.")


def _trial(placed: CycleINR, network: CycleINR) -> str | None:
    """What is wrong with what a network computes there; None where it is what it computes here."""
    source = np.random.default_rng(0).normal(0, 0.1, _TRIAL).astype(np.float32)
    told = {"detail": 0.1, "z_scale": 2.0, "conditions": Conditions(1.0, 0.0, 4.0, 0.0, 0.0)}
    places = np.array([0.25, 0.5, 1.25])
    there, here = (
        np.concatenate([found.copy() for _, found in corrections(one, source, slice(0, _TRIAL[1]), places, **told)])
        for one in (placed, network)
    )
    off = float(np.sqrt(np.mean(np.square(there - here))))
    size = float(np.sqrt(np.mean(np.square(here))))
    return None if off <= LARGEST_OFF * size else f"a trial of the network came out wrong by {off / size:.0%}"


def cuda_memory_bytes() -> tuple[float, float]:
    """Free and whole memory of the CUDA device."""
    free, whole = torch.cuda.mem_get_info()
    return float(free), float(whole)
