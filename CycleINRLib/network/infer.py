"""Runs the network over the rows of one slab: encode once, then one output slice after another (floor 2).

The same sums as `CycleINR.encode` and `decode`, streamed along z so that only one encoded copy of the slab is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .model import FEATURES, Block, Conditions, CycleINR, fold, source_features

CHUNK_VOXELS = 200_000  # of the in-plane grid that one call of a convolution sees: about what a cache holds
DECODE_VOXELS = 150_000


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
    texture: float = 0.0,
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
    texture : 0 least error, 1 natural noise
    tick : called after every piece of work; may raise to stop

    Yields
    ------
    (slice of M, (m, rows, columns) float32 corrections in normalized intensities)
    """
    parameter = next(network.parameters())
    device, dtype = parameter.device, parameter.dtype
    N, R, width = source.shape
    values = torch.from_numpy(np.ascontiguousarray(source)).to(device)
    values = F.pad(values[None], (0, width % 2, 0, R % 2), mode="replicate")
    features = source_features(values, detail).to(dtype)
    condition = torch.tensor([conditions.of_scan()], device=device, dtype=dtype)
    encoded = encode_streamed(network, features, condition, tick)

    down = _Window.of(rows, features.shape[3])
    across = _Window.of(columns or slice(0, width), features.shape[4])

    def codes_at(k: int) -> tuple[Tensor, Tensor | None]:
        part = features[:, :, k : k + 1, down.unfolded, across.unfolded]
        codes = network.codes_of(encoded[:, :, k : k + 1, down.folded, across.folded], part)[
            :, :, 0, down.cut, across.cut
        ]
        codes = codes.contiguous()
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
            t = torch.tensor(ts, device=device, dtype=dtype)
            query = [conditions.of_place(float(t_), z_scale) for t_ in ts]
            out = network.decode(
                below.expand(P, -1, -1, -1),
                above.expand(P, -1, -1, -1),
                None if keys_below is None else keys_below.expand(P, -1, -1, -1),
                None if keys_above is None else keys_above.expand(P, -1, -1, -1),
                t,
                torch.tensor(query, device=device, dtype=dtype),
                torch.full_like(t, texture) if texture else None,
            )
            yield part, (out[:, down.inner, across.inner].float() * detail).cpu().numpy()
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


def encode_streamed(network: CycleINR, features: Tensor, condition: Tensor, tick: Callable[[], None]) -> Tensor:
    """`network.encode` of one volume, in place and a few slices at a time: [1, 5, N, H, W] -> [1, C, N, H/2, W/2]."""
    _, _, N, H, W = features.shape
    channels = network.config.channels
    x = torch.empty((N, H // 2, W // 2, channels), device=features.device, dtype=features.dtype)
    chunk = max(1, CHUNK_VOXELS // (H * W))
    weight, bias = _flat(network.enter), network.enter.bias
    for a in range(0, N, chunk):
        folded = fold(features[:, :, a : a + chunk])[0].transpose(0, 1)
        x[a : a + chunk] = F.conv2d(folded, weight, bias, padding=1).permute(0, 2, 3, 1)
    tick()
    for block in network.blocks:
        _add_in_place(block, x, condition, chunk)
        tick()
    return x.permute(3, 0, 1, 2)[None]


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
