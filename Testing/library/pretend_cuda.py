"""A CUDA or MPS device made of the CPU: its tensors say that they are there, compute the same numbers, and refuse to be
mixed with those of the CPU, as real ones do. For machines without one: what was left behind on the CPU is found.

Copies that need not block happen as late as they may: when an event behind them is waited for. Until then their target
is not a number, and their source may still be spoiled. Memory is counted as torch does, which keeps what was freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from CycleINRLib.network import transfer

MEMORY = 10e9  # bytes
SCALARS = (torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.__bool__, torch.Tensor.item, torch.Tensor.tolist)
MIXED = ("copy_", "_to_copy", "index", "index_put_")  # operators that real devices let see both sides


class Stream:
    """What was queued and has not happened yet: copies, and waiting for other streams."""

    def __init__(self, device: Any = None) -> None:
        self.queued: list[Callable[[], Any]] = []
        self.done = 0  # of what was ever queued
        self.followed: set[Stream] = {self}  # those whose memory it may use

    def queue(self, task: Callable[[], Any]) -> None:
        self.queued.append(task)

    def run(self, until: int) -> None:
        while self.done < until and self.queued:
            task = self.queued.pop(0)
            self.done += 1
            task()

    @property
    def count(self) -> int:
        return self.done + len(self.queued)

    def wait_event(self, event: Event) -> None:
        self.queue(event.synchronize)
        self.followed.add(event.stream)
        if self is DEVICE.main:  # its kernels run at once
            self.run(self.count)

    def wait_stream(self, other: Stream) -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)


class Event:
    """A place in a stream."""

    def __init__(self) -> None:
        self.stream, self.until = DEVICE.main, 0

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or DEVICE.current
        self.until = self.stream.count

    def synchronize(self) -> None:
        self.stream.run(self.until)


class Memory:
    """Of a tensor and its views."""

    def __init__(self, size: int) -> None:
        self.size, self.made_on, self.recorded = size, DEVICE.current, {DEVICE.current}
        DEVICE.allocated += size
        DEVICE.reserved = max(DEVICE.reserved, DEVICE.allocated)

    def __del__(self) -> None:
        DEVICE.allocated -= self.size


class Device:
    """The one device: its streams and memory."""

    def __init__(self, kind: str) -> None:
        self.name = torch.device(kind, 0)
        self.whole, self.allocated, self.reserved = MEMORY, 0, 0  # bytes
        self.pinned: dict[int, torch.Tensor] = {}  # by address; kept, so that no other memory gets it
        self.copies = 0  # that did not block
        self.main = self.current = Stream()

    def forget(self) -> None:
        self.reserved = self.allocated

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


DEVICE: Any = None  # of the test that runs


class OnCuda(torch.Tensor):
    """A tensor on the pretended device; `numbers` holds its numbers."""

    numbers: torch.Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, real: torch.Tensor, memory: Memory | None = None) -> OnCuda:
        with torch.inference_mode(False):  # views of what is inside and outside are alike then
            return torch.Tensor._make_wrapper_subclass(
                cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
                device="cpu", requires_grad=False,  # a torch built without CUDA has no guard for other ones
            )  # fmt: skip

    def __init__(self, real: torch.Tensor, memory: Memory | None = None) -> None:
        if DEVICE.name.type == "mps" and real.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        self.numbers = real
        self.memory = memory or Memory(real.untyped_storage().nbytes())

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE.name

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        self.memory.recorded.add(stream)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCuda({self.numbers!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = operator.overloadpacket.__name__
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        left_behind = [one for one in tensors if not isinstance(one, OnCuda) and one.dim() > 0]
        if left_behind and name not in MIXED:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {DEVICE.name} and cpu ({name})"
            )
        if operator.namespace in ("mkldnn", "mkldnn_prepacked"):
            raise NotImplementedError(f"{operator} has no kernel for {DEVICE.name}")
        stays = name != "_to_copy" or kwargs.get("device") is None  # `_Makers` has seen to what is sent there
        if name == "copy_" and any(not isinstance(one, OnCuda) for one in args[:2]):
            _copy(*args[:2], waits=not (kwargs.get("non_blocking") or args[2:3] == (True,)))
            return args[0]
        found = operator(*tree_map(_bare, args), **tree_map(_bare, kwargs))
        if args and isinstance(args[0], OnCuda) and operator._schema.is_mutable:
            return args[0] if not name.endswith("_out") and kwargs.get("out") is None else _worn(found)
        held = {one.numbers.untyped_storage().data_ptr(): one.memory for one in tensors if isinstance(one, OnCuda)}
        return tree_map(lambda one: _worn(one, held), found) if stays else found


def _bare(one: Any) -> Any:
    return one.numbers if isinstance(one, OnCuda) else one


def _worn(one: Any, held: dict[int, Memory] | None = None) -> Any:
    if not isinstance(one, torch.Tensor) or isinstance(one, OnCuda):
        return one
    return OnCuda(one, (held or {}).get(one.untyped_storage().data_ptr()))


def _copy(into: torch.Tensor, source: torch.Tensor, waits: bool) -> None:
    """Between the device and the CPU."""
    here = source if isinstance(into, OnCuda) else into
    there = into if isinstance(into, OnCuda) else source
    stream, memory = DEVICE.current, there.memory
    if memory.made_on not in stream.followed:
        raise RuntimeError("kernels of another stream may still use this memory")
    if stream not in memory.recorded:
        raise RuntimeError("this memory may serve others before the copy has ended")
    if waits or here.untyped_storage().data_ptr() not in DEVICE.pinned:
        stream.run(stream.count)
        _bare(into).copy_(_bare(source))
        return
    DEVICE.copies += 1
    numbers, target = _bare(source), _bare(into)
    if here is into:  # what comes back is what the kernels have made so far
        numbers = numbers.clone()
    target.fill_(float("nan"))
    stream.queue(partial(target.copy_, numbers))
    if here is not into and stream is DEVICE.main:
        stream.run(stream.count)  # before the kernels that follow


class _Makers(TorchFunctionMode):
    """Tensors that are made on, or sent to, the pretended device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.pop("pin_memory", False):
            made = function(*args, **kwargs)
            DEVICE.pinned[made.untyped_storage().data_ptr()] = made
            return made
        if function is torch.Tensor.record_stream:
            return OnCuda.record_stream(*args, **kwargs)
        if function is torch._C._nn._parse_to:
            return function(*args, **kwargs)
        if function is torch.Tensor.numpy and isinstance(args[0], OnCuda):
            raise TypeError(f"can't convert {DEVICE.name} device type tensor to numpy")
        if function is torch.Tensor.cpu:
            return _bare(args[0]).clone()
        if function in SCALARS:
            return function(*tree_map(_bare, args), **kwargs)
        device = kwargs.get("device")
        sent = device is not None and torch.device(device).type == DEVICE.name.type
        if function is torch.Tensor.to and len(args) > 1 and isinstance(args[1], (str, torch.device)):
            sent, args = torch.device(args[1]).type == DEVICE.name.type, (args[0], "cpu", *args[2:])
            if not sent:
                return function(_bare(args[0]), *args[1:], **kwargs)
        if not sent:
            return function(*args, **kwargs)
        if device is not None:
            kwargs["device"] = "cpu"
        return _worn(function(*tree_map(_bare, args), **kwargs))


