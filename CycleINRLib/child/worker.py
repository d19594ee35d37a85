"""The child's side of design section 4.4: one job in a folder, arrays instead of image files (floor 4).

FOLDER holds job.json and input.npy (input_0.npy, input_1.npy, ... where a task takes several scans); it gets
output.npy or model.safetensors and, last, result.json, each by rename, so that whoever sees result.json sees
everything. The file `cancel` asks to stop; the parent is gone where the file `alive` is stale and the process that it
names lives no more.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Cancelled, RequestError
from ..events import Event, Finished, Warned
from ..jobs import AdaptJob, UpsampleJob, is_number, read_job
from .inputs import read_geometry, read_text, read_volume, read_volumes
from .parent import is_stale, lives, read_sign

STALE_S = 60.0  # the parent touches `alive` every second while it can; then it is looked for
LOOK_S = 5.0  # how often


def run_folder(folder: str | os.PathLike[str], emit: Callable[[Event], None]) -> None:
    """Do the job of `folder`, telling `emit` each event; the last one is Finished.

    Raises
    ------
    RequestError, VolumeError, ModelError, ResourceError, Cancelled : then the folder holds what it held before
    """
    place = Path(folder)
    facts = read_job(read_text(place / "job.json"))
    if not isinstance(facts["task"], str):
        raise RequestError("The task is unknown", repr(facts["task"])[:60], "name one in words")
    tasks = {"upsample": _upsample, "measure": _measure, "preview": _preview, "speed": _speed, "adapt": _adapt}
    if facts["task"] == "check":  # needs no volume
        return _check(place, emit)
    if facts["task"] not in tasks:
        raise RequestError("The task is unknown", repr(facts["task"]), f"choose one of {', '.join([*tasks, 'check'])}")
    stop = StopSign(place)
    adapting = facts["task"] == "adapt"
    source: Any = read_volumes(place, facts) if adapting else read_volume(place, facts.get("volume"))
    stop.check()
    report, files = tasks[facts["task"]](place, facts, source, stop, emit)
    emit(Finished(report, files))


class StopSign:
    """Whether the parent asked to stop, or is gone."""

    def __init__(self, folder: Path) -> None:
        self.cancel, self.alive = folder / "cancel", folder / "alive"
        self._next_look, self._gone = 0.0, False

    def __call__(self) -> bool:
        return self.cancel.exists() or self._parent_is_gone()

    def check(self) -> None:
        """Raise Cancelled where it is time to stop."""
        if self():
            found = "the file cancel" if self.cancel.exists() else "the parent process is gone"
            raise Cancelled("Stopped on request", found, "start again when ready")

    def _parent_is_gone(self) -> bool:
        if not self._gone and is_stale(self.alive, STALE_S) and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_S
            self._gone = not lives(read_sign(self.alive))
        return self._gone


def _upsample(place: Path, facts: dict[str, Any], volume: Any, stop: StopSign, emit: Callable[[Event], None]):
    from ..upsampling.upsample import upsample

    job = UpsampleJob.from_json(facts.get("job") or {})
    like = read_geometry(facts["like"], "like") if facts.get("like") else None
    result = upsample(volume, job, like=like, progress=emit, cancelled=stop)
    stop.check()
    _save_array(place / "output.npy", result.volume.values)
    try:
        _save_json(place / "result.json", {"report": result.report, "volume": volume_facts(result.volume)})
    except BaseException:
        (place / "output.npy").unlink(missing_ok=True)
        raise
    return result.report, (str(place / "output.npy"), str(place / "result.json"))


def _measure(place: Path, facts: dict[str, Any], volume: Any, stop: StopSign, emit: Callable[[Event], None]):
    from ..upsampling.measure import measure

    asked = facts.get("job") or {}
    if not isinstance(asked, dict):
        raise RequestError("The job is no JSON object", repr(asked)[:60], "write the job with this version")
    options = {name: asked[name] for name in ("axis", "modality") if name in asked}
    UpsampleJob(**options)  # refuses what is no axis or modality
    report = measure(volume, **options)
    stop.check()
    _save_json(place / "result.json", {"report": report, "volume": volume_facts(volume)})
    return report, (str(place / "result.json"),)


def _preview(place: Path, facts: dict[str, Any], volume: Any, stop: StopSign, emit: Callable[[Event], None]):
    """Single planes of the result: "planes" {name: place in mm across it, None: the middle} -> one array each."""
    from ..events import Stopwatch
    from ..upsampling.preview import previews

    job, planes = UpsampleJob.from_json(facts.get("job") or {}), facts.get("planes") or {}
    if not isinstance(planes, dict) or not all(mm is None or is_number(mm) for mm in planes.values()):
        raise RequestError("The planes are no object of places", repr(planes)[:60], 'give {"coronal": null}')
    watch = Stopwatch("preview", len(planes), emit)
    made, written = {}, []
    try:
        for name, plane in previews(volume, planes, cancelled=stop, **_asked(job)):
            stop.check()
            written.append(place / f"{name}.npy")
            _save_array(written[-1], plane.values)
            made[name] = volume_facts(plane)
            watch.step()
        report = {"task": "preview", "planes": list(made), "job": job.to_json()}
        _save_json(place / "result.json", {"report": report, "volumes": made})
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return report, tuple(str(path) for path in (*written, place / "result.json"))


def _adapt(place: Path, facts: dict[str, Any], volumes: list[Any], stop: StopSign, emit: Callable[[Event], None]):
    """A model that learned from `volumes`: model.safetensors with its card; what learning kept on disk is removed."""
    from ..adapting.adapt import adapt
    from ..network.weights import save_model

    job = AdaptJob.from_json(facts.get("job") or {})
    tell, state, model = _OnceWarned(emit), place / "state", place / "model.safetensors"
    try:
        state.mkdir(exist_ok=True)
        adapted = adapt(volumes, job, folder=state, progress=tell, cancelled=stop)
        stop.check()
        for message in adapted.report.get("warnings") or ():
            tell(Warned(message))
        save_model(adapted.network, _named(adapted.card, job.output), model)
        _save_json(place / "result.json", {"report": adapted.report})
    except BaseException:
        model.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(state, ignore_errors=True)
    return adapted.report, (str(model), str(place / "result.json"))


def _named(card: Any, output: str | None) -> Any:
    """The card with the name of the file that the model will be, where that is known."""
    return dataclasses.replace(card, name=Path(output).stem) if output else card


class _OnceWarned:
    """Passes events on, each warning once: a task may tell it while it runs and again in its report."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit, self._told = emit, set[str]()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            if event.message in self._told:
                return
            self._told.add(event.message)
        self._emit(event)


