"""How tests drive the panel: Qt's event loop, and what they look at afterwards."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from CycleINRLib.errors import Cancelled


def run_until(widget, condition, timeout_s: float = 120.0) -> None:
    """Qt's own event loop, as the application runs it."""
    from PySide6.QtWidgets import QApplication

    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain; the panel says {widget.ui.messageLabel.text!r}"
        QApplication.processEvents()
        time.sleep(0.01)


def finish(widget) -> None:
    """Of the jobs, and of the quiet run that takes the time anew after them."""
    run_until(widget, lambda: widget.controller.jobs.run is None and not widget.controller.speeds.busy)


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
