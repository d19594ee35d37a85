"""What the panel asks for: the widgets bound to the parameters of the scene, and the arguments they make."""

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from CycleINRLib.errors import CycleINRError, ModelError
from CycleINRLib.jobs import NOISES, UpsampleJob
from CycleINRLib.panel.readout import NOISE_TEXTS
from CycleINRLib.scene.region import give_size
from CycleINRParts.choices import ChosenNode, ModelChoice, MoreVolumes
from CycleINRParts.observing import Observers

DRAWN = "CycleINR.drawn"  # attribute of a region that waits to be drawn in the views


class Request:
    """
    :param ui: the widgets by name
    :param models: names of the installed ones
    :param changed: called after each change of a parameter, of the scan's voxels or of the region
    """

    def __init__(self, ui, models: list[str], changed: Callable[[], None]) -> None:
        self._ui, self._changed = ui, changed
        self.parameters: Any = None
        self._tag: Any = None
        self._nodes = [
            ChosenNode(ui.outputSelector, "outputVolume", changed),
            ChosenNode(ui.regionSelector, "region", changed),
        ]
        self._model, self._more = ModelChoice(ui, models, changed), MoreVolumes(ui.moreSelector, changed)
        self._observers, self._watching, self._due = Observers(), Observers(), False

    # --- binding ----------------------------------------------------------------------------------------------
    def bind(self, parameters) -> str:
        """
        :param parameters: the wrapped parameter node, which the widgets follow from now on; None: they follow none
        :return: what the user should be told of parameters that an earlier version saved; empty: nothing
        """
        if self.parameters is not None:
            self.parameters.disconnectGui(self._tag)
        self._observers.drop()
        self._watching.drop()
        self.parameters, self._tag = parameters, None
        told = "" if parameters is None else _taken_over(parameters)
        if parameters is not None:
            self._tag = parameters.connectGui(self._ui)
            node = parameters.parameterNode
            self._observers.add(node, vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._changed())
        for one in (*self._nodes, self._model, self._more):
            one.bind(parameters)
        return told

    def show(self) -> None:
        """Widgets that Slicer does not bind say what the parameters are."""
        for one in (*self._nodes, self._model):
            one.show()

    def watch(self) -> None:
        """Follows the voxels of the scan and the shape of the region, which other modules change; and fits the region.

        A region that is being drawn keeps what the user has drawn so far.
        """
        scan, region = self.parameters.inputVolume, self.parameters.region
        if region is None or region.GetAttribute(DRAWN) is None:
            give_size(region, scan)
        nodes = [node for node in (scan, region) if node is not None]
        if nodes != list(self._watching.of()):
            self._watching.drop()
            for node in nodes:
                self._watching.add(node, vtk.vtkCommand.ModifiedEvent, self._node_changed)
                if node is region:
                    self._watching.add(node, node.PointModifiedEvent, self._node_changed)

    def _node_changed(self, caller, event) -> None:
        """A handle that is dragged tells dozens of changes at once: they are looked at together."""
        import qt

        if not self._due:
            self._due = True
            qt.QTimer.singleShot(0, self._look)

    def _look(self) -> None:
        self._due = False
        if self.parameters is not None:
            self._changed()

    # --- what is asked ----------------------------------------------------------------------------------------
    def volumes(self) -> list:
        """The scan, then the further volumes of the queue."""
        first = self.parameters.inputVolume
        return [first, *(node for node in self._more.nodes() if node is not first)]

    def choose_volumes(self, nodes) -> None:
        """The first becomes the scan unless that is among them; the others are marked."""
        if nodes and self.parameters.inputVolume not in nodes:
            self.parameters.inputVolume = nodes[0]
        self._more.choose([node for node in nodes if node is not self.parameters.inputVolume])

    @property
    def model(self) -> str:
        """Name or file.

        :raises ModelError: the edit holds no path of a model
        """
        if self._model.problem:
            todo = _("choose a .safetensors file, or clear Model file under Advanced")
            raise ModelError(_("The model file is not one"), self._model.problem, todo)
        return self.parameters.modelFile or self.parameters.model

    def of_upsample(self) -> dict[str, Any]:
        """The arguments of `CycleINRLogic.upsample` without volumes.

        :raises ModelError: no model is named
        """
        asked = self.parameters
        return {
            "zScale": asked.zScale if asked.target == "z-scale" else None,
            "spacing": asked.spacing if asked.target == "spacing" else None,
            "region": asked.region,
            "thickness": asked.thickness or None,
            "modality": asked.modality,
            "consistency": asked.consistency,
            "model": self.model,
            "noise": {words: name for name, words in NOISES.items()}[asked.noise],
            "device": asked.device,
            "precision": asked.precision,
        }

    def of_adapt(self) -> dict[str, Any]:
        """The arguments of `CycleINRLogic.adapt` without volumes and minutes; it learns from whole scans."""
        request = self.of_upsample()
        return {name: request[name] for name in ("thickness", "modality", "model", "device", "precision")}

    # --- region -----------------------------------------------------------------------------------------------
    def draw_region(self) -> None:
        """A new region that the user draws in a slice view: two clicks, then handles.

        :raises CycleINRError: no scan is chosen
        """
        scan = self.parameters.inputVolume
        if scan is None:
            raise CycleINRError(_("No volume is chosen"), "", _("choose the scan to draw on"))
        name = slicer.mrmlScene.GenerateUniqueName(_("{name} region").format(name=scan.GetName()))
        region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
        region.SetAttribute(DRAWN, "1")
        region.CreateDefaultDisplayNodes()
        if region.GetDisplayNode() is not None:
            region.GetDisplayNode().SetFillVisibility(False)  # the scan under it must be seen
        self.parameters.region = region
        markups = slicer.modules.markups.logic()
        markups.SetActiveList(region)
        markups.StartPlaceMode(False)


def _taken_over(parameters) -> str:
    """Scenes of before there was a choice of noise hold a dial for texture: it becomes that choice, once.

    :return: what the user should be told; empty: the choice means what the dial meant
    """
    node = parameters.parameterNode
    fitted, texture = (node.GetParameter(name) for name in ("textureDefault", "texture"))
    for name in ("textureDefault", "texture"):
        node.UnsetParameter(name)
    if fitted.lower() != "false":  # fitted to the scan, as the noise is where nothing is chosen
        return ""
    amount = float(texture or 0)
    noise = UpsampleJob(texture=amount, consistency=parameters.consistency).noise
    parameters.noise = NOISES[noise]
    text = _("The scene was saved with a dial for texture, which is gone. Noise is now: {noise}.")
    return text.format(noise=NOISE_TEXTS[noise]) if amount else ""
