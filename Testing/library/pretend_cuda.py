"""A CUDA device made of the CPU: its tensors say that they are on "cuda", compute the same numbers, and refuse to be
mixed with those of the CPU, as real ones do. For machines without one: what was left behind on the CPU is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
MEMORY = (8e9, 10e9)  # bytes, free and whole
SCALARS = (torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.__bool__, torch.Tensor.item, torch.Tensor.tolist)
MIXED = ("copy_", "_to_copy", "index", "index_put_")  # operators that real devices let see both sides


class OnCuda(torch.Tensor):
    """A tensor on the pretended device; `numbers` holds its numbers."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnCuda:
        with torch.inference_mode(False):  # views of what is inside and outside are alike then
            return torch.Tensor._make_wrapper_subclass(
                cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
                device="cpu", requires_grad=False,  # a torch built without CUDA has no guard for other ones
            )  # fmt: skip

    def __init__(self, real: torch.Tensor) -> None:
        self.numbers = real

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

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
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({name})")
        if operator.namespace in ("mkldnn", "mkldnn_prepacked"):
            raise NotImplementedError(f"{operator} has no kernel for CUDA")
        stays = name != "_to_copy" or kwargs.get("device") is None  # `_Makers` has seen to what is sent there
        if name == "copy_" and not isinstance(args[0], OnCuda):  # back to the CPU
            return operator(args[0], args[1].numbers, **kwargs)
        found = operator(*tree_map(_bare, args), **tree_map(_bare, kwargs))
        if args and isinstance(args[0], OnCuda) and operator._schema.is_mutable:
            return args[0] if not name.endswith("_out") and kwargs.get("out") is None else _worn(found)
        return tree_map(_worn, found) if stays else found


def _bare(one: Any) -> Any:
    return one.numbers if isinstance(one, OnCuda) else one


def _worn(one: Any) -> Any:
    return OnCuda(one) if isinstance(one, torch.Tensor) and not isinstance(one, OnCuda) else one


class _Makers(TorchFunctionMode):
    """Tensors that are made on, or sent to, the pretended device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.pop("pin_memory", False):
            return function(*args, **kwargs)
        if function is torch._C._nn._parse_to:
            return function(*args, **kwargs)
        if function is torch.Tensor.numpy and isinstance(args[0], OnCuda):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if function is torch.Tensor.cpu:
            return _bare(args[0]).clone()
        if function in SCALARS:
            return function(*tree_map(_bare, args), **kwargs)
        device = kwargs.get("device")
        sent = device is not None and torch.device(device).type == "cuda"
        if function is torch.Tensor.to and len(args) > 1 and isinstance(args[1], (str, torch.device)):
            sent, args = torch.device(args[1]).type == "cuda", (args[0], "cpu", *args[2:])
            if not sent:
                return function(_bare(args[0]), *args[1:], **kwargs)
        if not sent:
            return function(*args, **kwargs)
        if device is not None:
            kwargs["device"] = "cpu"
        return _worn(function(*tree_map(_bare, args), **kwargs))


@contextmanager
def pretended(monkeypatch: Any) -> Iterator[None]:
    """As on a machine with a CUDA device of compute capability 8.0."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "pretended")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: MEMORY)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # else weights stay what they are
    try:
        with _Makers():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
