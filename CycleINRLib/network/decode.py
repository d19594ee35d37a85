"""Decodes the places between two source slices, piece by piece of what a cache holds (floor 2).

The same function as `CycleINR.decode`, written for how memory is read. Pixels are rows of matrices, so that each layer
is one product; what depends on the slices alone is computed once for all places between them:

- The query of LAM is a linear blend of two slices, and so are its logits: q(t) . k_n = (1 - t) q_i . k_n + t q_j . k_n.
- exp(logit + prior) = exp(logit) exp(prior): the prior of a place is one number for each neighbor.
- The first layer sees both codes and what LAM found side by side; the blend of codes goes into its weights.
- Where the prior leaves less than `LEAST_BESIDE` to neighbors beside a pixel, LAM asks the pixel itself in both slices,
  and neighbors only where keys differ so much that they may count. Softmax is then one sigmoid, and the value below
  goes into the first layer's weights.

Keys, values and logits lie as planes of a grid with a rim of one pixel, flattened: a neighbor is then a shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .model import NEIGHBORS, CycleINR, LocalAttention
from .products import relu_linear
from .workers import divided

PIECE = 8192  # pixels that one thread works on at a time: what lies in its cache
PIECE_GPU = 2**20
SAFE_LOGIT = 60.0  # exp of it and of its negative are far from the ends of float32
CENTRAL = [n for n, (_, dy, dx) in enumerate(NEIGHBORS) if dy == dx == 0]  # the pixel itself below and above
LEAST_BESIDE = 0.005  # of LAM's weight, that the prior gives to neighbors beside a pixel: below, they are hardly asked
STEEP = 5.0  # logits: what a neighbor may have ahead of the pixel itself before it is asked too


@dataclass(frozen=True, eq=False)
class SliceCodes:
    """What places on both sides of a source slice need of it; planes and rows are those of the grid with its rim.

    codes : (L, D) in the network's precision
    planes : (3, d, L) float32: LAM's queries (divided by sqrt(d)), keys and values; None without LAM
    own : (9, L') float32: query . key of the 3 x 3 neighbors within the slice, at the pixels `Decoder.span`; None where
        they are not asked
    steepest : the largest norms of a query and of a key: they bound every logit
    steep : (L',) bool there, where `own` is None: whether the norm of the query times that of the key's largest step to
        one of the four next pixels, which bounds what a neighbor's logit is ahead by, exceeds `STEEP`
    """

    codes: Tensor
    planes: Tensor | None
    own: Tensor | None
    steepest: tuple[float, float] = (0.0, 0.0)
    steep: Tensor | None = None


class Decoder:
    """The decoder of one network for (H, W) pixels; codes come with one more pixel on each side.

    `unit` of the result: what one of the network's output, in units of detail, counts.
    """

    def __init__(self, network: CycleINR, height: int, width: int, unit: float = 1.0) -> None:
        self.network, self.height, self.wide = network, height, width + 2
        first = self.wide + 1  # the first pixel within the rim
        self.span = slice(first, first + height * self.wide - 2)  # rows on end: two pixels of rim between them
        device = network.first.weight.device
        self.on_cpu = device.type == "cpu"
        self.piece = PIECE if self.on_cpu else PIECE_GPU
        self.shifts = [dy * self.wide + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        self.beside = torch.tensor(self.shifts, device=device)[:, None]
        self.layers = _Layers.of(network, unit)
        self.known: dict[tuple[float, ...], Place] = {}  # the same few places lie between all slices

    def of_slice(self, codes: Tensor) -> SliceCodes:
        """What is needed of one slice, from its codes (H + 2, W + 2, D)."""
        codes = codes.flatten(0, 1)
        if self.layers.attend is None:
            return SliceCodes(codes, None, None)
        weight, bias = self.layers.attend
        planes = torch.addmm(bias, weight, codes.float().T).unflatten(0, (3, -1))
        if self.layers.narrow:
            return SliceCodes(codes, planes, None, steep=self._steep(planes[0], planes[1]))
        norms = tuple(float(part.square().sum(0).max().sqrt()) for part in planes[:2])
        own = planes.new_empty(9, self.span.stop - self.span.start)
        first = self.span.start
        self._pieces(lambda a, b: self._logits(planes[0], planes[1], slice(first + a, first + b), own[:, a:b]))
        return SliceCodes(codes, planes, own, (norms[0], norms[1]))

    @property
    def is_one_piece(self) -> bool:
        """Whether its pixels are too few for two threads."""
        return self.on_cpu and self.span.stop - self.span.start <= self.piece

    def _pieces(self, task: Callable[[int, int], None]) -> None:
        """task(a, b) for all pixels a to b of `span`: on CPUs some pieces for each thread, since these are many small
        calls that would wait for each other."""
        count = self.span.stop - self.span.start

        @torch.inference_mode()  # is a thread's own
        def some(pieces: slice) -> None:
            for n in range(pieces.start, pieces.stop):
                task(n * self.piece, min((n + 1) * self.piece, count))

        pieces = -(-count // self.piece)
        divided(some, pieces) if self.on_cpu else some(slice(0, pieces))

    def keys_and_values(self, codes: Tensor) -> Tensor:
        """Codes (pixels, D) to (2, d, pixels) float32: LAM's key and value of each."""
        assert self.layers.attend is not None
        weight, bias = (part.unflatten(0, (3, -1))[1:].flatten(0, 1) for part in self.layers.attend)
        return torch.addmm(bias, weight, codes.float().T).unflatten(0, (2, -1))

    def _steep(self, queries: Tensor, keys: Tensor) -> Tensor:
        """`SliceCodes.steep`."""
        out = torch.empty(self.span.stop - self.span.start, dtype=torch.bool, device=keys.device)

        def look(a: int, b: int) -> None:
            at = slice(self.span.start + a, self.span.start + b)
            steps = []
            for shift in (1, self.wide):
                near = keys[:, at.start - shift : at.stop + shift]
                length = (near[:, shift:] - near[:, :-shift]).square_().sum(0)
                steps.append(torch.maximum(length[: b - a], length[shift:]))
            longest = torch.maximum(*steps).mul_(queries[:, at].square().sum(0))
            torch.gt(longest, STEEP * STEEP, out=out[a:b])

        self._pieces(look)
        return out

    def _logits(self, queries: Tensor, keys: Tensor, at: slice, out: Tensor) -> None:
        """Into (9, pixels) `out`: queries . keys of the 3 x 3 neighbors at a piece of the flat grid."""
        products, asked = keys.new_empty(len(keys), at.stop - at.start), queries[:, at]
        for n, shift in enumerate(self.shifts):
            torch.mul(asked, keys[:, at.start + shift : at.stop + shift], out=products)
            torch.sum(products, 0, out=out[n])

    def between(
        self,
        below: SliceCodes,
        above: SliceCodes,
        ts: Sequence[float],
        made: Sequence[Place],
    ) -> Tensor:
        """The correction at each place t, of which `made` are the layers (`place`): (P, H, W) float32."""
        out = below.codes.new_empty((len(ts), self.height * self.wide), dtype=torch.float32)
        D = below.codes.shape[1]

        def decode(a: int, b: int) -> None:
            at = slice(self.span.start + a, self.span.start + b)
            seen = below.codes.new_empty(b - a, self.layers.width)
            seen[:, :D], seen[:, D : 2 * D] = below.codes[at], above.codes[at]
            attention = self._attention(below, above, at)
            for p, t in enumerate(ts):
                if attention is not None:
                    seen[:, 2 * D :] = attention.at(t, made[p].prior).to(seen.dtype)  # at once takes twice as long
                out[p, a:b] = _chain(seen, made[p])

        self._pieces(decode)
        return out.unflatten(1, (self.height, self.wide))[..., : self.wide - 2]

    def place(self, t: float, query: Sequence[float]) -> Place:
        """The layers at a place, told by `Conditions.of_place`."""
        key = (round(t, 9), *(round(one, 9) for one in query))
        if key not in self.known:
            self.known[key] = self.layers.at(t, self._told(query))
        return self.known[key]

    def _told(self, query: Sequence[float]) -> Tensor:
        return torch.tensor(query, device=self.network.first.weight.device)

    def _attention(self, below: SliceCodes, above: SliceCodes, at: slice) -> _Attention | _CentralAttention | None:
        if below.planes is None or above.planes is None:
            return None
        if self.layers.narrow:
            return _CentralAttention(self, below, above, at)
        start = at.start - self.span.start
        inside = slice(start, start + at.stop - at.start)
        assert below.own is not None and above.own is not None
        logits = below.planes.new_empty(2, 18, at.stop - at.start)
        logits[0, :9], logits[1, 9:] = below.own[:, inside], above.own[:, inside]
        self._logits(below.planes[0], above.planes[1], at, logits[0, 9:])
        self._logits(above.planes[0], below.planes[1], at, logits[1, :9])
        values = [
            part.planes[2, :, at.start + shift : at.stop + shift]
            for part in (below, above)
            for shift in self.shifts
            if part.planes is not None
        ]
        highest = max(one.steepest[0] for one in (below, above)) * max(one.steepest[1] for one in (below, above))
        return _Attention(logits, values, highest)


class _Attention:
    """LAM for one piece of pixels between two slices: sum of softmax(logits + prior) times values, at any t."""

    def __init__(self, logits: Tensor, values: list[Tensor], highest: float) -> None:
        self.logits, self.values, self.highest = logits, values, highest
        self.weights = torch.empty_like(logits[0])
        self.total = torch.empty_like(values[0], memory_format=torch.contiguous_format)

    def at(self, t: float, prior: Tensor) -> Tensor:
        """(pixels, d). prior : (18,) float32 on the CPU."""
        weights = torch.lerp(self.logits[0], self.logits[1], t, out=self.weights)
        if self.highest > SAFE_LOGIT:
            weights -= weights.amax(0)
        weights.exp_()
        shares = torch.exp(prior - prior.max())
        torch.mul(self.values[0], weights[0] * shares[0].item(), out=self.total)
        for value, weight, share in zip(self.values[1:], weights[1:], shares[1:].tolist()):
            self.total.addcmul_(value, weight, value=share)
        return _by_pixel(self.total.div_(shares.to(weights.device) @ weights))


class _CentralAttention:
    """What LAM finds beyond the value below for one piece of pixels, at any t.

    From the pixel itself in both slices, and from all 18 neighbors at the few pixels where others may count.
    """

    def __init__(self, decoder: Decoder, below: SliceCodes, above: SliceCodes, at: slice) -> None:
        assert below.planes is not None and above.planes is not None
        under, over = below.planes[:, :, at], above.planes[:, :, at]
        keys = over[1] - under[1]
        self.logits = (under[0] * keys).sum(0), (over[0] * keys).sum(0)
        self.values = _by_pixel(over[2] - under[2])
        self.found = torch.empty_like(self.values)
        inside = slice(at.start - decoder.span.start, at.stop - decoder.span.start)
        assert below.steep is not None and above.steep is not None
        self.steep = torch.nonzero(below.steep[inside] | above.steep[inside])[:, 0]
        if len(self.steep):
            near = (self.steep + at.start + decoder.beside).flatten()
            told = [decoder.keys_and_values(part.codes.index_select(0, near)) for part in (below, above)]
            keys, values = torch.cat([one.unflatten(2, (9, -1)) for one in told], 2)  # (d, 18, pixels) each
            queries = (part[0].index_select(1, self.steep)[:, None] for part in (under, over))
            self.all_logits = [(query * keys).sum(0) for query in queries]
            self.all_values = values - under[2].index_select(1, self.steep)[:, None]

    def at(self, t: float, prior: Tensor) -> Tensor:
        """(pixels, d); the memory is used again by the next call. prior : (18,) float32 on the CPU."""
        share = torch.lerp(*self.logits, t).add_(float(prior[CENTRAL[1]] - prior[CENTRAL[0]])).sigmoid_()
        torch.mul(self.values, share[:, None], out=self.found)
        if len(self.steep):
            weights = torch.softmax(torch.lerp(*self.all_logits, t) + prior.to(share.device)[:, None], 0)
            self.found.index_copy_(0, self.steep, (self.all_values * weights).sum(1).T)
        return self.found


def _by_pixel(planes: Tensor) -> Tensor:
    """(d, pixels) float32 to (pixels, d), contiguous: by a product, which takes a quarter of a copy's time."""
    return torch.mm(planes.T, torch.eye(len(planes), device=planes.device))


@dataclass(frozen=True, eq=False)
class Place:
    """The weights of three layers at one place, scale, shift and blend folded in; rounded once."""

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    last: Tensor
    bias: float
    prior: Tensor


def _chain(seen: Tensor, place: Place) -> Tensor:
    """(pixels,) float32: three layers of rows (pixels, in)."""
    hidden = relu_linear(relu_linear(seen, *place.first), *place.second)
    return torch.mv(hidden.float(), place.last).add_(place.bias)


@dataclass(frozen=True, eq=False)
class _Layers:
    """The layers of the decoder in float32, to be folded for each place."""

    network: CycleINR
    attend: tuple[Tensor, Tensor] | None  # weight (3 d, D) and bias (3 d, 1) of queries, keys and values
    width: int  # of the first layer: codes of both slices, and what LAM found
    unit: float  # of the result
    narrow: bool = False  # LAM asks the pixel itself alone

    @classmethod
    def of(cls, network: CycleINR, unit: float) -> _Layers:
        attend, width = network.attend, 2 * network.config.codes
        if attend is None:
            return cls(network, None, width, unit)
        query, both = attend.query, attend.key_value
        root = math.sqrt(attend.key)
        weight = torch.cat([query.weight.float() / root, both.weight.float()])[:, :, 0, 0]
        bias = torch.cat([_bias(query) / root, _bias(both)])[:, None]
        return cls(network, (weight, bias), width + attend.key, unit, _beside(attend) < LEAST_BESIDE)

    def at(self, t: float, query: Tensor) -> Place:
        """For the place t between two slices, told by `query` (7,)."""
        network = self.network
        dtype = network.leave.weight.dtype
        scale1, shift1, scale2, shift2 = network.modulate(query).float().chunk(4)
        first, bias = _modulated(network.first, scale1, shift1)
        columns = [(1 - t) * first, t * first]
        prior = first.new_zeros(0)
        if network.attend is not None:
            output = network.attend.output.weight.float()[:, :, 0, 0] * (1 + scale1)[:, None]
            columns.append(output)
            prior = _prior(network.attend, t).cpu()
            if self.narrow:
                both, key = network.attend.key_value, network.attend.key
                columns[0] = columns[0] + output @ both.weight.float()[key:, :, 0, 0]
                bias = bias + output @ _bias(both)[key:]
        second = _modulated(network.second, scale2, shift2)
        last = network.last.weight[0, :, 0, 0].float() * self.unit
        end = float(_bias(network.last)) * self.unit
        return Place(_as(dtype, torch.cat(columns, 1), bias), _as(dtype, *second), last, end, prior)


def _prior(attend: LocalAttention, t: float) -> Tensor:
    """(18,) float32: what a neighbor's position says about it."""
    return _priors(attend, [t])[0]


def _priors(attend: LocalAttention, places: list[float]) -> Tensor:
    """(places, 18) float32: the same at several places."""
    weight = attend.gain
    return attend.prior(torch.tensor(places, device=weight.device, dtype=weight.dtype)).float()


def _beside(attend: LocalAttention) -> float:
    """The most that the prior gives to all neighbors beside the pixel, at any place."""
    shares = torch.softmax(_priors(attend, torch.linspace(0, 1, 33).tolist()), 1)
    return float(1 - shares[:, CENTRAL].sum(1).min())


def _bias(layer: torch.nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias.float()


def _modulated(layer: torch.nn.Conv2d, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias (out,) of (1 x 1 layer) * (1 + scale) + shift, in float32."""
    return layer.weight.float()[:, :, 0, 0] * (1 + scale)[:, None], _bias(layer) * (1 + scale) + shift


def _as(dtype: torch.dtype, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight.to(dtype).contiguous(), bias.to(dtype)
