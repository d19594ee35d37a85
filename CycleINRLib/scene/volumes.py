"""Volume nodes of a Slicer scene: node in, Volume out; result in, node out (floor 2; slicer and vtk).

The rules of a good Slicer citizen are all here: a result never overwrites its input, lies where the input lies
(index-to-RAS matrix, parent transform, subject-hierarchy folder), looks as the input looks (window, level, color,
units) and says where it comes from (node reference, `CycleINR.*` attributes).
Call these from the main thread: a scene belongs to it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk

from ..errors import RequestError, VolumeError
from ..imaging.geometry import Geometry
from ..imaging.volume import UNITS, Volume, storable
from ..jobs import parse_json

SOURCE_ROLE = "CycleINR.source"  # node reference from a result to its input
DIFFERENCE_ROLE = "CycleINR.difference"  # node reference from a result to what was taken from its input as noise
PREFIX = "CycleINR."  # attributes that say how a result was made
INSTANCE_UIDS = "DICOM.instanceUIDs"  # the input's slices; the result has others
MODALITY = "DICOM.Modality"
SLICE_THICKNESS = "0018,0050"  # DICOM tag
HOUNSFIELD = "[hnsf'U]"  # UCUM code of the unit
QUANTITIES = {"112031": "CT", "110852": "MR"}  # DICOM codes: attenuation coefficient, MR signal intensity
_KINDS = {
    "vtkMRMLLabelMapVolumeNode": "a label map: labels have no values in between",
    "vtkMRMLVectorVolumeNode": "a vector or color volume",
    "vtkMRMLDiffusionTensorVolumeNode": "a diffusion tensor volume",
    "vtkMRMLDiffusionWeightedVolumeNode": "a diffusion-weighted volume with several directions",
    "vtkMRMLMultiVolumeNode": "a multi-volume with several frames",
}


def volume_from_node(node: Any) -> Volume:
    """The scan that a `vtkMRMLScalarVolumeNode` holds, in the node's own frame.

    Parameters
    ----------
    node : vtkMRMLScalarVolumeNode

    Returns
    -------
    Volume : values (K, J, I), a read-only view of the node's voxels in their stored type, valid until they change;
        geometry in RAS, mm, before any parent transform; modality from DICOM, else from the units of the voxels;
        slice thickness in mm where DICOM or an earlier result says it

    Raises
    ------
    VolumeError : no node, no voxels, several components, or not a scalar volume (label map, vector, tensor)
    """
    _check_kind(node)
    values, geometry = _voxels_of(node)
    modality = _modality(node)
    return Volume(
        values,
        geometry,
        modality=modality,
        unit=UNITS.get(modality or ""),
        thickness_mm=_thickness_mm(node),
        warnings=_transform_warnings(node),
        name=node.GetName() or "volume",
    )


def frame_of(volume: Volume, node: Any, label: str) -> Volume:
    """One frame of a sequence, whose data nodes know neither transform nor study.

    Parameters
    ----------
    volume : what `volume_from_node` gave of the volume that shows the frames; modality, thickness and warnings are its
    node : vtkMRMLScalarVolumeNode, the data node of the frame
    label : of the frame, for messages

    Raises
    ------
    VolumeError : the frame holds no voxels, or is no scalar volume
    """
    _check_kind(node)
    values, geometry = _voxels_of(node)
    return replace(volume, values=values, geometry=geometry, name=f"{volume.name} {label}")


def node_from_result(
    scene: Any,
    result_volume: Volume,
    report: dict[str, Any],
    source_node: Any,
    name: str | None = None,
    output_node: Any = None,
) -> Any:
    """The node that holds a result, beside its source.

    Parameters
    ----------
    scene : vtkMRMLScene
    result_volume : values (K, J, I) in the unit of the source, geometry in the source node's own frame
    report : design section 4.5; becomes the `CycleINR.*` attributes
    source_node : the node that was upsampled
    name : of a new node, made unique; None: the source's name with the z-scale
    output_node : an existing vtkMRMLScalarVolumeNode to fill; None: a new one

    Raises
    ------
    RequestError : `output_node` is the source, or no scalar volume; nothing was changed
    """
    check_output_node(output_node, source_node)
    values = _native(result_volume.values)
    node = output_node
    if node is None:
        wanted = name or f"{source_node.GetName()} {_label(report)}"
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(wanted))
    elif name:
        node.SetName(name)
    try:
        with slicer.util.NodeModify(node):
            slicer.util.updateVolumeFromArray(node, values)
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.array(result_volume.geometry.ijk_to_ras)))
            _inherit(node, source_node)
            _set_provenance(node, source_node, report)
        _copy_display(node, source_node)
        put_beside(scene, node, source_node)
    except Exception:
        if output_node is None:  # no half-made node in the user's scene
            scene.RemoveNode(node)
        raise
    return node


def check_output_node(output_node: Any, source_node: Any) -> None:
    """Refuses the source itself and anything but a scalar volume; None is welcome (a new node)."""
    if output_node is None:
        return
    if output_node is source_node:
        raise RequestError(
            "The output is the input", source_node.GetName(), "choose another output volume, or a new one"
        )
    if output_node.GetClassName() != "vtkMRMLScalarVolumeNode":
        found = f"{output_node.GetName()} is {_KINDS.get(output_node.GetClassName(), output_node.GetClassName())}"
        raise RequestError("The output is no scalar volume", found, "choose another output volume, or a new one")


def _native(values: np.ndarray) -> np.ndarray:
    """The values as VTK takes them: one block, in the byte order of this machine."""
    values = storable(values)
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))


# --- reading ----------------------------------------------------------------------------------------------------
def _check_kind(node: Any) -> None:
    if node is None:
        raise VolumeError("No volume is chosen", "", "choose a CT or MR volume")
    if node.GetClassName() != "vtkMRMLScalarVolumeNode":  # label maps and vectors answer IsA(scalar) with yes
        found = f"{node.GetName()} is {_KINDS.get(node.GetClassName(), node.GetClassName())}"
        raise VolumeError("Only scalar volumes can be upsampled", found, "choose a CT or MR volume")
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        raise VolumeError("The volume has no voxels", node.GetName(), "load the scan again")
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise VolumeError(
            "The volume has several values for each voxel",
            f"{components} components in {node.GetName()}",
            "choose one of them",
        )


def _voxels_of(node: Any) -> tuple[np.ndarray, Geometry]:
    """(K, J, I) read-only view of the voxels, and their geometry in the node's own frame."""
    values = slicer.util.arrayFromVolume(node).view()
    values.setflags(write=False)
    first_ijk = node.GetImageData().GetExtent()[::2]
    return values, Geometry(values.shape, _first_voxel_at_zero(matrix_of(node.GetIJKToRASMatrix), first_ijk))


