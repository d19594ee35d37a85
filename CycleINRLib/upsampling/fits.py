"""Fits once per scan: preview, volume and panel share what an earlier run fitted (floor 3).

Kept under the checksum of all that a fit depends on: the voxels that it looks at, what was measured of the whole scan,
weights, plan, what the job asks for, device and version. Fits run in float32 whatever the precision of the run, and the
same scan and job give the same settings; so only time depends on what is kept.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ..jobs import UpsampleJob
from ..machine import recall, remember
from .engine import Engine, Settings
from .gain import middle_block

PLANNED = {  # fields of a job that the plan, the engine or the voxels hold already, as what they came to
    "z_scale", "spacing_mm", "like", "axis", "model", "modality", "series", "frame", "thickness_mm", "profile",
    "consistency", "device", "precision",
}  # fmt: skip

Fitting = Callable[[Engine, np.ndarray, UpsampleJob], Any]


def once_per_scan(kind: type) -> Callable[[Fitting], Fitting]:
    """Makes of a fit, which gives a `kind` with `settings`, that of an earlier run where its checksum is known.

    Settings and warnings are kept. The self-check needs the dropped slices themselves: then it is fitted again.
    """

    def kept(fit: Fitting) -> Fitting:
        @functools.wraps(fit)
        def remembered(engine: Engine, values: np.ndarray, job: UpsampleJob) -> Any:
            key = checksum(engine, values, job)
            known = None if job.self_check else recall("fits", key)
            if known is not None:
                for message in known["warnings"]:
                    engine.warn(message)
                spent = {field.name: 0.0 for field in fields(kind) if field.name.endswith("_seconds")}
                return kind(settings=Settings(**known["settings"]), dropped=None, **spent)
            said = len(engine.warnings)
            found = fit(engine, values, job)
            remember("fits", key, {"settings": asdict(found.settings), "warnings": engine.warnings[said:]})
            return found

        return remembered

    return kept


def checksum(engine: Engine, values: np.ndarray, job: UpsampleJob) -> str:
    """Of all that the fits of (N, J, I) `values` depend on."""
    from .. import __version__

    plan = engine.plan
    asked = {name: value for name, value in job.computing().items() if name not in PLANNED}
    told: list[Any] = [
        __version__, engine.device, asdict(engine.scale), list(engine.spacing_mm), plan.z_scale, plan.modality,
        plan.ratio, plan.profile, plan.consistency, asked, values.shape, str(values.dtype),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    digest.update(middle_block(values).tobytes())
    for weight in engine.loaded.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()
