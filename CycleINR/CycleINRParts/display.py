"""What the widgets of CycleINR.ui show; nothing here decides anything."""

from slicer.i18n import tr as _

from CycleINRLib.panel.state import View
from CycleINRLib.scene.volumes import SOURCE_ROLE, neighbors_of
from CycleINRParts.tables import TextTable


class Display:
    """
    :param ui: the widgets by name
    """

    def __init__(self, ui) -> None:
        self._ui = ui
        self._information = TextTable(ui.informationTable)
        self._readout = TextTable(ui.readoutTable)
        self._tips: dict[str, str] = {}  # of CycleINR.ui, of controls that are disabled at times

    def view(self, view: View) -> None:
        """What the state machine says."""
        ui = self._ui
        ui.applyButton.text, ui.applyButton.toolTip = view.button, view.tooltip
        ui.applyButton.enabled = view.button_enabled
        ui.previewButton.enabled, ui.previewButton.toolTip = view.preview_enabled, view.preview_tooltip
        ui.adaptButton.enabled, ui.adaptButton.toolTip = view.adapt_enabled, view.adapt_tooltip
        ui.adaptLabel.text, ui.adaptLabel.visible = view.adapted, bool(view.adapted)
        for group in (ui.inputsCollapsibleButton, ui.outputsCollapsibleButton, ui.advancedCollapsibleButton):
            group.enabled = view.inputs_enabled
            group.toolTip = "" if view.inputs_enabled else _("Wait until the running job ends, or cancel it.")
        ui.progressBar.visible = view.percent is not None
        ui.progressBar.value = view.percent or 0
        ui.messageLabel.text = view.message
        ui.messageLabel.visible = bool(view.message)
        ui.copyButton.visible = bool(view.details)
        ui.warningsLabel.text = "\n".join(_("Note: {text}").format(text=text) for text in view.warnings)
        ui.warningsLabel.visible = bool(view.warnings)
        ui.informationCollapsibleButton.visible = bool(view.information)
        ui.resultCollapsibleButton.visible = bool(view.readout)
        self._information.show(view.information)
        self._readout.show(view.readout)

    def fit(self) -> None:
        """Tables as high as their rows, after the panel changed its width."""
        self._information.fit()
        self._readout.fit()

    def result(self, node, views_shown: bool, view: View) -> None:
        """The buttons that look at the last result.

        :param node: its volume, None where there is none
        :param views_shown: whether scan and result are side by side now
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
        ui.noiseButton.enabled = node is not None and view.inputs_enabled
        ui.noiseButton.toolTip = (
            _("A plot of the noise of each slice, of the scan and of the result.")
            if ui.noiseButton.enabled
            else _("Wait until the running job ends.")
        )

    def request(self, asked, volumes: int, knows_texture: bool) -> None:
        """What depends on another choice is enabled by it, and says so where it is not.

        :param asked: the parameter node
        :param volumes: how many are chosen
        :param knows_texture: whether the model understands texture
        """
        ui = self._ui
        for name in ("z-scale", "spacing"):
            widget = ui.zScaleSpinBox if name == "z-scale" else ui.spacingSpinBox
            self._enable(widget, asked.target == name, _("Choose {name} under Slices first.").format(name=name))
        self._enable(ui.modelComboBox, not asked.modelFile, _("The model file under Advanced takes its place."))
        ui.modelComboBox.setCurrentText(asked.model)
        if ui.modelFileEdit.currentPath != asked.modelFile:
            ui.modelFileEdit.currentPath = asked.modelFile
        one = volumes < 2
        ui.outputSelector.enabled = one
        ui.outputSelector.toolTip = (
            _("A volume to fill, or a new one.") if one else _("Several volumes are chosen: each gets a new volume.")
        )
        ui.folderButton.enabled = bool(neighbors_of(asked.inputVolume))
        ui.folderButton.toolTip = (
            _("Also mark the other volumes of the scan's folder in the subject hierarchy.")
            if ui.folderButton.enabled
            else _("The scan's folder in the subject hierarchy holds no other volume.")
        )
        self._texture(asked, knows_texture)

    def _texture(self, asked, knows: bool) -> None:
        never = _("This model was trained for least error only.")
        fitted = _("The texture is fitted to the scan; uncheck that to choose it yourself.")
        self._enable(self._ui.textureCheckBox, knows, never)
        self._enable(self._ui.textureSlider, knows and not asked.textureDefault, fitted if knows else never)

    def _enable(self, widget, possible: bool, why: str) -> None:
        """With its own tooltip, or the one that says why it is disabled."""
        tip = self._tips.setdefault(widget.objectName, widget.toolTip)
        widget.enabled, widget.toolTip = possible, tip if possible else why
