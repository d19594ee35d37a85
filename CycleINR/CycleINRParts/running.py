"""The child processes that the logic has running: they end with their scans, and none is forgotten.

One of them may stay with its scan when it has answered, to be asked again (`start(..., stays=True)`). It ends with the
scan, when anything else is started or asked of another scan, and by itself when nobody asks for some time.
"""

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
        self._resident: Any = None
        self._scan: Any = None  # node of the resident; None: it waits for one
        self._is_prepared = False  # it was started before anybody asked it

    def start(
        self,
        job: dict[str, Any],
        volume: Any,
        nodes: Sequence[Any],
        finish: Callable,
        wait: bool,
        progress: Callable[[Any], None] | None,
        beside: dict[str, Any] | None = None,
        stays: bool = False,
    ) -> Any:
        """A child process with its scans in a folder of its own.

        :param nodes: where one of them is removed from the scene, the run ends
        :param wait: whether to block until the end and give what `finish` made
        :param stays: whether the process is one that stays with the volume, and is asked again for the same one
        :return: the run, or what `finish` made
        """
        from CycleINRLib.child.run import Run

        resident = self._resident_of(volume) if stays else None
        if nodes and not stays:
            self.end_resident()
        if resident is not None:
            self._scan, self._is_prepared = nodes[0], False
        home = slicer.app.temporaryPath
        run = Run(job, volume, finish, home, on_close=self._forget, beside=beside, resident=resident)
        self._observe(nodes[0].GetScene() if nodes else slicer.mrmlScene)
        self.runs[run] = nodes
        if stays or not wait:
            self._look_after()
        return run.wait(progress) if wait else run

    def prepare(self, job: dict[str, Any], volume: Any, node: Any, beside: dict[str, Any]) -> bool:
        """Tells the process that stays with the scan what it will be asked; starts one where there is none and no job.

        :return: whether it did not have the scan before
        """
        from CycleINRLib.child.resident import may_prepare

        if self.runs or not may_prepare(volume):
            return False
        resident = self._resident_of(volume)
        is_new = self._scan is None
        self._scan, self._is_prepared = node, self._is_prepared or is_new
        self._observe(node.GetScene())
        self._look_after()
        resident.prepare(job, beside)
        return is_new

    def await_scan(self, node: Any) -> None:
        """Starts a process that loads PyTorch and stays with the scan that is then asked of it or prepared.

        Nothing happens where one is there, unless it was prepared for another scan, nor where jobs run.

        :param node: the scan that is chosen, None where there is none
        """
        from CycleINRLib.child.resident import Resident, may_prepare

        if self.runs or not may_prepare():
            return
        if self._is_prepared and self._scan is not None and self._scan is not node:
            self.end_resident()
        if self._resident is None:
            self._resident = Resident(None, slicer.app.temporaryPath)
            self._is_prepared = True
            self._observe(slicer.mrmlScene)
            self._look_after()

    def end_prepared(self, keep_waiting: bool = False) -> None:
        """Ends the process that stays where it was never asked.

        :param keep_waiting: whether it stays where it has no scan yet
        """
        if self._is_prepared and not (keep_waiting and self._scan is None):
            self.end_resident()

    def stop_all(self, why: str) -> None:
        """Ends all jobs at once and forgets them; no node is made of them."""
        for run in list(self.runs):
            run.discard(why)
        self.end_resident()

    def end_resident(self) -> None:
        """Ends the process that stays, and what it was asked."""
        resident, self._resident, self._scan, self._is_prepared = self._resident, None, None, False
        if resident is not None:
            for run in [run for run in self.runs if run.asks(resident)]:
                run.discard(_("Another job was started"))
            resident.end()
            self._let_go()

    def _resident_of(self, volume: Any) -> Any:
        """The process that stays with this scan as it is now, or waits for one, else a new one in its place; None: it
        is busy."""
        from CycleINRLib.child.resident import Resident

        if self._resident is not None and self._resident.busy:
            return None
        if self._resident is not None and not self._resident.has_scan:
            self._resident.take(volume)
        elif self._resident is None or not self._resident.holds(volume):
            self.end_resident()
            self._resident = Resident(volume, slicer.app.temporaryPath)
        return self._resident

    def _observe(self, scene: Any) -> None:
        if not self._observers.of():
            self._observers.add(scene, scene.StartCloseEvent, self._scene_closes)
            self._observers.add(scene, scene.NodeAboutToBeRemovedEvent, self._node_goes)

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
        if self._resident is not None and self._resident.idle:
            self.end_resident()  # nobody asked for long: the copy of the scan goes too
        if self._resident is None and all(run.done for run in self.runs):
            self._timer.stop()

    def _forget(self, run) -> None:
        self.runs.pop(run, None)
        self._let_go()

    def _let_go(self) -> None:
        """Listens to the scene no longer where nothing is left that ends with it."""
        if not self.runs and self._resident is None:
            self._observers.drop()

    def _scene_closes(self, caller, event) -> None:
        self.stop_all(_("The scene was closed"))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_goes(self, caller, event, node) -> None:
        for run in [run for run, sources in self.runs.items() if any(source is node for source in sources)]:
            run.discard(_("The input volume was removed"))
        if node is self._scan:
            self.end_resident()
