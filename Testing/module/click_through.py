"""One way through the panel with real weights, real child processes and a real scene; says what it found, step by step.

    python Testing/module/click_through.py FOLDER [--long]      pictures are put there

Only the widgets of ctk and qMRML are stand-ins. `--long` adds a run during which this process runs no Python for 90 s.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import panel_pictures as pictures
import pytest
import standins

BLOCK = 96  # rows and columns of the middle of each scan, so that a run takes seconds
SCANS = {"Abdomen": ("CT_abdomen_5mm.nrrd", "CT"), "Knee": ("MR_knee_4.3mm.nrrd", "MR")}
HOLD_S = 90
WATCH = """
import os, sys, time
oldest = 0
while os.path.exists(sys.argv[1]):
    try:
        oldest = max(oldest, time.time() - os.stat(sys.argv[1]).st_mtime)
    except OSError:
        break
    time.sleep(0.5)
print(oldest)
"""


def main(folder: Path, long: bool) -> int:
    """The number of steps that failed."""
    patch = pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        try:
            widget, scan, app = pictures.open_panel(Path(temporary), patch)
            way = Way(folder, Path(temporary), widget, app, scan)
            steps = [way.two_scans, way.model_file, way.comparison, way.sequence, way.study, way.segmentation]
            for step in [*steps, *([way.no_python] if long else []), way.save_and_load, way.close]:
                step()
            return way.failed
        finally:
            patch.undo()


class Way:
    """The steps, in the order in which a user may take them."""

    def __init__(self, folder: Path, temporary: Path, widget: Any, app: Any, scan: Any) -> None:
        import slicer

        self.shots, self.temporary, self.app = pictures.Pictures(folder, widget), temporary, app
        self.widget, self.ui, self.failed = widget, widget.ui, 0
        slicer.mrmlScene.RemoveNode(scan)
        self.scans = {name: self.load(name, *facts) for name, facts in SCANS.items()}
        self.sums = {name: checksum(node) for name, node in self.scans.items()}

    def load(self, name: str, file: str, modality: str) -> Any:
        """The middle of a bundled scan."""
        import slicer

        import CycleINRLib as cycleinr

        volume = cycleinr.read(pictures.REPOSITORY / "Resources" / "SampleData" / file)
        first = [max(0, (n - BLOCK) // 2) for n in volume.values.shape]
        part = tuple(slice(a, a + BLOCK) for a in first)
        geometry = volume.geometry.cropped(tuple(first), volume.values[part].shape)
        matrix = np.array(geometry.ijk_to_ras)
        node = slicer.util.addVolumeFromArray(np.ascontiguousarray(volume.values[part]), matrix, name=name)
        node.SetAttribute("DICOM.Modality", modality)
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(*((400, 40) if modality == "CT" else (900, 450)))
        return node

    # --- steps ------------------------------------------------------------------------------------------------
    def two_scans(self) -> None:
        for node in self.scans.values():
            self.ui.inputSelector.choose(node)
            self.apply()
        made = [name for name in self.names() if name not in self.scans]
        same = all(checksum(node) == self.sums[name] for name, node in self.scans.items())
        self.tell("Apply on two scans, no output chosen", len(made) == 2 and same, f"made {made}; scans as before")
        self.shots.save("two_scans")

    def model_file(self) -> None:
        edit = self.ui.modelFileEdit
        edit.currentPath = "/models/adapted.safetensors"
        self.settle()
        refused, shown = self.ui.applyButton.toolTip, self.ui.modelComboBox.enabled
        edit.comboBox().lineEdit().real.clear()
        self.settle()
        cleared = self.asked().modelFile == "" and self.ui.modelComboBox.enabled and self.ui.applyButton.enabled
        self.tell("A model file that is not there, then cleared", not shown and cleared, refused)

    def comparison(self) -> None:
        self.ui.inputSelector.choose(self.scans["Abdomen"])
        self.apply()
        self.ui.compareButton.click()
        self.settle()
        self.apply()
        self.settle()
        sides = {side: self.background(f"CycleINRCoronal{side}") for side in ("Scan", "Result")}
        self.tell("Apply while side by side", sides["Scan"] == "Abdomen" and sides["Result"] != "Abdomen", str(sides))
        self.shots.save_views(self.app, "comparison")

    def sequence(self) -> None:
        import slicer

        scene, knee = slicer.mrmlScene, self.scans["Knee"]
        sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Beating")
        sequence.SetIndexName("time")
        for n in range(2):
            sequence.SetDataNodeAtValue(knee, str(n))
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        pictures.kept_scene().sequences.UpdateProxyNodesFromSequences(browser)
        proxy = browser.GetProxyNode(sequence)
        proxy.SetAttribute("DICOM.Modality", "MR")
        self.ui.inputSelector.choose(proxy)
        self.settle()
        self.shots.save("sequence")
        self.apply()
        nodes = slicer.util.getNodesByClass("vtkMRMLSequenceNode")
        told = f"{[(node.GetName(), node.GetNumberOfDataNodes()) for node in nodes]}, {self.ui.messageLabel.text}"
        done = len(nodes) == 2 and browser.GetProxyNode(nodes[1]) is self.asked().resultVolume
        self.tell("A sequence of two frames", done and nodes[1].GetNumberOfDataNodes() == 2, told)

    def study(self) -> None:
        import slicer

        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
        study = hierarchy.CreateStudyItem(patient, "Study")
        values = slicer.util.arrayFromVolume(self.scans["Abdomen"])
        cube = slicer.util.addVolumeFromArray(values, np.eye(4), name="Isotropic")
        for node in (*self.scans.values(), cube):
            item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(study, node)
            hierarchy.SetItemParent(item, study)
        handler = types.SimpleNamespace(currentItem=lambda: patient)
        slicer.qSlicerSubjectHierarchyPluginHandler = types.SimpleNamespace(instance=lambda: handler)
        self.ui.folderButton.click()
        chosen = [node.GetName() for node in self.widget.controller.request.volumes()]
        self.tell("A patient of the hierarchy", sorted(chosen) == sorted(SCANS), self.ui.messageLabel.text)
        self.ui.applyButton.click()
        self.finish()
        self.shots.save("study")
        self.ui.moreSelector.setCheckState(self.scans["Knee"], 0)
        self.ui.moreSelector.setCheckState(self.scans["Abdomen"], 0)

    def segmentation(self) -> None:
        import slicer

        scan = self.scans["Abdomen"]
        self.ui.inputSelector.choose(scan)
        self.apply()
        values = slicer.util.arrayFromVolume(scan)
        mask = (values > 120).astype(np.uint8)
        drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Body")
        drawn.CreateDefaultDisplayNodes()
        drawn.SetReferenceImageGeometryParameterFromVolumeNode(scan)
        drawn.GetSegmentation().AddEmptySegment("body", "Body")
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, drawn, "body", scan)
        drawn.CreateClosedSurfaceRepresentation()
        self.widget.controller.show()
        self.ui.segmentationButton.click()
        result = self.asked().resultVolume
        made = slicer.util.getNode(f"Body on {result.GetName()}")
        carried = slicer.util.arrayFromSegmentBinaryLabelmap(made, "body", result)
        surface = made.GetSegmentation().ContainsRepresentation("Closed surface")
        fine = [np.linalg.norm(c) for c in slicer.util.arrayFromVTKMatrix(matrix_of(result))[:3, :3].T]
        coarse = [np.linalg.norm(c) for c in slicer.util.arrayFromVTKMatrix(matrix_of(scan))[:3, :3].T]
        ratio = carried.sum() * np.prod(fine) / (mask[:-1].sum() * np.prod(coarse))
        told = f"{carried.shape} voxels, surface {surface}, volume {100 * ratio:.1f} % of what was drawn"
        self.tell("A segmentation carried over", surface and 0.9 < ratio < 1.1, told)
        row = BLOCK // 2
        views = [mask[::-1, row], carried[::-1, row]]
        heights = [int(one.shape[0] * spacing[2] / spacing[0] * 3) for one, spacing in zip(views, (coarse, fine))]
        self.shots.save_masks(views, heights, "segmentation")

    def no_python(self) -> None:
        run = self.widget.logic.adapt(self.scans["Abdomen"], minutes=(HOLD_S + 20) / 60, wait=False)
        watch = subprocess.Popen([sys.executable, "-c", WATCH, str(run.folder / "alive")], stdout=subprocess.PIPE)
        ctypes.PyDLL(None).sleep(HOLD_S)  # a C call that holds the interpreter: no thread of this process runs
        still = run._child._process.poll() is None
        path, report = run.wait()
        oldest = float(watch.communicate()[0])
        told = f"`alive` became {oldest:.0f} s old while no Python ran; the run ended with {path.name}"
        self.tell("A run without polling", still and oldest > HOLD_S - 5 and "improved" in report, told)

    def save_and_load(self) -> None:
        import qtstandins
        import slicer

        self.ui.compareButton.click()
        if not self.widget.controller.results.views.shown:
            self.ui.compareButton.click()
        self.settle()
        path = pictures.kept_scene().save(self.temporary / "case.mrb")
        self.widget.cleanup()
        (self.temporary / "next").mkdir()
        scene = pictures.new_scene(self.temporary / "next")
        self.app.manager = qtstandins.LayoutManager(scene.scene, scene._application)
        module = sys.modules[type(self.widget).__module__]
        module.registerLayouts()  # as at startupCompleted
        scene.load(path)
        self.widget = module.CycleINRWidget(types.SimpleNamespace(isEntered=True))
        self.widget.setup()
        self.ui = self.shots.ui = self.widget.ui
        self.shots.widget = self.widget
        shown = "CycleINRCoronalScan" in (self.app.manager.layoutLogic().GetLayoutNode().GetCurrentLayoutDescription())
        text = self.ui.compareButton.text
        self.tell("Saved and loaded side by side", shown and text.startswith("&Back"), f"button: {text}")
        self.settle()
        self.shots.save("loaded")
        self.scans = {}
        slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")

    def close(self) -> None:
        import slicer
        import vtk

        references = []
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            for one in (node, node.GetImageData()):
                references.append(vtk.vtkWeakReference())
                references[-1].Set(one)
        del node, one
        slicer.mrmlScene.Clear(False)
        self.settle()
        gc.collect()
        held = [one.Get().GetClassName() for one in references if one.Get() is not None]
        self.tell("The scene closed", not held, f"{len(references)} objects, {len(held)} still in memory")
        self.widget.cleanup()

    # --- tools ------------------------------------------------------------------------------------------------
    def asked(self) -> Any:
        return self.widget.logic.getParameterNode()

    def names(self) -> list[str]:
        import slicer

        return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]

    def apply(self) -> None:
        self.settle()
        self.ui.applyButton.click()
        self.finish()

    def finish(self) -> None:
        control = self.widget.controller
        self.shots.until(lambda: control.jobs.run is None)

    def settle(self) -> None:
        end = time.monotonic() + 0.1
        self.shots.until(lambda: time.monotonic() > end)

    def background(self, view: str) -> str:
        import slicer

        composite = self.app.manager.sliceWidget(view).sliceLogic().GetSliceCompositeNode()
        return slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID()).GetName()

    def tell(self, step: str, good: bool, found: str) -> None:
        self.failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {step}: {found}", flush=True)


def matrix_of(node: Any) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def checksum(node: Any) -> str:
    import slicer

    return hashlib.sha256(slicer.util.arrayFromVolume(node).tobytes()).hexdigest()


if __name__ == "__main__":
    assert standins.MODULE.is_file()
    sys.exit(main(Path(sys.argv[1]), "--long" in sys.argv))