@contextmanager
def pretended(monkeypatch: Any, kind: str = "cuda", capability: tuple[int, int] = (8, 0)) -> Iterator[Device]:
    """As on a machine with a device of that kind; of CUDA, of that compute capability."""
    global DEVICE
    DEVICE = device = Device(kind)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    for name, told in (("recommended_max", lambda: device.whole), ("current_allocated", lambda: device.allocated)):
        monkeypatch.setattr(torch.mps, f"{name}_memory", told)
    monkeypatch.setattr(torch.mps, "empty_cache", device.forget)
    of_torch = {
        "is_available": lambda: kind == "cuda", "get_device_capability": lambda: capability,
        "get_device_name": lambda: "pretended", "mem_get_info": lambda: (device.whole - device.reserved, device.whole),
        "memory_allocated": lambda: device.allocated, "memory_reserved": lambda: device.reserved,
        "empty_cache": device.forget, "Event": Event, "Stream": Stream, "stream": device.stream,
        "current_stream": lambda _=None: device.current,
    }  # fmt: skip
    for name, pretending in of_torch.items():
        monkeypatch.setattr(torch.cuda, name, pretending)
    transfer._copying.cache_clear()
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # else weights stay what they are
    try:
        with _Makers():
            yield device
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
        transfer._copying.cache_clear()
