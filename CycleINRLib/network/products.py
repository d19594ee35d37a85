"""Layers as matrix products with what follows them done in the same pass over memory, where torch can (floor 2).

oneDNN adds bias, ReLU or the values that are already there while a result is still in a register. torch offers this
to its own compiler as `torch.ops.mkldnn`; a torch without these operators, or on another device, gets the plain ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _fused(name: str, overload: str = "default"):
    """An operator of `torch.ops.mkldnn`, or None where this torch has none of that name."""
    try:
        return getattr(getattr(torch.ops.mkldnn, name), overload) if torch.backends.mkldnn.is_available() else None
    except AttributeError:
        return None


_LINEAR = _fused("_linear_pointwise")
_CONVOLVE = _fused("_convolution_pointwise")
_CONVOLVE_INTO = _fused("_convolution_pointwise_", "binary")


def _fuses(x: Tensor) -> bool:
    """Whether oneDNN takes such numbers on this processor: reduced ones need AVX-512 or what came after it."""
    if x.device.type != "cpu":
        return False
    if x.dtype == torch.float32:
        return True
    asked = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(x.dtype, "")
    supported = _fused(asked)
    return supported is not None and bool(supported())


def _reduced_on_cpu(x: Tensor) -> bool:
    """Only there fusing wins: in float32 a product takes long beside a pass over memory."""
    return x.dtype == torch.bfloat16 and _fuses(x)


def relu_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU(convolution within slices + bias): x (n, h, w, C), weight (out, C, 3, 3) -> (n, h, w, out), contiguous."""
    planes = x.permute(0, 3, 1, 2)
    if _CONVOLVE is not None and _fuses(x):
        out = _CONVOLVE(planes, weight, bias, [1, 1], [1, 1], [1, 1], 1, "relu", [], "")
    else:
        out = F.conv2d(planes, weight, bias, padding=1).relu_()
    return out.permute(0, 2, 3, 1).contiguous()


def add_along(x: Tensor, inner: Tensor, weight: Tensor, bias: Tensor) -> None:
    """x (n, h, w, C) += convolution of `inner` (the same) along its slices, zero beyond them; weight (C, C, 3, 1)."""
    n, h, w, C = x.shape
    into, seen = (part.view(1, n, h * w, C).permute(0, 3, 1, 2) for part in (x, inner))
    weight = weight.contiguous(memory_format=torch.channels_last)
    if n > 1 and _CONVOLVE_INTO is not None and _fuses(x):
        _CONVOLVE_INTO(into, seen, weight, bias, [1, 0], [1, 1], [1, 1], 1, "add", 1.0, None, [], None)
        return
    made = F.conv2d(seen, weight, bias, padding=(1, 0))  # rounded once, and once more where it is added
    x += made.permute(0, 2, 3, 1).reshape(x.shape)


def relu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU(x @ weight.T + bias): (rows, in), (out, in), (out,) -> (rows, out)."""
    if _LINEAR is not None and _reduced_on_cpu(x):
        return _LINEAR(x, weight, bias, "relu", [], "")
    return F.linear(x, weight, bias).relu_()
