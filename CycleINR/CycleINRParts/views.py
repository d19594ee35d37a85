"""The scan beside the result, in linked views across the slices; and where the user is looking."""

import numpy as np
import slicer
import vtk

from CycleINRLib.imaging.geometry import AXES
from CycleINRLib.scene.region import to_frame_of

DIRECTIONS = ("Sagittal", "Coronal", "Axial")  # by the RAS component across the plane
LAYOUT_ID = 7400  # plus one bit for each direction; Slicer's own are below 100
SIDES = ("Scan", "Result")
VIEW = """<item><view class="vtkMRMLSliceNode" singletontag="{tag}">
<property name="orientation" action="default">{direction}</property>
<property name="viewlabel" action="default">{label}</property>
<property name="viewcolor" action="default">{color}</property>
<property name="viewgroup" action="default">{group}</property>
</view></item>"""
COLORS = {"Sagittal": "#EDD54C", "Coronal": "#6EB04B", "Axial": "#F34A33"}  # Slicer's own


def across(volume, axis: str) -> dict[str, str]:
    """The two directions of view that cut across the slices, with the in-plane axis that each of them looks along.

    :param volume: Volume of the scan
    :param axis: its slice axis
    """
    found = {volume.geometry.plane_across(name).capitalize(): name for name in AXES if name != axis}
    order = ("Coronal", "Sagittal", "Axial")
    return {direction: found[direction] for direction in order if direction in found}


def looked_at(volume, node):
    """The place in the volume's frame (RAS, mm) that the crosshair marks; its middle where the crosshair is elsewhere.

    Without a crosshair the planes that the default views show count.
    """
    place = _crosshair(node.GetScene())
    if place is None:
        place = _views_meet()
    middle = volume.geometry.ras_of((np.array(volume.geometry.shape) - 1) / 2)
    if place is None:
        return middle
    place = to_frame_of(node, place)
    kji = volume.geometry.kji_of(place)
    inside = (kji > -0.5).all() and (kji < np.array(volume.geometry.shape) - 0.5).all()
    return place if inside else middle


def place_across(volume, name: str, direction: str, place) -> float:
    """What `preview` calls the place of a plane: the coordinate across it, on the line through the volume's middle."""
    at = AXES.index(name)
    row = int(np.clip(np.rint(volume.geometry.kji_of(place)[at]), 0, volume.geometry.shape[at] - 1))
    return volume.geometry.coordinate_of(direction.lower(), row)


def _crosshair(scene):
    node = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode") if scene else None
    if node is None or node.GetCrosshairMode() == node.NoCrosshair:
        return None
    return list(node.GetCrosshairRAS())


def _views_meet():
    """Where the planes of the views Red, Green and Yellow meet, None where they are not all there."""
    nodes = [slicer.mrmlScene.GetFirstNodeByName(name) for name in ("Red", "Green", "Yellow")]
    if not all(node is not None and node.IsA("vtkMRMLSliceNode") for node in nodes):
        return None
    planes = [slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS()) for node in nodes]
    normals, points = np.array([p[:3, 2] for p in planes]), np.array([p[:3, 3] for p in planes])
    if abs(np.linalg.det(normals)) < 1e-3:
        return None
    return np.linalg.solve(normals, (normals * points).sum(axis=1))


class SideBySide:
    """Scan left, result right, one row for each direction; same window and level; gives the earlier layout back."""

    def __init__(self) -> None:
        self._before = None
        self._observed: list = []

    @property
    def shown(self) -> bool:
        """Whether the views are on screen now; the user may have chosen another layout meanwhile."""
        if slicer.app.layoutManager() is None:  # no main window
            return False
        return self._layout().GetViewArrangement() in range(LAYOUT_ID, LAYOUT_ID + 8) and self._before is not None

    def show(self, scan, results: dict, place) -> None:
        """
        :param scan: volume node
        :param results: direction -> volume node beside it; several directions may show the same one
        :param place: in the world (RAS, mm), where the views meet
        """
        manager, layout = slicer.app.layoutManager(), self._layout()
        code = LAYOUT_ID + sum(1 << DIRECTIONS.index(direction) for direction in results)
        if not self.shown:
            self._before = layout.GetViewArrangement()
        if not layout.IsLayoutDescription(code):
            layout.AddLayoutDescription(code, _description(list(results)))
        manager.setLayout(code)
        logics = {}
        for direction, result in results.items():
            for side, node in zip(SIDES, (scan, result)):
                logics[direction, side] = self._fill(manager, direction, side, node, scan, result, place)
        for logic in logics.values():  # only now: linking would copy one view's volume to the others
            logic.GetSliceCompositeNode().SetHotLinkedControl(True)
            logic.GetSliceCompositeNode().SetLinkedControl(True)
        self._same_window([scan, *dict.fromkeys(results.values())])

    def restore(self) -> None:
        """The layout from before; nothing where the user chose another one meanwhile."""
        self.forget()
        if self.shown:
            slicer.app.layoutManager().setLayout(self._before)
        self._before = None

    def forget(self) -> None:
        """Lets go of the nodes that are shown."""
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []

    @staticmethod
    def _layout():
        return slicer.app.layoutManager().layoutLogic().GetLayoutNode()

    @staticmethod
    def _fill(manager, direction: str, side: str, node, scan, result, place):
        logic = manager.sliceWidget(f"CycleINR{direction}{side}").sliceLogic()
        composite, view = logic.GetSliceCompositeNode(), logic.GetSliceNode()
        composite.SetLinkedControl(False)
        composite.SetBackgroundVolumeID(node.GetID())
        composite.SetForegroundVolumeID(None)
        view.SetOrientation(direction)
        view.RotateToVolumePlane(scan)  # an oblique scan is seen along its own rows and columns
        logic.FitSliceToVolume(result, *view.GetDimensions()[:2])
        view.JumpSliceByOffsetting(*place)
        return logic

    def _same_window(self, nodes) -> None:
        """From now on each of the nodes is shown with the window and level of the one that was changed last."""
        self.forget()
        displays = [display for display in (node.GetDisplayNode() for node in nodes) if display is not None]
        self._observed = [
            (display, display.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_, one=display: _copy(one, displays)))
            for display in displays
        ]
        if displays:
            _copy(displays[0], displays)


def _copy(one, displays) -> None:
    """Window, level and threshold of `one` to all; values that agree already are not set, which ends the echo."""
    for other in displays:
        if other is not one:
            _copy_one(one, other)


def _copy_one(one, other) -> None:
    window, threshold = (one.GetWindow(), one.GetLevel()), (one.GetLowerThreshold(), one.GetUpperThreshold())
    if (other.GetWindow(), other.GetLevel()) != window or other.GetAutoWindowLevel():
        other.SetAutoWindowLevel(False)  # it would be computed anew from other voxels
        other.SetWindowLevel(*window)
    if other.GetApplyThreshold() != one.GetApplyThreshold():
        other.SetApplyThreshold(one.GetApplyThreshold())
    if (other.GetLowerThreshold(), other.GetUpperThreshold()) != threshold and one.GetApplyThreshold():
        other.SetThreshold(*threshold)


def _description(directions: list[str]) -> str:
    rows = "".join(
        '<item><layout type="horizontal">'
        + "".join(
            VIEW.format(
                tag=f"CycleINR{direction}{side}",
                direction=direction,
                label=side[0],
                color=COLORS[direction],
                group=LAYOUT_ID,
            )
            for side in SIDES
        )
        + "</layout></item>"
        for direction in directions
    )
    return f'<layout type="vertical">{rows}</layout>'
