"""Runs the network over the rows of one slab: encode once, then the places between one pair of slices after another.

The same sums as `CycleINR.encode` and `decode`, streamed along z so that only one encoded copy of the slab is alive, or
of a window of its slices and those that they depend on (floor 2). Pixels are rows of matrices throughout: (slices,
rows, columns, channels). Each layer of the encoder looks one pixel further than the next one, so the halo gets narrower
from layer to layer.
In reduced precision the encoder is reduced, and the two wide products of the decoder: LAM, the last layer and all that
is folded into weights stay in float32, where rounding would show.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .decode import Decoder, Place, SliceCodes
from .finite import Finite
from .model import FEATURES, Block, Conditions, CycleINR, source_features
from .products import add_along, relu_convolution
from .transfer import Fetch, send
from .workers import divided

CHUNK_VOXELS = 200_000  # of the in-plane grid that one call of a convolution sees: about what a cache holds
LEAST_PAIRS = 4  # of slices, between which a thread decodes, or slices whose codes it unfolds
LEAST_FEATURES = 8  # slices, for which two more are looked at
LEAST_CHUNK = 4  # slices: fewer make the z-convolution dear at its ends
NARROWED = 0.9  # of what is held: the rest is dropped where so little of it is still needed


@torch.inference_mode()
def corrections(
    network: CycleINR,
    source: np.ndarray | Tensor,
    rows: slice,
    positions: np.ndarray,
    *,
    columns: slice | None = None,
    detail: float,
    z_scale: float,
    conditions: Conditions,
    window: int | None = None,
    tick: Callable[[], None] = lambda: None,
    codes: Tensor | None = None,
    unit: float = 1.0,
) -> Iterator[tuple[slice, np.ndarray]]:
    """The correction at each output place, for some rows of a block.

    Parameters
    ----------
    network : CycleINR on its device and in its precision
    source : (N, R, I) float32, normalized intensities of the rows with their halo; a tensor where it is on the device
    rows, columns : which of the R rows and I columns are wanted; None: all columns
    positions : (M,) sorted places along z in source slices, within [0, N - 1]
    detail : of the whole scan (IntensityScale), the unit of the network's output
    z_scale, conditions : what the network is told
    window : slices that are encoded at once, beside those that they depend on; None: all
    tick : called after every piece of work; may raise to stop
    codes : what `codes_of` gave for these rows and columns; None: they are encoded now
    unit : what a normalized intensity counts in the result

    Yields
    ------
    (slice of M, (m, rows, columns) float32 corrections in that unit)

    Raises
    ------
    FloatingPointError : after the last of them, which are of no use then: some code or result was not finite
    """
    block = _Block.of(network, source, rows, columns, detail, conditions)
    N = len(source)
    decoder = Decoder(network, block.down.size, block.across.size, detail * unit)
    below_of = np.clip(np.floor(positions + 1e-9).astype(int), 0, max(N - 2, 0))
    asked: dict[int, _Between] = {}
    for k in range(max(N - 1, 1)):
        at = np.flatnonzero(below_of == k)
        if len(at):
            ts = np.clip(positions[at] - k, 0, 1).tolist()
            places = [decoder.place(t, conditions.of_place(t, z_scale)) for t in ts]
            asked[k] = _Between(slice(at[0], at[-1] + 1), (k, min(k + 1, N - 1)), ts, places)
    held: dict[int, SliceCodes] = {}
    fetch, finite = Fetch(block.values.device), Finite(network)
    for pairs, read in _windows(N, window, len(network.blocks) + 1):
        codes_at = finite.codes(block.encoded(read, tick) if codes is None else codes.__getitem__)
        whole = _decoded_at_once(decoder, [asked[k] for k in pairs if k in asked], codes_at)
        for k in pairs:
            if k in asked:
                held, out = asked[k].decoded(decoder, codes_at, held) if whole is None else ({}, next(whole))
                yield from fetch.put(asked[k].at, finite.looked_at(out))
            tick()
        del codes_at  # before the next ones are made
    yield from fetch.rest()
    finite.check()


@dataclass(frozen=True, eq=False)
class _Between:
    """Places between the slices `near`: which of all, where between them, and the layers there."""

    at: slice
    near: tuple[int, int]
    ts: list[float]
    places: list[Place]

    def decoded(
        self, decoder: Decoder, codes_at: Callable[[int], Tensor], held: dict[int, SliceCodes]
    ) -> tuple[dict[int, SliceCodes], Tensor]:
        """What is held of both slices, for the next ones; (P, H, W) float32 corrections."""
        held = {n: held[n] if n in held else decoder.of_slice(codes_at(n).contiguous()) for n in self.near}
        return held, decoder.between(held[self.near[0]], held[self.near[1]], self.ts, self.places)


def _decoded_at_once(
    decoder: Decoder, asked: list[_Between], codes_at: Callable[[int], Tensor]
) -> Iterator[Tensor] | None:
    """What lies between all slices, some pairs of them by each thread, of a plane whose pixels are too few for two
    threads; None where pixels are shared among threads."""
    if not decoder.is_one_piece:
        return None
    made: list[Any] = [None] * len(asked)

    @torch.inference_mode()  # is a thread's own
    def some(of: slice) -> None:
        held: dict[int, SliceCodes] = {}
        for n in range(of.start, of.stop):
            held, made[n] = asked[n].decoded(decoder, codes_at, held)

    divided(some, len(asked), LEAST_PAIRS)
    return iter(made)


@torch.inference_mode()
def codes_of(
    network: CycleINR,
    source: np.ndarray,
    rows: slice,
    columns: slice,
    detail: float,
    conditions: Conditions,
    tick: Callable[[], None] = lambda: None,
) -> Tensor:
    """(N, rows + 2, columns + 2, D): the codes from which `corrections` decodes rows and columns, one around them.

    Parameters are those of `corrections`; any part of what is given, with one around it, serves for that part.
    """
    codes_at = _Block.of(network, source, rows, columns, detail, conditions).encoded(slice(0, len(source)), tick)
    first = codes_at(0)
    codes = first.new_empty((len(source), *first.shape))

    @torch.inference_mode()  # is a thread's own
    def unfold(some: slice) -> None:
        for k in range(some.start, some.stop):
            codes[k] = codes_at(k)

    divided(unfold, len(source), LEAST_PAIRS) if first.device.type == "cpu" else unfold(slice(0, len(source)))
    return codes


@dataclass(frozen=True, eq=False)
class _Block:
    """The scan's rows with their halo on the device of the network, and the rows and columns that are decoded."""

    network: CycleINR
    values: Tensor  # (N, R, I), both even
    detail: float
    condition: Tensor
    down: _Window
    across: _Window
    unfold: _Unfold

    @classmethod
    def of(
        cls,
        network: CycleINR,
        source: np.ndarray | Tensor,
        rows: slice,
        columns: slice | None,
        detail: float,
        conditions: Conditions,
    ) -> _Block:
        kernel = network.enter.weight
        _, R, width = source.shape
        values = source if isinstance(source, Tensor) else send(source, kernel.device).there()
        values = F.pad(values[None], (0, width % 2, 0, R % 2), mode="replicate")[0] if width % 2 or R % 2 else values
        condition = torch.tensor([conditions.of_scan()], device=kernel.device, dtype=kernel.dtype)
        down = _Window.of(rows, values.shape[1])
        across = _Window.of(columns or slice(0, width), values.shape[2])
        return cls(network, values, detail, condition, down, across, _Unfold.of(network))

    def encoded(self, read: slice, tick: Callable[[], None]) -> Callable[[int], Tensor]:
        """The slices `read`, encoded together; gives the codes (rows + 2, columns + 2, D) of each."""
        down, across = self.down, self.across
        folded = folded_features(self.values[read], self.detail, self.condition.dtype)
        encoded = encode_streamed(self.network, folded, self.condition, tick, (down.folded, across.folded))
        folded = folded[:, down.folded, across.folded]

        def codes_at(k: int) -> Tensor:
            codes = self.unfold(encoded[k - read.start], folded[k - read.start])[down.cut, across.cut]
            return _rimmed(codes, down.missing, across.missing)

        return codes_at


