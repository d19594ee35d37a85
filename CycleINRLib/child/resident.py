"""The parent's side of a child that stays with one scan (floor 4; `staying` is the other side).

    resident = Resident(volume)                                      # or without, and resident.take(volume) later
    resident.prepare(job, beside)                                    # where it is to be quick
    run = Run(job, volume, finish, beside=..., resident=resident)    # and another one, when that is done
    resident.end()

It may end by itself when nobody asked for some time; then the next question starts it anew, in the same folder.
One thread owns it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CycleINRError
from ..events import Failed, Finished
from ..imaging.volume import Volume
from ..machine import memory_bytes, usable_cores
from .awaited import Awaited
from .folder import STAYS, ask, give_scan, hand_over, holds
from .launcher import GRACE_S, Child, launch

PREPARE = "CYCLEINR_PREPARE"  # "0": nothing is prepared; "1": also where no window is seen
HELD_BYTES = 7e8  # by a child with its planes, beside two copies of the scan
MEMORY_TIMES = 8  # as much the machine has to have
MOST_SCAN_BYTES = 1.5e8  # of a scan: handing over a larger one holds up the application
KILL_WAIT_S = 5.0
STARTS = 2  # of a child for one question: it may have ended, unasked for long, in the moment of asking


def may_prepare(volume: Volume | None = None) -> bool:
    """Whether previews of the scan may be prepared before anybody asks; None: whether a child may wait for one.

    As the user says, on a machine of two cores and enough memory. By what machine and scan are, not by what is free.
    """
    size = 0 if volume is None else volume.values.nbytes
    enough = memory_bytes() >= MEMORY_TIMES * (HELD_BYTES + 2 * size)
    return os.environ.get(PREPARE) != "0" and usable_cores() > 1 and size <= MOST_SCAN_BYTES and enough


class Resident:
    """A child with a scan, to be asked one question at a time.

    Parameters
    ----------
    volume : the scan; its values are copied into the hand-over folder, which lives until `end`. None: `take` gives it;
        until then the child loads torch and waits
    home : where that is made; None: the system's temporary folder

    Raises
    ------
    ResourceError : the folder cannot be written
    CycleINRError : the child cannot be started
    """

    def __init__(self, volume: Volume | None = None, home: str | Path | None = None) -> None:
        self._claim = hand_over({"task": STAYS}, volume, home)
        self.has_scan = volume is not None
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

    def take(self, volume: Volume) -> None:
        """Its scan, where it was started without; raises ResourceError as the making of one does."""
        give_scan(self._claim.folder, volume)
        self.has_scan = True

    def ask(self, job: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> Asked:
        """A question about the scan: what `folder.write_job` takes.

        Raises
        ------
        ResourceError : it cannot be written
        CycleINRError : the child cannot be started again, or is still busy
        """
        if self.busy:
            raise CycleINRError("The computing process is busy", str(self._claim.folder), "wait until it is done")
        self._asked = Asked(self, self._put(job, beside))
        return self._asked

    def prepare(self, job: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
        """That this preview will be asked for soon: what it needs is made meanwhile, on all cores but one, and nothing
        said.

        Where it is busy nothing happens.

        Raises
        ------
        ResourceError, CycleINRError : as `ask`
        """
        if not self.busy:
            self._put({**job, "task": "prepare"}, beside)

    def _put(self, job: Mapping[str, Any], beside: Mapping[str, Any] | None) -> Path:
        """A question in its folder, and a child that sees it."""
        self._count += 1
        self.child.poll()  # what was said before is of no interest
        folder = ask(self._claim.folder, self._count, job, beside)
        try:
            if self.child.done:
                self.child = self._started()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

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


class Asked(Awaited):
    """A question and its answer: to a `Run` what a child with a folder of its own is."""

    def __init__(self, resident: Resident, folder: Path) -> None:
        super().__init__(folder)
        self.resident, self._starts = resident, 1

    @property
    def pid(self) -> int:
        return self.resident.child.pid

    @property
    def log(self):
        """The last lines that are no events."""
        return self.resident.child.log

    def kill(self) -> None:
        """Ends the child with all that it keeps, at once."""
        if not self._done:
            self.resident.child.kill()

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