def _asked(job: UpsampleJob) -> dict[str, Any]:
    """The fields of a job that say how to compute, without paths and what belongs to a whole volume."""
    whole = ("task", "input", "output", "report", "picture", "self_check", "dicom", "overwrite")
    return {name: value for name, value in job.to_json().items() if name not in whole}


def _speed(place: Path, facts: dict[str, Any], volume: Any, stop: StopSign, emit: Callable[[Event], None]):
    from ..upsampling.speed import measured_speed

    report = measured_speed(volume, UpsampleJob.from_json(facts.get("job") or {})).to_json()
    _save_json(place / "result.json", {"report": report})
    return report, (str(place / "result.json"),)


def _check(place: Path, emit: Callable[[Event], None]) -> None:
    """What this Python offers the network (`environment.examine`) as the report."""
    from .environment import examine

    report = examine()
    _save_json(place / "result.json", {"report": report})
    emit(Finished(report, (str(place / "result.json"),)))


def volume_facts(volume: Any) -> dict[str, Any]:
    """All of a Volume but its values, JSON-ready."""
    return {
        "ijk_to_ras": volume.geometry.ijk_to_ras.tolist(),
        "modality": volume.modality,
        "unit": volume.unit,
        "thickness_mm": volume.thickness_mm,
        "slice_axis": volume.slice_axis,
        "name": volume.name,
        "warnings": list(volume.warnings),
    }


def _save_array(path: Path, values: Any) -> None:
    import numpy as np

    partial = path.with_name(f".{path.name}")
    try:
        with open(partial, "wb") as file:
            np.save(_Sink(file.write), np.ascontiguousarray(values), allow_pickle=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class _Sink(NamedTuple):
    """A file that numpy does not know as one: into real files it writes by itself, and a full disk has no name then."""

    write: Callable[[bytes], int]


def _save_json(path: Path, facts: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}")
    try:
        partial.write_text(json.dumps(facts, allow_nan=False), "utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
