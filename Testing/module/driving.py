"""How tests drive the panel: Qt's event loop, and what they look at afterwards."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

from CycleINRLib.errors import Cancelled
from CycleINRLib.jobs import UpsampleJob
from CycleINRLib.machine import remember
from CycleINRLib.modelcard import read_card
from CycleINRLib.network.weights import find_model
from CycleINRLib.upsampling import speed


def run_until(widget, condition, timeout_s: float = 120.0) -> None:
    """Qt's own event loop, as the application runs it."""
    from PySide6.QtWidgets import QApplication

    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain; the panel says {widget.ui.messageLabel.text!r}"
        QApplication.processEvents()
        time.sleep(0.01)


def finish(widget) -> None:
    """Of the jobs."""
    run_until(widget, lambda: widget.controller.jobs.run is None)


def remember_a_speed() -> None:
    """How fast this computer is with what the panel begins with, as an earlier run left it."""
    job = UpsampleJob()
    key = speed._key(read_card(find_model(job.model)).network, job)
    remember("speed", key, speed.Speed(1e-4, 1e-3, "cpu (2 threads)", (64, 4, 28, 1.2e9)).to_json())


def cancelled(run, timeout_s: float = 100.0) -> None:
    """Asks a job to stop, and waits until it has ended for that reason."""
    run.cancel()
    end = time.monotonic() + timeout_s
    while not run.done:
        assert time.monotonic() < end
        time.sleep(0.02)
    with pytest.raises(Cancelled):
        run.result()


def rows(table) -> dict[str, list[str]]:
    """The texts of a table by their first column."""
    real = table.real
    texts = [[real.item(r, c).text() for c in range(real.columnCount())] for r in range(real.rowCount())]
    return {first: rest for first, *rest in texts}


def volumes() -> list[str]:
    """The names of the scalar volumes of the scene."""
    import slicer

    return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]


def left_behind(app) -> list[Path]:
    """In the temporary folder of the application."""
    return list(Path(app.temporaryPath).iterdir())


def assert_gone(pid: int) -> None:
    """The child was ended and collected."""
    end = time.monotonic() + 90
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)


def checksum(node) -> str:
    """Of its voxels."""
    import slicer

    return hashlib.sha256(slicer.util.arrayFromVolume(node).tobytes()).hexdigest()


def asked(widget):
    """The parameters, as a script gets them."""
    return widget.logic.getParameterNode()


def add_scan(like, name: str):
    """Another CT of the same grid, with other values."""
    import slicer

    values = slicer.util.arrayFromVolume(like)[::-1] + 1
    node = slicer.util.addVolumeFromArray(values, np.diag([1.0, 1.0, 4.0, 1.0]), name=name)
    node.SetAttribute("DICOM.Modality", "CT")
    return node


def apply(widget) -> None:
    """Clicks, and waits for the result."""
    widget.ui.applyButton.click()
    finish(widget)


def settle(widget, milliseconds: int = 30) -> None:
    """All that Qt has to do at once."""
    end = time.monotonic() + milliseconds / 1000
    run_until(widget, lambda: time.monotonic() > end)


def background(app, view: str) -> str:
    """The name of the volume that a view shows."""
    import slicer

    composite = app.manager.sliceWidget(view).sliceLogic().GetSliceCompositeNode()
    node = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
    return node.GetName() if node is not None else ""
