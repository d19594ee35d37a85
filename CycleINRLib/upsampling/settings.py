"""What is settled for a scan before it is computed: gain, precision and noise (floor 3).

Found by functions that return it, and passed on. The same scan, job and kind of processor give the same settings,
whatever part of the scan is then computed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from ..events import Listener, Stopwatch
from ..imaging.consistency import noise_level
from ..imaging.intensity import CT_RANGE_HU
from ..imaging.volume import Volume
from ..jobs import UpsampleJob, is_number
from ..machine import processor, recall, remember
from ..network.workers import meanwhile
from .engine import Engine, Settings
from .gain import Dropped, GainFit, settle_gain
from .grain import NoiseTreatment, settle_noise
from .memory import is_out_of_memory
from .noisekept import noise_checksum
from .plan import Plan
from .speed import note_precision

NOISE_SHARE, STEP_SHARE = 0.05, 0.1  # what precisions may differ by (rms): of the noise, or of a whole number if more
DOUBT = 1.25  # of that estimate, which was 0.90 to 1.19 of the truth on all scans of docs/speed.md
TILE = (8, 32, 32)  # slices, rows and columns on which it is made
STRENGTHS = (1 / 6, 1 / 2, 5 / 6)  # of which tiles: of the power of second differences, this part lies in stronger ones
_SEEN = 4_000_000  # voxels that are enough to choose them


@dataclass(frozen=True, eq=False)
class Settled:
    """An engine with its scan, slices first and from zero, and all that is settled for it.

    timed : the job whose time it takes: "auto" is that of the machine, which a quiet scan may not get
    dropped : what the dropped slices of the scan said; None: not asked
    gain_seconds : that the gain took
    """

    engine: Engine
    source: Volume
    settings: Settings
    noise: NoiseTreatment
    timed: UpsampleJob
    dropped: Dropped | None
    gain_seconds: float


def settle(
    scan: Volume, job: UpsampleJob, plan: Plan, progress: Listener | None, cancelled: Callable[[], bool] | None
) -> Settled:
    """For the whole scan, whatever part of it is then computed.

    Raises
    ------
    ModelError, ResourceError, MissingPackageError, Cancelled : see errors
    """
    derivatives: dict[int, np.ndarray] = {}  # of slices that both look at
    engine = Engine.of(scan, job, plan, progress, cancelled, derivatives)
    source = engine.source
    assert source is not None
    said: list[str] = []  # of the noise, told after what the others say
    noise_of = partial(settle_noise, source.values, source.spacing_mm, plan, job, said.append, derivatives)
    with meanwhile(noise_of) as found:
        fitted, believed = _fitted(engine, source.values, job)
        noise = found()
    for message in said:
        engine.warn(message)
    timed = job if believed is engine else dataclasses.replace(job, precision=believed.precision)
    if job.precision == "auto" and engine.precision != "float32":
        note_precision(scan, job, believed.precision)
    return Settled(believed, source, Settings(fitted.gain), noise, timed, fitted.dropped, fitted.seconds)


def _fitted(engine: Engine, values: np.ndarray, job: UpsampleJob) -> tuple[GainFit, Engine]:
    """The gain, and the engine in the precision that is believed; again where the device, or the precision, fails."""
    try:
        gain = settle_gain(engine, values, job)
        return gain, in_believed_precision(engine, values, job, gain.gain)
    except (MemoryError, RuntimeError, FloatingPointError) as error:
        if engine.device == "cpu" and (engine.precision == "float32" or not isinstance(error, FloatingPointError)):
            raise
        engine.give_way(error)
    return _fitted(engine, values, job)


# --- precision ------------------------------------------------------------------------------------------------
def in_believed_precision(engine: Engine, values: np.ndarray, job: UpsampleJob, gain: float) -> Engine:
    """The engine itself, or in float32 where "auto" would show: reduced precision beside the noise of (N, J, I).

    What is rounded is a share of the correction, which is large at edges, whatever the noise is. A precision that was
    asked for is kept, with a warning where it shows.
    """
    if engine.precision == "float32" or not gain:  # of a gain of 0 the network has no part in the result
        return engine
    noise = engine.noise or noise_level(values, engine.plan.modality) or 0.0
    most = max(NOISE_SHARE * noise, STEP_SHARE if engine.kind.kind in "iu" else 0.0)
    try:
        off = gain * _kept_error(engine, values)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        off = np.inf  # the run will say so
    if job.precision == "auto":
        return engine if DOUBT * off <= most else engine.in_float32()
    if most < off < np.inf:
        engine.warn(
            f"{engine.precision} changes the result by {off:.2g} (noise {noise:.2g}): float32 would be more exact."
        )
    return engine


def _kept_error(engine: Engine, values: np.ndarray) -> float:
    """`rounding_error` as an earlier run found it, or found now and kept under all that it depends on."""
    key = _checksum(engine, values)
    known = (recall("precisions", key) or {}).get("error")
    if known is not None and is_number(known) and known >= 0:
        return float(known)
    found = rounding_error(engine, values)
    remember("precisions", key, {"error": found})
    return found


def _checksum(engine: Engine, values: np.ndarray) -> str:
    """Of the scan, the network, what it is told, and the machine that computes it in the engine's precision."""
    plan = engine.plan
    told = [
        noise_checksum(values, engine.spacing_mm, plan.modality), engine.precision, engine.device, *capability(),
        asdict(engine.scale), plan.ratio, plan.profile, plan.consistency, plan.grid.step, list(engine.card.ratio_range),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(told).encode())
    for weight in engine.loaded.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def capability() -> tuple[str, ...]:
    """What decides how this machine rounds: the processor, the instructions that are in use, and torch."""
    import torch

    limits = (os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"))
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return processor(), torch.backends.cpu.get_cpu_capability(), torch.__version__, card, *limits


def rounding_error(engine: Engine, values: np.ndarray) -> float:
    """The root mean square by which the engine's precision changes the network's part of the scan (N, J, I), in its
    unit: measured on tiles, for each unit of the second differences along z, to which it is proportional."""
    power, tiles = _typical_tiles(values, engine.plan.modality)
    exact, off, seen = engine.in_float32(), 0.0, 0.0
    for strength, tile in tiles:
        block = np.ascontiguousarray(values[tile], np.float32) / np.float32(engine.scale.scale)
        grid = dataclasses.replace(engine.plan.grid, count=len(block))
        places = np.arange(2 * len(block) - 2) / 2 + 0.25
        window = slice(0, block.shape[1]), slice(0, block.shape[2])
        watch = Stopwatch("precision", 1, None, engine.cancelled)
        one, other = (each.corrections(block, *window, places, grid, 1.0, watch) for each in (engine, exact))
        off, seen = off + float(np.square(one - other).mean()), seen + strength
    return float(np.sqrt(power * off / seen)) if seen else 0.0


def _typical_tiles(values: np.ndarray, modality: str) -> tuple[float, list[tuple[float, tuple[slice, ...]]]]:
    """The mean square of second differences along z of (N, J, I), and some tiles with theirs."""
    step = min(8, int(np.ceil(np.sqrt(values.size / _SEEN))))
    sample = np.asarray(values[:, ::step, ::step], np.float32)
    sample = np.clip(sample, *CT_RANGE_HU) if modality == "CT" else sample
    power = np.square(np.diff(sample, 2, axis=0))
    size = [max(1, min(n, m)) for n, m in zip(power.shape, (TILE[0] - 2, TILE[1] // step, TILE[2] // step))]
    counts = [n // m for n, m in zip(power.shape, size)]
    whole = power[tuple(slice(n * m) for n, m in zip(counts, size))]
    each = whole.reshape(counts[0], size[0], counts[1], size[1], counts[2], size[2]).mean((1, 3, 5))
    order = np.argsort(-each, axis=None, kind="stable")
    share = np.cumsum(each.ravel()[order], dtype=np.float64)
    if not share[-1]:
        return 0.0, []
    chosen = order[np.searchsorted(share, np.multiply(STRENGTHS, share[-1]))]
    tiles: list[tuple[float, tuple[slice, ...]]] = []
    for n, j, i in np.transpose(np.unravel_index(chosen, each.shape)):
        rows, columns = (slice(at * m * step, (at + 1) * m * step) for at, m in ((j, size[1]), (i, size[2])))
        tiles.append((float(each[n, j, i]), (slice(n * size[0], (n + 1) * size[0] + 2), rows, columns)))
    return float(power.mean(dtype=np.float64)), tiles
