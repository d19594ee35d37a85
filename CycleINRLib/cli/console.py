"""What a command says, and where: results on stdout, warnings and the progress bar on stderr (floor 5).

Three ways: for people; one JSON object (`--json`); or one JSON line an event (`--events json`), which is what the
child of the panel prints. The error is one line on stderr in all three.
"""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

from ..errors import CycleINRError
from ..events import Event, Failed, Finished, OnceWarned, Progress, Warned, to_line

if TYPE_CHECKING:
    from ..imaging.geometry import Geometry

WAYS = ("people", "json", "events", "nothing")


class Console:
    """One command's voice.

    Parameters
    ----------
    way : "people", "json" or "events"; "nothing": of several processes, all but the first keep silent
    quiet : no progress bar and no warnings on stderr; the report keeps the warnings
    """

    def __init__(self, way: str = "people", quiet: bool = False) -> None:
        assert way in WAYS
        self.way, self.quiet = way, quiet
        self.out, self.err = sys.stdout, sys.stderr  # kept: a library that prints later must not reach stdout
        self._bar_is_shown = False
        self._warn = OnceWarned(self._tell_warning)

    def hear(self, event: Event) -> None:
        """A running task's event: bar, warning line, or JSON line."""
        if isinstance(event, Warned):
            self._warn(event)
        elif self.way == "events":
            self._print(to_line(event))
        elif isinstance(event, Progress) and not self.quiet and self.err.isatty():
            self._show_bar(event)

    def warn(self, message: str) -> None:
        """Each warning once."""
        self._warn(Warned(message))

    def say(self, line: str = "") -> None:
        """A line of the result, for people only."""
        if self.way == "people":
            self._clear_bar()
            self._print(line)

    def mention(self, line: str) -> None:
        """Console beside the result: on stderr, for people only."""
        if self.way == "people" and not self.quiet:
            self._clear_bar()
            print(line, file=self.err, flush=True)

    def finish(self, facts: dict[str, Any], files: tuple[str, ...] = ()) -> None:
        """The result for programs: one object, or the last event."""
        self._clear_bar()
        if self.way == "json":
            self._print(json.dumps(facts, indent=2, allow_nan=False))
        elif self.way == "events":
            self._print(to_line(Finished(facts, files)))

    def fail(self, error: CycleINRError) -> None:
        """The one line of an error; programs that listen to events get it there too."""
        self._clear_bar()
        if self.way == "events":
            self._print(to_line(Failed.of(error)))
        print(f"cycleinr: error: {error}", file=self.err, flush=True)

    def _tell_warning(self, warned: Warned) -> None:
        if self.way == "events":
            self._print(to_line(warned))
        elif not self.quiet:
            self._clear_bar()
            print(f"cycleinr: warning: {warned}", file=self.err, flush=True)

    def _print(self, line: str) -> None:
        print(line, file=self.out, flush=True)

    def _show_bar(self, progress: Progress) -> None:
        width = 24
        filled = width * progress.done // max(progress.of, 1)
        line = f"{progress.stage:<10} [{'#' * filled}{'.' * (width - filled)}] {progress.done}/{progress.of}"
        if progress.remaining_s is not None:
            line += f"  {progress.remaining_s:.0f} s left"
        print("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1], end="", file=self.err, flush=True)
        self._bar_is_shown = True

    def _clear_bar(self) -> None:
        if self._bar_is_shown:
            print("\r\x1b[K", end="", file=self.err, flush=True)
            self._bar_is_shown = False


def grid_in_words(geometry: Geometry) -> str:
    """Size and spacing in the order people say them: i, j, k."""
    size = " x ".join(str(n) for n in geometry.shape[::-1])
    spacing = " x ".join(f"{mm:.3g}" for mm in geometry.spacing_mm[::-1])
    return f"{size} voxels of {spacing} mm"


def figure(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where it could not be measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def geometry_facts(geometry: Geometry) -> dict[str, Any]:
    return {
        "shape": list(geometry.shape),
        "spacing_mm": list(geometry.spacing_mm),
        "ijk_to_ras": geometry.ijk_to_ras.tolist(),
        "sheared": geometry.is_sheared,
        "left_handed": geometry.is_left_handed,
    }
