"""Volume nodes on the real scene of slicer-core: node in, Volume out; result in, node out."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
vtk = pytest.importorskip("vtk")
pytest.importorskip("slicer.util")

from CycleINRLib.errors import RequestError, VolumeError  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.scene import volumes as mrml  # noqa: E402
from CycleINRLib.scene.headless import HeadlessScene  # noqa: E402

REPORT = {
    "version": "0.1.0",
    "model": {"name": "light", "file": "light.safetensors", "sha256": "ab" * 32, "trained_on": ["a; b: c", "d"]},
    "output": {"dimensions": [25, 6, 5], "spacing_mm": [1.0, 0.7, 0.7], "thickness_mm": 1.5, "slice_axis": "k"},
    "z_scale": 3.5,
    "consistency": "project",
    "device": "cpu",
    "snli": {"input": 0.11, "output": 0.12, "linear": 0.31},
    "self_check": None,
    "warnings": ['Thickness is unknown: "spacing" is used; <ä>'],
    "job": {"task": "upsample", "z_scale": 3.5},
}


def rotation(degrees_x: float, degrees_z: float) -> np.ndarray:
    a, b = np.radians([degrees_x, degrees_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_x @ about_z


def matrix_of(linear: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = [31.5, -17.25, -642.0]
    return matrix


SHEAR = np.array([[1, 0, 0], [0, 1, 0.3], [0, 0, 1]])
MATRICES = {  # index-to-RAS matrices of 0.7 x 0.7 x 5 mm, and the thick axis
    "axial": (np.diag([-0.7, -0.7, 5.0]), "k"),
    "oblique": (rotation(12, -20) @ np.diag([-0.7, -0.7, 5.0]), "k"),
    "sagittal": (np.array([[0, 0, 5.0], [-0.7, 0, 0], [0, -0.7, 0]]), "k"),
    "coronal slices along j": (np.diag([0.7, 5.0, 0.7]), "j"),
    "slices along i": (rotation(5, 30) @ np.diag([5.0, 0.7, 0.7]), "i"),
    "left-handed": (np.diag([-0.7, -0.7, -5.0]), "k"),
    "sheared": (SHEAR @ np.diag([-0.7, -0.7, 5.0]), "k"),
    "sheared and oblique": (rotation(12, -20) @ SHEAR @ np.diag([0.7, -0.7, 5.0]), "k"),
}


def add_volume(matrix: np.ndarray, name: str = "CT", dtype=np.int16):
    values = np.random.default_rng(0).normal(40, 20, (8, 6, 5)).astype(dtype)
    return slicer.util.addVolumeFromArray(values, matrix, name=name)


@pytest.fixture
def a_ct(a_scene):
    """An oblique CT under a study, with window, level, units and DICOM attributes."""
    node = add_volume(matrix_of(MATRICES["oblique"][0]))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevel(400, 40)
    node.GetDisplayNode().SetInterpolate(0)
    node.SetAttribute("DICOM.Modality", "CT")
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3.1 1.2.3.2")
    node.SetAttribute("note", "as I said: look here; and there")
    node.SetVoxelValueUnits(coded("[hnsf'U]", "UCUM", "Hounsfield unit"))
    node.SetVoxelValueQuantity(coded("112031", "DCM", "Attenuation Coefficient"))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(a_scene.scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study 1")
    hierarchy.CreateItem(study, node)
    return node


def coded(value: str, scheme: str, meaning: str):
    entry = slicer.vtkCodedEntry()
    entry.SetValueSchemeMeaning(value, scheme, meaning)
    return entry


def result_of(node, z_scale: float = 3.5) -> Volume:
    """A linear upsampling along the thick axis: any result with an honest matrix will do here."""
    volume = mrml.volume_from_node(node)
    axis = min("kji", key=lambda name: -volume.spacing_mm["kji".index(name)])
    target = volume.geometry.resliced(z_scale, axis)
    at = "kji".index(axis)
    along = np.arange(target.shape[at]) / z_scale
    low = np.minimum(along.astype(int), volume.values.shape[at] - 2)
    shape = [1, 1, 1]
    shape[at] = -1
    t = (along - low).reshape(shape)
    values = volume.values.take(low, at) * (1 - t) + volume.values.take(low + 1, at) * t
    return volume.with_values(np.rint(values).astype(volume.values.dtype), target)


def parent_name(scene: HeadlessScene, node) -> str:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.scene)
    return hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)))


def matrix_of_node(node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def linear_transform(scene: HeadlessScene, matrix: np.ndarray, name: str = "Registration"):
    transform = scene.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return transform


def grid_transform(scene: HeadlessScene, name: str = "CT acquisition transform"):
    grid = vtk.vtkImageData()
    grid.SetDimensions(4, 4, 4)
    grid.SetSpacing(20, 20, 20)
    grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
    vtk.util.numpy_support.vtk_to_numpy(grid.GetPointData().GetScalars())[:] = np.linspace(0, 3, 192).reshape(64, 3)
    warp = slicer.vtkOrientedGridTransform()
    warp.SetDisplacementGridData(grid)
    transform = scene.scene.AddNewNodeByClass("vtkMRMLGridTransformNode", name)
    transform.SetAndObserveTransformFromParent(warp)
    return transform


# --- node in ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("orientation", MATRICES)
def test_a_node_of_any_orientation_keeps_values_and_matrix(a_scene, orientation):
    node = add_volume(matrix_of(MATRICES[orientation][0]))
    volume = mrml.volume_from_node(node)
    assert np.array_equal(volume.values, slicer.util.arrayFromVolume(node))
    assert volume.values.dtype == np.int16
    assert np.abs(volume.geometry.ijk_to_ras - matrix_of(MATRICES[orientation][0])).max() < 1e-9
    assert volume.name == "CT"
    assert volume.warnings == ()


def test_voxel_places_agree_with_what_the_node_says(a_ct):
    volume = mrml.volume_from_node(a_ct)
    there = matrix_of_node(a_ct) @ [3, 2, 7, 1]
    assert np.allclose(volume.geometry.ras_of(np.array([7, 2, 3])), there[:3], atol=1e-9)


def test_the_values_are_a_view_that_cannot_be_written(a_ct):
    volume = mrml.volume_from_node(a_ct)
    with pytest.raises(ValueError):
        volume.values[0, 0, 0] = 1
    slicer.util.arrayFromVolume(a_ct)[0, 0, 0] = 999
    assert volume.values[0, 0, 0] == 999


def test_an_image_whose_extent_starts_elsewhere_keeps_its_place(a_scene):
    node = add_volume(matrix_of(MATRICES["oblique"][0]))
    node.GetImageData().SetExtent(2, 6, 0, 5, 10, 17)
    volume = mrml.volume_from_node(node)
    there = matrix_of(MATRICES["oblique"][0]) @ [2, 0, 10, 1]
    assert np.allclose(volume.geometry.ras_of(np.zeros(3)), there[:3])


def test_modality_comes_from_dicom_hierarchy_units_or_quantity(a_scene):
    node = add_volume(np.diag([1, 1, 5, 1.0]))
    assert (mrml.volume_from_node(node).modality, mrml.volume_from_node(node).unit) == (None, None)
    node.SetVoxelValueQuantity(coded("110852", "DCM", "MR signal intensity"))
    assert (mrml.volume_from_node(node).modality, mrml.volume_from_node(node).unit) == ("MR", "stored")
    node.SetVoxelValueUnits(coded("[hnsf'U]", "UCUM", "Hounsfield unit"))
    assert (mrml.volume_from_node(node).modality, mrml.volume_from_node(node).unit) == ("CT", "HU")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(a_scene.scene)
    hierarchy.SetItemAttribute(hierarchy.CreateItem(hierarchy.GetSceneItemID(), node), "DICOM.Modality", "PT")
    assert (mrml.volume_from_node(node).modality, mrml.volume_from_node(node).unit) == ("PT", None)
    node.SetAttribute("DICOM.Modality", "MR")
    assert mrml.volume_from_node(node).modality == "MR"


def test_thickness_comes_from_an_earlier_result_or_the_dicom_database(a_ct, monkeypatch):
    assert mrml.volume_from_node(a_ct).thickness_mm is None
    asked = []

    def instance_value(uid, tag):
        asked.append((uid, tag))
        return "6.5"

    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(instanceValue=instance_value), raising=False)
    assert mrml.volume_from_node(a_ct).thickness_mm == 6.5
    assert asked == [("1.2.3.1", "0018,0050")]
    a_ct.SetAttribute("CycleINR.output.thickness_mm", "1.25")
    assert mrml.volume_from_node(a_ct).thickness_mm == 1.25
    a_ct.SetAttribute("CycleINR.output.thickness_mm", "none")
    assert mrml.volume_from_node(a_ct).thickness_mm is None


def test_a_rigid_parent_needs_no_warning_and_a_scaling_one_does(a_scene, a_ct):
    transform = linear_transform(a_scene, matrix_of(rotation(10, 20)))
    a_ct.SetAndObserveTransformNodeID(transform.GetID())
    assert mrml.volume_from_node(a_ct).warnings == ()
    matrix = mrml.volume_from_node(a_ct).geometry.ijk_to_ras
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1, 1, 2.0, 1])))
    (warning,) = mrml.volume_from_node(a_ct).warnings
    assert "Registration scales by 1 to 2" in warning
    assert np.array_equal(mrml.volume_from_node(a_ct).geometry.ijk_to_ras, matrix)


def test_a_non_linear_parent_is_warned_of(a_scene, a_ct):
    a_ct.SetAndObserveTransformNodeID(grid_transform(a_scene).GetID())
    (warning,) = mrml.volume_from_node(a_ct).warnings
    assert "CT acquisition transform" in warning and "nominal" in warning


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("vtkMRMLLabelMapVolumeNode", "a label map"),
        ("vtkMRMLVectorVolumeNode", "a vector or color volume"),
        ("vtkMRMLDiffusionTensorVolumeNode", "a diffusion tensor volume"),
        ("vtkMRMLDiffusionWeightedVolumeNode", "a diffusion-weighted volume"),
        ("vtkMRMLModelNode", "vtkMRMLModelNode"),
    ],
)
def test_other_kinds_of_nodes_are_refused_by_name(a_scene, kind, words):
    node = a_scene.scene.AddNewNodeByClass(kind, "other")
    with pytest.raises(VolumeError, match=f"Only scalar volumes can be upsampled. Found: other is {words}"):
        mrml.volume_from_node(node)


def test_no_node_no_voxels_and_several_components_are_refused(a_scene):
    with pytest.raises(VolumeError, match="No volume is chosen"):
        mrml.volume_from_node(None)
    empty = a_scene.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    with pytest.raises(VolumeError, match="no voxels. Found: empty"):
        mrml.volume_from_node(empty)
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    empty.SetAndObserveImageData(image)
    with pytest.raises(VolumeError, match="3 components in empty"):
        mrml.volume_from_node(empty)


def test_a_singular_matrix_is_refused(a_scene):
    node = add_volume(np.eye(4))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix_of(np.ones((3, 3)))))
    with pytest.raises(VolumeError, match="singular"):
        mrml.volume_from_node(node)


# --- result out -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("orientation", MATRICES)
def test_a_result_of_any_orientation_lies_on_its_source(a_scene, orientation):
    node = add_volume(matrix_of(MATRICES[orientation][0]))
    result = result_of(node, 4.0)
    made = mrml.node_from_result(a_scene.scene, result, REPORT, node)
    assert np.abs(matrix_of_node(made) - result.geometry.ijk_to_ras).max() < 1e-9
    values, axis = slicer.util.arrayFromVolume(made), MATRICES[orientation][1]
    acquired = np.take(values, np.arange(0, values.shape["kji".index(axis)], 4), "kji".index(axis))
    assert np.array_equal(acquired, slicer.util.arrayFromVolume(node))
    ends = [matrix_of_node(n) @ [*(np.array(n.GetImageData().GetDimensions()) - 1), 1] for n in (made, node)]
    assert np.allclose(*ends)


def test_a_result_looks_and_lives_as_its_source_does(a_scene, a_ct):
    made = mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct)
    assert made.GetName() == "CT z3.5"
    shown = made.GetDisplayNode()
    assert shown is not a_ct.GetDisplayNode()
    assert (shown.GetWindow(), shown.GetLevel(), shown.GetAutoWindowLevel(), shown.GetInterpolate()) == (400, 40, 0, 0)
    assert shown.GetColorNodeID() == a_ct.GetDisplayNode().GetColorNodeID()
    assert made.GetVoxelValueUnits().GetCodeMeaning() == "Hounsfield unit"
    assert made.GetVoxelValueQuantity().GetCodeValue() == "112031"
    assert parent_name(a_scene, made) == "Study 1"
    assert made.GetNodeReference("CycleINR.source") is a_ct
    assert made.GetAttribute("DICOM.Modality") == "CT"
    assert made.GetAttribute("DICOM.instanceUIDs") is None
    assert made.GetAttribute("note") == "as I said: look here; and there"
    assert slicer.util.arrayFromVolume(made).dtype == np.int16


def test_a_result_says_how_it_was_made(a_scene, a_ct):
    made = mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct)
    said = {key: made.GetAttribute(f"CycleINR.{key}") for key in mrml.provenance(REPORT)}
    assert said["version"] == "0.1.0"
    assert (said["model.name"], said["model.sha256"]) == ("light", "ab" * 32)
    assert (said["z_scale"], said["consistency"], said["device"]) == ("3.5", "project", "cpu")
    assert json.loads(said["snli.output"]) == 0.12
    assert json.loads(said["warnings"]) == REPORT["warnings"]
    assert json.loads(said["job"]) == REPORT["job"]
    assert "self_check" not in said


def test_the_source_is_not_changed(a_scene, a_ct):
    before = (slicer.util.arrayFromVolume(a_ct).copy(), matrix_of_node(a_ct), sorted(a_ct.GetAttributeNames()))
    mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct)
    assert np.array_equal(before[0], slicer.util.arrayFromVolume(a_ct))
    assert np.array_equal(before[1], matrix_of_node(a_ct))
    assert before[2] == sorted(a_ct.GetAttributeNames())


def test_names_are_made_unique_and_can_be_given(a_scene, a_ct):
    names = [mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct).GetName() for _ in range(2)]
    assert names == ["CT z3.5", "CT z3.5_1"]
    assert mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct, name="Mine").GetName() == "Mine"


def test_a_source_without_display_or_hierarchy_item_still_gets_a_shown_result(a_scene):
    node = a_scene.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "plain")
    slicer.util.updateVolumeFromArray(node, np.arange(8 * 6 * 5, dtype=np.float32).reshape(8, 6, 5))
    assert node.GetDisplayNode() is None
    made = mrml.node_from_result(a_scene.scene, result_of(node), REPORT, node)
    assert made.GetDisplayNode() is not None
    assert node.GetDisplayNode() is None


@pytest.mark.parametrize("kind", ["linear", "scaling", "grid"])
def test_the_parent_transform_is_kept(a_scene, a_ct, kind):
    matrices = {"linear": matrix_of(rotation(10, 20)), "scaling": np.diag([1, 1, 2.0, 1])}
    transform = grid_transform(a_scene) if kind == "grid" else linear_transform(a_scene, matrices[kind])
    a_ct.SetAndObserveTransformNodeID(transform.GetID())
    made = mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct)
    assert made.GetParentTransformNode() is transform
    here, there = np.zeros(6), np.zeros(6)
    made.GetRASBounds(here)
    a_ct.GetRASBounds(there)
    if kind != "grid":  # both start at the same voxel center; edges differ by half a voxel of the slice axis
        assert np.abs(here - there).max() <= 5.0 * (2 if kind == "scaling" else 1)


def test_a_result_of_a_result_drops_the_older_provenance(a_scene, a_ct):
    first = mrml.node_from_result(a_scene.scene, result_of(a_ct), {**REPORT, "texture": 0.0}, a_ct)
    second = mrml.node_from_result(a_scene.scene, result_of(first, 2.0), {"z_scale": 2.0}, first)
    assert [key for key in second.GetAttributeNames() if key.startswith("CycleINR.")] == ["CycleINR.z_scale"]
    assert second.GetNodeReference("CycleINR.source") is first


def test_an_existing_output_is_reused_and_what_it_was_is_forgotten(a_scene, a_ct):
    output = add_volume(np.eye(4), "Result", np.uint8)
    output.CreateDefaultDisplayNodes()
    output.SetAttribute("CycleINR.texture", "1")
    output.SetAttribute("DICOM.instanceUIDs", "9.9")
    output.SetAttribute("mine", "kept")
    count = a_scene.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    result = result_of(a_ct)
    made = mrml.node_from_result(a_scene.scene, result, REPORT, a_ct, output_node=output)
    assert made is output and made.GetName() == "Result"
    assert a_scene.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == count
    assert np.array_equal(slicer.util.arrayFromVolume(made), result.values)
    assert made.GetDisplayNode().GetWindow() == 400
    assert (made.GetAttribute("CycleINR.texture"), made.GetAttribute("DICOM.instanceUIDs")) == (None, None)
    assert made.GetAttribute("mine") == "kept"


def test_an_output_that_shares_the_display_of_the_source_gets_its_own(a_scene, a_ct):
    output = a_scene.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Result")
    output.SetAndObserveDisplayNodeID(a_ct.GetDisplayNodeID())
    made = mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct, output_node=output)
    assert made.GetDisplayNode() is not a_ct.GetDisplayNode()
    assert made.GetNumberOfDisplayNodes() == 1


def test_the_source_or_a_label_map_as_output_is_refused_and_nothing_is_made(a_scene, a_ct):
    before = slicer.util.arrayFromVolume(a_ct).copy()
    labels = a_scene.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    count = a_scene.scene.GetNumberOfNodes()
    with pytest.raises(RequestError, match="The output is the input"):
        mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct, output_node=a_ct)
    with pytest.raises(RequestError, match="labels is a label map"):
        mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct, output_node=labels)
    assert a_scene.scene.GetNumberOfNodes() == count
    assert np.array_equal(before, slicer.util.arrayFromVolume(a_ct))


def test_a_failure_on_the_way_leaves_no_half_made_node(a_scene, a_ct, monkeypatch):
    count = a_scene.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")

    def break_down(*_):
        raise MemoryError

    monkeypatch.setattr(mrml, "_copy_display", break_down)
    with pytest.raises(MemoryError):
        mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct)
    assert a_scene.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == count


@pytest.mark.parametrize(
    ("given", "kept"),
    [("int16", "int16"), ("uint8", "uint8"), ("float32", "float32"), ("float64", "float64"), ("uint32", "uint32")]
    + [("float16", "float32"), ("bool", "uint8"), ("int64", "int16"), ("uint64", "int16"), (">i2", "int16")],
)
def test_every_value_type_reaches_the_node_with_its_values(a_scene, a_ct, given, kept):
    values = (np.arange(8 * 6 * 5).reshape(8, 6, 5) % 100).astype(given)[::-1]
    volume = Volume(values, Geometry(values.shape, matrix_of_node(a_ct)))
    made = mrml.node_from_result(a_scene.scene, volume, REPORT, a_ct)
    assert slicer.util.arrayFromVolume(made).dtype == np.dtype(kept)
    assert np.array_equal(slicer.util.arrayFromVolume(made), values)


@pytest.mark.parametrize("kind", ["linear", "grid"])
def test_a_saved_bundle_brings_everything_back(a_scene, a_ct, tmp_path, kind):
    transform = grid_transform(a_scene) if kind == "grid" else linear_transform(a_scene, matrix_of(rotation(10, 20)))
    a_ct.SetAndObserveTransformNodeID(transform.GetID())
    made = mrml.node_from_result(a_scene.scene, result_of(a_ct), REPORT, a_ct)
    values, matrix = slicer.util.arrayFromVolume(made).copy(), matrix_of_node(made)
    bundle = a_scene.save(tmp_path / "Fall Ü.mrb")
    a_scene.load(bundle)
    source, back = (a_scene.scene.GetFirstNodeByName(name) for name in ("CT", "CT z3.5"))
    assert np.array_equal(slicer.util.arrayFromVolume(back), values)
    assert np.abs(matrix_of_node(back) - matrix).max() < 1e-6
    for key, text in mrml.provenance(REPORT).items():
        assert back.GetAttribute(f"CycleINR.{key}") == text
    assert back.GetAttribute("note") == "as I said: look here; and there"
    assert back.GetNodeReference("CycleINR.source") is source
    assert parent_name(a_scene, back) == "Study 1"
    assert back.GetParentTransformNode() is source.GetParentTransformNode() is not None
    assert back.GetParentTransformNode().IsTransformToWorldLinear() == (kind == "linear")
    assert back.GetDisplayNode().GetWindow() == 400
    assert mrml.volume_from_node(back).thickness_mm == 1.5
