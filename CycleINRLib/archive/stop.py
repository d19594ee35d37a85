"""Ctrl-C while a batch runs (floor 4)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..errors import Cancelled


class CtrlC:
    """Ctrl-C once: no further scan is begun. Twice, or a polite kill: at once.

    What is ignored already stays so: shells let the background jobs of a script ignore Ctrl-C.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked, self._say = False, say
        self._before: Any = None

    def __enter__(self) -> CtrlC:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._say("The scans that run are finished; press Ctrl-C again to stop them.")


def stopped() -> Cancelled:
    """How a batch ends that was stopped once."""
    return Cancelled("Stopped on request", "scans that ran were finished", "add --resume to go on")
