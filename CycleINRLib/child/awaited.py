"""What a caller waits for: an answer in a folder, and what is said until it is there (floor 4)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from ..errors import CycleINRError
from ..events import Event, Failed
from .folder import ask_to_stop, read_result


class Awaited(ABC):
    """A child with one job (`launcher.Child`), or one question to a child that stays (`resident.Asked`).

    For one thread, the one that made it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failure: Failed | None = None
        self._waiting: list[Event] = []
        self._cancelled_at: float | None = None
        self._done = False

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of the process that computes."""

    @abstractmethod
    def kill(self) -> None:
        """Ends that process and all that it started, at once."""

    @abstractmethod
    def _look(self) -> None:
        """Moves over what was said, and notices the end."""

    @property
    def done(self) -> bool:
        """Whether the end is there and all that was said is at hand."""
        self._look()
        return self._done

    def poll(self) -> list[Event]:
        """What was said since the last call, without waiting; what fails ends with one `Failed`."""
        self._look()
        events, self._waiting = self._waiting, []
        return events

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for the end at most `timeout_s`; whether it came. Events stay for `poll`."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.done and (end is None or time.monotonic() < end):
            time.sleep(0.02)
        return self._done

    def cancel(self) -> None:
        """Asks it to stop; where that is not heard within a grace period the process is ended with its children."""
        if self._cancelled_at is None and not self.done:
            self._cancelled_at = time.monotonic()
            try:
                ask_to_stop(self.folder)
            except OSError:  # a full or vanished disk must not keep it alive
                self.kill()

    def result(self) -> dict[str, Any]:
        """What the child wrote into result.json: "report" and, for volumes, "volume" or "volumes".

        Raises
        ------
        CycleINRError : it failed (with the class of its own error), was cancelled, or is still running
        """
        if not self.done:
            raise CycleINRError("The job is still running", f"process {self.pid}", "wait until it is done")
        if self.failure is not None:
            raise self.failure.to_error()
        return read_result(self.folder)
