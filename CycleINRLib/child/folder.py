"""The folder of one job, all of it written and read here by both sides (design section 4.4; floor 4).

| file | written by | holds |
| --- | --- | --- |
| job.json | parent | "task", "job", and "volume" or "volumes" (all of a Volume but its values), "like", "planes" |
| input.npy; input_0.npy, input_1.npy, ... | parent | the values of the scan; of the scans, where a task takes several |
| lock | parent | the name of its machine; locked for as long as it waits (`claim`) |
| alive | parent | who waits for the result (`parent.sign_of_life`); touched while it can be |
| cancel | parent | nothing: it asks to stop |
| output.npy; NAME.npy; model.safetensors | child | the result; each plane of a preview; an adapted model |
| result.json | child | "report", and "volume" or "volumes"; it comes last, so whoever sees it sees everything |
| asked_1, asked_2, ... | parent | folders, where the child stays (task "stay"): the files of one question each |

The child's files come by rename, and are taken back where a later one fails. So do the folders of questions, which hold
job.json without a volume, `cancel` and what the child answers. A child that stays may be started before there is a
scan: then job.json and input.npy are written when there is.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Cancelled, CycleINRError, RequestError, ResourceError
from ..imaging.geometry import Geometry
from ..imaging.volume import Volume
from ..jobs import is_number, parse_json, read_task
from ..wholefile import write_text, write_whole
from .arrays import read_geometry, read_text, volume_facts, volume_of, write_array
from .claim import Claim
from .parent import is_stale, lives, read_sign, sign_of_life

JOB, RESULT, ALIVE, _CANCEL = "job.json", "result.json", "alive", "cancel"
ASKED = "asked_"
STAYS = "stay"  # the task of a child that answers questions
INPUT, OUTPUT, MODEL = "input.npy", "output.npy", "model.safetensors"
HEARTBEAT_S = 1.0  # how often the parent touches `alive` while it can
STALE_S = 60.0  # then the child looks whether the parent's process lives
LOOK_S = 5.0  # how often
Writer = Callable[[Path], Any]


# --- the parent writes ----------------------------------------------------------------------------------------
def hand_over(
    job: Mapping[str, Any],
    volume: Volume | Sequence[Volume] | None = None,
    home: str | Path | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Claim:
    """A fresh folder with job.json and the arrays, claimed; nothing stays where that fails.

    What jobs left whose process was killed is removed first.

    Parameters
    ----------
    job : "task" and what it asks for, as the `to_json` of a job writes it
    volume : the source, or a sequence of them for a task that takes several (adapt); None for task "check"
    home : where the folder is made; None: the system's temporary folder
    beside : what job.json tells beside the job, such as the "planes" of a preview

    Raises
    ------
    ResourceError : the folder cannot be written
    """
    claim: Claim | None = None
    try:
        with _told_as_ours():
            claim = Claim(home)
            write_job(claim.folder, job, volume, beside)
        return claim
    except BaseException:
        if claim is not None:
            claim.remove()
        raise


def give_scan(folder: Path, volume: Volume) -> None:
    """The scan of a child that was told to stay without one, whole when the child sees it.

    Raises
    ------
    ResourceError : it cannot be written; the child goes on waiting
    """
    with _told_as_ours():
        write_job(folder, {"task": STAYS}, volume)


@contextlib.contextmanager
def _told_as_ours() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        todo = "free some space, or choose another temporary folder"
        raise ResourceError("The scan cannot be handed to the computing process", str(error), todo) from error


def write_job(
    folder: Path,
    job: Mapping[str, Any],
    volume: Volume | Sequence[Volume] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """`hand_over` into a folder that exists."""
    facts = {**(beside or {}), "task": job["task"], "job": dict(job)}
    if isinstance(volume, Volume):
        np.save(folder / INPUT, volume.values, allow_pickle=False)
        facts["volume"] = volume_facts(volume)
    elif volume is not None:
        for n, one in enumerate(volume):
            np.save(folder / _input(n), one.values, allow_pickle=False)
        facts["volumes"] = [volume_facts(one) for one in volume]
    write_text(folder / JOB, json.dumps(facts))


def ask(folder: Path, number: int, job: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> Path:
    """A question to the child that stays in `folder`, whole when the child sees it; the folder of its answer.

    Raises
    ------
    ResourceError : it cannot be written
    """
    made, asked = folder / f".{ASKED}{number}", folder / f"{ASKED}{number}"
    try:
        made.mkdir()
        write_job(made, job, None, beside)
        return made.rename(asked)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise ResourceError("The computing process cannot be asked", str(error), "free some space") from error


def holds(folder: Path, volume: Volume) -> bool:
    """Whether this very scan was handed over there, to the last voxel."""
    try:
        told, held = parse_json((folder / JOB).read_text("utf-8")), np.load(folder / INPUT, mmap_mode="r")
        return told["volume"] == parse_json(json.dumps(volume_facts(volume))) and (
            held.dtype == volume.values.dtype and np.array_equal(held, volume.values)
        )
    except (OSError, ValueError, KeyError):
        return False


def keep_alive(folder: Path) -> None:
    """Say that the parent lives, once a second at most."""
    alive = folder / ALIVE
    try:
        if not alive.exists():
            alive.write_text(sign_of_life(), encoding="utf-8")
        elif is_stale(alive, HEARTBEAT_S):
            alive.touch()
    except OSError:  # the folder was removed under us: then the child stops as well
        pass


def ask_to_stop(folder: Path) -> None:
    """Let `StopSign` stop the child; an OSError where the disk is full or gone."""
    (folder / _CANCEL).touch()


# --- the child reads ------------------------------------------------------------------------------------------
def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of job.json; a RequestError where there are none."""
    return read_task(read_text(folder / JOB))


