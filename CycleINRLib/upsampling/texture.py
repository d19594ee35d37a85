"""How much texture a scan asks for: the least change to the network's output that hides its generated slices (floor 3).

The network's output is linear in texture t on both sides of 0, and so is what consistency makes of it: above 0 noise is
added, x(t) = x(0) + t (x(1) - x(0)); below 0 the finest detail is taken from the correction, x(t) = x(0) + t (x(0) -
x(-1)), as scans with interpolated pixels need, where the network leaves finer detail than the scan itself has. On a
central block x(-1), x(0) and x(1) are computed from one encoding, and t is the one nearest to 0 at which the noise of
generated slices is that of the output at acquired positions (generated gap, design section 6) but for `ALLOWED`.
"""

from __future__ import annotations

import time

import numpy as np

from ..events import Stopwatch
from ..imaging.consistency import Grid
from ..imaging.noise import AcquiredQuery, NoiseGauge
from ..jobs import UpsampleJob
from .engine import Engine
from .gain import middle_block

TEXTURE_BLOCK = (24, 96, 96)  # slices, rows and columns at most, from the middle
MOST_OUTPUT = 72  # slices of the block's result
_LEAST_SLICES = 6
ALLOWED = 0.02  # generated gap that stays: less than what is called hidden (0.05), since a block is not the whole scan
HALVINGS = 5

Output = tuple[np.ndarray, AcquiredQuery | None]  # as `Engine.at_textures` gives it


def fit_texture(engine: Engine, values: np.ndarray, job: UpsampleJob, gain: float) -> tuple[float, float]:
    """The texture for the scan (N, J, I), as the job asks, else as fitted; and the seconds that it took.

    The same scan, job and device give the same texture, whatever part of the scan is then computed.
    """
    if job.texture is not None or not engine.card.texture or len(values) < _LEAST_SLICES:
        return float(job.texture or 0.0), 0.0
    start = time.monotonic()
    watch = Stopwatch("self_check", 1, engine.progress)
    block = middle_block(values, most_of(engine.plan.z_scale))
    texture = round(_least_hiding(engine, block, gain), 3)
    watch.step()
    return texture, time.monotonic() - start


def _least_hiding(engine: Engine, block: np.ndarray, gain: float) -> float:
    """The texture in [-1, 1] nearest to 0 with a generated gap within `ALLOWED`; an end of the range where none has."""
    plan, count = engine.plan, len(block)
    slices = int((count - 1) * plan.z_scale + 1e-6) + 1
    grid = Grid.of(count, plan.z_scale, slices, plan.ratio, extend=plan.consistency in ("project", "exact"))
    places = grid.positions[grid.crop]
    other = engine.of_block(block, engine.scale)
    smoothest, least, most = other.at_textures(block, grid, gain, (-1.0, 0.0, 1.0))
    gauge = NoiseGauge(block, plan.z_scale, plan.modality, remember=True)

    def gap(t: float) -> float | None:
        values, beside = _mixed(least, most if t > 0 else smoothest, abs(t))
        return gauge.readout(values, places, beside)["generated_gap"]

    first = gap(0.0)
    if first is None or abs(first) <= ALLOWED:
        return 0.0
    sign = 1.0 if first > 0 else -1.0  # of the texture that brings the gap towards 0

    def hides(amount: float) -> bool:
        found = gap(sign * amount)
        return found is not None and sign * found <= ALLOWED

    if not hides(1.0):
        return sign
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if hides(middle) else (middle, high)
    return sign * high


def _mixed(one: Output, other: Output, share: float) -> Output:
    """(1 - share) * one + share * other, at all places and beside them."""
    values = one[0] + np.float32(share) * (other[0] - one[0])
    if one[1] is None or other[1] is None:
        return values, None
    return values, AcquiredQuery(one[1].values + np.float32(share) * (other[1].values - one[1].values), one[1].at)


def most_of(z_scale: float) -> tuple[int, int, int]:
    """Slices, rows and columns that are looked at, at most."""
    return max(_LEAST_SLICES, min(TEXTURE_BLOCK[0], int(MOST_OUTPUT / z_scale) + 1)), *TEXTURE_BLOCK[1:]
