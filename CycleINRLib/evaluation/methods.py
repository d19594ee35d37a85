"""Who takes part in an evaluation: interpolators, models with each noise and consistency, added results (floor 4)."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError, VolumeError
from ..events import Voice
from ..imaging.volume import Volume
from ..io.files import read
from ..io.names import EXTENSIONS
from ..io.resample import resampled
from ..jobs import CHOICES, parse_json
from ..network.weights import find_model, list_models, sha256, weights_sha256
from .case import Case
from .interpolators import ABOUT, INTERPOLATORS, Attempt
from .score import Method, product

ABOUT_ADAPTED = {
    "synthesis": "the synthetic volume of the first stage, taken for the result",
    "supervised": "trained as long on the truth of the very case: an upper bound",
}
BUNDLED = ("light",)  # those that take part where nobody says otherwise
SECONDS = "seconds.json"  # in the folder of an added method: {case: seconds}


@dataclass(frozen=True)
class EvaluatedMethod:
    """One column of the table.

    kind : "interpolator" (closed form), "model", "adapted" (to each case anew), or "added" (volumes of another program)
    job : fields of `UpsampleJob`, for a model
    told : what the record says of it
    """

    name: str
    kind: str
    job: tuple[tuple[str, Any], ...] = ()
    folder: Path | None = None
    told: tuple[tuple[str, Any], ...] = ()

    def facts(self) -> dict[str, Any]:
        """For the record's "methods"."""
        return {"kind": self.kind, **dict(self.told)}

    def key(self, case: str) -> str:
        """Changes where the result would change: other weights, another noise, another file."""
        if self.folder is None:
            told = {name: value for name, value in self.told if name not in ("sha256", "about")}
            return json.dumps([self.kind, told, dict(self.job).get("device")])
        file = result_file(self.folder, case)
        state = file.stat() if file else None
        return json.dumps([self.kind, state and [state.st_size, state.st_mtime_ns]])

    def method(self, case: Case) -> Method | None:
        """What computes its result; None where an added method has none of this case."""
        if self.kind == "interpolator":
            return INTERPOLATORS[self.name]
        if self.kind == "model":
            return product(**dict(self.job))
        if self.kind == "adapted":
            return _adapting(dict(self.told), dict(self.job))
        assert self.folder is not None
        file = result_file(self.folder, case.name)
        if file is None:
            return None
        volume, seconds = read(file), _seconds(self.folder).get(case.name)
        return lambda case: iter([added_result(case, volume, seconds)])


def choose_methods(options: Namespace, voice: Voice) -> list[EvaluatedMethod]:
    """Interpolators first, then models, then added ones; each name once.

    Raises
    ------
    RequestError : an unknown method, an added folder that is missing, two of one name, none at all
    ModelError : a model that cannot be read
    """
    found = list(_built_in(options, voice))
    found += _adapted(options)
    found += [_added(text) for text in options.add]
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RequestError("Two methods have the same name", ", ".join(twice), "name each once")
    if not found:
        raise RequestError("No method is left", ", ".join(options.methods or []), "name one, such as cubic")
    return found


def _built_in(options: Namespace, voice: Voice) -> Iterator[EvaluatedMethod]:
    bundled = dict(list_models())
    asked: list[str] = options.methods or [*INTERPOLATORS, *(name for name in BUNDLED if name in bundled)]
    plain = {name.replace(" ", ""): name for name in INTERPOLATORS}
    asked = list(dict.fromkeys(plain.get(name.replace(" ", ""), name) for name in asked))
    for name in asked:
        if name in INTERPOLATORS:
            yield EvaluatedMethod(name, "interpolator", told=(("about", ABOUT[name]),))
    for name in asked:
        if name in INTERPOLATORS:
            continue
        if name not in bundled and not Path(name).is_file():
            if name not in BUNDLED:
                choice = ", ".join([*plain, *bundled])
                raise RequestError("There is no such method", name, f"choose of {choice}, or a .safetensors file")
            voice.warn(f"The model {name} is not bundled: it is left out.")
            continue
        yield from _of_model(name, options, voice)


