"""Noise as a pure function of the position in the scan (floor 3; design section 5.1).

White noise lives on a fixed lattice: the pixels of the whole scan, and some planes from one slice to the next, as many
as its correlation across slices asks for. Each of its values is a whole number that follows from its place and the seed
by a counter-based generator (Philox, Salmon et al., SC 2011), so any block can be computed alone. A Gaussian along z
and a kernel within slices, both of whole numbers, shape it. Every sum stays below 2^24, where float32 is exact in any
order: threads, slabs and machines agree to the byte.

A byte of the generator makes one value, of 256 quantiles of the normal distribution: its tails end at 2.9 standard
deviations, those of the noise, which sums up many, do not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import ndtri

from ..imaging.pieces import multiplied
from ..network.workers import divided
from .filters import ABREAST, abreast

_PLANES = (1, 2, 4, 8, 16, 32)  # of the lattice from slice to slice; up to the largest z-scale, 16
_LEAST_WIDTH_IN_PLANES = 0.5  # standard deviation of the Gaussian along z from which it is sampled finely enough
ORIGIN = 1 << 20  # plane number of the first slice: the output may begin before it
WHITE = 32  # standard deviation of the white noise, in whole numbers
ALONG_Z = 15  # largest weight along z
WITHIN = 127  # largest weight within slices
NORMALS_A_BLOCK = 32  # of 8 bits, that one count of the generator gives
BATCH_OF_FIELD = 8  # positions that are made at once, so that their planes stay in the cache
LEAST_WIDTH, MOST_CORRELATION = 0.02, 0.7


def seed_of(values: np.ndarray) -> int:
    """A number of 64 bits from the signs of differences along rows: shift and scale of the values do not change it.

    values : (N, J, I), the whole scan; every fourth row is looked at
    """
    digest, rest = hashlib.blake2b(digest_size=8), np.empty(0, bool)
    for one in values:
        rows = one[::4]
        rising = np.concatenate([rest, (rows[:, 1:] > rows[:, :-1]).ravel()])
        whole = len(rising) - len(rising) % 8  # bits of whole bytes
        digest.update(np.packbits(rising[:whole]).tobytes())
        rest = rising[whole:]
    digest.update(np.packbits(rest).tobytes())
    return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True, eq=False)
class NoiseField:
    """Unit noise with a kernel within slices and a correlation across them.

    seed : of the scan; shape : (J, I) of the whole scan's slices
    kernel : (2 R + 1, 2 R + 1), any scale
    correlation : of neighboring output slices, 0 to 0.7, `step` source slices apart
    """

    seed: int
    shape: tuple[int, int]
    kernel: np.ndarray
    correlation: float
    step: float

    def at(self, positions: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """(M, rows, columns) float32 of unit variance at `positions` (M,) in slices of the whole scan.

        Rows and columns are those of the whole scan, last ones exclusive. The slices go on beyond their edges.
        """
        kernel = np.rint(self.kernel * (WITHIN / np.abs(self.kernel).max()))
        weights = abreast(kernel[::-1, ::-1].astype(np.float32))
        scale = float(1 / (WHITE * np.sqrt(np.sum(kernel**2))))
        output = np.empty((len(positions), rows[1] - rows[0], columns[1] - columns[0]), np.float32)

        def make(some: slice) -> None:
            self._make(positions[some], rows, columns, weights, scale, output[some])

        divided(make, len(positions), 2 * BATCH_OF_FIELD)
        return output

    def _make(
        self,
        positions: np.ndarray,
        rows: tuple[int, int],
        columns: tuple[int, int],
        weights: Any,
        scale: float,
        output: np.ndarray,
    ) -> None:
        import torch

        reach = len(self.kernel) // 2
        high, wide = ((first - reach, last + reach) for first, last in (rows, columns))
        planes = _Planes(self.seed, self.shape, high, wide, -output.shape[2] % ABREAST)
        level = np.empty((BATCH_OF_FIELD, 1, *planes.size), np.float32)
        for first in range(0, len(positions), BATCH_OF_FIELD):
            found = output[first : first + BATCH_OF_FIELD]
            scales = scale / self._mix(positions[first : first + BATCH_OF_FIELD], planes, level)
            with torch.inference_mode():
                made = torch.nn.functional.conv2d(torch.from_numpy(level[: len(found)]), weights, stride=(1, ABREAST))
                whole = made.permute(0, 2, 3, 1).flatten(2).numpy()
            np.multiply(whole[:, :, : found.shape[2]], scales[:, None, None], out=found)

    def _mix(self, positions: np.ndarray, planes: _Planes, output: np.ndarray) -> np.ndarray:
        """Whole numbers into the first ones of `output` (BATCH_OF_FIELD, ...), of the size of the planes; gives their
        standard deviations / that of the white noise, (n,) float32."""
        along = [self._along_z(float(t)) for t in positions]
        numbers = sorted({m for first, weights in along for m in range(first, first + len(weights))})
        mixing = np.zeros((len(along), len(numbers)), np.float32)
        for row, (first, weights) in zip(mixing, along):
            at = numbers.index(first)
            row[at : at + len(weights)] = weights
        held = planes.of(numbers)
        multiplied(mixing, held.reshape(len(held), -1), output[: len(mixing)].reshape(len(mixing), -1))
        return np.sqrt(np.sum(np.square(mixing), axis=1))

    def _along_z(self, t: float) -> tuple[int, np.ndarray]:
        """Number of the first plane of the lattice, and the whole weights of it and those after it, for position t."""
        correlation = min(max(self.correlation, LEAST_WIDTH), MOST_CORRELATION)
        width = self.step / (2 * np.sqrt(-np.log(correlation)))  # slices; Gaussian correlation at one step
        planes = next((n for n in _PLANES if n * width >= _LEAST_WIDTH_IN_PLANES), _PLANES[-1])
        before = int(np.floor(t * planes + 1e-6))
        first, weights = _along_z(width * planes, round(t * planes - before, 6))
        return before + first, weights


@lru_cache(maxsize=64)
def _along_z(width: float, part: float) -> tuple[int, np.ndarray]:
    """For a place `part` of the way from a plane to the next: the first plane that counts, and the whole weights of it
    and those after it, a Gaussian of `width` planes."""
    reach = int(np.ceil(2.5 * width)) + 1
    away = np.arange(1 - reach, 1 + reach) - part
    weights = np.rint(ALONG_Z * np.exp(-0.5 * (away / width) ** 2))
    if not weights.any():
        weights[np.argmin(np.abs(away))] = ALONG_Z
    counts = np.flatnonzero(weights)
    return 1 - reach + int(counts[0]), weights[counts[0] : counts[-1] + 1].astype(np.float32)


class _Planes:
    """Rows and columns of planes of the lattice, last ones exclusive; both go round at the edges of the slice.

    more : columns of zeros after them; size : of a plane, rows and columns, with these
    """

    def __init__(
        self, seed: int, shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int], more: int
    ) -> None:
        self.rows, self.columns = (_runs(np.arange(*some) % n) for some, n in zip((rows, columns), shape))
        self.more, self.size = more, (rows[1] - rows[0], columns[1] - columns[0] + more)
        self.blocks = -(-shape[1] // NORMALS_A_BLOCK)  # of the generator in one row
        self.generator = np.random.Philox(key=seed)
        self.state: Any = self.generator.state
        self.held: dict[int, np.ndarray] = {}

    def of(self, numbers: list[int]) -> np.ndarray:
        """(n, rows, columns) whole normals as float32; what the call before made is taken from there."""
        output = np.empty((len(numbers), *self.size), np.float32)
        for m, one in zip(numbers, output):
            if m in self.held:
                one[:] = self.held[m]
            else:
                self._make(m, one)
        self.held = dict(zip(numbers, output))
        return output

    def _make(self, plane: int, output: np.ndarray) -> None:
        table = _normals()
        for at, row, count in self.rows:
            self.state["state"]["counter"][:] = row * self.blocks, 0, ORIGIN + plane, 0
            self.generator.state = self.state
            bits = self.generator.random_raw(count * self.blocks * NORMALS_A_BLOCK // 8).astype("<u8", copy=False)
            normals = np.take(table, bits.view(np.uint16), mode="clip").view(np.int8).reshape(count, -1)
            for into, column, width in self.columns:
                output[at : at + count, into : into + width] = normals[:, column : column + width]
        output[:, self.size[1] - self.more :] = 0


def _runs(numbers: np.ndarray) -> list[tuple[int, int, int]]:
    """Where consecutive numbers begin in `numbers`, the first of them, and how many they are."""
    edges = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
    return [(a, int(numbers[a]), b - a) for a, b in zip(edges[:-1], edges[1:])]


@lru_cache(maxsize=1)
def _normals() -> np.ndarray:
    """For each pair of bytes a pair of whole normals of standard deviation `WHITE`, as int8."""
    normals = np.rint(WHITE * ndtri((np.arange(256) + 0.5) / 256)).astype(np.int8)
    return normals[np.arange(2**16, dtype=np.uint16).view(np.uint8)].view(np.uint16)
