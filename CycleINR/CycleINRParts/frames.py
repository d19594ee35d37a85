"""All frames of a sequence: one child process after the other, told as one run."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from CycleINRLib.child.folder import result_volume
from CycleINRLib.errors import Cancelled, CycleINRError, RequestError
from CycleINRLib.events import Event, Finished, Progress
from CycleINRLib.scene.region import limits_inside
from CycleINRLib.scene.sequences import frames_of, sequence_from_results
from CycleINRLib.scene.volumes import frame_of, node_from_result, result_name


class FramesRun:
    """The handle of `CycleINRLogic.upsampleSequence`; as a `Run` to whoever holds it.

    :param starts: each starts the run of one frame; called when the one before has ended
    :param finish: called once with the outcomes of all, on the thread that asks for the result
    :raises CycleINRError: the first one cannot be started
    """

    def __init__(self, starts: Sequence[Callable[[], Any]], finish: Callable[[list], Any]) -> None:
        self._starts, self._finish, self._count = list(starts[1:]), finish, len(starts)
        self._outcomes: list[Any] = []
        self._events: list[Event] = []
        self._error: CycleINRError | None = None
        self._outcome: Any = None
        self._began = time.monotonic()
        self._run = starts[0]()

    @property
    def done(self) -> bool:
        """Whether all frames have ended, or one of them failed."""
        self._go_on()
        return self._error is not None or len(self._outcomes) == self._count

    @property
    def log(self) -> str:
        """The last lines that the child of the present frame said beside its events."""
        return self._run.log

    def poll(self) -> list[Event]:
        """The events since the last call; progress is that of all frames together."""
        self._go_on()
        self._hear()
        events, self._events = self._events, []
        return events

    def cancel(self) -> None:
        """Asks the present child to stop; no further one is started."""
        self._starts = []
        self._run.cancel()

    def discard(self, why: str = "Cancelled") -> None:
        """Ends the job at once; `result` then raises Cancelled."""
        self._run.discard(why)
        self._error = self._error or Cancelled(why)

    def wait(self, progress: Callable[[Event], None] | None = None) -> Any:
        """Blocks until the end and gives `result`; Ctrl-C ends the job."""
        tell = progress or (lambda event: None)
        try:
            while not self.done:
                for event in self.poll():
                    tell(event)
                time.sleep(0.05)
            for event in self.poll():
                tell(event)
        except BaseException:
            self.discard()
            raise
        return self.result()

    def result(self) -> Any:
        """What `finish` made; the same at every call.

        :raises CycleINRError: why there is no result; also while a job is still running
        """
        if not self.done:
            raise CycleINRError("The job is still running", f"frame {len(self._outcomes) + 1} of {self._count}")
        if self._error is not None:
            raise self._error
        if self._outcomes and self._outcome is None:
            try:
                self._outcome = self._finish(self._outcomes)
            except CycleINRError as error:
                self._error = error
                raise
            self._outcomes = [None] * self._count  # their voxels are in the scene now
        return self._outcome

    def _go_on(self) -> None:
        """Keeps what a frame made and starts the next one."""
        if self._error is not None or len(self._outcomes) == self._count or not self._run.done:
            return
        self._hear()
        try:
            self._outcomes.append(self._run.result())
            if self._starts:
                self._run = self._starts.pop(0)()
            elif len(self._outcomes) < self._count:
                raise Cancelled("Cancelled")
        except CycleINRError as error:
            self._error, self._outcomes = error, []

    def _hear(self) -> None:
        for event in self._run.poll():
            if isinstance(event, Progress):
                event = self._of_all(event)
            if not isinstance(event, Finished):
                self._events.append(event)

    def _of_all(self, event: Progress) -> Progress:
        done = len(self._outcomes) * event.of + event.done
        share = done / max(1, self._count * event.of)
        left = (time.monotonic() - self._began) * (1 - share) / share if share > 0 else None
        return dataclasses.replace(event, done=done, of=self._count * event.of, remaining_s=left)


def start_frames(start: Callable, node, volume, job, region, name: str | None) -> FramesRun:
    """
    :param start: of `Running`
    :param node: the proxy of the sequence
    :param volume: Volume of the proxy
    :param job: the same for each frame
    :raises RequestError: the volume shows no frame of a sequence
    """
    frames = frames_of(node)
    if frames is None:
        raise RequestError(
            "The volume is no frame of a sequence", node.GetName(), "choose the volume that shows the frames"
        )

    def begin(n: int):
        frame = frame_of(volume, frames.node(n), frames.label(n))
        part = dataclasses.replace(job, region=limits_inside(frame, node, region))
        return start(part.to_json(), frame, [node], _made, False, None)

    def finish(made: list):
        scene = node.GetScene()
        unique = scene.GenerateUniqueName(name or result_name(node, made[0][1]["z_scale"]))
        nodes = [node_from_result(scene, result, report, node, f"{unique} frame") for result, report in made]
        proxy = sequence_from_results(scene, frames, nodes, unique)
        return proxy, [report for _, report in made]

    return FramesRun([lambda n=n: begin(n) for n in range(len(frames))], finish)


def _made(folder, facts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return result_volume(folder, facts), facts["report"]
