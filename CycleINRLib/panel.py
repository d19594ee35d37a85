"""What the panel shows, and when: states, texts and enabling rules (floor 1; no Qt, no scene).

The panel of the Slicer module asks a `Panel` for its `View` after every step and copies it into its widgets:

    CANNOT_RUN  <->  IDLE  -- start -->  RUNNING  -- finish -->  DONE
                                         RUNNING  -- fail   -->  FAILED
                                         RUNNING  -- cancel -->  CANCELLING  -- fail(Cancelled), stop -->  IDLE

DONE and FAILED keep their message until the request changes; Apply is possible in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from .errors import Cancelled, CycleINRError
from .events import Event, Progress, Warned

APPLY, CANCEL = "Apply", "Cancel"
STAGES = {"upsample": "Upsampling", "measure": "Measuring the noise"}  # as events name them -> as people read them


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
    inputs_enabled: bool
    message: str  # one or two lines under the button
    is_problem: bool  # whether the message should catch the eye
    percent: int | None  # of the stage; None: no bar
    readout: tuple[tuple[str, str], ...]  # label and text of the last result
    warnings: tuple[str, ...]


class Panel:
    """The state of one panel; every method is one thing that happened."""

    def __init__(self) -> None:
        self.state = State.CANNOT_RUN
        self._reason = "Choose an input volume."
        self._outlook = ""
        self._message = ""
        self._percent: int | None = None
        self._readout: tuple[tuple[str, str], ...] = ()
        self._warnings: tuple[str, ...] = ()

    # --- what happened ----------------------------------------------------------------------------------------
    def aim(self, reason: str = "", outlook: str = "", warnings: tuple[str, ...] = ()) -> None:
        """The request changed: `reason` is why it cannot run (empty: it can), `outlook` what it would give."""
        self._reason, self._outlook = reason, outlook
        if self.state not in BUSY:
            self.state, self._message = (State.CANNOT_RUN if reason else State.IDLE), ""
            self._warnings = tuple(warnings)

    def start(self) -> None:
        """A job was started."""
        if self.state in BUSY or self.state is State.CANNOT_RUN:
            raise CycleINRError("A job was started twice, or without being possible", self.state.value)
        self.state, self._message, self._percent = State.RUNNING, "Starting…", 0
        self._readout = self._warnings = ()

    def hear(self, event: Event) -> None:
        """The running job said something; what comes after its end is of no interest."""
        if self.state not in BUSY:
            return
        if isinstance(event, Warned):
            self._warnings += (event.message,)
        if isinstance(event, Progress) and self.state is State.RUNNING:
            self._message, self._percent = progress_text(event), percent(event)

    def cancel(self) -> None:
        """The user asked to stop."""
        if self.state is State.RUNNING:
            self.state, self._message, self._percent = State.CANCELLING, "Stopping…", None

    def finish(self, report: dict[str, Any], name: str = "") -> None:
        """The result is in the scene, as `name`."""
        self._end(State.DONE, f"Done: {name}" if name else "Done.")
        self._readout = readout(report)
        self._warnings = tuple(report.get("warnings") or ())

    def fail(self, error: Exception) -> None:
        """The job ended without a result; the user's own stop is no failure."""
        if isinstance(error, Cancelled):
            self.stop("Stopped; the scene is as it was.")
        else:
            self._end(State.FAILED, str(error) or type(error).__name__)

    def stop(self, why: str = "") -> None:
        """The job was given up without a result: by the user, or since its input is gone."""
        self._end(State.CANNOT_RUN if self._reason else State.IDLE, why)

    def _end(self, state: State, message: str) -> None:
        self.state, self._message, self._percent = state, message, None

    # --- what to show -----------------------------------------------------------------------------------------
    def view(self) -> View:
        busy = self.state in BUSY
        return View(
            state=self.state,
            button=CANCEL if busy else APPLY,
            button_enabled=self.state is State.RUNNING or (not busy and not self._reason),
            tooltip=self._tooltip(),
            inputs_enabled=not busy,
            message=self._text(),
            is_problem=self.state in (State.CANNOT_RUN, State.FAILED),
            percent=self._percent,
            readout=self._readout,
            warnings=self._warnings,
        )

    def _tooltip(self) -> str:
        if self.state is State.RUNNING:
            return "Stop, and leave the scene as it is."
        if self.state is State.CANCELLING:
            return "The job stops after the slab at hand."
        return self._reason or "Compute the slices between the acquired ones, as a new volume."

    def _text(self) -> str:
        """While busy, done or failed what happened; else what stands in the way, or what Apply would give."""
        if self.state in (*BUSY, State.DONE, State.FAILED):
            return self._message
        return " ".join(part for part in (self._message, self._reason or self._outlook) if part)


