"""Runs the network over the rows of one slab: encode once, then one output slice after another (floor 2).

The same sums as `CycleINR.encode` and `decode`, streamed along z so that only one encoded copy of the slab is alive.
Each layer of the encoder looks one pixel further than the next one, so the halo gets narrower from layer to layer.
In reduced precision the encoder alone is reduced: rounding in the decoder as well doubles the difference to float32, to
0.06 of a quiet scan's noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .model import FEATURES, Block, Conditions, CycleINR, fold, source_features

CHUNK_VOXELS = 200_000  # of the in-plane grid that one call of a convolution sees: about what a cache holds
DECODE_VOXELS = 150_000
NARROWED = 0.9  # of what is held: the rest is dropped where so little of it is still needed


@torch.inference_mode()
def corrections(
    network: CycleINR,
    source: np.ndarray,
    rows: slice,
    positions: np.ndarray,
    *,
    columns: slice | None = None,
    detail: float,
    z_scale: float,
    conditions: Conditions,
    textures: Sequence[float] = (0.0,),
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """The correction at each output place, for some rows of a block.

    Parameters
    ----------
    network : CycleINR on its device and in its precision
    source : (N, R, I) float32, normalized intensities of the rows with their halo
    rows, columns : which of the R rows and I columns are wanted; None: all columns
    positions : (M,) sorted places along z in source slices, within [0, N - 1]
    detail : of the whole scan (IntensityScale), the unit of the network's output
    z_scale, conditions : what the network is told
    textures : 0 least error, 1 natural noise; all of them from one encoding
    tick : called after every piece of work; may raise to stop

    Yields
    ------
    (slice of M, (textures, m, rows, columns) float32 corrections in normalized intensities)
    """
    parameter = next(network.parameters())
    device, dtype = parameter.device, parameter.dtype
    N, R, width = source.shape
    values = torch.from_numpy(np.ascontiguousarray(source)).to(device)
    values = F.pad(values[None], (0, width % 2, 0, R % 2), mode="replicate")
    features = source_features(values, detail).to(dtype)
    condition = torch.tensor([conditions.of_scan()], device=device, dtype=dtype)
    down = _Window.of(rows, features.shape[3])
    across = _Window.of(columns or slice(0, width), features.shape[4])
    encoded = encode_streamed(network, features, condition, tick, (down.folded, across.folded))

    def codes_at(k: int) -> tuple[Tensor, Tensor | None]:
        part = features[:, :, k : k + 1, down.unfolded, across.unfolded]
        codes = network.codes_of(encoded[:, :, k : k + 1], part)[:, :, 0, down.cut, across.cut].float().contiguous()
        return codes, network.keys_of(codes)

    below_of = np.clip(np.floor(positions + 1e-9).astype(int), 0, max(N - 2, 0))
    step = max(1, DECODE_VOXELS // (down.size * across.size))
    held: dict[int, tuple[Tensor, Tensor | None]] = {}
    for k in range(max(N - 1, 1)):
        at = np.flatnonzero(below_of == k)
        if len(at) == 0:
            tick()
            continue
        held = {n: held[n] if n in held else codes_at(n) for n in (k, min(k + 1, N - 1))}
        (below, keys_below), (above, keys_above) = held[k], held[min(k + 1, N - 1)]
        for first in range(at[0], at[-1] + 1, step):
            part = slice(first, min(first + step, at[-1] + 1))
            ts = np.clip(positions[part] - k, 0, 1)
            P = len(ts)
            t = torch.tensor(ts, device=device, dtype=torch.float32)
            query = torch.tensor([conditions.of_place(float(t_), z_scale) for t_ in ts], device=device)
            here, there = (codes.expand(P, -1, -1, -1) for codes in (below, above))
            keys_here, keys_there = (
                None if keys is None else keys.expand(P, -1, -1, -1) for keys in (keys_below, keys_above)
            )
            out = network.decode(here, there, keys_here, keys_there, t, query)[None]
            if any(textures):
                amounts = torch.tensor(textures, device=device, dtype=torch.float32)[:, None, None, None]
                out = out + amounts * network.texture(here, there, query)
            yield part, (out[..., down.inner, across.inner].float() * detail).cpu().numpy()
        tick()


@dataclass(frozen=True)
class _Window:
    """The rows (or columns) that are decoded for the wanted ones: LAM looks one further, pixels are folded by two."""

    folded: slice  # of the encoded block
    unfolded: slice  # the same of the in-plane grid
    cut: slice  # of the unfolded ones: the wanted ones and one around
    inner: slice  # of the cut ones: the wanted ones
    size: int

    @classmethod
    def of(cls, wanted: slice, count: int) -> _Window:
        first, last = max(0, wanted.start - 1), min(count, wanted.stop + 1)
        folded = slice(first // 2, -(-last // 2))
        cut = slice(first - 2 * folded.start, last - 2 * folded.start)
        inner = slice(wanted.start - first, wanted.stop - first)
        return cls(folded, slice(2 * folded.start, 2 * folded.stop), cut, inner, last - first)


def encode_streamed(
    network: CycleINR,
    features: Tensor,
    condition: Tensor,
    tick: Callable[[], None],
    wanted: tuple[slice, slice] | None = None,
) -> Tensor:
    """`network.encode` of one volume, in place and a few slices at a time: [1, 5, N, H, W] -> [1, C, N, h, w].

    `wanted` says which rows and columns of the H/2 x W/2 folded pixels come out; None: all.
    """
    _, _, N, H, W = features.shape
    wanted = wanted or (slice(0, H // 2), slice(0, W // 2))
    layers = len(network.blocks)
    held = tuple(_reached(part, size // 2, layers + 1) for part, size in zip(wanted, (H, W)))
    features = features[..., 2 * held[0].start : 2 * held[0].stop, 2 * held[1].start : 2 * held[1].stop]
    h, w = (part.stop - part.start for part in held)
    x = torch.empty((N, h, w, network.config.channels), device=features.device, dtype=features.dtype)
    weight, bias = _flat(network.enter), network.enter.bias
    chunk = _chunk(x)
    for a in range(0, N, chunk):
        folded = fold(features[:, :, a : a + chunk])[0].transpose(0, 1)
        x[a : a + chunk] = F.conv2d(folded, weight, bias, padding=1).permute(0, 2, 3, 1)
    tick()
    for n, block in enumerate(network.blocks):
        needed = tuple(_reached(part, size // 2, layers - n) for part, size in zip(wanted, (H, W)))
        if _pixels(needed) <= NARROWED * _pixels(held):
            x, held = _narrowed(x, _within(needed, held)), needed
        _add_in_place(block, x, condition, _chunk(x))
        tick()
    rows, columns = _within(wanted, held)
    return x[:, rows, columns].permute(3, 0, 1, 2)[None]


def _chunk(x: Tensor) -> int:
    """Slices of [N, h, w, C] that one call of a convolution sees."""
    return max(1, CHUNK_VOXELS // (4 * x.shape[1] * x.shape[2]))


def _reached(part: slice, count: int, layers: int) -> slice:
    """The rows (or columns), of `count`, that `part` depends on `layers` layers before."""
    return slice(max(0, part.start - layers), min(count, part.stop + layers))


def _within(inner: Sequence[slice], outer: Sequence[slice]) -> list[slice]:
    """Where `inner` lies in `outer`."""
    return [slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer)]


def _pixels(window: Sequence[slice]) -> int:
    return math.prod(part.stop - part.start for part in window)


def _narrowed(x: Tensor, window: Sequence[slice]) -> Tensor:
    """A window of the rows and columns of [N, h, w, C] in the memory of x itself, slice by slice: x is lost."""
    N, _, _, C = x.shape
    rows, columns = window
    narrow = (rows.stop - rows.start, columns.stop - columns.start, C)
    memory, size = x.view(-1), math.prod(narrow)
    for n in range(N):  # never beyond the slices that are still to be moved
        memory[n * size : (n + 1) * size] = x[n, rows, columns].clone(memory_format=torch.contiguous_format).view(-1)
    return memory[: N * size].view(N, *narrow)


def _add_in_place(block: Block, x: Tensor, condition: Tensor, chunk: int) -> None:
    """x [N, h, w, C] becomes block(x): inner(x) of a chunk is taken before its slices change.

    The z-convolution is three matrix products that add into x, so no second copy of x is ever made.
    """
    N, h, w, C = x.shape
    below, here, above = block.through.weight[..., 0, 0].permute(2, 1, 0).contiguous()  # [C in, C out] each
    weight, bias = _flat(block.plane), block.plane.bias + block.condition(condition)[0]
    rows = x.view(N, h * w, C)
    behind: Tensor | None = None
    for a in range(0, N, chunk):
        b = min(a + chunk, N)
        inner = F.relu_(F.conv2d(x[a:b].permute(0, 3, 1, 2), weight, bias, padding=1))
        inner = inner.permute(0, 2, 3, 1).reshape(b - a, h * w, C)
        _add_product(rows[a:b], inner, here)
        _add_product(rows[a + 1 : b], inner[:-1], below)
        if behind is not None:
            _add_product(rows[a : a + 1], behind, below)
        first = 1 if a == 0 else 0
        _add_product(rows[a - 1 + first : b - 1], inner[first:], above)
        behind = inner[-1:]
    rows += block.through.bias


def _add_product(rows: Tensor, inner: Tensor, weight: Tensor) -> None:
    """rows [n, pixels, C] += inner [n, pixels, C] @ weight [C, C]."""
    if len(rows):
        rows.flatten(0, 1).addmm_(inner.flatten(0, 1), weight)


def _flat(layer: torch.nn.Conv3d) -> Tensor:
    """The weight of a 1 x 3 x 3 convolution as that of a convolution within slices."""
    return layer.weight[:, :, 0].contiguous(memory_format=torch.channels_last)


def bytes_per_row(network: CycleINR, slices: int, width: int, outputs: int, element: int) -> float:
    """Memory that one row of a slab needs: encoded copy, features with their passing copies, and output slices."""
    encoded = network.config.channels / 4 * element
    features = FEATURES * (element + 3 * 4)
    return width * (slices * (encoded + features + 3 * 4) + outputs * 3 * 4)


def step_count(network: CycleINR, slices: int) -> int:
    """How many times `corrections` calls `tick`."""
    return 1 + len(network.blocks) + max(slices - 1, 1)