def read_source(folder: Path, facts: Mapping[str, Any]) -> Volume:
    """The scan of a job; a RequestError or VolumeError where job.json or the array is wrong."""
    return volume_of(folder / INPUT, facts.get("volume"))


def read_sources(folder: Path, facts: Mapping[str, Any]) -> list[Volume]:
    """The scans of a job that takes several, in their order; errors as `read_source`."""
    known = facts.get("volumes")
    if not isinstance(known, list) or not known:
        raise RequestError("The job names no volumes", repr(known)[:60], 'describe each under "volumes"')
    return [volume_of(folder / _input(n), one) for n, one in enumerate(known)]


def read_like(facts: Mapping[str, Any]) -> Geometry | None:
    """The grid that is to be filled, where the job names one."""
    return read_geometry(facts["like"], "like") if facts.get("like") else None


def read_planes(facts: Mapping[str, Any]) -> dict[str, float | None]:
    """The planes of a preview, each with its coordinate in mm across it, None: the middle."""
    planes = facts.get("planes") or {}
    if not isinstance(planes, dict) or not all(mm is None or is_number(mm) for mm in planes.values()):
        raise RequestError("The planes are no object of coordinates", repr(planes)[:60], 'give {"coronal": null}')
    return planes


def next_asked(folder: Path, answered: Container[str]) -> Path | None:
    """The first question that was not answered yet."""
    names = (path.name for path in folder.glob(f"{ASKED}*"))
    numbers = [int(name.removeprefix(ASKED)) for name in names if name.removeprefix(ASKED).isdecimal()]
    left = [number for number in numbers if f"{ASKED}{number}" not in answered]
    return folder / f"{ASKED}{min(left)}" if left else None


class StopSign:
    """Whether the parent asked to stop, or is gone.

    It is gone where `alive` is stale and the process that it names lives no more, or where the folder was removed.
    The folder of a question has no `alive`: it lies in that of the child, `home`.
    """

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        self.folder, self.cancel, self.alive = folder, folder / _CANCEL, (home or folder) / ALIVE
        self._next_look, self._gone = 0.0, False

    def __call__(self) -> bool:
        return self.cancel.exists() or self._parent_is_gone()

    def check(self) -> None:
        """Raise Cancelled where it is time to stop."""
        if self():
            found = f"the file {_CANCEL}" if self.cancel.exists() else "the parent process is gone"
            raise Cancelled("Stopped on request", found, "start again when ready")

    def _parent_is_gone(self) -> bool:
        if not self._gone and not self.folder.exists():
            self._gone = True
        if not self._gone and is_stale(self.alive, STALE_S) and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_S
            self._gone = not lives(read_sign(self.alive))
        return self._gone


# --- the child writes -----------------------------------------------------------------------------------------
def write_result(
    folder: Path, report: dict[str, Any], files: Mapping[str, Writer] | None = None, **facts: Any
) -> tuple[str, ...]:
    """The files of a result, then result.json; all of them or none.

    Parameters
    ----------
    files : a function for each name that writes the path it is given
    facts : what result.json tells beside the report

    Returns
    -------
    the paths, in the order of writing
    """
    everything: dict[str, Writer] = {
        **(files or {}),
        RESULT: lambda path: _write_json(path, {"report": report, **facts}),
    }
    written: list[Path] = []
    try:
        for name, write in everything.items():
            write_whole(folder / name, write)
            written.append(folder / name)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return tuple(str(path) for path in written)


def write_volume(folder: Path, report: dict[str, Any], volume: Volume) -> tuple[str, ...]:
    """`write_result` of one volume, which `result_volume` reads."""
    return write_result(folder, report, {OUTPUT: _writer_of(volume)}, volume=volume_facts(volume))


def write_planes(folder: Path, report: dict[str, Any], planes: Mapping[str, Volume]) -> tuple[str, ...]:
    """`write_result` of named planes, which `result_planes` reads."""
    files = {f"{name}.npy": _writer_of(plane) for name, plane in planes.items()}
    return write_result(folder, report, files, volumes={name: volume_facts(plane) for name, plane in planes.items()})


# --- the parent reads -----------------------------------------------------------------------------------------
def read_result(folder: Path) -> dict[str, Any]:
    """The facts of result.json, with "report"; a CycleINRError where the child left none."""
    try:
        facts = parse_json((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CycleINRError(
            "The computing process left no readable result", str(error), "report this with the log"
        ) from error
    if not isinstance(facts, dict) or "report" not in facts:
        raise CycleINRError(
            "The result of the computing process has no report", str(facts)[:60], "report this with the log"
        )
    return facts


def result_volume(folder: Path, facts: Mapping[str, Any]) -> Volume:
    """The Volume that the child wrote: output.npy with the geometry that result.json tells."""
    return volume_of(folder / OUTPUT, facts.get("volume"))


def result_planes(folder: Path, facts: Mapping[str, Any]) -> dict[str, Volume]:
    """The planes of a preview, by name, each a Volume one row thick."""
    known = facts.get("volumes")
    if not isinstance(known, dict):
        raise CycleINRError("The result tells of no planes", repr(known)[:60], "report this with the log")
    return {name: volume_of(folder / f"{name}.npy", one) for name, one in known.items()}


def _input(number: int) -> str:
    return f"input_{number}.npy"


def _writer_of(volume: Volume) -> Writer:
    return lambda path: write_array(path, volume.values)


def _write_json(path: Path, facts: dict[str, Any]) -> None:
    path.write_text(json.dumps(facts, allow_nan=False), "utf-8")