def matrix_of(getter: Any) -> np.ndarray:
    """(4, 4) of a method that fills a vtkMatrix4x4, such as `node.GetIJKToRASMatrix`."""
    matrix = vtk.vtkMatrix4x4()
    getter(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _first_voxel_at_zero(ijk_to_ras: np.ndarray, first_ijk: tuple[int, int, int]) -> np.ndarray:
    """IJK counts from the image's extent, arrays from zero; they differ after some VTK filters."""
    matrix = ijk_to_ras.copy()
    matrix[:3, 3] += matrix[:3, :3] @ np.array(first_ijk, float)
    return matrix


def _modality(node: Any) -> str | None:
    """As DICOM says on the node or its subject-hierarchy item; else what units or quantity allow to conclude."""
    said = node.GetAttribute(MODALITY) or _item_attribute(node, MODALITY)
    if said:
        return said.strip().upper()
    units, quantity = node.GetVoxelValueUnits(), node.GetVoxelValueQuantity()
    if units is not None and units.GetCodeValue() == HOUNSFIELD:
        return "CT"
    return QUANTITIES.get(quantity.GetCodeValue()) if quantity is not None else None


def _item_attribute(node: Any, name: str) -> str | None:
    """An attribute of the node's subject-hierarchy item; the DICOM loader writes series facts there."""
    hierarchy = _hierarchy(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    return hierarchy.GetItemAttribute(item, name) or None if item else None


def _thickness_mm(node: Any) -> float | None:
    """Of an earlier result, or as the DICOM database of the application knows the first slice."""
    said = node.GetAttribute(f"{PREFIX}output.thickness_mm") or node.GetAttribute("DICOM.SliceThickness")
    uids = (node.GetAttribute(INSTANCE_UIDS) or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not said and uids and database is not None:
        said = database.instanceValue(uids[0], SLICE_THICKNESS)
    try:
        thickness = float(said) if said else 0.0
    except ValueError:
        return None
    return thickness if 0 < thickness < 1000 else None


def _transform_warnings(node: Any) -> tuple[str, ...]:
    parent = node.GetParentTransformNode()
    if parent is None:
        return ()
    if not parent.IsTransformToWorldLinear():
        return (
            f"The volume lies under the non-linear transform {parent.GetName()} (tilted gantry or uneven slices): "
            "its slice spacing is nominal; the result keeps the transform.",
        )
    matrix = matrix_of(parent.GetMatrixTransformToWorld)
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if np.abs(stretch - 1).max() < 1e-3:
        return ()
    return (
        f"The parent transform {parent.GetName()} scales by {stretch.min():.3g} to {stretch.max():.3g}: "
        "spacings are meant before it, in the volume's own frame.",
    )


# --- writing ----------------------------------------------------------------------------------------------------
def _label(report: dict[str, Any]) -> str:
    z_scale = report.get("z_scale")
    return f"z{z_scale:.4g}" if isinstance(z_scale, (int, float)) else "upsampled"


def _inherit(node: Any, source: Any) -> None:
    """Units, quantity, parent transform and attributes of the source; what belongs to its slices stays there."""
    node.SetVoxelValueUnits(source.GetVoxelValueUnits())
    node.SetVoxelValueQuantity(source.GetVoxelValueQuantity())
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    for key in node.GetAttributeNames() or ():
        if key.startswith((PREFIX, "DICOM.")):  # of an earlier result in the same node
            node.RemoveAttribute(key)
    for key in source.GetAttributeNames() or ():
        if key != INSTANCE_UIDS and not key.startswith(PREFIX):
            node.SetAttribute(key, source.GetAttribute(key))


def _set_provenance(node: Any, source: Any, report: dict[str, Any]) -> None:
    for key, text in provenance(report).items():
        node.SetAttribute(PREFIX + key, text)
    node.SetNodeReferenceID(SOURCE_ROLE, source.GetID())
    node.SetNodeReferenceID(DIFFERENCE_ROLE, None)  # that of an earlier result


def provenance(report: dict[str, Any]) -> dict[str, str]:
    """The report as flat texts: `model.sha256`, `snli.output`; lists and deeper parts as JSON; unknowns left out."""
    flat: dict[str, Any] = {}
    for key, value in report.items():
        if isinstance(value, dict) and key != "job":
            flat.update({f"{key}.{part}": inner for part, inner in value.items()})
        else:
            flat[key] = value
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items() if value is not None
    }


def report_of(node: Any) -> dict[str, Any]:
    """The report that a result's `CycleINR.*` attributes keep; the inverse of `provenance`, empty for other volumes."""
    report: dict[str, Any] = {}
    for key in node.GetAttributeNames() or ():
        if key.startswith(PREFIX):
            name, _, part = key.removeprefix(PREFIX).partition(".")
            value = _value_of(node.GetAttribute(key))
            if part:
                report.setdefault(name, {})[part] = value
            else:
                report[name] = value
    return report


def _value_of(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:  # plain words are kept as they are
        return text


def plane_node(scene: Any, plane: Volume, source_node: Any, name: str, into: Any = None) -> Any:
    """A hidden node with one plane of a result, to look at; it is not saved with the scene.

    Parameters
    ----------
    plane : values (K, J, I), one of them 1, at its place in the source's own frame
    into : a node of an earlier plane, filled anew where it is still in the scene; its display stays
    """
    node = into if into is not None and into.GetScene() is scene else None
    is_new = node is None
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
        node.SetSaveWithScene(False)
        node.SetHideFromEditors(True)
    elif node.GetName() != name:
        node.SetName(name)
    slicer.util.updateVolumeFromArray(node, _native(plane.values))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.array(plane.geometry.ijk_to_ras)))
    node.SetAndObserveTransformNodeID(source_node.GetTransformNodeID())
    node.SetAttribute(f"{PREFIX}preview", source_node.GetID())
    if is_new:
        _copy_display(node, source_node)
    return node


def difference_node(scene: Any, taken: Volume, source_node: Any, result_node: Any) -> Any:
    """A node with what was taken from a scan as noise, beside it, gray where nothing was taken.

    Parameters
    ----------
    taken : values (K, J, I) in the unit of the scan, in its own frame
    """
    wanted = f"{source_node.GetName()} taken as noise"
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(wanted))
    slicer.util.updateVolumeFromArray(node, _native(taken.values))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.array(taken.geometry.ijk_to_ras)))
    node.SetAndObserveTransformNodeID(source_node.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    seen = taken.values[taken.values != 0]
    window = 8 * float(seen.std()) if seen.size else 1.0
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(window or 1.0, 0.0)
    put_beside(scene, node, source_node)
    result_node.SetNodeReferenceID(DIFFERENCE_ROLE, node.GetID())
    return node


def result_name(source_node: Any, z_scale: float) -> str:
    """What a new result is called, before it is made unique."""
    return f"{source_node.GetName()} {_label({'z_scale': z_scale})}"


def _copy_display(node: Any, source: Any) -> None:
    """A display node of its own with the source's window, level, color and interpolation."""
    shown = source.GetDisplayNode()
    if node.GetDisplayNode() is None or node.GetDisplayNode() is shown:
        node.SetAndObserveDisplayNodeID(None)
        node.CreateDefaultDisplayNodes()
    if shown is not None and node.GetDisplayNode() is not None:
        node.GetDisplayNode().CopyContent(shown)
        node.GetDisplayNode().SetAutoWindowLevel(False)  # computed anew, it would differ from what the user sees
        node.GetDisplayNode().SetWindowLevel(shown.GetWindow(), shown.GetLevel())


def put_beside(scene: Any, node: Any, source: Any) -> None:
    """The source's folder of the subject hierarchy, be it patient, study or plain."""
    hierarchy = _hierarchy(scene)
    if hierarchy is None:
        return
    home = hierarchy.GetItemParent(_item_of(hierarchy, source))
    hierarchy.SetItemParent(_item_of(hierarchy, node), home)


def _hierarchy(scene: Any) -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene) if scene is not None else None


def _item_of(hierarchy: Any, node: Any) -> int:
    """The application makes items by itself; without it nobody does."""
    return hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
