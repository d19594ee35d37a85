"""A child that stays with one scan and answers one question about it after another (floor 4).

torch is loaded, the scan read, its gain, noise and precision settled, and the rows around the last planes encoded once,
not for each preview; all of it before the first one, where that is prepared for, and torch before there is a scan,
where it was started so early. It ends when it is asked to, when its parent is gone, and when nobody asked for long.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CycleINRError, RequestError, ResourceError
from ..events import Event, Failed, Finished, Stopwatch
from ..jobs import UpsampleJob
from ..machine import give_memory_back, usable_cores
from .folder import INPUT, StopSign, next_asked, read_facts, read_planes, read_source, write_planes

if TYPE_CHECKING:
    from ..imaging.volume import Volume
    from ..upsampling.preview import Planes

QUESTION_S = 0.02  # between two looks for a question
IDLE_S = 300.0  # without one, after which it ends and gives its memory back


def scan_of(folder: Path, facts: dict[str, Any], stop: StopSign) -> Volume | None:
    """The scan of a child that stays; where there is none yet, it loads what every preview needs and waits for it.

    None: it is to stop, or nobody gave it one for some time.
    """
    if "volume" not in facts:
        with contextlib.suppress(ImportError, CycleINRError):  # told where something is asked
            from ..network import infer, weights  # noqa: F401 - loads torch
            from ..upsampling import preview  # noqa: F401

            weights.shared_model(weights.find_model(UpsampleJob().model))
    since = time.monotonic()
    while "volume" not in facts:
        time.sleep(QUESTION_S)
        if stop() or time.monotonic() - since > IDLE_S:
            return None
        if (folder / INPUT).exists():  # it comes first, and looking for it is cheap
            facts = read_facts(folder)
    return read_source(folder, facts)


def stay(folder: Path, volume: Volume, stop: StopSign, emit: Callable[[Event], None]) -> None:
    """Answers what is asked in `folder`; what an answer fails with is told, and the next one may succeed.

    The question "prepare" names planes that will be asked for: it gets no answer, and any other one goes before it.
    Where memory ran out or something unforeseen happened the process ends, as one of a single job does.
    """
    scan = _Scan(volume)
    answered: set[str] = set()
    since = time.monotonic()
    while not stop() and time.monotonic() - since < IDLE_S:
        asked = next_asked(folder, answered)
        if asked is None:
            if not scan.prepare(stop, lambda: next_asked(folder, answered)):
                time.sleep(QUESTION_S)
            continue
        answered.add(asked.name)
        try:
            facts = read_facts(asked)
            if facts["task"] == "prepare":
                scan.expect(facts)
                shutil.rmtree(asked, ignore_errors=True)
            else:
                emit(Finished(*scan.answer(asked, facts, StopSign(asked, folder), emit)))
        except ResourceError:
            raise
        except CycleINRError as error:
            emit(Failed.of(error))
        since = time.monotonic()


class _Scan:
    """One scan, and the planes of the job that was asked for last."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._wanted: tuple[UpsampleJob, dict[str, float | None]] | None = None
        self._planes: Planes | None = None
        self._prepared = True

    def answer(
        self, asked: Path, facts: dict[str, Any], stop: StopSign, emit: Callable[[Event], None]
    ) -> tuple[dict[str, Any], Any]:
        """The report and files of one question."""
        if facts["task"] != "preview":
            raise RequestError("A child that stays gives previews alone", repr(facts["task"]), "start another one")
        return answer_planes(asked, facts, self._planes_of(_told(facts)), stop, emit)

    def expect(self, facts: dict[str, Any]) -> None:
        """`prepare` will do what it can for this question; whether it can be answered is told when it is asked."""
        with contextlib.suppress(CycleINRError):
            self._planes_of(_told(facts))

    def prepare(self, stop: StopSign, asked: Callable[[], Path | None]) -> bool:
        """What makes later answers quick, while nobody asks; whether there was anything to do.

        asked : the next question. The one that is prepared for waits until what it needs is there
        """
        if self._prepared or self._planes is None or self._wanted is None:
            return False
        self._prepared = True
        planes, wanted = self._planes, self._wanted

        def others_ask() -> bool:
            question = asked()
            return stop() or (question is not None and _asked_of(question) != wanted)

        with contextlib.suppress(CycleINRError, ImportError):  # what is wrong is told where it is asked for
            with _one_core_left():
                for part in ({}, *({plane: mm} for plane, mm in wanted[1].items())):
                    if asked() is not None:  # the rest is done for the answer, on all cores
                        return True
                    planes.make_ready(part, others_ask)
                planes.look_around(lambda: stop() or asked() is not None)
            planes.note_speed()  # as fast as a run is
            give_memory_back()
        return True

    def _planes_of(self, wanted: tuple[UpsampleJob, dict[str, float | None]]) -> Planes:
        from ..upsampling.preview import Planes

        if self._planes is None or self._wanted is None or wanted[0] != self._wanted[0]:
            self._planes = None  # before others are held beside it
            self._planes = Planes(self._volume, wanted[0])
        self._wanted, self._prepared = wanted, False
        return self._planes


@contextlib.contextmanager
def _one_core_left() -> Iterator[None]:
    """One thread less than the process may keep busy, so that whoever works meanwhile has a core.

    No lower priority: on Linux a thread cannot take its own one back, and an answer would have to wait for it.
    """
    import torch

    usual = min(torch.get_num_threads(), usable_cores())
    torch.set_num_threads(max(1, usual - 1))
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _told(facts: dict[str, Any]) -> tuple[UpsampleJob, dict[str, float | None]]:
    """The job of a question, and its planes."""
    return UpsampleJob.from_json(facts.get("job") or {}), read_planes(facts)


def _asked_of(asked: Path) -> tuple[UpsampleJob, dict[str, float | None]] | None:
    """`_told` of a question that waits; None where it has none."""
    try:
        return _told(read_facts(asked))
    except CycleINRError:
        return None


def answer_planes(
    folder: Path, facts: dict[str, Any], planes: Planes, stop: StopSign, emit: Callable[[Event], None]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Report and files of the "planes" of job.json."""
    asked, made = read_planes(facts), {}
    watch = Stopwatch("preview", len(asked), emit)
    for name, plane in planes.at(asked, stop):
        stop.check()
        made[name] = plane
        watch.step()
    report = {"task": "preview", "planes": list(made), "job": UpsampleJob.from_json(facts.get("job") or {}).to_json()}
    return report, write_planes(folder, report, made)
