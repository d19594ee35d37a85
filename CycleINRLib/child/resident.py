"""The parent's side of a child that stays with one scan (floor 4; `staying` is the other side).

    resident = Resident(volume)
    run = Run(job, volume, finish, beside=..., resident=resident)    # and another one, when that is done
    resident.end()

It may end by itself when nobody asked for some time; then the next question starts it anew, in the same folder.
One thread owns it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CycleINRError
from ..events import Event, Failed, Finished
from ..imaging.volume import Volume
from .folder import ask, ask_to_stop, hand_over, holds, read_result
from .launcher import GRACE_S, Child, launch

KILL_WAIT_S = 5.0
STARTS = 2  # of a child for one question: it may have ended, unasked for long, in the moment of asking


class Resident:
    """A child with a scan, to be asked one question at a time.

    Parameters
    ----------
    volume : the scan; its values are copied into the hand-over folder, which lives until `end`
    home : where that is made; None: the system's temporary folder

    Raises
    ------
    ResourceError : the folder cannot be written
    CycleINRError : the child cannot be started
    """

    def __init__(self, volume: Volume, home: str | Path | None = None) -> None:
        self._claim = hand_over({"task": "stay"}, volume, home)
        self._count = 0
        self._asked: Asked | None = None
        try:
            self.child = self._started()
        except BaseException:
            self._claim.remove()
            raise

    @property
    def busy(self) -> bool:
        """Whether a question waits for its answer."""
        return self._asked is not None and not self._asked.done

    @property
    def idle(self) -> bool:
        """Whether its child has ended, and nobody waits for it."""
        return not self.busy and self.child.done

    def holds(self, volume: Volume) -> bool:
        """Whether it was started with this very scan, to the last voxel."""
        return holds(self._claim.folder, volume)

    def ask(self, job: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> Asked:
        """A question about the scan: what `folder.write_job` takes.

        Raises
        ------
        ResourceError : it cannot be written
        CycleINRError : the child cannot be started again, or is still busy
        """
        if self.busy:
            raise CycleINRError("The computing process is busy", str(self._claim.folder), "wait until it is done")
        self._count += 1
        self.child.poll()  # what was said before is of no interest
        folder = ask(self._claim.folder, self._count, job, beside)
        try:
            if self.child.done:
                self.child = self._started()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._asked = Asked(self, folder)
        return self._asked

    def start_again(self) -> None:
        """Another child in the place of one that ended."""
        self.child = self._started()

    def end(self) -> None:
        """Ends the child at once, and removes all that it had."""
        self.child.kill()
        self.child.wait(KILL_WAIT_S)
        self._claim.remove()

    def _started(self) -> Child:
        return launch(self._claim.folder, stays=True)


class Asked:
    """A question and its answer: to a `Run` what a child with a folder of its own is."""

    def __init__(self, resident: Resident, folder: Path) -> None:
        self.resident, self.folder = resident, folder
        self.failure: Failed | None = None
        self._waiting: list[Event] = []
        self._cancelled_at: float | None = None
        self._starts, self._done = 1, False

    @property
    def pid(self) -> int:
        return self.resident.child.pid

    @property
    def log(self):
        """The last lines that are no events."""
        return self.resident.child.log

    @property
    def done(self) -> bool:
        """Whether the answer is at hand, or will never be."""
        self._look()
        return self._done

    def poll(self) -> list[Event]:
        """What the child said since the last call, without waiting; a question that fails ends with one `Failed`."""
        self._look()
        events, self._waiting = self._waiting, []
        return events

    def wait(self, timeout_s: float) -> bool:
        """Waits for the end at most `timeout_s`; whether it came. Events stay for `poll`."""
        end = time.monotonic() + timeout_s
        while not self.done and time.monotonic() < end:
            time.sleep(0.02)
        return self._done

    def cancel(self) -> None:
        """Asks the child to leave this question; where it does not hear within a grace period it is ended."""
        if self._cancelled_at is None and not self.done:
            self._cancelled_at = time.monotonic()
            try:
                ask_to_stop(self.folder)
            except OSError:
                self.kill()

    def kill(self) -> None:
        """Ends the child with all that it keeps, at once."""
        if not self._done:
            self.resident.child.kill()

    def result(self) -> dict[str, Any]:
        """What `launcher.Child.result` gives."""
        if not self.done:
            raise CycleINRError("The job is still running", f"process {self.pid}", "wait until it is done")
        if self.failure is not None:
            raise self.failure.to_error()
        return read_result(self.folder)

    def remove(self) -> None:
        """Removes the folder of the question; the child stays."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _look(self) -> None:
        if self._done:
            return
        child = self.resident.child
        ended = child.done
        for event in child.poll():
            if not self._done:
                self._waiting.append(event)
            if isinstance(event, (Finished, Failed)):
                self._done = True
                self.failure = self.failure or (event if isinstance(event, Failed) else None)
        if ended and not self._done:  # without a word: it had just given up waiting
            self._start_again()
        elif self._cancelled_at is not None and time.monotonic() - self._cancelled_at > GRACE_S:
            self.kill()

    def _start_again(self) -> None:
        self._starts += 1
        if self._starts <= STARTS:
            with contextlib.suppress(CycleINRError):
                return self.resident.start_again()
        failure = CycleINRError("The computing process ended without an answer", "", "report this with the log")
        self.failure, self._done = Failed.of(failure), True
        self._waiting.append(self.failure)
