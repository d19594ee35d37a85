"""A Slicer scene without the Slicer application, from the `slicer-core` package (floor 2; slicer).

For scripts, the demo and tests: what the application does at start-up, in the order that its parts need.
Inside the application use `slicer.mrmlScene`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer

from ..errors import CycleINRError, VolumeError


class HeadlessScene:
    """A scene with its logics; keep the object as long as the scene is used, the logics observe it.

    Parameters
    ----------
    folder : an existing folder for the scene's own temporary files

    Attributes
    ----------
    scene : vtkMRMLScene, also `slicer.mrmlScene` from now on, where `slicer.util` looks for it
    volumes, sequences, segmentations : the logics of these modules
    """

    def __init__(self, folder: str | Path) -> None:
        self.scene = slicer.vtkMRMLScene()
        self._application = slicer.vtkSlicerApplicationLogic()
        self._application.SetMRMLScene(self.scene)
        self._application.SetTemporaryPath(str(folder))
        self.scene.SetRootDirectory(str(folder))
        self._logics: list[Any] = []
        colors = self._add(slicer.vtkMRMLColorLogic(), "Colors")  # first: display nodes take their color table from it
        colors.AddDefaultColorNodes()
        self.volumes = self._add(slicer.vtkSlicerVolumesLogic(), "Volumes")
        self._add(slicer.vtkSlicerSubjectHierarchyModuleLogic(), "SubjectHierarchy")
        self.sequences = self._add(slicer.vtkSlicerSequencesLogic(), "Sequences")
        self.segmentations = self._add(slicer.vtkSlicerSegmentationsModuleLogic(), "Segmentations")
        self._add_file_manager(str(folder))
        slicer.mrmlScene = self.scene

    def load_volume(self, path: str | Path, name: str | None = None) -> Any:
        """The volume node of an image file.

        Raises
        ------
        VolumeError : the file cannot be read; the reason is on stderr
        """
        node = self.volumes.AddArchetypeVolume(str(path), name or Path(path).stem)
        if node is None:
            raise VolumeError("The scene cannot read the file", str(path), "check that it is a volume")
        return node

    def save(self, path: str | Path) -> Path:
        """Writes the scene with its volumes as a bundle (.mrb)."""
        if not self.scene.WriteToMRB(str(path), None):
            raise CycleINRError("The scene cannot be saved", str(path), "check that the folder exists and has room")
        return Path(path)

    def load(self, path: str | Path) -> None:
        """Replaces the scene by that of a bundle (.mrb)."""
        self.scene.Clear(False)
        if not self.scene.ReadFromMRB(str(path), True, None):
            raise VolumeError("The scene cannot be read", str(path), "check that it is a .mrb file")

    def _add(self, logic: Any, name: str) -> Any:
        """Application logic before scene: some logics look for their peers as soon as they see a scene."""
        logic.SetMRMLApplicationLogic(self._application)
        logic.SetMRMLScene(self.scene)
        self._application.SetModuleLogic(name, logic)
        self._logics.append(logic)
        return logic

    def _add_file_manager(self, folder: str) -> None:
        """Without it a bundle cannot be read back."""
        remote = slicer.vtkMRMLRemoteIOLogic()
        remote.SetMRMLScene(self.scene)
        remote.SetMRMLApplicationLogic(self._application)
        (Path(folder) / ".slicer-cache").touch()  # by this mark the manager knows the folder as its own
        remote.GetCacheManager().SetRemoteCacheDirectory(folder)
        manager = slicer.vtkDataIOManagerLogic()
        manager.SetMRMLScene(self.scene)
        manager.SetMRMLApplicationLogic(self._application)
        manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
        remote.AddDataIOToScene()
        self._logics += [remote, manager]