def _of_model(name: str, options: Namespace, voice: Voice) -> Iterator[EvaluatedMethod]:
    """The model with each noise and consistency; what differs from its defaults is in the name."""
    path = find_model(name)
    digest, weights = sha256(path), weights_sha256(path)
    label = name if name in dict(list_models()) else path.stem
    for noise in _of_choices("noise", options.noise):
        for consistency in _of_choices("consistency", options.consistency):
            extra = "" if noise == "auto" else f" {noise}"
            extra += "" if consistency == "auto" else f" {consistency}"
            job = {"model": str(path), "noise": noise, "consistency": consistency, "device": options.device}
            told = {"model": label, "file": path.name, "sha256": digest, "noise": noise, "consistency": consistency}
            told |= {"weights_sha256": weights}
            yield EvaluatedMethod(label + extra, "model", tuple(job.items()), told=tuple(told.items()))


def _adapted(options: Namespace) -> Iterator[EvaluatedMethod]:
    """What learns from each case: by a route of `cycleinr adapt`, stage 1 alone, or the upper bound."""
    if not options.adapt:
        return
    path = find_model(options.start)
    job = {"model": str(path), "device": options.device, "noise": "acquired"}
    for route in dict.fromkeys(options.adapt):
        about = ABOUT_ADAPTED.get(route, f"{path.stem} adapted to the thick slices of each case, route {route}")
        told = {
            "route": route,
            "steps": options.adapt_steps,
            "start": path.name,
            "weights_sha256": weights_sha256(path),
        }
        yield EvaluatedMethod(f"adapted {route}", "adapted", tuple(job.items()), told=(*told.items(), ("about", about)))


def _adapting(told: dict[str, Any], job: dict[str, Any]) -> Method:
    from .learners import adapted, supervised, synthesis

    if told["route"] == "synthesis":
        return synthesis(told["steps"])
    if told["route"] == "supervised":
        return supervised(told["steps"], **job)
    return adapted(told["route"], told["steps"], **job)


def _of_choices(name: str, asked: list[str]) -> list[str]:
    for word in asked:
        if word not in CHOICES[name]:
            raise RequestError(f"The {name} is unknown", word, f"choose of {', '.join(CHOICES[name])}")
    return list(dict.fromkeys(asked))


def _added(text: str) -> EvaluatedMethod:
    name, _, folder = text.partition("=")
    if not name or not folder or not Path(folder).is_dir():
        raise RequestError("The added method is not understood", text, "give NAME=FOLDER, a folder that exists")
    told = ("about", "volumes that another program made of the same thick sources")
    return EvaluatedMethod(name, "added", folder=Path(folder), told=(told,))


def result_file(folder: Path, case: str) -> Path | None:
    """The added result of a case, in any format that can be read."""
    return next((path for ending in EXTENSIONS if (path := folder / f"{case}{ending}").is_file()), None)


@lru_cache(maxsize=8)
def _seconds(folder: Path) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in parse_json((folder / SECONDS).read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise RequestError(
            "The seconds of the added method cannot be read", f"{folder / SECONDS}: {error}", "write {case: seconds}"
        ) from error


def added_result(case: Case, volume: Volume, seconds: float | None) -> Attempt:
    """The volume on the target grid: as it is where it lies there, else by cubic B-spline, which is told.

    Raises
    ------
    VolumeError : it does not cover the target slices that count
    """
    facts: dict[str, Any] = {"seconds": seconds, "resampled": False}
    target = case.target
    if volume.geometry.shape == target.shape and volume.geometry.same_place_as(target, 0.02 * min(target.spacing_mm)):
        return Attempt(volume.values, facts=facts)
    ends = volume.geometry.kji_of(target.ras_of(np.array([np.zeros(3), np.array(target.shape) - 1.0])))
    if (ends < -1).any() or (ends > np.array(volume.geometry.shape)).any():
        found = f"{case.name}: it begins or ends {max(-ends.min(), 0):.1f} voxels inside the source"
        raise VolumeError("The added result does not cover the scan", found, "write the whole scan")
    floats = volume.with_values(np.asarray(volume.values, np.float32))
    return Attempt(resampled(floats, target).values, facts={**facts, "resampled": True})
