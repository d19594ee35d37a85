"""The main job: a volume in, an isotropic volume and its report out (floor 3).

The way of one volume (design section 3): plan -> normalize -> for each slab: encode, query each place, denormalize,
consistency, noise -> measure -> report. Nothing here is random: where noise is made, it is a function of the position
in the scan. No file is opened but the model's.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError
from ..events import Listener, Stopwatch
from ..imaging.body import body_seen
from ..imaging.consistency import Remainder
from ..imaging.geometry import AXES, Geometry
from ..imaging.lazy import read_from_zero
from ..imaging.noise import noise_readout
from ..imaging.volume import Volume
from ..jobs import NOISES, UpsampleJob
from .difference import taken_volume
from .gain import self_check
from .grain import part_of, slices_first_region
from .memory import check_scratch
from .plan import Plan, plan
from .settings import Settled, settle
from .speed import note_speed

__all__ = ["Plan", "Result", "plan", "upsample"]


@dataclass(frozen=True, eq=False)
class Result:
    """The upsampled volume and its report (design section 4.5)."""

    volume: Volume
    report: dict[str, Any]
    _take: Callable[[], Volume] | None = None

    @cached_property
    def taken(self) -> Volume | None:
        """Noise of the acquired slices that is not in the signal, float32 on their grid; None: none was taken.

        It is split when it is first asked for, so that nothing is held for those who do not ask.
        """
        return self._take() if self._take is not None else None


def upsample(
    volume: Volume,
    job: UpsampleJob | None = None,
    *,
    like: Geometry | Volume | None = None,
    progress: Listener | None = None,
    cancelled: Callable[[], bool] | None = None,
    **fields: Any,
) -> Result:
    """An isotropic volume, or one of the asked z-scale, spacing or grid, by the implicit neural representation.

    Parameters
    ----------
    volume : the scan, (K, J, I) in HU (CT) or stored units (MR), any slice axis
    job : the request; or its fields as keywords: `upsample(volume, z_scale=3.5)`. With a region only that is computed,
        with what is fitted to and measured on the whole scan
    like : a Volume or Geometry whose grid is filled
    progress : receives events.Progress and events.Warned
    cancelled : asked between slabs and between layers; true stops the run

    Returns
    -------
    Result : volume of the source's type and unit at the target geometry, and the report

    Raises
    ------
    RequestError, VolumeError, ModelError, ResourceError, MissingPackageError, Cancelled : see errors
    """
    start = time.monotonic()
    job = dataclasses.replace(job or UpsampleJob(), **fields)
    scan, volume = volume, volume.part(job.region)
    if job.like is not None and like is None:
        raise RequestError("The reference is not read yet", job.like, "pass like=cycleinr.read(path)")
    planned = plan(scan, job, like)
    check_scratch(planned.output_mb * 1e6)
    settled = settle(scan, job, planned, progress, cancelled)
    engine, whole, settings = settled.engine, settled.source, settled.settings
    limits = slices_first_region(job.region, planned.axis)
    part = part_of(whole.values, settled.noise, planned, whole.spacing_mm, limits, engine.check_cancelled)
    body = body_seen(whole.values, limits)
    brightness = engine.brightness and engine.brightness.part(limits)
    values, errors, queried = engine.run(
        part.signal, planned.grid, settings, renewal=part.renewal, body=body, brightness=brightness
    )
    acquired = read_from_zero(volume.slices_first(planned.axis).values, engine.zero) if brightness else part.acquired
    if (engine.zero or brightness) and planned.consistency == "keep" and settled.noise.mode != "remove":
        _copy_acquired(volume.slices_first(planned.axis).values, values, planned)
    watch = Stopwatch("measure", 1, progress)
    places = planned.grid.positions[planned.grid.crop]
    readout = noise_readout(acquired, values, planned.z_scale, planned.modality, acquired=queried, positions=places)
    watch.step()
    check = self_check(engine, whole.values, settings, settled.dropped) if job.self_check else None
    result = _placed(volume, values, planned)
    spent = {
        "seconds": time.monotonic() - start,
        "gain_seconds": settled.gain_seconds,  # of these, for fitting the gain
    }
    if not engine.ran_out:
        note_speed(engine, whole.values, settled.timed)
    report = _report(volume, result, job, planned, settled, readout, errors, check, spent)
    if part.split is None:
        return Result(result, report)
    if job.difference is None:
        part.split.forget()
    return Result(result, report, partial(taken_volume, volume, part.split, planned.axis, brightness))


def _copy_acquired(acquired: np.ndarray, output: np.ndarray, planned: Plan) -> None:
    """Bit for bit, where floating point lost some on the way from zero and back."""
    for n, t in enumerate(planned.grid.positions[planned.grid.crop]):
        if abs(t - round(t)) < 1e-6 and 0 <= round(t) < len(acquired):
            output[n] = acquired[round(t)]


def _placed(volume: Volume, output: np.ndarray, planned: Plan) -> Volume:
    """The output as a Volume in the axis order of the input, resampled where a reference is not parallel."""
    values = np.moveaxis(output[::-1] if planned.reversed else output, 0, AXES.index(planned.axis))
    spacing = planned.target.slices_first(planned.axis).spacing_mm[0]
    result = dataclasses.replace(
        volume,
        values=np.ascontiguousarray(values),
        geometry=planned.target,
        modality=volume.modality or planned.modality,
        thickness_mm=min(spacing, planned.thickness_mm),
        slice_axis=planned.axis,
        warnings=(),
    )
    if planned.resample_to is None:
        return result
    from ..io.resample import resampled

    return resampled(result, planned.resample_to)


def _report(
    volume,
    result,
    job,
    planned: Plan,
    settled: Settled,
    readout,
    errors: Remainder,
    check: dict[str, Any] | None,
    spent: dict[str, float],
) -> dict[str, Any]:
    """Design section 4.5, ready for JSON."""
    from .. import __version__
    from ..network.weights import sha256

    engine, settings, noise = settled.engine, settled.settings, settled.noise
    sigma = readout["sigma_mean"]["input"]
    figures = {name: value for name, value in readout.items() if name != "sigma_mean"}
    error = None if errors.rms is None or not sigma else round(errors.rms / sigma, 4)
    if planned.consistency == "exact":
        engine.warn("Exact consistency amplifies noise 1.2 to 1.6 times.")
    if planned.consistency == "keep" and noise.mode == "remove":
        engine.warn("Acquired slices lost their noise too: they are not copied bit for bit.")
        error = round(noise.taken_ratio or 0.0, 4)
    elif planned.consistency == "keep":
        error = 0.0  # acquired slices are copied bit for bit
    if job.texture:
        engine.warn(f"There is no texture any more: the noise is {NOISES[noise.mode]} instead (--noise {noise.mode}).")
    return {
        "version": __version__,
        "model": {
            "name": engine.card.name,
            "file": engine.path.name,
            "sha256": sha256(engine.path),
            "trained_on": [scan["scan"] for scan in engine.card.trained_on],
        },
        "input": _facts(volume, planned.axis, planned.thickness_mm, planned.modality),
        "output": _facts(result, planned.axis, result.thickness_mm, planned.modality),
        "z_scale": planned.z_scale,
        "profile": planned.profile,
        "noise": noise.mode,
        "noise_taken": None if noise.taken_rms is None else float(f"{noise.taken_rms:.4g}"),
        "noise_taken_ratio": None if noise.taken_ratio is None else round(noise.taken_ratio, 3),
        "gain": settings.gain,
        "consistency": planned.consistency,
        "consistency_error": error,
        "slice_brightness": engine.brightness and round(engine.brightness.difference, 4),
        "device": engine.device,
        "precision": engine.precision,
        **{name: round(seconds, 2) for name, seconds in spent.items()},
        "peak_memory_mb": peak_memory_mb(),
        **figures,
        "self_check": check,
        "warnings": list(engine.warnings),
        "job": dataclasses.replace(
            job, model=engine.model, device=engine.device, precision=engine.precision, noise=noise.mode, texture=None
        ).to_json(),
    }


def _facts(volume: Volume, axis: str, thickness_mm: float | None, modality: str) -> dict[str, Any]:
    return {
        "dimensions": list(volume.geometry.shape[::-1]),
        "spacing_mm": [round(mm, 6) for mm in volume.spacing_mm[::-1]],
        "thickness_mm": thickness_mm,
        "slice_axis": axis,
        "modality": modality,
    }


def peak_memory_mb() -> float | None:
    """The most memory this process has held, in MB; None where the system does not say."""
    try:  # a child started by a large program inherits that program's figure from `getrusage`
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 2**10, 1)
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)
