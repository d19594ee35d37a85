"""Noise as a pure function of the position in the scan (floor 1; design section 5.1).

White noise lives on a fixed lattice: the pixels of the whole scan, and 16 planes from one slice to the next. Each of
its values is a whole number that follows from its place and the seed by a counter-based generator (Philox, Salmon et
al., SC 2011), so any block can be computed alone. A Gaussian along z and a kernel within slices, both of whole numbers,
shape it. Every sum stays below 2^24, where float32 is exact in any order, and what a Fourier transform adds is far less
than one half, and rounded away: threads, slabs and machines agree to the byte.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.special import ndtri

_PLANES = 16  # of the lattice from slice to slice: the largest z-scale
ORIGIN = 1 << 20  # plane number of the first slice: the output may begin before it
WHITE = 32  # standard deviation of the white noise, in whole numbers
ALONG_Z = 31  # largest weight along z
WITHIN = 127  # largest weight within slices
LEVEL = 64.0  # standard deviation of a slice before its kernel, in whole numbers
NORMALS_A_BLOCK = 16  # of 16 bits, that one count of the generator gives
LEAST_WIDTH, MOST_CORRELATION = 0.02, 0.7


def seed_of(values: np.ndarray) -> int:
    """A number of 64 bits from the signs of differences along rows: shift and scale of the values do not change it.

    values : (N, J, I), the whole scan; every fourth row is looked at
    """
    rows = values[:, ::4]
    rising = rows[:, :, 1:] > rows[:, :, :-1]
    return int.from_bytes(hashlib.blake2b(np.packbits(rising).tobytes(), digest_size=8).digest(), "little")


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
        reach = len(kernel) // 2
        wide = (rows[0] - reach, rows[1] + reach)
        output = np.empty((len(positions), rows[1] - rows[0], columns[1] - columns[0]), np.float32)
        known: dict[int, np.ndarray] = {}
        padded = [fft.next_fast_len(n + 2 * reach, real=True) for n in output.shape[1:]]
        response = fft.rfft2(kernel.astype(np.float32), padded)
        scale = np.float32(1 / (np.sqrt(np.sum(kernel**2)) * LEVEL))
        for n, t in enumerate(positions):
            first, weights = self._along_z(float(t))
            numbers = range(first, first + len(weights))
            known = {m: known[m] if m in known else self._white(m, wide, columns, reach) for m in numbers}
            mixed = np.zeros_like(known[first])
            for weight, m in zip(weights, numbers):
                mixed += weight * known[m]
            mixed *= np.float32(LEVEL / (WHITE * np.sqrt(np.sum(weights**2))))
            transform = fft.rfft2(np.rint(mixed, out=mixed), padded)
            transform *= response
            whole = fft.irfft2(transform, padded)[2 * reach : mixed.shape[0], 2 * reach : mixed.shape[1]]
            output[n] = np.rint(whole) * scale + np.float32(
                0
            )  # no negative zeros; the transform is off by less than 0.1
        return output

    def _along_z(self, t: float) -> tuple[int, np.ndarray]:
        """Number of the first plane of the lattice, and the whole weights of it and those after it, for position t."""
        correlation = min(max(self.correlation, LEAST_WIDTH), MOST_CORRELATION)
        width = self.step * _PLANES / (2 * np.sqrt(-np.log(correlation)))  # planes; Gaussian correlation at one step
        reach = int(np.ceil(2.5 * width)) + 1
        first = int(np.floor(t * _PLANES + 1e-6)) - reach + 1
        away = np.arange(first, first + 2 * reach) - t * _PLANES
        weights = np.rint(ALONG_Z * np.exp(-0.5 * (away / width) ** 2))
        if not weights.any():
            weights[np.argmin(np.abs(away))] = ALONG_Z
        return first, weights.astype(np.float32)

    def _white(self, plane: int, rows: tuple[int, int], columns: tuple[int, int], reach: int) -> np.ndarray:
        """Whole normals of one plane as float32; rows and columns go round at the edges of the slice."""
        height, width = self.shape
        blocks = -(-width // NORMALS_A_BLOCK)
        wanted = np.arange(*rows) % height
        table = _normals()
        output = np.empty((len(wanted), width), np.float32)
        for first, last in _runs(wanted):
            count = last - first
            generator = np.random.Philox(key=self.seed, counter=[int(wanted[first]) * blocks, 0, ORIGIN + plane, 0])
            bits = generator.random_raw(count * blocks * 4).astype("<u8").view("<u2").reshape(count, -1)
            output[first:last] = table[bits[:, :width]]
        return output[:, np.arange(columns[0] - reach, columns[1] + reach) % width]


def _runs(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Where consecutive numbers begin and end in `numbers`."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    edges = [0, *breaks.tolist(), len(numbers)]
    return list(zip(edges[:-1], edges[1:]))


_TABLE: list[np.ndarray] = []


def _normals() -> np.ndarray:
    """(65536,) whole normals of standard deviation `WHITE`, as float32, for each value of 16 bits."""
    if not _TABLE:
        quantiles = (np.arange(65536) + 0.5) / 65536
        _TABLE.append(np.rint(WHITE * ndtri(quantiles)).astype(np.float32))
    return _TABLE[0]
