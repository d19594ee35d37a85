"""The parent's side of a child process: start it, hear its events, stop it, fetch its result (floor 4).

The caller fills a folder (`job.json`, `input.npy`), starts the child there, and calls `poll` from time to time:

    child = launch(folder)
    while not child.done:
        for event in child.poll(): ...
    report = child.result()["report"]

Nothing here touches the scene, the screen or an array, so a panel, a console and a test use the same code.
Two threads read the child's pipes; what they hear is kept until `poll` is called, on the caller's own thread.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import Cancelled, CycleINRError
from ..events import Event, Failed, Finished, from_line
from .awaited import Awaited
from .folder import keep_alive, read_result

GRACE_S = 1.2  # between the request to stop and the kill; a user waits two seconds at most
TEND_S = 0.25  # how often the thread that works without the caller looks
DRAIN_S = 5.0  # how long a dead child's pipes may stay open in a grandchild's hands
LOG_LINES = 40
KILLED = (-9, 137, 0xC0000017, 0xC000012D)  # SIGKILL as Popen and as a shell sees it; no memory, on Windows
CRASHED = {  # endings that no Python code chose -> in words
    -11: "an invalid memory access", 139: "an invalid memory access", 0xC0000005: "an invalid memory access",
    -7: "a bus error", 135: "a bus error", -6: "an abort", 134: "an abort",
    -4: "an instruction that this processor lacks", 132: "an instruction that this processor lacks",
    0xC000001D: "an instruction that this processor lacks", 0xC0000135: "a missing library",
}  # fmt: skip


def launch(
    folder: str | Path,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    stays: bool = False,
) -> Child:
    """The child that runs the job in `folder`, started.

    Parameters
    ----------
    folder : holds what the child needs and receives what it makes; the caller removes it
    command : the whole command line; None for this library's own child, `__main__.py run FOLDER`
    environment : variables set on top of those of this process
    stays : it answers questions (`resident`): an error is that of one of them, and it ends without a result

    Raises
    ------
    CycleINRError : the command cannot be started
    """
    return Child(Path(folder), list(command or own_command(folder)), child_environment(environment), stays)


def own_command(folder: str | Path) -> list[str]:
    """This library's child, by file path: a source tree is not on the import path of a new interpreter.

    Inside Slicer `sys.executable` is the launcher PythonSlicer, outside it is Python itself.
    """
    if not sys.executable:
        raise CycleINRError(
            "The Python interpreter is not known", "sys.executable is empty", "report this to the project"
        )
    return [sys.executable, str(Path(__file__).resolve().parents[1] / "__main__.py"), "run", str(folder)]


def child_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Everything this process has, UTF-8 unbuffered pipes, and `more`.

    Nothing is dropped: inside Slicer PYTHONHOME, PYTHONPATH and the library paths lead the child to the same
    packages (torch among them) as the application; outside, CUDA_VISIBLE_DEVICES and thread limits are the user's word.
    """
    return {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", **(more or {})}


class Child(Awaited):
    """A running child process; use `launch`."""

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str], stays: bool = False) -> None:
        super().__init__(folder)
        self._stays = stays
        self.log: deque[str] = deque(maxlen=LOG_LINES)  # last lines that are no events
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._ended_at: float | None = None
        self._killed = False
        keep_alive(self.folder)
        self._process = _start(command, environment)
        self._readers = [
            threading.Thread(target=target, args=(pipe,), daemon=True)
            for target, pipe in ((self._hear, self._process.stdout), (self._note, self._process.stderr))
        ]
        self._pulse = threading.Thread(target=self._keep_alive, daemon=True)
        for thread in (*self._readers, self._pulse):
            thread.start()

    # --- the caller's side ------------------------------------------------------------------------------------
    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Ends the child and all that it started, at once."""
        if not self._done:
            self._killed = True
            _kill_tree(self._process)

    # --- its life ---------------------------------------------------------------------------------------------
    def _look(self) -> None:
        """Moves events over, keeps the child alive or ends it, and notices its end."""
        if self._done:
            return
        keep_alive(self.folder)
        time.sleep(0.001)  # inside Slicer the readers run only while the main thread lets go of the interpreter
        self._enforce_cancel()
        status = self._process.poll()
        ended = status is not None and self._pipes_closed()
        while not self._events.empty():
            self._receive(self._events.get())
        if status is not None and ended:
            self._finish(status)

    def _receive(self, event: Event) -> None:
        if isinstance(event, Failed) and not self._stays:
            self.failure = self.failure or event
        self._waiting.append(event)

    def _pipes_closed(self) -> bool:
        """Whether both readers came to the end; a grandchild that holds the pipes open is ended first."""
        if not any(reader.is_alive() for reader in self._readers):
            return True
        if self._ended_at is None:
            self._ended_at = time.monotonic()
        if time.monotonic() - self._ended_at > DRAIN_S / 2:
            _kill_tree(self._process)
        return time.monotonic() - self._ended_at > DRAIN_S

    def _finish(self, status: int) -> None:
        if self.failure is None:
            self.failure = self._failure_of(status)
            if self.failure is not None:
                self._waiting.append(self.failure)
        if self.failure is not None:
            self._waiting = [event for event in self._waiting if not isinstance(event, Finished)]
        self._done = True

    def _failure_of(self, status: int) -> Failed | None:
        """The end in words, None where it is a success: an exit status alone helps nobody."""
        if self._cancelled_at is not None or self._killed or status == Cancelled.exit_code:
            return Failed(Cancelled.code, "Cancelled")
        if status in KILLED:
            found = self._last_words() or "it was stopped without a word"
            return Failed(
                "out_of_memory",
                f"The computing process was killed by the system, probably for lack of memory. Found: {found}",
                "close other programs, crop the volume, or ask for a smaller z-scale",
            )
        if status != 0:
            said = self._last_words() or "no message"
            how = f"crashed by {CRASHED[status]}" if status in CRASHED else f"ended with exit status {status}"
            todo = "check the environment (Advanced), then report this with the log"
            return Failed(CycleINRError.code, f"The computing process {how}. Found: {said}", todo)
        try:
            if not self._stays:
                read_result(self.folder)
        except CycleINRError as error:
            return Failed.of(error)
        return None

    def _last_words(self) -> str:
        return next((line for line in reversed(self.log) if line.strip()), "").strip()

    # --- threads ----------------------------------------------------------------------------------------------
    def _hear(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                event = from_line(line)
                if event is None:
                    self.log.append(line.rstrip())
                else:
                    self._events.put(event)

    def _note(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self.log.append(line.rstrip())

    def _keep_alive(self) -> None:
        """A caller may not poll for minutes; this thread ends a deaf child and touches `alive` meanwhile.

        Where C++ holds the interpreter, as in Slicer, no thread runs; then the child finds that this process lives.
        """
        while self._process.poll() is None:
            keep_alive(self.folder)
            self._enforce_cancel()
            time.sleep(TEND_S)

    def _enforce_cancel(self) -> None:
        if (
            self._cancelled_at is not None
            and time.monotonic() - self._cancelled_at > GRACE_S
            and self._process.poll() is None
        ):
            self._killed = True
            _kill_tree(self._process)


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """A child in a process group of its own, so that all of it can be ended, without a console window."""
    options: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        hidden = subprocess.STARTUPINFO()  # type: ignore[attr-defined]
        hidden.dwFlags |= subprocess.STARTF_USESHOWWINDOW  # type: ignore[attr-defined]
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW  # type: ignore[attr-defined]
        options = {"startupinfo": hidden, "creationflags": flags}
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
            errors="replace",
            **options,
        )
    except OSError as error:
        raise CycleINRError(
            "The computing process cannot be started", f"{command[0]}: {error}", "report this to the project"
        ) from error


def _kill_tree(process: subprocess.Popen[str]) -> None:
    """PythonSlicer is a launcher: ending it alone would leave the real Python computing."""
    try:
        if os.name == "nt":
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except OSError:  # already gone
        pass
