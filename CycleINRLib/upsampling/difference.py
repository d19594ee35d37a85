"""What is taken from the acquired slices as noise, alone: for a second look; no network is run (floor 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ..errors import Cancelled, RequestError
from ..imaging.brightness import SliceBrightness
from ..imaging.geometry import AXES
from ..imaging.volume import Volume
from ..jobs import UpsampleJob
from .grain import part_of, settle_noise, slices_first_region
from .plan import plan
from .stored import evened, slices_from_zero
from .strips import Signal


def noise_taken(scan: Volume, job: UpsampleJob, cancelled: Callable[[], bool] | None = None) -> Volume:
    """The `taken` of what `upsample` gives for the same scan and job: scan minus signal, (K, J, I) float32.

    It must look like noise: what of the anatomy is seen in it, the result lacks.

    Raises
    ------
    RequestError : the job takes nothing: its noise is as acquired
    Cancelled : `cancelled` turned true between slices
    """

    def look() -> None:
        if cancelled is not None and cancelled():
            raise Cancelled()

    planned = plan(scan, job)
    source, brightness = evened(slices_from_zero(scan, planned)[0], planned)
    noise = settle_noise(source.values, source.spacing_mm, planned, job, lambda _: None)
    limits = slices_first_region(job.region, planned.axis)
    look()
    part = part_of(source.values, noise, planned, source.spacing_mm, limits, look)
    if part.split is None:
        found = "the noise is as acquired"
        raise RequestError("Nothing was taken from the acquired slices", found, "ask for noise that is new or removed")
    return taken_volume(scan.part(job.region), part.split, planned.axis, brightness and brightness.part(limits))


def taken_volume(volume: Volume, split: Signal, axis: str, brightness: SliceBrightness | None = None) -> Volume:
    """The noise of `split` on the grid of `volume`, the same part of the scan, at the brightness of its slices."""
    noise = split.noise()
    if brightness is not None:
        brightness.give_back(noise, np.arange(len(noise)))
    values = np.ascontiguousarray(np.moveaxis(noise, 0, AXES.index(axis)))
    return dataclasses.replace(volume, values=values, name=f"{volume.name} noise", warnings=())
