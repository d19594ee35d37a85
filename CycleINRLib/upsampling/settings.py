"""What is fitted to a scan before it is computed: found by functions that return it, and passed on (floor 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..jobs import UpsampleJob
from .engine import Engine, Settings
from .fits import once_per_scan
from .gain import Dropped, fit_gain


@dataclass(frozen=True, eq=False)
class Fit:
    """The settings of one scan, what its dropped slices said (None: not asked), and the seconds that it took."""

    settings: Settings
    dropped: Dropped | None
    gain_seconds: float


@once_per_scan(Fit)
def fit(engine: Engine, values: np.ndarray, job: UpsampleJob) -> Fit:
    """The gain for the scan (N, J, I), as the job asks or as the scan bears out; in float32 always.

    The same scan, job and kind of processor give the same settings, whatever part of the scan is then computed.
    """
    exact = engine.in_float32()
    gain = fit_gain(exact, values, job)
    return Fit(Settings(gain.gain), gain.dropped, gain.seconds)
