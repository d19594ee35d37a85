"""One job in a child process, arrays handed over and back (floor 4): the caller's handle of design section 4.3.

    run = Run({"task": "upsample", "z_scale": 4}, volume, finish)
    while not run.done: ...            # or run.wait()
    outcome = run.result()             # what `finish` made of the child's files

The hand-over folder lives from the start to `result` or `discard`; where this process is killed meanwhile, the child or
the next run removes it. A run may ask a child that stays (`resident`) instead of one of its own. One thread owns a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import Cancelled, CycleINRError
from ..events import Event
from ..imaging.volume import Volume
from .claim import Claim
from .folder import hand_over
from .launcher import Child, launch
from .resident import KILL_WAIT_S, Asked, Resident


class Run:
    """A job that was started.

    Parameters
    ----------
    job : "task" and what it asks for, as the `to_json` of a job writes it
    volume : the source, or a sequence of them for a task that takes several (adapt); the values are copied into the
        hand-over folder before this returns; None for task "check"
    finish : called once with (folder, facts of result.json) on the thread that asks for the result
    home : where the hand-over folder is made; None: the system's temporary folder
    on_close : called with the run when its folder is removed
    beside : what job.json tells beside the job, such as the "planes" of a preview
    resident : the child that is asked, which has the volume already; None: one of its own

    Raises
    ------
    ResourceError : the hand-over folder cannot be written
    CycleINRError : the child cannot be started
    """

    def __init__(
        self,
        job: dict[str, Any],
        volume: Volume | Sequence[Volume] | None,
        finish: Callable[[Path, dict[str, Any]], Any],
        home: str | Path | None = None,
        on_close: Callable[[Run], None] | None = None,
        beside: dict[str, Any] | None = None,
        resident: Resident | None = None,
    ) -> None:
        self._finish, self._on_close = finish, on_close
        self._outcome: Any = None
        self._error: CycleINRError | None = None
        self._finished = False
        self._claim: Claim | Asked
        self._child: Child | Asked
        if resident is not None:
            self._claim = self._child = resident.ask(job, beside)
            return
        self._claim = hand_over(job, volume, home, beside)
        try:
            self._child = launch(self.folder)
        except BaseException:
            self._claim.remove()
            raise

    @property
    def done(self) -> bool:
        """Whether the job has ended and `result` can be asked for."""
        return self._finished or self._child.done

    @property
    def folder(self) -> Path:
        """The hand-over folder."""
        return self._claim.folder

    @property
    def log(self) -> str:
        """The last lines that the child said beside its events."""
        return "\n".join(self._child.log)

    def asks(self, resident: Resident) -> bool:
        """Whether it is that child that is asked."""
        return isinstance(self._child, Asked) and self._child.resident is resident

    def poll(self) -> list[Event]:
        """The events since the last call, without waiting."""
        return self._child.poll()

    def cancel(self) -> None:
        """Asks the child to stop; it is ended by force where it does not."""
        self._child.cancel()

    def discard(self, why: str = "Cancelled") -> None:
        """Ends the job at once; `result` then raises Cancelled."""
        if not self._finished:
            self._child.kill()
            self._child.wait(KILL_WAIT_S)
            self._close(error=Cancelled(why))

    def wait(self, progress: Callable[[Event], None] | None = None) -> Any:
        """Blocks until the end and gives `result`; Ctrl-C ends the job."""
        try:
            while not self.done:
                self._tell(progress)
                time.sleep(0.05)
            self._tell(progress)
        except BaseException:
            self.discard()
            raise
        return self.result()

    def result(self) -> Any:
        """What `finish` made; the same at every call.

        Raises
        ------
        CycleINRError : why there is no result; Cancelled where it was stopped; also while the job is still running
        """
        if not self._finished:
            if not self._child.done:
                raise CycleINRError("The job is still running", f"process {self._child.pid}", "wait until it is done")
            self._conclude()
        if self._error is not None:
            raise self._error
        return self._outcome

    def _conclude(self) -> None:
        try:
            outcome = self._finish(self.folder, self._child.result())
        except CycleINRError as error:
            self._close(error=error)
        except BaseException as error:
            self._close(error=CycleINRError("The result cannot be used", f"{type(error).__name__}: {error}"))
            raise
        else:
            self._close(outcome)

    def _tell(self, progress: Callable[[Event], None] | None) -> None:
        for event in self.poll():
            if progress is not None:
                progress(event)

    def _close(self, outcome: Any = None, error: CycleINRError | None = None) -> None:
        self._finished, self._outcome, self._error = True, outcome, error
        self._claim.remove()
        if self._on_close is not None:
            self._on_close(self)
