"""A child that stays with one scan and answers one question about it after another (floor 4).

torch is loaded, the scan read, its gain, noise and precision settled, and the rows around the last planes encoded once,
not for each preview. It ends when it is asked to, when its parent is gone, and when nobody asked for some time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, CycleINRError, RequestError, ResourceError
from ..events import Event, Failed, Finished, Stopwatch
from ..jobs import UpsampleJob
from .folder import StopSign, next_asked, read_facts, read_planes, write_planes

if TYPE_CHECKING:
    from ..imaging.volume import Volume
    from ..upsampling.preview import Planes

QUESTION_S = 0.02  # between two looks for a question
IDLE_S = 300.0  # without one, after which it ends and gives its memory back


def stay(folder: Path, volume: Volume, stop: StopSign, emit: Callable[[Event], None]) -> None:
    """Answers what is asked in `folder`; what an answer fails with is told, and the next one may succeed.

    Where memory ran out or something unforeseen happened the process ends, as one of a single job does.
    """
    scan = _Scan(volume)
    answered: set[str] = set()
    since = time.monotonic()
    while not stop() and time.monotonic() - since < IDLE_S:
        asked = next_asked(folder, answered)
        if asked is None:
            if not scan.prepare(lambda: stop() or next_asked(folder, answered) is not None):
                time.sleep(QUESTION_S)
            continue
        answered.add(asked.name)
        try:
            report, files = scan.answer(asked, StopSign(asked, folder), emit)
            emit(Finished(report, files))
        except ResourceError:
            raise
        except CycleINRError as error:
            emit(Failed.of(error))
        since = time.monotonic()


class _Scan:
    """One scan, and the planes of the job that was asked for last."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._job: UpsampleJob | None = None
        self._planes: Planes | None = None
        self._prepared = True

    def answer(self, asked: Path, stop: StopSign, emit: Callable[[Event], None]) -> tuple[dict[str, Any], Any]:
        """The report and files of one question."""
        from ..upsampling.preview import Planes

        facts = read_facts(asked)
        if facts["task"] != "preview":
            raise RequestError("A child that stays gives previews alone", repr(facts["task"]), "start another one")
        job = UpsampleJob.from_json(facts.get("job") or {})
        if self._planes is None or job != self._job:
            self._planes = None  # before others are held beside it
            self._planes, self._job = Planes(self._volume, job), job
        self._prepared = False
        return answer_planes(asked, facts, self._planes, stop, emit)

    def prepare(self, cancelled: Callable[[], bool]) -> bool:
        """What makes later answers quick, while nobody asks; whether there was anything to do."""
        if self._prepared or self._planes is None:
            return False
        self._prepared = True
        try:
            self._planes.look_around(cancelled)
            self._planes.note_speed()
        except Cancelled:
            pass
        return True


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
