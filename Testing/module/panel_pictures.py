"""Pictures of the panel in each state, for the documentation: mock-ups, drawn without the Slicer application.

    python Testing/module/panel_pictures.py [FOLDER]      default: Resources/Screenshots

The panel is the real one (CycleINR.py, CycleINR.ui) on the bundled abdominal CT in a real MRML scene, and what it says
comes from real runs in real child processes; only the widgets of ctk and qMRML are stand-ins, and the views are drawn
from the images that Slicer's slice logic makes.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(HERE), str(REPOSITORY), str(REPOSITORY / "CycleINR")]

import standins  # noqa: E402
from PySide6 import QtCore, QtGui, QtWidgets  # noqa: E402

SCAN = REPOSITORY / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd"
WIDTH, VIEW = 430, 300
REGION_MM = (100.0, 100.0, 100.0)  # small, so that the pictures take seconds and not minutes
MINUTES = 2.0  # of adapting
LONGEST_S = 1500.0
_KEPT: list[Any] = []


def main(folder: Path) -> None:
    patch = pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        try:
            widget, scan, app = open_panel(Path(temporary), patch)
            Pictures(folder, widget).take(scan, app, patch)
            widget.cleanup()
        finally:
            patch.undo()


def open_panel(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Any, Any, standins.Application]:
    """The panel with the scan chosen, as a user finds it."""
    for name in ("scene", "temporary"):
        (folder / name).mkdir()
    scene = new_scene(folder / "scene")
    logics = {"volumes": scene.volumes, "segmentations": scene.segmentations}
    app = standins.install(str(folder / "temporary"), patch, **logics)
    standins.install_qt(app, scene, patch)
    patch.setattr(standins.ScriptedLoadableModuleWidget, "path", str(standins.MODULE))
    scan = scene.load_volume(SCAN, "CTAbdomen")
    scan.GetDisplayNode().SetAutoWindowLevel(False)
    scan.GetDisplayNode().SetWindowLevel(400, 40)
    scan.SetAttribute("DICOM.Modality", "CT")
    spec = importlib.util.spec_from_file_location("CycleINR", standins.MODULE)
    module = sys.modules["CycleINR"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    widget = module.CycleINRWidget(types.SimpleNamespace(isEntered=True))
    widget.setup()
    return widget, scan, app


def new_scene(folder: Path) -> Any:
    """A HeadlessScene that is kept: its logics give the views their color tables."""
    from CycleINRLib.scene.headless import HeadlessScene

    _KEPT.append(HeadlessScene(folder))
    return kept_scene()


def kept_scene() -> Any:
    """The present one."""
    return _KEPT[-1]


class Pictures:
    """Goes through the states of one panel and keeps a picture of each."""

    def __init__(self, folder: Path, widget: Any) -> None:
        self.folder, self.widget, self.ui = folder, widget, widget.ui
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, scan: Any, app: standins.Application, patch: pytest.MonkeyPatch) -> None:
        ui, widget = self.ui, self.widget
        self.save("idle")
        self.choose_small_region(scan)
        ui.applyButton.click()
        self.until(lambda: (ui.progressBar.value > 20 and ui.progressBar.visible) or widget.controller.jobs.run is None)
        self.save("running")
        self.until(lambda: widget.controller.jobs.run is None)
        self.save("done")
        ui.compareButton.click()
        self.until(lambda: widget.controller.results.views.fitted)
        self.save_views(app, "side_by_side")
        ui.compareButton.click()
        self.adapt()
        (Path(app.temporaryPath) / "mine.safetensors").write_bytes(b"no weights")
        patch.chdir(app.temporaryPath)
        ui.modelFileEdit.currentPath = "mine.safetensors"
        widget.controller.panel.forget()
        widget.controller.show()
        self.save("error")
        ui.modelFileEdit.currentPath = ""
        self.without_torch(patch)
        ui.applyButton.click()
        self.save("missing_torch")

    def adapt(self) -> None:
        """A minute of adapting: under way, and when the model was chosen and used."""
        ui, widget = self.ui, self.widget
        ui.advancedCollapsibleButton.collapsed = False
        ui.adaptMinutesSpinBox.value = MINUTES
        ui.adaptButton.click()
        self.until(lambda: "left" in ui.messageLabel.text or widget.controller.jobs.run is None)
        self.save("adapting")
        self.until(lambda: widget.controller.jobs.run is None)
        self.save("adapted")
        ui.advancedCollapsibleButton.collapsed = True
        ui.modelFileEdit.currentPath = ""

    def choose_small_region(self, scan: Any) -> None:
        import slicer

        bounds = [0.0] * 6
        scan.GetRASBounds(bounds)
        region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
        region.SetCenterWorld(*(np.array(bounds[::2]) + bounds[1::2]) / 2)
        region.SetSizeWorld(*REGION_MM)
        self.ui.regionSelector.choose(region)

    @staticmethod
    def without_torch(patch: pytest.MonkeyPatch) -> None:
        import slicer

        patch.setattr(slicer.packaging, "pip_check", lambda requirement: not requirement.startswith("torch"))
        patch.setitem(sys.modules, "PyTorchUtils", None)

    def until(self, condition: Callable[[], bool]) -> None:
        """Qt's event loop."""
        end = time.monotonic() + LONGEST_S
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(self.ui.messageLabel.text)
            QtWidgets.QApplication.processEvents()
            time.sleep(0.01)

    def save(self, state: str) -> None:
        top = self.ui.CycleINR.real
        top.setFixedWidth(WIDTH)
        for _ in range(3):  # layouts settle one after the other
            self.widget.controller.display.fit()
            top.adjustSize()
            QtWidgets.QApplication.processEvents()
        height = top.layout().heightForWidth(WIDTH) if top.layout().hasHeightForWidth() else top.sizeHint().height()
        top.resize(WIDTH, max(height, top.minimumSizeHint().height()))
        QtWidgets.QApplication.processEvents()
        self.write(top.grab(), f"panel_{state}")

    def save_views(self, app: standins.Application, name: str) -> None:
        """The four views as one picture, from the images of the slice logics."""
        picture = QtGui.QPixmap(2 * VIEW, 2 * VIEW)
        picture.fill(QtCore.Qt.black)
        painter = QtGui.QPainter(picture)
        for row, direction in enumerate(("Coronal", "Sagittal")):
            for column, side in enumerate(("Scan", "Result")):
                painter.drawImage(column * VIEW, row * VIEW, drawn(app, f"CycleINR{direction}{side}"))
                painter.setPen(QtCore.Qt.white)
                painter.drawText(column * VIEW + 8, row * VIEW + 18, f"{direction}, {side.lower()}")
        painter.end()
        self.write(picture, name)

    def save_masks(self, masks: list[np.ndarray], heights: list[int], name: str) -> None:
        """Masks of one row beside each other, one above the other, in the proportions of the body."""
        images = []
        for mask, height in zip(masks, heights):
            pixels = np.ascontiguousarray(255 * (mask > 0).astype(np.uint8))
            rows, columns = pixels.shape
            image = QtGui.QImage(pixels.data, columns, rows, columns, QtGui.QImage.Format_Grayscale8).copy()
            images.append(image.scaled(3 * columns, height))
        picture = QtGui.QPixmap(images[0].width(), sum(image.height() + 8 for image in images))
        picture.fill(QtCore.Qt.darkGray)
        painter, top = QtGui.QPainter(picture), 0
        for image in images:
            painter.drawImage(0, top, image)
            top += image.height() + 8
        painter.end()
        self.write(picture, name)

    def write(self, pixmap: QtGui.QPixmap, name: str) -> None:
        path = self.folder / f"{name}.png"
        pixmap.toImage().convertToFormat(QtGui.QImage.Format_RGB888).save(str(path), "PNG", 0)
        print(path)


def drawn(app: standins.Application, view: str) -> QtGui.QImage:
    """(VIEW, VIEW) pixels of one slice view, as Slicer blends them."""
    from vtk.util.numpy_support import vtk_to_numpy

    logic = app.manager.sliceWidget(view).sliceLogic()
    node = logic.GetSliceNode()
    node.SetDimensions(VIEW, VIEW, 1)
    logic.UpdateImageData()
    connection = logic.GetImageDataConnection()
    connection.GetProducer().Update()
    image = connection.GetProducer().GetOutputDataObject(0)
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(VIEW, VIEW, -1)[::-1, :, :3]
    pixels = np.ascontiguousarray(pixels)
    return QtGui.QImage(pixels.data, VIEW, VIEW, 3 * VIEW, QtGui.QImage.Format_RGB888).copy()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "Resources" / "Screenshots")
