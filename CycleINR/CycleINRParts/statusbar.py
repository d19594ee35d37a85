"""Progress in the status bar of the application, while the panel is not shown."""

import slicer


class StatusBar:
    """A bar that is there only while something runs and the panel is hidden."""

    def __init__(self) -> None:
        self._bar = None

    def show(self, percent: int | None, text: str) -> None:
        """
        :param percent: None: of unknown length
        """
        bars = self._bars()
        if bars is None:
            return
        if self._bar is None:
            import qt

            self._bar = qt.QProgressBar()
            self._bar.objectName = "CycleINRProgressBar"
            self._bar.maximumWidth = 200
            bars.addPermanentWidget(self._bar)
        self._bar.maximum = 0 if percent is None else 100
        self._bar.value = percent or 0
        self._bar.toolTip = text
        self._bar.visible = True
        bars.showMessage(f"CycleINR: {text}")

    def end(self, text: str = "") -> None:
        """Takes the bar away; the text stays for some seconds."""
        bars = self._bars()
        if self._bar is not None and bars is not None:
            bars.removeWidget(self._bar)
            self._bar.deleteLater()
            self._bar = None
            bars.showMessage(f"CycleINR: {text}" if text else "", 10000)

    @staticmethod
    def _bars():
        window = slicer.util.mainWindow()
        return window.statusBar() if window else None
