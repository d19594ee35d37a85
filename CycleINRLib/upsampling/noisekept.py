"""What was measured of a scan's noise, kept for later runs: a preview, the volume after it, a second look (floor 3).

Kept under the checksum of all that it depends on: each voxel of the scan, its spacing and modality, the version, and
the code that measures it. So only time depends on what is kept.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..machine import recall, remember
from .noisemodel import NoiseModel

MEASURED_BY = ("noisemodel.py", "split.py", "grain.py")


@dataclass(frozen=True, eq=False)
class NoiseFound:
    """The noise of a scan, None: there are too few flat places; and whether it can be split from structure.

    taken_rms, taken_ratio, doubts : see `grain.judged`
    """

    model: NoiseModel | None
    taken_rms: float | None = None
    taken_ratio: float | None = None
    doubts: tuple[str, ...] = ()


def noise_checksum(values: np.ndarray, spacing_mm: tuple[float, ...], modality: str) -> str:
    """Of all that what is found in (N, J, I) `values` depends on."""
    from .. import __version__

    told = [__version__, [float(mm) for mm in spacing_mm], modality, values.shape, str(values.dtype)]
    digest = hashlib.sha256(json.dumps(told).encode())
    for name in MEASURED_BY:
        try:
            digest.update(Path(__file__).with_name(name).read_bytes())
        except OSError:  # not kept as files
            pass
    for one in values:
        digest.update(np.ascontiguousarray(one).tobytes())
    return digest.hexdigest()


def kept_noise(key: str) -> NoiseFound | None:
    """What an earlier run kept under this `noise_checksum`; None where it is not known, or damaged."""
    try:
        known = recall("noise", key) or {}
        facts = known["model"]
        model = None if facts is None else NoiseModel(**{name: _decoded(fact) for name, fact in facts.items()})
        rms, ratio = (None if known[name] is None else float(known[name]) for name in ("taken_rms", "taken_ratio"))
        sound = all(isinstance(doubt, str) for doubt in known["doubts"]) and (model is None or _is_sound(model))
        return NoiseFound(model, rms, ratio, tuple(known["doubts"])) if sound else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def keep_noise(key: str, found: NoiseFound) -> None:
    model = found.model
    facts = None if model is None else {name: _encoded(getattr(model, name)) for name in _names()}
    rest = {"taken_rms": found.taken_rms, "taken_ratio": found.taken_ratio, "doubts": list(found.doubts)}
    remember("noise", key, {"model": facts, **rest})


def _names() -> list[str]:
    return [field.name for field in dataclasses.fields(NoiseModel)]


def _encoded(fact: Any) -> Any:
    """Ready for JSON, without a bit lost; infinity, which JSON has not, as text."""
    if isinstance(fact, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(fact).tobytes()).decode("ascii")
        return {"type": fact.dtype.str, "shape": fact.shape, "data": data}
    if isinstance(fact, tuple):
        return [_encoded(one) for one in fact]
    return str(fact) if isinstance(fact, float) and not np.isfinite(fact) else fact


def _decoded(fact: Any) -> Any:
    if isinstance(fact, dict):
        data = base64.b64decode(fact["data"], validate=True)
        return np.frombuffer(data, np.dtype(fact["type"])).reshape(fact["shape"]).copy()
    if isinstance(fact, list):
        return tuple(float(one) for one in fact)
    return fact


def _is_sound(model: NoiseModel) -> bool:
    """What is kept may be damaged: as many numbers as there are to be, each of them finite, levels above nothing."""
    level, at, blocks = model.level, model.at, (model.spectrum, model.left)
    return (
        all(block.shape == (8, 8) and np.isfinite(block).all() for block in blocks)
        and level.ndim == 3
        and at.shape == (len(level),)
        and bool(np.isfinite(level).all() and (level > 0).all())
        and len(model.low) == len(model.high) == 2
        and model.modality in ("CT", "MR")
        and all(isinstance(one, (int, float)) for one in (model.halves, model.neighbors, model.blob))
    )
