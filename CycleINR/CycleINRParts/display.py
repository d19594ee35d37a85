"""What the widgets of CycleINR.ui show; nothing here decides anything."""

from slicer.i18n import tr as _

from CycleINRLib.panel.state import View
from CycleINRLib.scene.volumes import PREFIX, SOURCE_ROLE
from CycleINRParts.tables import TextTable


class Display:
    """
    :param ui: the widgets by name
    """

    def __init__(self, ui) -> None:
        self._ui = ui
        self._information = TextTable(ui.informationTable)
        self._readout = TextTable(ui.readoutTable)
        self._queue = TextTable(ui.queueTable)
        self._tips: dict[str, str] = {}  # of CycleINR.ui, of controls that are disabled at times
        self._shown: dict[str, bool] = {}  # by the name of the widget

    def view(self, view: View) -> None:
        """What the state machine says."""
        ui = self._ui
        ui.applyButton.text, ui.applyButton.toolTip = view.button, view.tooltip
        ui.applyButton.enabled = view.button_enabled
        ui.previewButton.enabled, ui.previewButton.toolTip = view.preview_enabled, view.preview_tooltip
        ui.adaptButton.enabled, ui.adaptButton.toolTip = view.adapt_enabled, view.adapt_tooltip
        ui.adaptLabel.text = view.adapted
        self._show(ui.adaptLabel, bool(view.adapted))
        for group in (ui.inputsCollapsibleButton, ui.outputsCollapsibleButton, ui.advancedCollapsibleButton):
            group.enabled = view.inputs_enabled
            group.toolTip = "" if view.inputs_enabled else _("Wait until the running job ends, or cancel it.")
        self._show(ui.progressBar, view.percent is not None)
        ui.progressBar.value = view.percent or 0
        ui.messageLabel.text = view.message
        self._show(ui.messageLabel, bool(view.message))
        self._show(ui.copyButton, bool(view.details))
        ui.warningsLabel.text = "\n".join(_("Note: {text}").format(text=text) for text in view.warnings)
        self._show(ui.warningsLabel, bool(view.warnings))
        self._show(ui.informationCollapsibleButton, bool(view.information))
        self._show(ui.resultCollapsibleButton, bool(view.readout))
        self._information.show(view.information)
        self._readout.show(view.readout)
        self._queue.show(view.queue)

    def fit(self) -> None:
        """Tables as high as their rows, after the panel changed its width."""
        self._information.fit()
        self._readout.fit()
        self._queue.fit()

    def result(self, node, views_shown: bool, view: View, segmented: bool) -> None:
        """The buttons that look at the last result.

        :param node: its volume, None where there is none
        :param views_shown: whether scan and result are side by side now
        :param segmented: whether something was drawn on its scan
        """
        ui = self._ui
        seen = node is not None and node.GetNodeReference(SOURCE_ROLE) is not None
        ui.compareButton.enabled = seen or views_shown
        ui.compareButton.text = _("&Back to the earlier layout") if views_shown else _("Show side &by side")
        ui.compareButton.toolTip = (
            _("Scan and result in linked views with the same window and level.")
            if ui.compareButton.enabled
            else _("The scan that the result was made of is not in the scene.")
        )
        wait, idle = _("Wait until the running job ends."), node is not None and view.inputs_enabled
        self._enable(ui.noiseButton, idle, wait)
        self._enable(ui.exportButton, idle, wait)
        taken = seen and node.GetAttribute(f"{PREFIX}noise") in ("renew", "remove")
        nothing = _("Nothing was taken from the scan: the noise of this result is as acquired.")
        self._enable(ui.differenceButton, idle and taken, nothing if idle else wait)
        none = _("No segmentation was drawn on the scan of the result.")
        self._enable(ui.segmentationButton, idle and segmented, none if idle else wait)

    def request(self, asked, volumes: int, frames) -> None:
        """What depends on another choice is enabled by it, and says so where it is not.

        :param asked: the parameter node
        :param volumes: how many are chosen
        :param frames: of the sequence that the scan shows; None where it shows none
        """
        ui = self._ui
        for name in ("z-scale", "spacing"):
            widget = ui.zScaleSpinBox if name == "z-scale" else ui.spacingSpinBox
            self._enable(widget, asked.target == name, _("Choose {name} under Slices first.").format(name=name))
        self._enable(ui.modelComboBox, not asked.modelFile, _("The model file under Advanced takes its place."))
        for widget in (ui.framesCheckBox, ui.framesCheckBoxLabel):
            self._show(widget, frames is not None)
        one = volumes < 2 and not (frames is not None and asked.allFrames)
        each = _("Several volumes are chosen: each gets a new volume.")
        whole = _("All frames are computed: they become a new sequence.")
        self._enable(ui.outputSelector, one, each if volumes > 1 else whole)
        no_scan = _("Choose an input volume first.")
        self._enable(ui.drawButton, asked.inputVolume is not None, no_scan)

    def _show(self, widget, visible: bool) -> None:
        """Only what changed: a child of a collapsed ctkCollapsibleButton that is shown is hidden again at once."""
        if self._shown.get(widget.objectName) != visible:
            self._shown[widget.objectName] = widget.visible = visible

    def _enable(self, widget, possible: bool, why: str) -> None:
        """With its own tooltip, or the one that says why it is disabled."""
        tip = self._tips.setdefault(widget.objectName, widget.toolTip)
        widget.enabled, widget.toolTip = possible, tip if possible else why
