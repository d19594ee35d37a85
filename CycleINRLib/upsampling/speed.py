"""How fast this machine is with one model, so that the time of any plan can be told at once (floor 3).

Measured once for each machine, size of network, device and precision, by the first run that computes or by
`cycleinr check`, and remembered (`machine`). Measuring needs torch; `known_speed` and the arithmetic of
`Speed.seconds` do not. The panel imports this file when Slicer starts, so that what loads scipy is imported where it is
needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ModelError
from ..events import Stopwatch
from ..imaging.consistency import KEEP_RATIO
from ..imaging.volume import Volume
from ..jobs import UpsampleJob, is_number
from ..machine import processor, recall, remember, usable_cores
from ..modelcard import read_card
from .memory import SlabRule, plan_slabs, usual_size
from .plan import CYCLE_BLOCK, GAIN_BLOCK, Plan, plan

if TYPE_CHECKING:
    from .engine import Engine

CALIBRATION = (6, 128, 128)  # slices, rows and columns that are computed to measure
_MIDDLE = (16, 64, 64)  # voxels of a scan that tell it from others
START_S = 2.0  # a process that loads torch, then reads and writes; 1.5 to 2.5 s where measured
HALO = 0.6  # of what other rows cost: the halo gets narrower from layer to layer
BESIDES = 1.2  # base, consistency and measures beside the network


class Pass(NamedTuple):
    """One pass of the network: slices, rows and columns to encode, and output places."""

    slices: int
    rows: int
    columns: int
    places: int


@dataclass(frozen=True)
class Speed:
    """Seconds for each voxel, on one device with one model.

    Parameters
    ----------
    encode_s : for each voxel of the scan
    decode_s : for each voxel of the result
    device : where, in words
    slabs : a `SlabRule`, which decides how many rows are computed twice; None: none
    """

    encode_s: float
    decode_s: float
    device: str
    slabs: tuple[int, int, int, float] | None = None

    def seconds(
        self, source: Volume, planned: Plan, job: UpsampleJob | None = None, rows_read: int | None = None
    ) -> float:
        """What a plan of `source` will take, from the start of the process to the report.

        job : says what is fitted and checked beside it
        rows_read : of all slabs together, with their halos; None: as `slabs` says
        """
        job = job or UpsampleJob()
        slices, rows, columns = shape = source.geometry.slices_first(planned.axis).shape
        rows_read = rows_read or self._rows_read(shape, len(planned.grid.positions))
        halo = HALO * self.encode_s * slices * columns * (max(rows, rows_read or rows) - rows)
        whole = Pass(slices, rows, columns, len(planned.grid.positions))
        passes = [whole, *_beside((slices, rows, columns), planned, job)]
        return START_S + BESIDES * (halo + sum(self._pass(one) for one in passes))

    def _rows_read(self, shape: tuple[int, ...], places: int) -> int:
        if self.slabs is None:
            return shape[1]
        rule = SlabRule(*self.slabs)  # a list where it comes from a file
        slabs = plan_slabs(shape[1], rule.halo, usual_size(shape, places, *rule).rows)
        return sum(slab.read_last - slab.read_first for slab in slabs)

    def _pass(self, work: Pass) -> float:
        return work.rows * work.columns * (self.encode_s * work.slices + self.decode_s * work.places)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def known_speed(job: UpsampleJob | None = None) -> Speed | None:
    """The speed for the model, device and precision of `job` as an earlier run measured it here; loads no torch.

    None where no run has, or there is no such model.
    """
    from ..network.weights import find_model

    job = job or UpsampleJob()
    try:
        return _kept(_key(read_card(find_model(job.model)).network, job))
    except ModelError:
        return None


def _kept(key: str) -> Speed | None:
    try:
        facts = recall("speed", key)
        found = None if facts is None else Speed(**{**facts, "slabs": tuple(facts["slabs"])})
    except (TypeError, KeyError):  # of another version
        return None
    return found if found is not None and _is_sound(found) else None


def _is_sound(speed: Speed) -> bool:
    """Whether it holds what a measurement gives: it comes from a file."""
    numbers = (speed.encode_s, speed.decode_s, *(speed.slabs or ()))
    fits = speed.slabs is None or (len(speed.slabs) == 4 and all(isinstance(n, int) for n in speed.slabs[:3]))
    return fits and isinstance(speed.device, str) and all(is_number(n) and n >= 0 for n in numbers)


def measured_speed(volume: Volume, job: UpsampleJob | None = None) -> Speed:
    """The speed for the model, device and precision of `job`; computes a small block for about a second.

    Parameters
    ----------
    volume : the scan or a block of it, values (K, J, I)

    Raises
    ------
    RequestError, VolumeError, ModelError, ResourceError, MissingPackageError : as for upsampling
    """
    from .engine import Engine

    job = job or UpsampleJob()
    planned = plan(volume, job)
    engine = Engine.of(volume, job, planned, None, None)
    assert engine.source is not None
    return _measured(engine, engine.source.values, _key(engine.card.network, job))


def note_speed(engine: Engine, values: np.ndarray, job: UpsampleJob) -> None:
    """For `known_speed`, where it is not known: measured on a block of the scan, `values` (N, J, I)."""
    key = _key(engine.card.network, job)
    if _kept(key) is None:
        _measured(engine, values, key)


def _measured(engine: Engine, values: np.ndarray, key: str) -> Speed:
    speed = _calibrated(engine, values)
    remember("speed", key, speed.to_json())
    return speed


def expected_seconds(volume: Volume, planned: Plan, job: UpsampleJob | None = None) -> float | None:
    """Seconds that the plan will take on this machine; None where its speed is not known yet.

    Where an earlier run of this scan took another precision than the machine usually does, the time is that of it.
    """
    job = job or UpsampleJob()
    if job.precision == "auto" and (recall("taken", _scan_key(volume, job)) or {}).get("precision") == "float32":
        job = dataclasses.replace(job, precision="float32")
    speed = known_speed(job)
    return None if speed is None else round(speed.seconds(volume, planned, job), 1)


def note_precision(scan: Volume, job: UpsampleJob, precision: str) -> None:
    """What "auto" is for this scan, for `expected_seconds`."""
    remember("taken", _scan_key(scan, job), {"precision": precision})


def _scan_key(scan: Volume, job: UpsampleJob) -> str:
    """By which the panel and `info` know a scan again: its grid and the middle of its voxels."""
    from .. import __version__

    middle = tuple(slice((n - min(n, m)) // 2, (n + min(n, m)) // 2) for n, m in zip(scan.values.shape, _MIDDLE))
    told = [__version__, processor(), job.model, job.device, scan.values.shape, str(scan.values.dtype)]
    told.append([round(float(mm), 6) for mm in scan.spacing_mm])
    digest = hashlib.sha256(json.dumps(told).encode())
    digest.update(np.ascontiguousarray(scan.values[middle]).tobytes())
    return digest.hexdigest()


def _key(sizes: dict[str, Any], job: UpsampleJob) -> str:
    """Machine, version, size of network, device and precision: what a speed depends on."""
    from .. import __version__

    network = json.dumps(sizes, sort_keys=True)
    return " | ".join([__version__, processor(), f"{usable_cores()} cores", network, job.device, job.precision])


def _beside(shape: tuple[int, int, int], planned: Plan, job: UpsampleJob) -> Iterator[Pass]:
    """What is computed on central blocks of (N, J, I) `shape` beside the result: gain and self-check."""
    count, rows, columns = map(min, shape, GAIN_BLOCK)
    if job.gain is None or job.self_check:
        yield Pass(-(-count // 2), rows, columns, count // 2)
    if job.self_check:
        count, rows, columns = map(min, shape, CYCLE_BLOCK)
        times = 1 if planned.ratio <= KEEP_RATIO else 2
        for one in (count, count - 1):
            yield Pass(one, rows, columns, times * one)


def _calibrated(engine: Engine, values: np.ndarray) -> Speed:
    """Measures on a block of the scan, `values` (N, J, I): some places between all of its slices, then more of them."""
    from ..network.device import describe

    block = np.asarray(values[: CALIBRATION[0], : CALIBRATION[1], : CALIBRATION[2]], np.float32)
    block = block / np.float32(engine.scale.scale)
    grid = dataclasses.replace(engine.plan.grid, count=len(block))
    rows, columns = slice(0, block.shape[1]), slice(0, block.shape[2])
    few, many = (np.arange((len(block) - 1) * n) / n + 0.5 / n for n in (1, 5))
    pixels = block[0].size

    def seconds(places: np.ndarray) -> float:
        """The best of two: the first one warms up, and other programs disturb."""
        taken = []
        for _ in range(2):
            start = time.perf_counter()
            engine.corrections(
                block, rows, columns, places, grid, 1.0, Stopwatch("calibrate", 1, None, engine.cancelled)
            )
            taken.append(time.perf_counter() - start)
        return min(taken)

    first = seconds(few)
    place = max(0.0, seconds(many) - first) / (len(many) - len(few))
    encode = max(0.0, first - len(few) * place) / block.size
    return Speed(encode, place / pixels, describe(engine.device), engine.slab_rule)