def _windows(slices: int, window: int | None, reach: int) -> list[tuple[range, slice]]:
    """For each window: the pairs k, k + 1 of slices between which it decodes, and the slices that it reads."""
    pairs = max(slices - 1, 1)
    count = -(-pairs // (window or pairs))
    size = -(-pairs // count)
    return [
        (range(a, min(a + size, pairs)), slice(max(0, a - reach), min(slices, min(a + size, pairs) + 1 + reach)))
        for a in range(0, pairs, size)
    ]


@dataclass(frozen=True)
class _Window:
    """The rows (or columns) that are decoded for the wanted ones: LAM looks one further, pixels are folded by two."""

    folded: slice  # of the encoded block
    cut: slice  # of the same, unfolded: the wanted ones and one around
    missing: tuple[int, int]  # how many of those around lie beyond the block
    size: int  # of the wanted ones

    @classmethod
    def of(cls, wanted: slice, count: int) -> _Window:
        first, last = max(0, wanted.start - 1), min(count, wanted.stop + 1)
        folded = slice(first // 2, -(-last // 2))
        cut = slice(first - 2 * folded.start, last - 2 * folded.start)
        missing = first - (wanted.start - 1), wanted.stop + 1 - last
        return cls(folded, cut, missing, wanted.stop - wanted.start)


def _rimmed(codes: Tensor, down: tuple[int, int], across: tuple[int, int]) -> Tensor:
    """(H, W, D) with what is missing around it, as many rows and columns as the next ones: contiguous."""
    if any(down):
        codes = torch.cat([codes[:1]] * down[0] + [codes] + [codes[-1:]] * down[1])
    if any(across):
        codes = torch.cat([codes[:, :1]] * across[0] + [codes] + [codes[:, -1:]] * across[1], 1)
    return codes.contiguous()


@dataclass(frozen=True, eq=False)
class _Unfold:
    """`CycleINR.codes_of` of one slice as one product: (h, w, C) encoded, (h, w, 20) features -> (2 h, 2 w, D)."""

    weight: Tensor  # (4 D, C + 20), the four pixels of a fold outermost
    bias: Tensor

    @classmethod
    def of(cls, network: CycleINR) -> _Unfold:
        leave, skip = network.leave.weight[..., 0, 0, 0], network.skip.weight[..., 0, 0, 0]
        assert network.leave.bias is not None and network.skip.bias is not None
        whole = leave.unflatten(0, (-1, 4)).transpose(0, 1)  # (4, D, C)
        around = torch.einsum("df,pq->pdfq", skip, torch.eye(4, device=skip.device, dtype=skip.dtype))
        weight = torch.cat([whole.flatten(0, 1), around.flatten(2).flatten(0, 1)], 1)
        bias = network.leave.bias.float().unflatten(0, (-1, 4)).T + network.skip.bias.float()
        return cls(weight.contiguous(), bias.flatten().to(weight.dtype))

    def __call__(self, encoded: Tensor, folded: Tensor) -> Tensor:
        h, w, _ = encoded.shape
        made = F.linear(torch.cat([encoded, folded], 2), self.weight, self.bias)
        return made.view(h, w, 2, 2, -1).transpose(1, 2).reshape(2 * h, 2 * w, -1)


def folded_features(values: Tensor, detail: float, dtype: torch.dtype) -> Tensor:
    """`fold(source_features)` of (N, H, W), a few slices at a time: (N, H/2, W/2, 4 x FEATURES)."""
    N, H, W = values.shape
    out = torch.empty((N, H // 2, W // 2, FEATURES, 2, 2), device=values.device, dtype=dtype)
    chunk = max(LEAST_FEATURES, CHUNK_VOXELS // (H * W))
    for a in range(0, N, chunk):
        b, first = min(a + chunk, N), max(a - 1, 0)
        seen = source_features(values[None, first : b + 1], detail)[0, :, a - first : b - first]
        for feature, j, i in itertools.product(range(FEATURES), (0, 1), (0, 1)):  # all at once takes longer
            out[a:b, :, :, feature, j, i] = seen[feature, :, j::2, i::2]
    return out.flatten(3)


def encode_streamed(
    network: CycleINR,
    folded: Tensor,
    condition: Tensor,
    tick: Callable[[], None],
    wanted: tuple[slice, slice] | None = None,
) -> Tensor:
    """`network.encode` of one volume, in place and a few slices at a time: (N, h, w, 20) -> (N, h, w, C).

    `wanted` says which rows and columns of the folded pixels come out; None: all.
    """
    N, h, w, _ = folded.shape
    wanted = wanted or (slice(0, h), slice(0, w))
    layers = len(network.blocks)
    held = tuple(_reached(part, size, layers + 1) for part, size in zip(wanted, (h, w)))
    folded = folded[:, held[0], held[1]]
    x = torch.empty((*folded.shape[:3], network.config.channels), device=folded.device, dtype=folded.dtype)
    weight, bias = _flat(network.enter), network.enter.bias
    chunk = _chunk(x)
    for a in range(0, N, chunk):
        x[a : a + chunk] = F.conv2d(folded[a : a + chunk].permute(0, 3, 1, 2), weight, bias, padding=1).permute(
            0, 2, 3, 1
        )
    tick()
    for n, block in enumerate(network.blocks):
        needed = tuple(_reached(part, size, layers - n) for part, size in zip(wanted, (h, w)))
        if _pixels(needed) <= NARROWED * _pixels(held):
            x, held = _narrowed(x, _within(needed, held)), needed
        _add_in_place(block, x, condition, _chunk(x))
        tick()
    rows, columns = _within(wanted, held)
    return x[:, rows, columns]


def _chunk(x: Tensor) -> int:
    """Slices of [N, h, w, C] that one call of a convolution sees."""
    return max(LEAST_CHUNK, CHUNK_VOXELS // (4 * x.shape[1] * x.shape[2]))


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
    memory, size, full = x.view(-1), math.prod(narrow), x[0].numel()
    for n in range(N):  # never beyond the slices that are still to be moved
        part = x[n, rows, columns]
        if (n + 1) * size > n * full:  # into its own memory
            part = part.clone()
        memory[n * size : (n + 1) * size].view(narrow).copy_(part)
    return memory[: N * size].view(N, *narrow)


def _add_in_place(block: Block, x: Tensor, condition: Tensor, chunk: int) -> None:
    """x [N, h, w, C] becomes block(x): inner(x) of a chunk is taken before its slices change.

    The z-convolution adds into x, so no second copy of x is ever made; between chunks by two products.
    """
    through = block.through.weight[..., 0]  # (C, C, 3, 1)
    below, above = (through[:, :, side, 0].T.contiguous() for side in (0, 2))
    weight, bias = _flat(block.plane), block.plane.bias + block.condition(condition)[0]
    behind: Tensor | None = None
    for a in range(0, len(x), chunk):
        part = x[a : a + chunk]
        inner = relu_convolution(part, weight, bias)
        add_along(part, inner, through, block.through.bias)
        if behind is not None:
            x[a].flatten(0, 1).addmm_(behind.flatten(0, 1), below)
            x[a - 1].flatten(0, 1).addmm_(inner[0].flatten(0, 1), above)
        behind = inner[-1]


def _flat(layer: torch.nn.Conv3d) -> Tensor:
    """The weight of a 1 x 3 x 3 convolution as that of a convolution within slices."""
    return layer.weight[:, :, 0].contiguous(memory_format=torch.channels_last)


def step_count(network: CycleINR, slices: int, window: int | None = None) -> int:
    """How many times `corrections` calls `tick`."""
    windows = _windows(slices, window, 0)
    return len(windows) * (1 + len(network.blocks)) + sum(len(pairs) for pairs, _ in windows)
