"""The part of a scan inside a region of interest: real nodes, any transform."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
vtk = pytest.importorskip("vtk")
pytest.importorskip("slicer.util")

from CycleINRLib.errors import RequestError  # noqa: E402
from CycleINRLib.scene import region  # noqa: E402
from CycleINRLib.scene.volumes import volume_from_node  # noqa: E402


@pytest.fixture
def a_scan(a_scene):
    """(10, 12, 14) voxels that know their index, 2 x 2 x 5 mm, first center at (-10, 20, 100) mm."""
    k, j, i = np.mgrid[:10, :12, :14]
    matrix = np.diag([2.0, 2.0, 5.0, 1.0])
    matrix[:3, 3] = [-10, 20, 100]
    return slicer.util.addVolumeFromArray((100 * k + 10 * j + i).astype(np.int16), matrix, name="Scan")


def a_region(center, size, degrees_z: float = 0.0):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    node.SetCenterWorld(*center)
    node.SetSizeWorld(*size)
    turn = vtk.vtkTransform()
    turn.Translate(center)
    turn.RotateZ(degrees_z)
    turn.Translate([-mm for mm in center])
    node.ApplyTransform(turn)
    return node


def inside(scan, node):
    volume = volume_from_node(scan)
    return volume.part(region.limits_inside(volume, scan, node))


def test_without_a_region_the_whole_scan_is_taken(a_scan):
    volume = volume_from_node(a_scan)
    assert region.limits_inside(volume, a_scan, None) is None and volume.part(None) is volume


def test_the_voxels_whose_centers_lie_inside_are_taken_at_their_place(a_scan):
    # x -10 + 2 i in [-7, 1]: i 2 to 5; y 20 + 2 j in [24, 30]: j 2 to 5; z 100 + 5 k in [109, 126]: k 2 to 5
    part = inside(a_scan, a_region((-3, 27, 117.5), (8, 6, 17)))
    assert np.array_equal(part.values, slicer.util.arrayFromVolume(a_scan)[2:6, 2:6, 2:6])
    assert np.allclose(part.geometry.ras_of(np.zeros(3)), [-6, 24, 110])
    assert part.spacing_mm == (5, 2, 2) and part.name == "Scan"


def test_a_region_beyond_the_scan_is_cut_at_its_border(a_scan):
    assert inside(a_scan, a_region((-10, 20, 100), (9, 9, 21))).values.shape == (3, 3, 3)
    assert inside(a_scan, a_region((0, 30, 120), (500, 500, 500))).values.shape == (10, 12, 14)


def test_a_turned_region_is_taken_with_the_box_around_it(a_scan):
    straight = inside(a_scan, a_region((3, 31, 120), (8, 8, 20)))
    turned = inside(a_scan, a_region((3, 31, 120), (8, 8, 20), degrees_z=45))
    assert straight.values.shape == (5, 4, 4)
    assert turned.values.shape == (5, 6, 6)  # 8 mm * sqrt(2) = 11.3 mm


@pytest.mark.parametrize("kind", ["linear", "grid"])
def test_the_region_is_meant_in_the_world_also_under_a_transform(a_scan, kind):
    before = inside(a_scan, a_region((-3, 27, 117.5), (8, 6, 17)))
    if kind == "linear":
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
        matrix = np.eye(4)
        matrix[:3, 3] = [100, 50, -30]
        parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    else:
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "acquisition transform")
        grid = vtk.vtkImageData()
        grid.SetDimensions(4, 4, 4)
        grid.SetOrigin(-500, -500, -500)
        grid.SetSpacing(400, 400, 400)
        grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
        for component, mm in enumerate((100, 50, -30)):
            for n in range(64):
                grid.GetPointData().GetScalars().SetComponent(n, component, mm)
        transform = slicer.vtkOrientedGridTransform()
        transform.SetDisplacementGridData(grid)
        parent.SetAndObserveTransformToParent(transform)
    a_scan.SetAndObserveTransformNodeID(parent.GetID())
    after = inside(a_scan, a_region((97, 77, 87.5), (8, 6, 17)))
    assert np.array_equal(after.values, before.values)
    assert after.geometry.same_place_as(before.geometry)  # the scan's own frame, before its transform


def test_a_region_elsewhere_or_without_size_is_refused(a_scan):
    with pytest.raises(RequestError, match="holds nothing of the scan. Found: Region. Next: move it"):
        inside(a_scan, a_region((900, 27, 117), (8, 6, 17)))
    with pytest.raises(RequestError, match="has no size"):
        inside(a_scan, slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region"))


def test_a_new_region_is_fitted_to_the_scan_and_a_drawn_one_is_left_alone(a_scan):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    region.give_size(node, a_scan)
    assert inside(a_scan, node).values.shape == (10, 12, 14)
    drawn = a_region((-3, 27, 117.5), (8, 6, 17))
    region.give_size(drawn, a_scan)
    assert inside(a_scan, drawn).values.shape == (4, 4, 4)
    region.give_size(None, a_scan)
    region.give_size(node, None)