# --- texts ------------------------------------------------------------------------------------------------------
def percent(event: Progress) -> int:
    """Of the stage, 0 to 100."""
    return 0 if event.of <= 0 else max(0, min(100, round(100 * event.done / event.of)))


def progress_text(event: Progress) -> str:
    """`Upsampling: 3 of 40, about 2 min left`; after the last step the noise is measured, which has no steps."""
    stage = STAGES.get(event.stage, event.stage.replace("_", " ").capitalize())
    if event.done >= event.of:
        return f"{stage}: {event.done} of {event.of}, finishing…"
    left = "" if event.remaining_s is None else f", {duration(event.remaining_s)} left"
    return f"{stage}: {event.done} of {event.of}{left}"


def duration(seconds: float) -> str:
    """`12 s`, `about 3 min`, `about 1.5 h`."""
    if seconds < 100:
        return f"{max(0, seconds):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def size(mb: float) -> str:
    """`2.5 MB`, `640 MB`, `1.4 GB`."""
    if mb < 10:
        return f"{max(mb, 0.1):.1f} MB"
    return f"{mb:.0f} MB" if mb < 1000 else f"{mb / 1000:.1f} GB"


def grid(dimensions: Any, spacing_mm: Any) -> str:
    """`512 × 512 × 197 voxels of 0.7 × 0.7 × 0.714 mm`, in the order given."""
    counts = " × ".join(str(n) for n in dimensions)
    lengths = " × ".join(f"{mm:.3g}" for mm in spacing_mm)
    return f"{counts} voxels of {lengths} mm"


def outlook(plan: Any) -> str:
    """What a `tasks.upsample.Plan` would give and cost, in one sentence."""
    cost = f"{size(plan.output_mb)}, needs {size(plan.memory_mb)} of memory"
    if plan.seconds is not None:
        cost += f", {duration(plan.seconds)}"
    return (
        f"Result: {grid(plan.target.shape[::-1], plan.target.spacing_mm[::-1])} (z-scale {plan.z_scale:.4g}), {cost}."
    )


def readout(report: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The figures of a report (design section 4.5) as label and text; what was not measured is left out."""
    rows = (
        ("Size", _size_text(report.get("output") or {})),
        ("SNLI", _three(report.get("snli") or {})),
        ("Noise of the result", _percent_text(report.get("noise_ratio"), "of the acquired slices")),
        ("Generated gap", _number(report.get("generated_gap"))),
        ("Consistency", _consistency_text(report)),
        ("Computed by", _computed_text(report)),
    )
    return tuple((label, text) for label, text in rows if text)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else ""


def _three(snli: dict[str, Any]) -> str:
    names = {"input": "input", "output": "result", "linear": "linear interpolation"}
    return ", ".join(f"{words} {_number(snli[key])}" for key, words in names.items() if _number(snli.get(key)))


def _percent_text(ratio: Any, of: str) -> str:
    return f"{100 * ratio:.0f} % {of}" if isinstance(ratio, (int, float)) else ""


def _size_text(output: dict[str, Any]) -> str:
    known = output.get("dimensions") and output.get("spacing_mm")
    return grid(output["dimensions"], output["spacing_mm"]) if known else ""


def _consistency_text(report: dict[str, Any]) -> str:
    mode, error = report.get("consistency"), _number(report.get("consistency_error"))
    return f"{mode}, error {error} of the noise" if mode and error else str(mode or "")


def _computed_text(report: dict[str, Any]) -> str:
    model, seconds = (report.get("model") or {}).get("name"), report.get("seconds")
    taken = f"in {duration(seconds)}" if isinstance(seconds, (int, float)) else ""
    parts = (model, f"on {report['device']}" if report.get("device") else "", taken)
    return " ".join(part for part in parts if part)
