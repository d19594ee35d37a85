"""What becomes of results in the application: shown, compared, plotted, exported; segmentations carried to them."""

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from CycleINRLib.errors import RequestError
from CycleINRLib.panel.readout import noise_csv, report_text
from CycleINRLib.scene.charts import noise_chart
from CycleINRLib.scene.segmentations import segmentations_of
from CycleINRLib.scene.volumes import SOURCE_ROLE, report_of, volume_from_node
from CycleINRLib.wholefile import write_whole
from CycleINRParts.sidebyside import SideBySide
from CycleINRParts.views import across, looked_at, show_results


class Results:
    """
    :param logic: of the module
    """

    def __init__(self, logic) -> None:
        self._logic = logic
        self.views = SideBySide()
        self._previews: dict[str, Any] = {}  # as `CycleINRLogic.preview` gave them

    def show(self, made) -> None:
        """When the last of a queue is done: each result where its scan was seen.

        A comparison that is on screen goes on with the new result of its scan, and stays as it is for other scans.

        :param made: result volumes
        """
        pairs = [(node.GetNodeReference(SOURCE_ROLE), node) for node in made if node.GetScene() is not None]
        show_results(pairs)
        for scan, node in pairs:
            if scan is not None and self.views.shows(scan):
                self.compare(node)

    def compare(self, result) -> None:
        """Scan and result side by side."""
        self._show_beside(result, result)

    def show_difference(self, result, difference) -> None:
        """The scan beside what was taken from it as noise, each in its own window."""
        self._show_beside(result, difference, alike=False)

    def _show_beside(self, result, node, alike: bool = True) -> None:
        """The scan of a result beside `node`, seen across the slices."""
        scan = result.GetNodeReference(SOURCE_ROLE)
        volume = volume_from_node(scan)
        place = self._logic.toWorld(scan, looked_at(volume, scan))
        axis = report_of(result)["input"]["slice_axis"]
        self.views.show(scan, dict.fromkeys(across(volume, axis), node), place, alike)

    def resume(self, result) -> None:
        """A scene that was saved side by side: its views have one window and level again."""
        scan = result.GetNodeReference(SOURCE_ROLE) if result is not None else None
        if scan is not None and self.views.shows(scan):
            self.views.link([scan, result])

    def show_preview(self, planes: dict) -> None:
        """A plane that is shown already stays as it is seen, zoom and window too, at its new place.

        :param planes: as `CycleINRLogic.preview` gives them
        """
        nodes, moved = _nodes_of(planes), self.views.shows(planes["source"]) and self.holds(planes)
        _remove(node for node in _nodes_of(self._previews).values() if node not in nodes.values())
        self._previews = planes
        if moved:
            self.views.jump(nodes, planes["place"])
        else:
            self.views.show(planes["source"], nodes, planes["place"])

    def holds(self, planes: dict) -> bool:
        """Whether these very nodes were shown last."""
        return _nodes_of(planes) == _nodes_of(self._previews)

    def previews_of(self, scan) -> dict:
        """The planes that show a preview of this scan now, to be filled anew; empty: none does."""
        there = all(node.GetScene() is not None for node in _nodes_of(self._previews).values())
        return self._previews if there and self._previews.get("source") is scan and self.views.shown else {}

    def drop_previews(self) -> None:
        """The planes of a preview are gone with the views that show them."""
        if self._previews:
            self.views.restore()
        _remove(_nodes_of(self._previews).values())
        self._previews = {}

    def close(self) -> None:
        """The scene is being closed: nothing of it is kept."""
        self._previews = {}
        self.views.restore()

    @staticmethod
    def plot(result) -> None:
        """The noise of each slice.

        :raises CycleINRError: the volume has no such figures
        """
        slicer.modules.plots.logic().ShowChartInLayout(noise_chart(slicer.mrmlScene, result))

    @staticmethod
    def export(result) -> str:
        """Asks for a file and writes the noise of each slice (.csv) or the readout (.txt).

        :return: its path; empty where the user chose none
        :raises CycleINRError: the volume has no figures, or the file cannot be written
        """
        import qt

        filters = ";;".join((_("Noise by slice") + " (*.csv)", _("Readout") + " (*.txt)"))
        start = str(Path(slicer.app.defaultScenePath) / f"{result.GetName()} noise.csv")
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Export the figures"), start, filters)
        if not path:
            return ""
        report = report_of(result)
        text = report_text(report, result.GetName()) if path.lower().endswith(".txt") else noise_csv(report)
        try:
            write_whole(Path(path), lambda part: part.write_text(text, encoding="utf-8", newline=""))
        except OSError as error:
            raise RequestError(_("The file cannot be written"), str(error), _("choose another folder")) from error
        return path

    @staticmethod
    def segmentations(result) -> list:
        """Those that were drawn on the scan of a result."""
        scan = result.GetNodeReference(SOURCE_ROLE) if result is not None else None
        return segmentations_of(scan.GetScene(), scan) if scan is not None else []


def _nodes_of(planes: dict) -> dict:
    """Direction -> node."""
    return {name: node for name, node in planes.items() if name not in ("source", "place")}


def _remove(nodes) -> None:
    """From the scene, those that are still there."""
    for node in nodes:
        if node.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(node)
