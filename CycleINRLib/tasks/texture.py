"""How much texture a scan asks for: as little as hides its generated slices (floor 3).

The network's output is linear in texture, t: x(t) = x(0) + t (x(1) - x(0)), and so is what consistency makes of it. On
a central block both ends are computed from one encoding, and t is the smallest one at which the noise of generated
slices is that of the output at acquired positions (generated gap, design section 6) but for `ALLOWED`.
"""

from __future__ import annotations

import time

import numpy as np

from ..events import Stopwatch
from ..imaging.consistency import Grid
from ..imaging.metrics import AcquiredQuery, NoiseGauge
from ..jobs import UpsampleJob
from .engine import Engine
from .selfcheck import central_block

BLOCK = (12, 96, 96)  # slices, rows and columns at most, from the middle
MOST_OUTPUT = 48  # slices of the block's result
LEAST_SLICES = 6
ALLOWED = 0.02  # generated gap that stays: less than what is called hidden (0.05), since a block is not the whole scan
HALVINGS = 5


def settle_texture(engine: Engine, values: np.ndarray, job: UpsampleJob) -> float:
    """Sets `engine.texture` for the scan (N, J, I) where the job does not say it; the seconds that it took.

    The same scan, job and device give the same texture, whatever part of the scan is then computed.
    """
    fitted = job.texture is None and engine.card.texture
    if not fitted or len(values) < LEAST_SLICES:
        return 0.0
    start = time.monotonic()
    watch = Stopwatch("self_check", 1, engine.progress)
    block = central_block(values, most_of(engine.aim.z_scale))
    engine.texture = round(_least_hiding(engine, block), 3)
    watch.step()
    return time.monotonic() - start


def _least_hiding(engine: Engine, block: np.ndarray) -> float:
    """The smallest texture in [0, 1] with a generated gap of at most `ALLOWED`; 1 where there is none."""
    aim, count = engine.aim, len(block)
    slices = int((count - 1) * aim.z_scale + 1e-6) + 1
    grid = Grid.of(count, aim.z_scale, slices, aim.ratio, extend=aim.consistency in ("project", "exact"))
    places = grid.positions[grid.crop]
    other = engine.of_block(block)
    other.scale = engine.scale
    (least, beside_least), (most, beside_most) = other.at_textures(block, grid, (0.0, 1.0))
    gauge = NoiseGauge(block, aim.z_scale, aim.modality, remember=True)

    def gap(t: float) -> float | None:
        beside = None
        if beside_least is not None and beside_most is not None:
            mixed = beside_least.values + np.float32(t) * (beside_most.values - beside_least.values)
            beside = AcquiredQuery(mixed, beside_least.at)
        return gauge.readout(least + np.float32(t) * (most - least), places, beside)["generated_gap"]

    low, high = 0.0, 1.0
    first, last = gap(low), gap(high)
    if first is None or last is None or first <= ALLOWED:
        return 0.0
    if last >= ALLOWED:
        return 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        found = gap(middle)
        low, high = (middle, high) if found is not None and found > ALLOWED else (low, middle)
    return high


def most_of(z_scale: float) -> tuple[int, int, int]:
    """Slices, rows and columns that are looked at, at most."""
    return max(LEAST_SLICES, min(BLOCK[0], int(MOST_OUTPUT / z_scale) + 1)), *BLOCK[1:]
