"""Where and how precisely the network runs (floor 2)."""

from __future__ import annotations

import contextlib
import os
import traceback
import warnings
from typing import NamedTuple

import numpy as np
import torch

from ..errors import ResourceError
from ..machine import usable_cores
from .infer import corrections
from .model import Conditions, CycleINR

MATRIX_UNITS = ("AMX", "AVX10")  # of the names of ONEDNN_MAX_CPU_ISA: those that leave the matrix units in use
VOLTA, AMPERE = (7, 0), (8, 0)  # CUDA compute capabilities from which float16, and bfloat16, have matrix units
LARGEST_OFF = 0.1  # of what the network computes of a trial: bfloat16 is off by 0.01, a broken kernel by all
_TRIAL = (3, 12, 12)  # slices, rows and columns
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(asked: str) -> str:
    """ "cuda", "mps" or "cpu"; "auto" takes CUDA where a kernel really runs, else the CPU (MPS only when asked for).

    Of several CUDA devices the current one: CUDA puts the fastest first, CUDA_VISIBLE_DEVICES names another.

    Raises
    ------
    ResourceError : the asked device is absent or runs no kernel
    """
    return _chosen(asked)[0]


def _chosen(asked: str) -> tuple[str, str | None]:
    """`choose_device`, and why "auto" leaves a CUDA device that this machine seems to have."""
    _stay_within_cores()
    if asked == "cpu":
        return "cpu", None
    seen, problem = _looked_at("cuda" if asked == "auto" else asked)
    if problem is None:
        return ("cuda" if asked == "auto" else asked), None
    if asked != "auto":
        raise ResourceError(f"The device {asked} cannot be used", problem, "use --device cpu")
    return "cpu", problem if seen else None


def _stay_within_cores() -> None:
    """No more threads than the process may use cores: torch counts those of the whole machine where a control group
    grants fewer."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def _looked_at(device: str) -> tuple[bool, str | None]:
    """Whether there seems to be one, and why it cannot be used; None where a small kernel gives the right sum."""
    with warnings.catch_warnings(record=True) as said:  # torch only warns of a driver that is too old for it
        warnings.simplefilter("always")
        there = torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
        if not there:
            told = [str(one.message).split(" (Triggered internally")[0].rstrip(".") for one in said]
            return bool(told), "; ".join([f"this torch ({torch.__version__}) sees no {device} device", *told])
        try:
            right = float(torch.ones(64, device=device).sum()) == 64
        except RuntimeError as error:  # no kernel for this card among them
            return True, str(error).splitlines()[0]
    return True, None if right else "a test sum came out wrong"


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
        reduced = "float16" if (major, minor) >= VOLTA else "float32"  # whose range `infer` watches
        return ("bfloat16" if (major, minor) >= AMPERE else reduced), f"compute capability {major}.{minor}"
    if device != "cpu":
        return "float32", f"reduced precision is not tried on {device}"
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

    Where "auto" takes a reduced precision that fails there, float32 is tried next.

    Raises
    ------
    ResourceError : the asked device is absent, or computes something else than the CPU
    """
    found, lost = _chosen(device)
    doubt = None if lost is None else f"cuda is not used: {lost}."
    if found == "cuda":
        compute_as_said()
    problem: str | None = None
    for taken in dict.fromkeys((usual_precision(found)[0], "float32") if precision == "auto" else (precision,)):
        try:
            placed = cast_network(network, found, DTYPES[taken])
            problem = None if found == "cpu" else _trial(placed, network)
        except (RuntimeError, FloatingPointError) as error:  # no kernel for this card or type; no memory
            problem = str(error).splitlines()[0]
        if problem is None:
            return Placed(placed, found, taken, doubt)
        doubt = f"{taken} is not used on {found}: {problem}."
    if device != "auto":
        raise ResourceError(f"The device {device} cannot be used", str(problem), "use --device cpu")
    return place_network(network, "cpu", precision)._replace(doubt=f"{found} is not used: {problem}.")


def compute_as_said() -> None:
    """float32 on CUDA is float32, and the same work gives the same bytes, in this process from now on.

    cuDNN's convolutions take TF32 (10 bits of 23) for float32 unless told otherwise; `benchmark` lets a stopwatch
    choose among algorithms that round differently; sums of reduced products may be reduced too.
    """
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.allow_tf32 = products.allow_tf32 = False
    cudnn.benchmark, cudnn.deterministic = False, True
    products.allow_fp16_reduced_precision_reduction = products.allow_bf16_reduced_precision_reduction = False
    if hasattr(cudnn, "fp32_precision"):  # of all of CUDA; else newer ones follow `torch.backends.fp32_precision`
        cudnn.fp32_precision = "ieee"


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


def device_memory_bytes(device: str) -> tuple[float, float]:
    """Free and whole memory of a CUDA or MPS device; what torch keeps there for later is free."""
    if device == "mps":  # shared with all else: what the system lets a program take of it
        whole = torch.mps.recommended_max_memory()
        return float(whole - torch.mps.current_allocated_memory()), float(whole)
    free, whole = torch.cuda.mem_get_info()
    return float(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()), float(whole)


def forget_failed(device: str, error: BaseException) -> None:
    """What failed work held, which its error still holds, and what torch keeps of a device's memory for later."""
    traceback.clear_frames(error.__traceback__)
    with contextlib.suppress(RuntimeError):  # of a device that is lost
        if device == "cuda":
            torch.cuda.empty_cache()
        elif device == "mps":
            torch.mps.empty_cache()
