"""The child's side of design section 4.4: one job in a folder, arrays instead of image files (floor 4).

What stands in the folder is the matter of `folder`; here each task is done. A child that answers several questions
about one scan is the matter of `staying`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..events import Event, Finished, OnceWarned, Progress, Stopwatch, Warned
from ..jobs import AdaptJob, UpsampleJob
from .claim import remove_if_left
from .folder import (
    MODEL,
    STAYS,
    StopSign,
    read_facts,
    read_like,
    read_source,
    read_sources,
    volume_facts,
    write_result,
    write_volume,
)
from .staying import answer_planes, scan_of, stay

if TYPE_CHECKING:
    from ..imaging.volume import Volume

Emit = Callable[[Event], None]
Answer = tuple[dict[str, Any], tuple[str, ...]]  # report, files


def run_folder(path: str | os.PathLike[str], emit: Emit) -> None:
    """Do the job of a folder, telling `emit` each event; the last one is Finished.

    Raises
    ------
    RequestError, VolumeError, ModelError, ResourceError, Cancelled : then the folder holds what it held before
    """
    folder = Path(path)
    try:
        _do_job(folder, emit)
    finally:
        remove_if_left(folder)  # nobody waits for the result any more


def _do_job(folder: Path, emit: Emit) -> None:
    facts = read_facts(folder)
    task = facts["task"]
    if task == "check":  # needs no volume
        report, files = _check(folder)
    else:
        tasks: dict[str, Callable[..., Answer]] = {
            "upsample": _upsample,
            "measure": _measure,
            "preview": _preview,
            "difference": _difference,
            "adapt": _adapt,
        }
        if task not in (*tasks, STAYS):
            known = ", ".join([*tasks, STAYS, "check"])
            raise RequestError("The task is unknown", repr(task), f"choose one of {known}")
        stop = StopSign(folder)
        emit(Progress("read", 0, 1))  # said before torch is loaded, which may take seconds
        if task == STAYS:
            scan = scan_of(folder, facts, stop)
            return None if scan is None else stay(folder, scan, stop, emit)
        source: Any = read_sources(folder, facts) if task == "adapt" else read_source(folder, facts)
        stop.check()
        report, files = tasks[task](folder, facts, source, stop, emit)
    emit(Finished(report, files))


def _upsample(folder: Path, facts: dict[str, Any], volume: Volume, stop: StopSign, emit: Emit) -> Answer:
    from ..upsampling.upsample import upsample

    job = UpsampleJob.from_json(facts.get("job") or {})
    result = upsample(volume, job, like=read_like(facts), progress=emit, cancelled=stop)
    stop.check()
    return result.report, write_volume(folder, result.report, result.volume)


def _measure(folder: Path, facts: dict[str, Any], volume: Volume, stop: StopSign, emit: Emit) -> Answer:
    from ..upsampling.measure import measure

    asked = facts.get("job") or {}
    if not isinstance(asked, dict):
        raise RequestError("The job is no JSON object", repr(asked)[:60], "write the job with this version")
    options = {name: asked[name] for name in ("axis", "modality") if name in asked}
    UpsampleJob(**options)  # refuses what is no axis or modality
    report = measure(volume, **options)
    stop.check()
    return report, write_result(folder, report, volume=volume_facts(volume))


def _preview(folder: Path, facts: dict[str, Any], volume: Volume, stop: StopSign, emit: Emit) -> Answer:
    """Single planes of the result: "planes" {name: coordinate in mm across it, None: the middle} -> one array each."""
    from ..upsampling.preview import Planes

    return answer_planes(folder, facts, Planes(volume, UpsampleJob.from_json(facts.get("job") or {})), stop, emit)


def _difference(folder: Path, facts: dict[str, Any], volume: Volume, stop: StopSign, emit: Emit) -> Answer:
    """What an upsampling of the same job takes from the acquired slices as noise."""
    from ..upsampling.difference import noise_taken

    job, watch = UpsampleJob.from_json(facts.get("job") or {}), Stopwatch("difference", 1, emit)
    taken = noise_taken(volume, job, stop)
    watch.step()
    report = {"task": "difference", "job": job.to_json()}
    return report, write_volume(folder, report, taken)


def _adapt(folder: Path, facts: dict[str, Any], volumes: list[Volume], stop: StopSign, emit: Emit) -> Answer:
    """A model that learned from `volumes`, with its card; what learning kept on disk is removed."""
    from ..adapting.adapt import adapt
    from ..network.weights import save_model

    job = AdaptJob.from_json(facts.get("job") or {})
    tell, state = OnceWarned(emit), folder / "state"
    try:
        state.mkdir(exist_ok=True)
        adapted = adapt(volumes, job, folder=state, progress=tell, cancelled=stop)
        stop.check()
        for message in adapted.report.get("warnings") or ():
            tell(Warned(message))
        card = _named(adapted.card, job.output)
        files = {MODEL: lambda path: save_model(adapted.network, card, path)}
        return adapted.report, write_result(folder, adapted.report, files)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _named(card: Any, output: str | None) -> Any:
    """The card with the name of the file that the model will be, where that is known."""
    return dataclasses.replace(card, name=Path(output).stem) if output else card


def _check(folder: Path) -> Answer:
    """What this Python offers the network (`environment.examine`) as the report."""
    from .environment import examine

    report = examine()
    return report, write_result(folder, report)
