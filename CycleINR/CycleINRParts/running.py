"""The child processes that the logic has running: they end with their scans, and none is forgotten."""

from collections.abc import Callable, Sequence
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from CycleINRParts.observing import Observers

LOOK_MS = 500


class Running:
    """Starts runs and looks after them; main thread only."""

    def __init__(self) -> None:
        self.runs: dict[Any, Sequence[Any]] = {}  # each with its input nodes
        self._observers = Observers()
        self._timer: Any = None

    def start(
        self,
        job: dict[str, Any],
        volume: Any,
        nodes: Sequence[Any],
        finish: Callable,
        wait: bool,
        progress: Callable[[Any], None] | None,
        beside: dict[str, Any] | None = None,
    ) -> Any:
        """A child process with its scans in a folder of its own.

        :param nodes: where one of them is removed from the scene, the run ends
        :param wait: whether to block until the end and give what `finish` made
        :return: the run, or what `finish` made
        """
        from CycleINRLib.child.run import Run

        run = Run(job, volume, finish, slicer.app.temporaryPath, on_close=self._forget, beside=beside)
        if not self.runs:
            scene = nodes[0].GetScene() if nodes else slicer.mrmlScene
            self._observers.add(scene, scene.StartCloseEvent, self._scene_closes)
            self._observers.add(scene, scene.NodeAboutToBeRemovedEvent, self._node_goes)
        self.runs[run] = nodes
        if wait:
            return run.wait(progress)
        self._look_after()
        return run

    def stop_all(self, why: str) -> None:
        """Ends all jobs at once and forgets them; no node is made of them."""
        for run in list(self.runs):
            run.discard(why)

    def _look_after(self) -> None:
        """A run that nobody asks about is looked at here: its pipes are read and its child knows that we live.

        Slicer runs no Python thread while C++ is busy, so none can do it.
        """
        if self._timer is None:
            try:
                import qt
            except ImportError:  # slicer-core: a script without the application asks itself
                return
            self._timer = qt.QTimer()
            self._timer.setInterval(LOOK_MS)
            self._timer.connect("timeout()", self._look)
        self._timer.start()

    def _look(self) -> None:
        for run in list(self.runs):  # each of them, since asking is what looks after it
            _ = run.done
        if all(run.done for run in self.runs):
            self._timer.stop()

    def _forget(self, run) -> None:
        self.runs.pop(run, None)
        if not self.runs:
            self._observers.drop()

    def _scene_closes(self, caller, event) -> None:
        self.stop_all(_("The scene was closed"))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_goes(self, caller, event, node) -> None:
        for run in [run for run, sources in self.runs.items() if any(source is node for source in sources)]:
            run.discard(_("The input volume was removed"))
