"""What the panel shows, and when: states and enabling rules (floor 1; no Qt, no scene).

The panel of the Slicer module asks a `Panel` for its `View` after every step and copies it into its widgets:

    CANNOT_RUN  <->  IDLE  -- start -->  RUNNING  -- finish, fail: next of the queue, else  -->  DONE, FAILED
                                         RUNNING  -- preview is shown -->  IDLE
                                         RUNNING  -- a model is adapted -->  DONE
                                         RUNNING  -- cancel -->  CANCELLING  -- fail(Cancelled), stop -->  IDLE

DONE and FAILED keep their message until the request changes; Apply is possible in both. Adapting has a reason of its
own why it cannot run, so it may be possible where Apply is not. Texts are in `readout`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import Cancelled, CycleINRError
from ..events import Event, Progress, Warned
from .readout import Compared, Row, adapted_text, percent, progress_text, readout
from .translate import tr as _

APPLY, CANCEL = _("&Apply"), _("C&ancel")  # one key for both
WAIT = _("Wait until the running job ends, or cancel it.")


class State(Enum):
    CANNOT_RUN = "cannot run"
    IDLE = "idle"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"


BUSY = (State.RUNNING, State.CANCELLING)


@dataclass(frozen=True)
class View:
    """All that the panel shows; texts are plain, empty where there is nothing to say."""

    state: State
    button: str  # Apply or Cancel
    button_enabled: bool
    tooltip: str  # of the button; why, where it is disabled
    preview_enabled: bool
    preview_tooltip: str
    adapt_enabled: bool
    adapt_tooltip: str
    adapted: str  # what came of the last adaptation, where the message does not say it
    inputs_enabled: bool
    message: str  # one or two lines under the button
    is_problem: bool  # whether the message should catch the eye
    details: str  # what a report of a problem should contain
    percent: int | None  # of the stage; None: no bar
    information: tuple[Compared, ...]  # the scan beside what Apply would give
    readout: tuple[Row, ...]  # of the last result
    warnings: tuple[str, ...]
    queue: tuple[Row, ...]  # where several volumes are worked off: each with what came of it


class Panel:
    """The state of one panel; every method is one thing that happened."""

    def __init__(self) -> None:
        self.state = State.CANNOT_RUN
        self._reason = _("Choose an input volume.")
        self._adapt_reason = self._reason
        self._request: Hashable = None
        self._adapted = ""
        self._adapting = False
        self._message = self._details = ""
        self._before = ""  # said before what the running job says
        self._percent: int | None = None
        self._information: tuple[Compared, ...] = ()
        self._readout: tuple[Row, ...] = ()
        self._foreseen: tuple[str, ...] = ()  # warnings of the request
        self._warnings: tuple[str, ...] = ()
        self._queue: tuple[str, ...] = ()
        self._at = 0
        self._made: list[str] = []
        self._failures: list[str] = []
        self._listed: tuple[str, ...] = ()  # the present or last queue
        self._ended: dict[int, Row] = {}  # its jobs that ended, by their turn

    # --- what happened ----------------------------------------------------------------------------------------
    def aim(
        self,
        reason: str = "",
        information: Sequence[Compared] = (),
        warnings: Sequence[str] = (),
        request: Hashable = None,
    ) -> None:
        """The request was looked at.

        Parameters
        ----------
        reason : why it cannot run; empty: it can
        information : what it would give
        request : what is asked for; where it is as before, what the panel says about the last job stays
        """
        same = request is not None and (reason, request) == (self._reason, self._request)
        self._reason, self._information, self._foreseen = reason, tuple(information), tuple(warnings)
        self._request = request
        if self.state not in BUSY and not same:
            self.state, self._message, self._details = (State.CANNOT_RUN if reason else State.IDLE), "", ""
            self._warnings = self._foreseen

    def aim_adapt(self, reason: str = "") -> None:
        """The scans were looked at: why no model can be adapted to them; empty: one can."""
        self._adapt_reason = reason

    def start(self, names: Sequence[str] = ("",)) -> None:
        """A job for each of `names` was begun with the first."""
        self._begin(self._reason)
        self._queue, self._at = tuple(names), 0
        self._listed, self._ended = self._queue, {}
        self._message = self._turn() + _("Starting…")
        self._readout = ()

    def start_preview(self) -> None:
        """Two planes are being computed; the readout of the last result stays."""
        self._begin(self._reason)
        self._queue, self._message = ("",), _("Preview: starting…")

    def start_difference(self) -> None:
        """What was taken from a scan as noise is being computed; the readout of the last result stays."""
        self._begin("")
        self._queue, self._message = ("",), _("Separating noise from signal: starting…")

    def start_adapt(self) -> None:
        """A model is being adapted to all chosen scans together; the readout of the last result stays."""
        self._begin(self._adapt_reason)
        self._queue, self._message, self._adapted, self._adapting = ("",), _("Adapting: starting…"), "", True

    def _begin(self, reason: str) -> None:
        if self.state in BUSY or reason:
            raise CycleINRError("A job was started twice, or without being possible", reason or self.state.value)
        self.state, self._details, self._percent, self._warnings = State.RUNNING, "", 0, ()
        self._made, self._failures, self._listed, self._before = [], [], (), ""

    def hear(self, event: Event) -> None:
        """The running job said something; what comes after its end is of no interest."""
        if self.state not in BUSY:
            return
        if isinstance(event, Warned) and event.message not in self._warnings:
            self._warnings += (event.message,)
        if isinstance(event, Progress) and self.state is State.RUNNING:
            text = " ".join(part for part in (self._before, self._turn() + progress_text(event)) if part)
            self._message, self._percent = text, percent(event)

    def note(self, message: str) -> None:
        """Something that the user asked for was done, beside any job."""
        if self.state not in BUSY:
            self._end(State.CANNOT_RUN if self._reason else State.IDLE, message)

    def say(self, message: str) -> None:
        """Something that takes time before the job itself, such as installing a package."""
        self._message = message

    def cancel(self) -> None:
        """The user asked to stop, the queue too."""
        if self.state is State.RUNNING:
            self.state, self._message, self._percent = State.CANCELLING, _("Stopping…"), None

    def finish(self, report: dict[str, Any], name: str = "") -> None:
        """The result of the present job is in the scene, as `name`."""
        self._made.append(name)
        self._ended[self._at] = Row(self._queue[self._at], _("done: {name}").format(name=name), "")
        self._readout = readout(report)
        self._warnings = tuple(report.get("warnings") or ())
        self._next()

    def preview_is_provisional(self) -> None:
        """The planes are in the views, without the network's part yet."""
        self._before = _("Provisional picture, interpolated.")
        self._message = " ".join([self._before, _("The network is computing it…")])

    def preview_shown(self) -> None:
        """The planes are in the views."""
        self._end(State.IDLE, _("Preview shown: the scan on the left, the result on the right."))
        self._warnings = self._foreseen

    def difference_shown(self) -> None:
        """The scan and what was taken from it are in the views."""
        text = _(
            "On the left the scan, on the right what was taken from it as noise. It should look like noise alone: what "
            "you recognize in it is weaker in the result."
        )
        self._end(State.CANNOT_RUN if self._reason else State.IDLE, text)

    def adapted(self, report: dict[str, Any]) -> None:
        """The adaptation came to its end; the model is saved where it is better."""
        self._adapted = adapted_text(report)
        self._warnings = tuple(report.get("warnings") or ())
        self._end(State.DONE, self._adapted)

    def fail(self, error: Exception, details: str = "") -> None:
        """The present job ended without a result; the user's own stop is no failure and ends the queue."""
        if isinstance(error, Cancelled):
            made = _("Stopped after {names}.").format(names=_list(self._made))
            nothing = _("Stopped; no model was saved.") if self._adapting else _("Stopped; the scene is as it was.")
            self.stop(made if self._made else nothing)
            return
        words = str(error) or type(error).__name__
        name = self._queue[self._at] if len(self._queue) > 1 and self.state in BUSY else ""
        self._failures.append(f"{name}: {words}" if name else words)
        if name:
            self._ended[self._at] = Row(name, words, words)
        self._details = "\n".join(part for part in (self._details, words, details) if part)
        if self.state in BUSY:
            self._next()
        else:
            self._end(State.FAILED, words)

    def stop(self, why: str = "") -> None:
        """The jobs were given up: by the user, or since the input is gone."""
        self._end(State.CANNOT_RUN if self._reason else State.IDLE, why)

    def recall(self, report: dict[str, Any]) -> None:
        """A result of an earlier session is in the scene."""
        if self.state not in BUSY:
            self._readout = readout(report)

    def forget(self) -> None:
        """The last result is gone, and the volumes of the queue."""
        self._readout, self._adapted = (), ""
        if self.state not in BUSY:
            self._listed, self._ended = (), {}

    def _next(self) -> None:
        """Goes to the next job of the queue; after the last one, says what came of them."""
        if self._at + 1 < len(self._queue) and self.state is not State.CANCELLING:
            self._at += 1
            self._message, self._percent = self._turn() + _("Starting…"), 0
            return
        if not self._failures:
            done = _("Done: {names}").format(names=_list(self._made))
            self._end(State.DONE, done if any(self._made) else _("Done."))
        else:
            done = _("Done: {names}.").format(names=_list(self._made)) + " " if self._made else ""
            self._end(State.FAILED, done + " ".join(self._failures))

    def _end(self, state: State, message: str) -> None:
        self.state, self._message, self._percent = state, message, None
        self._queue, self._at, self._adapting = (), 0, False

    # --- what to show -----------------------------------------------------------------------------------------
    @property
    def can_run(self) -> bool:
        """Whether nothing stands in the way of the request but the job that runs."""
        return not self._reason

    def view(self) -> View:
        busy = self.state in BUSY
        possible = not busy and not self._reason
        return View(
            state=self.state,
            button=CANCEL if busy else APPLY,
            button_enabled=self.state is State.RUNNING or possible,
            tooltip=self._tooltip(),
            preview_enabled=possible,
            preview_tooltip=self._preview_tooltip(busy),
            adapt_enabled=not busy and not self._adapt_reason,
            adapt_tooltip=self._adapt_tooltip(busy),
            adapted="" if self._message == self._adapted else self._adapted,
            inputs_enabled=not busy,
            message=self._text(),
            is_problem=self.state in (State.CANNOT_RUN, State.FAILED),
            details=self._details if self.state is State.FAILED else "",
            percent=self._percent,
            information=self._information,
            readout=self._readout,
            warnings=self._warnings,
            queue=self._queue_rows(),
        )

    def _queue_rows(self) -> tuple[Row, ...]:
        """Of the present or last queue, where it has several."""
        if len(self._listed) < 2:
            return ()
        busy = self.state in BUSY
        words = [
            _("running") if busy and n == self._at else _("waiting") if busy else _("not done")
            for n in range(len(self._listed))
        ]
        return tuple(self._ended.get(n, Row(name, words[n], "")) for n, name in enumerate(self._listed))

    def _turn(self) -> str:
        """`2 of 5, CT chest. ` while a queue is worked off."""
        if len(self._queue) < 2:
            return ""
        text = _("{at} of {count}, {name}.") + " "
        return text.format(at=self._at + 1, count=len(self._queue), name=self._queue[self._at])

    def _tooltip(self) -> str:
        if self.state is State.RUNNING:
            return _("Stop, and save no model.") if self._adapting else _("Stop, and leave the scene as it is.")
        if self.state is State.CANCELLING:
            return _("The job stops within two seconds.")
        return self._reason or _("Compute the slices between the acquired ones, as a new volume.")

    def _preview_tooltip(self, busy: bool) -> str:
        if busy:
            return WAIT
        return self._reason or _(
            "Compute only the two planes across the slices at the crosshair, and show them beside the scan."
        )

    def _adapt_tooltip(self, busy: bool) -> str:
        if busy:
            return WAIT
        return self._adapt_reason or _(
            "Fit the model to the chosen scans themselves, the further volumes too; no thin slices are needed. The new "
            "model is saved as a file and used from then on, unless slices that it never saw speak against it."
        )

    def _text(self) -> str:
        """While busy, done or failed what happened; else what stands in the way."""
        if self.state in (*BUSY, State.DONE, State.FAILED):
            return self._message
        return " ".join(part for part in (self._message, self._reason) if part)


def _list(names: Sequence[str]) -> str:
    return ", ".join(name for name in names if name)
