"""What is fitted to a scan before it is computed: found by functions that return it, and passed on (floor 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..jobs import UpsampleJob
from .engine import Engine, Settings
from .fits import checksum, keep_settings, kept_settings
from .gain import Dropped, fit_gain


@dataclass(frozen=True, eq=False)
class Fit:
    """The settings of one scan, what its dropped slices said (None: not asked), and the seconds that it took."""

    settings: Settings
    dropped: Dropped | None
    gain_seconds: float


def fit(engine: Engine, values: np.ndarray, job: UpsampleJob) -> Fit:
    """The gain for the scan (N, J, I), as the job asks or as the scan bears out; in float32 always.

    The same scan, job and kind of processor give the same settings, whatever part of the scan is then computed. What
    an earlier run fitted is taken, but for the self-check, which needs the dropped slices themselves.
    """
    key = checksum(engine, values, job)
    known = None if job.self_check else kept_settings(engine, key)
    if known is not None:
        return Fit(known, None, 0.0)
    said = len(engine.warnings)
    gain = fit_gain(engine.in_float32(), values, job)
    settings = Settings(gain.gain)
    keep_settings(key, settings, engine.warnings[said:])
    return Fit(settings, gain.dropped, gain.seconds)
