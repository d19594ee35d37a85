"""The cases of an evaluation: each done once, in a process of its own where asked, and kept in a file (floor 4).

A case is a scan, z-scale, profile, thickness ratio and phase. Its file in `cases/` says what it was made of, so that
only what is missing, a new model say, is computed again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ResourceError, VolumeError
from ..events import Stopwatch, Voice
from ..imaging.volume import Volume, guess_modality
from ..io.files import read
from ..io.names import stem_of
from ..jobs import parse_json
from ..machine import usable_cores
from ..wholefile import write_text
from .case import Acquisition, Case, central_block
from .methods import EvaluatedMethod
from .score import Ruler, case_record

STATE_VERSION = 2  # of the files in cases/; raised when a figure changes its meaning
SHOWN_Z_SCALE = 4.0  # each scan has one picture: of the z-scale nearest to this one
_KINDS = {"ct_": "CT", "mr_": "MR"}  # what the name of a scan tells, where the file does not


@dataclass(frozen=True)
class Setting:
    """How every truth is taken: axis of its slices, central pixels (0: whole slices), modality."""

    axis: str = "k"
    block: int = 0
    modality: str = "auto"


@dataclass(frozen=True)
class CaseWork:
    """One case to do, ready to be sent to another process."""

    path: Path
    protocol: Acquisition
    setting: Setting
    methods: tuple[EvaluatedMethod, ...]  # those that are not known yet
    planes: Path | None = None  # where the planes of the picture are kept


@lru_cache(maxsize=1)  # the cases of one scan follow one another
def read_truth(path: Path, setting: Setting) -> Volume:
    """The scan as it is evaluated: slices first, the central block, its modality known."""
    volume = read(path)
    name = stem_of(path)
    told = None if setting.modality == "auto" else setting.modality.upper()
    # a block out of the middle of a head holds no air: a name that tells the modality is the better witness
    known = told or volume.modality or _KINDS.get(name[:3].lower()) or guess_modality(volume)
    axis = setting.axis if setting.axis != "auto" else volume.slice_axis or "k"
    volume = replace(volume.slices_first(axis), name=name, modality=known, slice_axis="k")
    return central_block(volume, setting.block) if setting.block else volume


def all_cases(
    files: dict[str, Path],
    protocols: list[Acquisition],
    setting: Setting,
    methods: list[EvaluatedMethod],
    folder: Path | None,
    jobs: int,
    voice: Voice,
) -> list[dict[str, Any]]:
    """The record of every case, in the order of scans and protocols; known ones from their files.

    Parameters
    ----------
    files : name to path of each scan
    folder : where `cases/` lies; None: nothing is kept
    jobs : cases at a time

    Raises
    ------
    VolumeError : no scan has slices enough for any case
    """
    shown = _shown(protocols) if folder else None
    states: dict[tuple[str, Acquisition], CaseState] = {}
    todo: dict[tuple[str, Acquisition], CaseWork] = {}
    for name, path in files.items():
        digest = digest_of(path)
        for protocol in protocols:
            state = CaseState.load(folder, name, protocol, setting, digest)
            states[name, protocol] = state
            planes = state.path.with_suffix(".npz") if state.path and protocol == shown else None
            missing = methods if planes and not planes.exists() else state.missing(methods)
            if missing or not state.record:
                todo[name, protocol] = CaseWork(path, protocol, setting, tuple(missing), planes)
    if len(todo) < len(states):
        voice.mention(f"{len(states) - len(todo)} of {len(states)} cases are known already")
    _do_all(todo, states, methods, jobs, voice)
    records = [state.shown(methods) for state in states.values() if state.record]
    if not records:
        raise VolumeError("No scan has slices enough", ", ".join(files), "take longer scans or smaller z-scales")
    return records


def _do_all(todo: dict, states: dict, methods: list[EvaluatedMethod], jobs: int, voice: Voice) -> None:
    """Computes what is missing; each case is saved when it is done."""
    watch, start = Stopwatch("evaluate", len(todo), voice.hear), time.monotonic()
    for key, found in _results(todo, jobs):
        watch.step()
        left = (time.monotonic() - start) / watch.done * (watch.of - watch.done)
        if isinstance(found, VolumeError):
            voice.warn(f"{key[0]} {key[1]} is left out: {found}")
            continue
        states[key].add(found, methods)
        voice.mention(f"{watch.done}/{watch.of} {_line(found)}; about {left / 60:.0f} min left")


def _results(todo: dict, jobs: int) -> Iterator[tuple[Any, Any]]:
    """(key, record or the VolumeError that forbids the case) as they come."""
    if jobs <= 1 or len(todo) <= 1:
        yield from ((key, do_case(work)) for key, work in todo.items())
        return
    before = set(multiprocessing.active_children())
    with _threads(max(1, usable_cores() // jobs)):
        pool = ProcessPoolExecutor(min(jobs, len(todo)), multiprocessing.get_context("spawn"))
        try:
            waiting = {pool.submit(do_case, work): key for key, work in todo.items()}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException as problem:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()  # a stopped evaluation waits for no case
            if isinstance(problem, BrokenProcessPool):
                raise ResourceError(
                    "A process of the evaluation was killed",
                    "too little memory is the usual reason",
                    "ask for fewer --jobs or a smaller --block; finished cases are kept for --resume",
                ) from problem
            raise
        pool.shutdown()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Processes that start inside share the cores instead of each taking all."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def do_case(work: CaseWork) -> dict[str, Any] | VolumeError:
    """Scores the methods of one case; a scan that is too short for it is told, not raised."""
    try:
        case = Case.of(read_truth(work.path, work.setting), work.protocol)
    except VolumeError as error:
        return error
    ruler = Ruler(case)
    results, kept = {}, {}
    for one in work.methods:
        method = one.method(case)
        if method is not None:
            score, values = ruler.score(one.name, method)
            results[one.name] = asdict(score)
            if work.planes:
                kept[one.name] = values
    if work.planes:
        from .pictures import keep_planes

        keep_planes(work.planes, case, kept)
    return case_record(ruler, results)


class CaseState:
    """What is known of one case, and the file that keeps it (none without an output folder)."""

    def __init__(self, path: Path | None, made_for: dict[str, Any]) -> None:
        self.path, self.made_for = path, made_for
        self.record: dict[str, Any] = {}
        self.keys: dict[str, str] = {}

    @classmethod
    def load(cls, folder: Path | None, scan: str, protocol: Acquisition, setting: Setting, digest: str) -> CaseState:
        """The state of an earlier run where it was made of the same scan in the same way, else an empty one."""
        asked = {"state": STATE_VERSION, "truth": digest, **asdict(setting), **asdict(protocol)}
        if folder is None:
            return cls(None, asked)
        state = cls(folder / "cases" / f"{scan}_{protocol}.json".replace(" ", "_"), asked)
        try:
            known = parse_json(state.path.read_text("utf-8")) if state.path else {}
            if known["made_for"] == asked and isinstance(known["record"], dict) and isinstance(known["keys"], dict):
                state.record, state.keys = known["record"], known["keys"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no such file, or one that was not finished: the case is computed
        return state

    def missing(self, methods: list[EvaluatedMethod]) -> list[EvaluatedMethod]:
        """Those whose result is not known, or was made by other weights."""
        case = "" if self.path is None else self.path.stem
        return [one for one in methods if self.keys.get(one.name) != one.key(case)]

    def add(self, found: dict[str, Any], methods: list[EvaluatedMethod]) -> None:
        """Takes new results and saves them beside the known ones."""
        results = {**self.record.get("results", {}), **found["results"]}
        self.record = {**found, "results": results}
        self.keys |= {one.name: one.key(found["case"]) for one in methods if one.name in found["results"]}
        if self.path:
            facts = {"made_for": self.made_for, "keys": self.keys, "record": self.record}
            write_text(self.path, json.dumps(facts, allow_nan=False) + "\n")

    def shown(self, methods: list[EvaluatedMethod]) -> dict[str, Any]:
        """The record with the methods asked for, in their order."""
        results = self.record["results"]
        return {**self.record, "results": {one.name: results[one.name] for one in methods if one.name in results}}


def _shown(protocols: list[Acquisition]) -> Acquisition:
    """The protocol whose picture is drawn: nearest to z-scale 4, box before the others."""
    return min(protocols, key=lambda one: (abs(one.z_scale - SHOWN_Z_SCALE), one.profile != "box", one.phase))


def digest_of(path: Path) -> str:
    """SHA-256 of a scan's bytes; of a folder, those of its files one after another."""
    found = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]:
        with open(file, "rb") as stream:
            while part := stream.read(1 << 20):
                found.update(part)
    return found.hexdigest()


def _line(found: dict[str, Any]) -> str:
    figures = (f"{name} {_short(result['psnr_generated'])}" for name, result in found["results"].items())
    return f"{found['case']}: {', '.join(figures)} dB"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
