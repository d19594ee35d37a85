"""What a running job says: progress, warning, result, error (floor 0).

Each event is frozen and has one JSON line; the child of the panel prints these lines,
``cycleinr --events json`` too, and Python callers receive the same objects.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

from .errors import ERROR_BY_CODE, Cancelled, CycleINRError
from .jobs import parse_json


@dataclass(frozen=True)
class Progress:
    """`done` of `of` steps of `stage`; `remaining_s` seconds are left, None while unknown."""

    event: ClassVar[str] = "progress"
    stage: str
    done: int
    of: int
    remaining_s: float | None = None

    def __str__(self) -> str:
        left = "" if self.remaining_s is None else f", {self.remaining_s:.0f} s left"
        return f"{self.stage} {self.done}/{self.of}{left}"


@dataclass(frozen=True)
class Warned:
    """Something doubtful but usable, in one sentence."""

    event: ClassVar[str] = "warning"
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Finished:
    """The job is done; `report` is design section 4.5, `files` what was written."""

    event: ClassVar[str] = "result"
    report: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """The job ended without a result; `code` is that of an error class."""

    event: ClassVar[str] = "error"
    code: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: CycleINRError) -> Failed:
        found = f". Found: {error.found}" if error.found else ""
        return cls(error.code, error.what + found, error.next)

    def to_error(self) -> CycleINRError:
        """The error that the other side raised; a code that is unknown here becomes a CycleINRError."""
        what, _, found = self.message.partition(". Found: ")
        return ERROR_BY_CODE.get(self.code, CycleINRError)(what, found, self.hint)


Event = Progress | Warned | Finished | Failed
Listener = Callable[[Any], None]


class Voice(Protocol):
    """What a long task may say beside its events; the console of a command is one."""

    def hear(self, event: Event) -> None: ...

    def warn(self, message: str) -> None: ...

    def mention(self, line: str) -> None: ...


EVENTS: dict[str, type] = {kind.event: kind for kind in (Progress, Warned, Finished, Failed)}


def to_line(event: Event) -> str:
    """The event as one line of JSON, without the line break."""
    return json.dumps({"event": event.event, **asdict(event)}, allow_nan=False)


def from_line(line: str) -> Event | None:
    """The event of one JSON line; None where the line is anything else (a library's own console)."""
    try:
        facts = parse_json(line)
        kind = EVENTS[facts.pop("event")]
        return kind(**facts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class OnceWarned:
    """Passes events on, each warning once: a task may tell it while it runs and again in its report."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._told = listener, set[str]()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            if event.message in self._told:
                return
            self._told.add(event.message)
        self._listener(event)


class Stopwatch:
    """Counts the steps of one stage, tells the listener, and estimates what is left; `cancelled` stops it."""

    def __init__(
        self, stage: str, of: int, listener: Listener | None, cancelled: Callable[[], bool] | None = None
    ) -> None:
        self.stage, self.of, self.listener, self.cancelled = stage, of, listener, cancelled
        self.done = 0
        self.start = time.monotonic()
        self._tell(None)

    def step(self, count: int = 1) -> None:
        """Raises Cancelled where that is asked for."""
        self.done += count
        elapsed = time.monotonic() - self.start
        self._tell(round(elapsed / self.done * (self.of - self.done), 1))
        if self.cancelled is not None and self.cancelled():
            raise Cancelled()

    def _tell(self, remaining_s: float | None) -> None:
        if self.listener is not None:
            self.listener(Progress(self.stage, self.done, self.of, remaining_s))
