"""Fits once per scan: preview, volume and panel share what an earlier run fitted (floor 3).

Kept under the checksum of all that a fit depends on: the voxels that it looks at, what was measured of the whole scan,
weights, plan, what the job asks for, device and version. Fits run in float32 whatever the precision of the run, and the
same scan and job give the same settings; so only time depends on what is kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from ..jobs import UpsampleJob, is_number
from ..machine import recall, remember
from .engine import Engine, Settings
from .gain import middle_block

PLANNED = {  # fields of a job that the plan, the engine or the voxels hold already, as what they came to
    "z_scale", "spacing_mm", "like", "axis", "model", "modality", "series", "frame", "thickness_mm", "profile",
    "consistency", "device", "precision", "region",
}  # fmt: skip


def kept_settings(engine: Engine, key: str) -> Settings | None:
    """What an earlier run fitted under this `checksum`, its warnings said again; None where it is not known."""
    try:
        known = recall("fits", key) or {}
        settings, warnings = Settings(**known["settings"]), list(known["warnings"])
        sound = all(is_number(fact) for fact in asdict(settings).values()) and all(isinstance(w, str) for w in warnings)
    except (KeyError, TypeError):  # not known, or damaged
        return None
    if not sound:
        return None
    for message in warnings:
        engine.warn(message)
    return settings


def keep_settings(key: str, settings: Settings, warnings: list[str]) -> None:
    """For later runs; `warnings` are those that the fit said."""
    remember("fits", key, {"settings": asdict(settings), "warnings": warnings})


def checksum(engine: Engine, values: np.ndarray, job: UpsampleJob) -> str:
    """Of all that the fits of (N, J, I) `values` depend on."""
    from .. import __version__

    plan = engine.plan
    asked = {name: value for name, value in job.computing().items() if name not in PLANNED}
    told: list[Any] = [
        __version__, engine.device, asdict(engine.scale), list(engine.spacing_mm), plan.z_scale, plan.modality,
        plan.ratio, plan.profile, plan.consistency, plan.interpolated, asked, values.shape, str(values.dtype),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    digest.update(middle_block(values).tobytes())
    for weight in engine.loaded.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()
