"""Where the user is looking, and results in the views that showed the scan."""

import numpy as np
import slicer
from slicer.i18n import tr as _

from CycleINRLib.imaging.geometry import AXES
from CycleINRLib.scene.region import to_frame_of
from CycleINRLib.scene.volumes import SOURCE_ROLE, plane_node

DIRECTIONS = ("Sagittal", "Coronal", "Axial")  # by the RAS component across the plane
OWN_VIEWS = "CycleINR"  # how the layout names of the module's own views begin


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
    place = place_seen(node.GetScene())
    middle = volume.geometry.ras_of((np.array(volume.geometry.shape) - 1) / 2)
    if place is None:
        return middle
    place = to_frame_of(node, place)
    kji = volume.geometry.kji_of(place)
    inside = (kji > -0.5).all() and (kji < np.array(volume.geometry.shape) - 0.5).all()
    return place if inside else middle


def place_seen(scene):
    """Where the user looks (RAS of the world, mm): the crosshair, else where the default views meet; None: nowhere."""
    place = _crosshair(scene)
    return _views_meet() if place is None else place


def place_across(volume, name: str, direction: str, place) -> float:
    """What `preview` calls the place of a plane: the coordinate across it, on the line through the volume's middle."""
    at = AXES.index(name)
    row = int(np.clip(np.rint(volume.geometry.kji_of(place)[at]), 0, volume.geometry.shape[at] - 1))
    return volume.geometry.coordinate_of(direction.lower(), row)


def fill_planes(source, planes: dict, into: dict, provisional: bool = False) -> dict:
    """Planes of a preview as nodes by direction of view, those of `into` filled anew where they are still there.

    :param source: volume node of the scan
    :param planes: name -> Volume one row thick
    """
    return {
        name.capitalize(): plane_node(
            source.GetScene(),
            plane,
            source,
            f"{source.GetName()} preview {name}" + (_(" (provisional)") if provisional else ""),
            into.get(name.capitalize()),
        )
        for name, plane in planes.items()
    }


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


def show_results(pairs) -> None:
    """Puts each result where its scan, or an earlier result of it, is seen; the module's own views are left alone.

    Where none of the scans is seen, the last result is shown in all views, as a volume that was loaded.

    :param pairs: (scan, result), volume nodes
    """
    views = [view for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode") if not _is_own(view)]
    seen = [_replace(view, scan, result) for scan, result in pairs for view in views]
    if pairs and not any(seen):
        for view in views:
            view.SetBackgroundVolumeID(pairs[-1][1].GetID())


def _replace(view, scan, result) -> bool:
    """Whether the scan was seen in a view."""
    found = False
    for layer in ("Background", "Foreground"):
        node = slicer.mrmlScene.GetNodeByID(getattr(view, f"Get{layer}VolumeID")() or "")
        if node is not None and scan is not None and scan in (node, node.GetNodeReference(SOURCE_ROLE)):
            getattr(view, f"Set{layer}VolumeID")(result.GetID())
            found = True
    return found


def _is_own(view) -> bool:
    return (view.GetLayoutName() or "").startswith(OWN_VIEWS)
