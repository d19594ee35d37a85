"""What the module does, without a panel: nodes in, a child process, nodes out."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic
from slicer.util import VTKObservationMixin

from CycleINRLib.child.folder import result_planes, result_volume
from CycleINRLib.child.run import Run
from CycleINRLib.errors import CycleINRError, VolumeError
from CycleINRLib.jobs import AdaptJob, UpsampleJob
from CycleINRLib.modelcard import read_card
from CycleINRLib.scene.region import inside
from CycleINRLib.scene.volumes import check_output_node, node_from_result, plane_node, volume_from_node
from CycleINRLib.upsampling.speed import Speed
from CycleINRParts import models
from CycleINRParts.views import across, looked_at, place_across

BLOCK = (8, 128, 128)  # slices, rows and columns that tell how fast this computer is


class Logic(ScriptedLoadableModuleLogic, VTKObservationMixin):
    """What the module does, without a panel; the same object as ``slicer.util.getModuleLogic("CycleINR")``.

    ``logic.upsample(node)`` gives the new node and its report. With ``wait=False`` it returns at once::

        run = logic.upsample(node, zScale=4, wait=False)
        run.done, run.poll(), run.cancel()
        node, report = run.result()

    `measure`, `preview` and `adapt` work alike. Everything runs in a child process; volumes are never changed but the
    output.
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        VTKObservationMixin.__init__(self)
        self._runs: dict[Run, Sequence[Any]] = {}  # each running job with its input nodes, observed meanwhile

    def upsample(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        zScale: float | None = None,
        spacing: float | None = None,
        outputVolume: vtkMRMLScalarVolumeNode | None = None,
        wait: bool = True,
        *,
        region: vtkMRMLMarkupsROINode | None = None,
        name: str | None = None,
        progress: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> tuple[vtkMRMLScalarVolumeNode, dict[str, Any]] | Run:
        """Generates the slices between the acquired ones.

        :param inputVolume: CT or MR scan; never changed
        :param zScale: slice spacing of the scan over that of the result; without it and spacing: isotropic
        :param spacing: slice spacing of the result in mm
        :param outputVolume: filled with the result; None: a new volume
        :param wait: False returns a `Run` at once; it must be asked for its result on the main thread
        :param region: only what lies inside is computed; None: the whole scan
        :param name: of a new volume
        :param progress: called with each event while waiting
        :param options: thickness (mm), consistency, texture (-1 to 1), modality, profile, axis, model, device,
            precision, self_check
        :return: (node, report), or a `Run`
        :raises CycleINRError: what went wrong, in words; the scene is then as it was
        """
        job = self._job(zScale, spacing, **options)
        check_output_node(outputVolume, inputVolume)
        volume = self._volume(inputVolume, region)

        def finish(folder: Path, facts: dict[str, Any]):
            into = outputVolume if outputVolume is not None and outputVolume.GetScene() else None
            result, report = result_volume(folder, facts), facts["report"]
            node = node_from_result(inputVolume.GetScene(), result, report, inputVolume, name, into)
            logging.info(f"CycleINR made {node.GetName()} from {inputVolume.GetName()}")
            return node, report

        return self._start(job.to_json(), volume, [inputVolume], finish, wait, progress)

    def measure(
        self, inputVolume: vtkMRMLScalarVolumeNode, wait: bool = True, *, progress: Callable[[Any], None] | None = None
    ) -> dict[str, Any] | Run:
        """The noise of each slice and its unevenness (SNLI).

        :param inputVolume: any scalar volume, a scan or a result
        :param wait: False returns a `Run` at once
        :return: the report, or a `Run`
        :raises CycleINRError: what went wrong, in words
        """
        volume = volume_from_node(inputVolume)
        return self._start({"task": "measure"}, volume, [inputVolume], _report, wait, progress)

    def adapt(
        self,
        inputVolumes: vtkMRMLScalarVolumeNode | Sequence[vtkMRMLScalarVolumeNode],
        outputModel: str | Path | None = None,
        wait: bool = True,
        *,
        progress: Callable[[Any], None] | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> tuple[Path, dict[str, Any]] | Run:
        """Trains a model further on thick-slice scans of one's own protocol; no thin-slice truth is needed.

        `upsample(node, model=path)` uses the new model. It is compared with the starting model on acquired slices
        that it never saw; where it is no better, no file is written and the starting model stays in use.

        :param inputVolumes: a scan or several, of one modality; never changed. One is enough, more are better. Those
            that cannot be learned from (isotropic, fewer than 12 slices) are left out, with a warning
        :param outputModel: path ending in .safetensors; None: a new file named after the scan, in the folder
            CycleINR/Models beside Slicer's settings
        :param wait: False returns a `Run` at once; it must be asked for its result on the main thread
        :param progress: called with each event while waiting
        :param overwrite: whether `outputModel` may be there already; otherwise that is an error
        :param options: minutes (20), steps (instead of minutes), route (auto, in-plane, synthetic), model (the starting
            one: a name or a file), thickness (mm), profile, modality, axis, device, seed
        :return: (path, report), or a `Run`; path is that of the model to use: the new one where report["improved"],
            else the starting one
        :raises CycleINRError: what went wrong, in words; then no file is left
        """
        nodes = _several(inputVolumes)
        job, volumes = self._adaptation(nodes, **options)
        place = models.place_for(nodes, outputModel, overwrite)

        def finish(folder: Path, facts: dict[str, Any]):
            report = facts["report"]
            if not report["improved"]:
                return models.start_of(job.model, report), report
            path = models.keep(folder / "model.safetensors", place, overwrite)
            logging.info(f"CycleINR made {path} from {', '.join(node.GetName() for node in nodes)}")
            return path, report

        asked = {**job.to_json(), "output": str(place)}  # its name goes into the model card
        return self._start(asked, volumes, nodes, finish, wait, progress)

    def checkAdaptable(self, inputVolumes, **options: Any) -> None:
        """Whether `adapt` can learn from the scans with the same arguments; computes nothing.

        :raises CycleINRError: why it cannot
        """
        self._adaptation(_several(inputVolumes), **options)

    def preview(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        zScale: float | None = None,
        spacing: float | None = None,
        wait: bool = True,
        *,
        region: vtkMRMLMarkupsROINode | None = None,
        progress: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> dict[str, Any] | Run:
        """Two planes of the result at the crosshair, computed alone: the two directions across the slices.

        :return: {"Coronal": node, "Sagittal": node, "source": the scan, "place": where the planes meet (RAS of the
            world, mm)}, or a `Run`; "Axial" in place of the direction that the slices themselves have. The nodes are
            hidden and not saved with the scene; remove them when they were seen.
        :raises CycleINRError: what went wrong, in words

        The other parameters are those of `upsample`.
        """
        job = self._job(zScale, spacing, **options)
        volume = self._volume(inputVolume, region)
        axes = across(volume, self._plan(volume, job).axis)
        place = looked_at(volume, inputVolume)
        planes = {direction.lower(): place_across(volume, axis, direction, place) for direction, axis in axes.items()}

        def finish(folder: Path, facts: dict[str, Any]):
            made = {
                name.capitalize(): plane_node(
                    inputVolume.GetScene(), plane, inputVolume, f"{inputVolume.GetName()} preview {name}"
                )
                for name, plane in result_planes(folder, facts).items()
            }
            return {**made, "source": inputVolume, "place": self.toWorld(inputVolume, place)}

        facts = {**job.to_json(), "task": "preview"}
        return self._start(facts, volume, [inputVolume], finish, wait, progress, beside={"planes": planes})

    def check(self, wait: bool = True) -> dict[str, Any] | Run:
        """What Slicer's Python offers the network: packages, devices, models, each tried.

        :return: the facts of `CycleINRLib.child.environment.examine`, or a `Run`
        """
        return self._start({"task": "check"}, None, [], _report, wait, None)

    def speed(self, source: Any, wait: bool = True, **options: Any) -> Speed | Run:
        """How fast this computer is with the model, device and precision of `options`, from a block of `source`.

        :param source: Volume of the scan
        """
        block = tuple(slice(max(0, (n - most) // 2), (n + most) // 2) for n, most in zip(source.values.shape, BLOCK))
        values = source.values[block]
        first = (block[0].start, block[1].start, block[2].start)
        part = source.with_values(values, source.geometry.cropped(first, values.shape))
        job = {**UpsampleJob(z_scale=2.0, **options).to_json(), "task": "speed"}
        return self._start(job, part, [], lambda folder, facts: Speed(**facts["report"]), wait, None)

    def outlook(
        self, inputVolume, zScale=None, spacing=None, outputVolume=None, *, region=None, **options: Any
    ) -> tuple[Any, Any]:
        """What `upsample` would work on and give with the same arguments; computes nothing.

        :return: (Volume of the scan or its region, Plan with grid and memory)
        :raises CycleINRError: why it cannot run
        """
        volume = self._volume(inputVolume, region)
        check_output_node(outputVolume, inputVolume)
        return volume, self._plan(volume, self._job(zScale, spacing, **options))

    def modelNames(self) -> list[str]:
        """The models that came with the extension."""
        from CycleINRLib.network.weights import list_models

        return [name for name, _path in list_models()]

    def knowsTexture(self, model: str) -> bool:
        """Whether a model understands texture; false where it cannot be read."""
        from CycleINRLib.network.weights import find_model

        try:
            card = read_card(find_model(model))
        except CycleINRError:
            return False
        return card.texture

    def toWorld(self, node, place) -> np.ndarray:
        """A place in the volume's own frame (RAS, mm) in the world."""
        transform = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, transform)
        return np.array(transform.TransformPoint([float(mm) for mm in place]))

    def stopAll(self, why: str) -> None:
        """Ends all jobs at once and forgets them; no node is made of them."""
        for run in list(self._runs):
            run.discard(why)

    @staticmethod
    def _job(
        zScale: float | None,
        spacing: float | None,
        thickness: float | None = None,
        model: str | Path = "auto",
        **options: Any,
    ):
        return UpsampleJob(z_scale=zScale, spacing_mm=spacing, thickness_mm=thickness, model=str(model), **options)

    @staticmethod
    def _volume(node, region=None):
        """The scan, or the part inside the region; a volume that was removed meanwhile is refused."""
        volume = volume_from_node(node)
        if node.GetScene() is None:
            raise VolumeError("The volume is no longer in the scene", node.GetName(), "load it again")
        return inside(volume, node, region)

    @staticmethod
    def _plan(volume, job: UpsampleJob):
        from CycleINRLib.upsampling.plan import plan

        return plan(volume, job)

    def _adaptation(self, nodes, thickness: float | None = None, model: str | Path = "auto", **options: Any):
        """The job and its scans, at least one of which can be learned from."""
        from CycleINRLib.adapting.thick import usable

        job = AdaptJob(thickness_mm=thickness, model=str(model), **options)
        volumes = [self._volume(node) for node in nodes or [None]]
        usable(volumes, job)
        return job, volumes

    def _start(self, job, volume, nodes, finish, wait, progress, beside=None):
        run = Run(job, volume, finish, slicer.app.temporaryPath, on_close=self._forget, beside=beside)
        if not self._runs:
            scene = nodes[0].GetScene() if nodes else slicer.mrmlScene
            self.addObserver(scene, scene.StartCloseEvent, self._onSceneClose)
            self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self._onNodeRemoved)
        self._runs[run] = nodes
        return run.wait(progress) if wait else run

    def _forget(self, run: Run) -> None:
        self._runs.pop(run, None)
        if not self._runs:
            self.removeObservers()

    def _onSceneClose(self, caller, event) -> None:
        self.stopAll(_("The scene was closed"))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeRemoved(self, caller, event, node) -> None:
        for run in [run for run, sources in self._runs.items() if any(source is node for source in sources)]:
            run.discard(_("The input volume was removed"))


def stamp(node) -> tuple:
    """Another one whenever the node or its voxels were changed."""
    image = node.GetImageData() if node else None
    return node and node.GetID(), node and node.GetMTime(), image and image.GetMTime()


def _several(nodes) -> list[Any]:
    """One node, or some, each once."""
    return list(dict.fromkeys(nodes if isinstance(nodes, (list, tuple)) else [nodes]))


def _report(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    return facts["report"]
