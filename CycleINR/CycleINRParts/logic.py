"""What the module does, without a panel: nodes in, a child process, nodes out."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slicer
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from CycleINRLib.errors import RequestError, VolumeError
from CycleINRLib.jobs import AdaptJob, UpsampleJob
from CycleINRParts.running import Running

if TYPE_CHECKING:  # loaded where they are used: every start of Slicer reads this file
    import numpy as np

    from CycleINRLib.child.run import Run
    from CycleINRParts.frames import FramesRun

    NodeOrRun = tuple[vtkMRMLScalarVolumeNode, dict[str, Any]] | Run
    NodeOrFramesRun = tuple[vtkMRMLScalarVolumeNode, list[dict[str, Any]]] | FramesRun
    ModelOrRun = tuple[Path, dict[str, Any]] | Run
    FactsOrRun = dict[str, Any] | Run


class Logic(ScriptedLoadableModuleLogic):
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
        self._parameters = None
        self._running = Running()

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
    ) -> "NodeOrRun":
        """Generates the slices between the acquired ones.

        :param inputVolume: CT or MR scan; never changed
        :param zScale: slice spacing of the scan over that of the result; without it and spacing: isotropic
        :param spacing: slice spacing of the result in mm
        :param outputVolume: filled with the result; None: a new volume
        :param wait: False returns a `Run` at once; it must be asked for its result on the main thread
        :param region: only what lies inside is computed; None: the whole scan
        :param name: of a new volume
        :param progress: called with each event while waiting
        :param options: thickness (mm), consistency, noise (renew, acquired or remove), modality, profile, axis,
            model, device, precision, self_check
        :return: (node, report), or a `Run`
        :raises CycleINRError: what went wrong, in words; the scene is then as it was
        """
        from CycleINRLib.child.folder import result_volume
        from CycleINRLib.scene.volumes import check_output_node, node_from_result

        check_output_node(outputVolume, inputVolume)
        volume = self._volume(inputVolume)
        job = self._job(zScale, spacing, region=self._limits(volume, inputVolume, region), **options)

        def finish(folder: Path, facts: dict[str, Any]):
            into = outputVolume if outputVolume is not None and outputVolume.GetScene() else None
            result, report = result_volume(folder, facts), facts["report"]
            node = node_from_result(inputVolume.GetScene(), result, report, inputVolume, name, into)
            logging.info(f"CycleINR made {node.GetName()} from {inputVolume.GetName()}")
            return node, report

        return self._start(job.to_json(), volume, [inputVolume], finish, wait, progress)

    def upsampleSequence(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        zScale: float | None = None,
        spacing: float | None = None,
        wait: bool = True,
        *,
        region: vtkMRMLMarkupsROINode | None = None,
        name: str | None = None,
        progress: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> "NodeOrFramesRun":
        """Every frame of a sequence (4D), one after the other; the same grid for all.

        :param inputVolume: the volume in the scene that shows one frame of the sequence (its proxy)
        :return: (node, reports), or a handle as `upsample` gives; node is the proxy of a new sequence, which joins the
            browser of the scan, so that both play together
        :raises CycleINRError: what went wrong, in words; the scene is then as it was

        The other parameters are those of `upsample`.
        """
        from CycleINRParts.frames import start_frames

        job, volume = self._job(zScale, spacing, **options), self._volume(inputVolume)
        run = start_frames(self._start, inputVolume, volume, job, region, name)
        return run.wait(progress) if wait else run

    def carrySegmentations(self, resultVolume: vtkMRMLScalarVolumeNode) -> list:
        """The segmentations that were drawn on the scan of a result, on the finer voxels of the result.

        :return: new segmentation nodes; those that were drawn are not changed
        :raises CycleINRError: the volume is no result of a scan in the scene
        """
        from CycleINRLib.scene.segmentations import carry, segmentations_of
        from CycleINRLib.scene.volumes import SOURCE_ROLE

        scan = resultVolume.GetNodeReference(SOURCE_ROLE) if resultVolume is not None else None
        if scan is None:
            raise RequestError(
                "The scan of the result is not in the scene", _name_of(resultVolume), "choose a result of CycleINR"
            )
        scene = resultVolume.GetScene()
        return [carry(scene, node, scan, resultVolume) for node in segmentations_of(scene, scan)]

    def series(self, item: int) -> tuple[list, dict[str, str]]:
        """The scans below an item of the subject hierarchy (patient, study, folder) that `upsample` makes isotropic.

        :return: (volume nodes, the names of the other volumes with the reason why not)
        """
        from CycleINRLib.scene.studies import series_below

        return series_below(slicer.mrmlScene, item, self.outlook)

    def measure(
        self, inputVolume: vtkMRMLScalarVolumeNode, wait: bool = True, *, progress: Callable[[Any], None] | None = None
    ) -> "FactsOrRun":
        """The noise of each slice and its unevenness (SNLI).

        :param inputVolume: any scalar volume, a scan or a result
        :param wait: False returns a `Run` at once
        :return: the report, or a `Run`
        :raises CycleINRError: what went wrong, in words
        """
        from CycleINRLib.scene.volumes import volume_from_node

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
    ) -> "ModelOrRun":
        """Adapts a model to thick-slice scans of one's own protocol; no thin-slice truth is needed.

        `upsample(node, model=path)` uses the new model. It is compared with the starting model on acquired slices
        that it never saw; where it is no better, no file is written and the starting model stays in use.

        :param inputVolumes: a scan or several, of one modality; never changed. One is enough, more are better. Those
            that cannot be learned from (isotropic, fewer than 12 slices) are left out, with a warning
        :param outputModel: path ending in .safetensors; None: a new file named after the scan, in the folder
            CycleINR/Models beside Slicer's settings
        :param wait: False returns a `Run` at once; it must be asked for its result on the main thread
        :param progress: called with each event while waiting
        :param overwrite: whether `outputModel` may be there already; otherwise that is an error
        :param options: minutes or steps (train all of the model; without them its last layer alone is fitted, which
            takes about a minute and mostly gains more), route (auto, last-layer, in-plane, synthetic), model (the
            starting one: a name or a file), thickness (mm), profile, modality, axis, device, precision, seed
        :return: (path, report), or a `Run`; path is that of the model to use: the new one where report["improved"],
            else the starting one
        :raises CycleINRError: what went wrong, in words; then no file is left
        """
        from CycleINRParts import models

        nodes = _several(inputVolumes)
        job, volumes = self._adaptation(nodes, **options)
        output = models.path_for(nodes, outputModel, overwrite)

        def finish(folder: Path, facts: dict[str, Any]):
            report = facts["report"]
            if not report["improved"]:
                return models.start_of(job.model, report), report
            path = models.keep(folder / "model.safetensors", output, overwrite)
            logging.info(f"CycleINR made {path} from {', '.join(node.GetName() for node in nodes)}")
            return path, report

        asked = {**job.to_json(), "output": str(output)}  # its name goes into the model card
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
        into: dict[str, Any] | None = None,
        provisional: Callable[[dict[str, Any]], None] | None = None,
        stay: bool = False,
        **options: Any,
    ) -> "FactsOrRun":
        """Two planes of the result at the crosshair, computed alone: the two directions across the slices.

        :param into: what an earlier preview returned: its nodes are filled anew; None: new ones
        :param provisional: called at once with what will be returned, the nodes holding planes that are interpolated
            between the slices and say so in their names; where the preview comes to nothing, remove them
        :param stay: whether the process stays for the next preview, which it answers at once where the planes moved a
            little. Any other job and `stopAll` end it, and so do some minutes without a preview
        :return: {"Coronal": node, "Sagittal": node, "source": the scan, "place": where the planes meet (RAS of the
            world, mm)}, or a `Run`; "Axial" in place of the direction that the slices themselves have. The nodes are
            hidden and not saved with the scene; remove them when they were seen.
        :raises CycleINRError: what went wrong, in words

        The other parameters are those of `upsample`.
        """
        from CycleINRParts.previews import start_preview

        asked = self._preview_asked(inputVolume, zScale, spacing, region, options)
        told = {"source": inputVolume, "place": self.toWorld(inputVolume, asked.place)}
        return start_preview(self._start, asked, told, into or {}, provisional, wait, progress, stay)

    def preparePreview(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        zScale: float | None = None,
        spacing: float | None = None,
        *,
        region: vtkMRMLMarkupsROINode | None = None,
        **options: Any,
    ) -> bool:
        """Makes ready what `preview(..., stay=True)` with the same arguments will need, in the process that then stays.

        That leaves one core alone and ends as such a process does, and with `endPrepared`.

        :return: whether a process got the scan: not where one has it, jobs run, or `child.resident.may_prepare` says no
        :raises CycleINRError: what a preview would be refused for
        """
        asked = self._preview_asked(inputVolume, zScale, spacing, region, options)
        return self._running.prepare(asked.facts, asked.scan, inputVolume, {"planes": asked.planes})

    def awaitScan(self, inputVolume: vtkMRMLScalarVolumeNode | None = None) -> None:
        """Has PyTorch loaded by then in the process that previews are asked of; one prepared for another scan ends."""
        self._running.await_scan(inputVolume)

    def endPrepared(self, keepWaiting: bool = False) -> None:
        """Ends the process of those two, unless a preview was asked of it; one that waits for a scan may be kept."""
        self._running.end_prepared(keepWaiting)

    def _preview_asked(self, inputVolume, zScale, spacing, region, options: dict[str, Any]):
        from CycleINRParts.previews import PreviewAsked

        scan = self._volume(inputVolume)
        job = self._job(zScale, spacing, region=self._limits(scan, inputVolume, region), **options)
        return PreviewAsked.of(inputVolume, scan, job, self._plan(scan, job))

    def difference(self, resultVolume: vtkMRMLScalarVolumeNode, wait: bool = True, *, progress=None) -> "NodeOrRun":
        """What was taken from the scan of a result as noise, as a volume beside the scan: it should look like noise.

        :return: the volume node, or a `Run`
        :raises CycleINRError: nothing was taken from it (its noise is as acquired), or the scan is not in the scene
        """
        from CycleINRParts.difference import start_difference

        return start_difference(self._start, self._volume, resultVolume, wait, progress)

    def check(self, wait: bool = True) -> "FactsOrRun":
        """What Slicer's Python offers the network: packages, devices, models, each tried.

        :return: the facts of `CycleINRLib.environment.examine`, or a `Run`
        """
        return self._start({"task": "check"}, None, [], _report, wait, None)

    def outlook(
        self, inputVolume, zScale=None, spacing=None, outputVolume=None, *, region=None, **options: Any
    ) -> tuple[Any, Any]:
        """What `upsample` would work on and give with the same arguments; computes nothing.

        :return: (Volume of the scan or its region, Plan with grid and memory)
        :raises CycleINRError: why it cannot run; a model that is missing or cannot be read too
        """
        from CycleINRLib.scene.volumes import check_output_node

        volume = self._volume(inputVolume)
        check_output_node(outputVolume, inputVolume)
        job = self._job(zScale, spacing, region=self._limits(volume, inputVolume, region), **options)
        self._card(job.model)
        return volume.part(job.region), self._plan(volume, job)

    def modelNames(self) -> list[str]:
        """The models that came with the extension."""
        from CycleINRLib.network.weights import list_models

        return [name for name, _path in list_models()]

    def toWorld(self, node, place) -> "np.ndarray":
        """A place in the volume's own frame (RAS, mm) in the world."""
        import numpy as np
        import vtk

        transform = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, transform)
        return np.array(transform.TransformPoint([float(mm) for mm in place]))

    def stopAll(self, why: str) -> None:
        """Ends all jobs at once and forgets them; no node is made of them."""
        self._running.stop_all(why)

    def _start(self, *arguments: Any, **options: Any) -> Any:
        return self._running.start(*arguments, **options)

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
    def _volume(node):
        """The scan; a volume that was removed meanwhile is refused."""
        from CycleINRLib.scene.volumes import volume_from_node

        volume = volume_from_node(node)
        if node.GetScene() is None:
            raise VolumeError("The volume is no longer in the scene", node.GetName(), "load it again")
        return volume

    @staticmethod
    def _limits(volume, node, region):
        """The voxels inside the region, as a job names them; None without one."""
        from CycleINRLib.scene.region import limits_inside

        return limits_inside(volume, node, region)

    @staticmethod
    def _card(model: str):
        from CycleINRLib.modelcard import read_card
        from CycleINRLib.network.weights import find_model

        return read_card(find_model(model))

    @staticmethod
    def _plan(volume, job: UpsampleJob):
        from CycleINRLib.upsampling.plan import plan

        return plan(volume, job)

    def _adaptation(self, nodes, thickness: float | None = None, model: str | Path = "auto", **options: Any):
        """The job and its scans, at least one of which can be learned from."""
        job = AdaptJob(thickness_mm=thickness, model=str(model), **options)
        volumes = [self._volume(node) for node in nodes or [None]]
        from CycleINRLib.adapting.thick import usable  # after it is known that there is a volume: this loads scipy

        usable(volumes, job)
        return job, volumes


def stamp(node) -> tuple:
    """Another one whenever the node or its voxels were changed."""
    image = node.GetImageData() if node else None
    return node and node.GetID(), node and node.GetMTime(), image and image.GetMTime()


def _several(nodes) -> list[Any]:
    """One node, or some, each once."""
    return list(dict.fromkeys(nodes if isinstance(nodes, (list, tuple)) else [nodes]))


def _name_of(node) -> str:
    return node.GetName() if node is not None else "none"


def _report(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    return facts["report"]
