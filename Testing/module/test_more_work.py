"""What radiologists do with it: a region that is drawn, sequences, studies, segmentations, figures for a report."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import vtk
from driving import apply, asked, finish, left_behind, remember_a_speed, rows, run_until, settle, volumes

from CycleINRLib.errors import Cancelled, RequestError

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")


# --- region ----------------------------------------------------------------------------------------------------------
def test_a_region_is_drawn_on_the_scan_with_its_size_and_time_while_it_is_dragged(a_panel, a_scan, an_app):
    remember_a_speed()
    a_panel.ui.drawButton.click()
    region = asked(a_panel).region
    assert an_app.placing == [region] and region.GetName() == "Scan region"
    assert not a_panel.ui.applyButton.enabled and "has no size" in a_panel.ui.applyButton.toolTip
    for height, extent in ((14, 16), (22, 24)):
        region.SetCenterWorld(3, 3, 10)
        region.SetSizeWorld(4, 4, height)
        settle(a_panel)
        size = f"5 × 5 × {extent} mm, "
        assert rows(a_panel.ui.informationTable)["Region"][0].startswith(size)
        assert an_app.told[-1].startswith(f"CycleINR: {size}") and an_app.told[-1].endswith(" s")
    assert a_panel.ui.applyButton.enabled


# --- sequences -------------------------------------------------------------------------------------------------------
@pytest.fixture
def a_sequence(a_scene):
    """Three frames of a CT, half a second apart, and the volume that shows one of them."""
    scene = a_scene.scene
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Beating")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for n in range(3):
        values = np.random.default_rng(n).normal(100 * n, 20, (6, 8, 7)).astype(np.int16)
        node = slicer.util.addVolumeFromArray(values, np.diag([1.0, 1.0, 4.0, 1.0]), name="frame")
        sequence.SetDataNodeAtValue(node, str(0.5 * n))
        scene.RemoveNode(node)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    a_scene.sequences.UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(sequence)
    proxy.SetAttribute("DICOM.Modality", "CT")
    return SimpleNamespace(browser=browser, sequence=sequence, proxy=proxy)


def frames(sequence) -> list:
    return [slicer.util.arrayFromVolume(sequence.GetNthDataNode(n)) for n in range(sequence.GetNumberOfDataNodes())]


def test_every_frame_becomes_one_sequence_that_plays_with_the_scan(a_sequence, open_panel, fake_child, a_scene, an_app):
    panel = open_panel()
    assert panel.ui.framesCheckBox.visible and rows(panel.ui.informationTable)["Frames"] == ["3", "3"]
    before = [values.copy() for values in frames(a_sequence.sequence)]
    a_sequence.browser.SetSelectedItemNumber(1)
    apply(panel)
    made = slicer.util.getNodesByClass("vtkMRMLSequenceNode")
    assert [node.GetName() for node in made] == ["Beating", "Beating z2"]
    assert [made[1].GetNthIndexValue(n) for n in range(3)] == ["0", "0.5", "1"] or [
        float(made[1].GetNthIndexValue(n)) for n in range(3)
    ] == [0, 0.5, 1]
    assert (made[1].GetIndexName(), made[1].GetIndexUnit()) == ("time", "s")
    assert all(np.array_equal(new[::2], old) for new, old in zip(frames(made[1]), before))
    assert all(np.array_equal(new, old) for new, old in zip(frames(a_sequence.sequence), before))
    assert volumes() == ["Beating", "Beating z2"]  # one proxy each
    proxy = slicer.util.getFirstNodeByClassByName("vtkMRMLScalarVolumeNode", "Beating z2")
    assert a_sequence.browser.GetProxyNode(made[1]) is proxy
    for n in (0, 2):
        a_sequence.browser.SetSelectedItemNumber(n)
        a_scene.sequences.UpdateProxyNodesFromSequences(a_sequence.browser)
        assert np.array_equal(slicer.util.arrayFromVolume(proxy)[::2], before[n])
    assert left_behind(an_app) == []


def test_the_shown_frame_alone_is_computed_where_all_are_not_wanted(a_sequence, open_panel, fake_child):
    panel = open_panel()
    panel.ui.framesCheckBox.checked = False
    apply(panel)
    assert len(slicer.util.getNodesByClass("vtkMRMLSequenceNode")) == 1 and len(volumes()) == 2


def test_a_sequence_that_is_stopped_or_fails_leaves_the_scene_as_it_was(a_sequence, open_panel, fake_child, an_app):
    panel = open_panel()
    fake_child("failure of Beating time 0.5 s")
    apply(panel)
    assert volumes() == ["Beating"] and "Out of memory" in panel.ui.messageLabel.text
    fake_child("slow")
    panel.ui.applyButton.click()
    run_until(panel, lambda: panel.ui.progressBar.value == 8)  # 1 of 4 steps of the first of 3 frames
    panel.ui.applyButton.click()
    finish(panel)
    assert volumes() == ["Beating"] and left_behind(an_app) == []
    assert len(slicer.util.getNodesByClass("vtkMRMLSequenceNode")) == 1


def test_the_console_gets_the_sequence_and_a_report_for_each_frame(a_sequence, the_module, fake_child, an_app):
    heard: list = []
    logic = the_module.CycleINRLogic()
    node, reports = logic.upsampleSequence(a_sequence.proxy, zScale=2, name="Fine", progress=heard.append)
    assert node.GetName() == "Fine" and [report["z_scale"] for report in reports] == [2, 2, 2]
    assert [(event.done, event.of) for event in heard] == [(1, 12), (5, 12), (9, 12)]
    assert left_behind(an_app) == [] and logic._running.runs == {}


def test_a_volume_that_shows_no_sequence_is_refused(the_module, a_scan, fake_child):
    with pytest.raises(RequestError, match="no frame of a sequence"):
        the_module.CycleINRLogic().upsampleSequence(a_scan)


def test_closing_the_scene_ends_a_sequence(a_sequence, the_module, a_scene, fake_child, an_app):
    fake_child("slow")
    run = the_module.CycleINRLogic().upsampleSequence(a_sequence.proxy, wait=False)
    a_scene.scene.Clear(False)
    assert run.done and left_behind(an_app) == []
    with pytest.raises(Cancelled, match="Cancelled|closed"):
        run.result()


# --- a study of the subject hierarchy --------------------------------------------------------------------------------
def test_a_selected_patient_gives_all_series_that_can_be_made_isotropic(three_scans, a_panel, a_scene, monkeypatch):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(a_scene.scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    studies = [hierarchy.CreateStudyItem(patient, name) for name in ("Before", "After")]
    for node, study in zip(three_scans[1:3], studies):
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
    cube = slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(three_scans[0]), np.eye(4), name="Cube")
    labels = a_scene.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    for node in (cube, labels):
        hierarchy.CreateItem(studies[1], node)
    handler = SimpleNamespace(instance=lambda: SimpleNamespace(currentItem=lambda: patient))
    monkeypatch.setattr(slicer, "qSlicerSubjectHierarchyPluginHandler", handler, raising=False)
    a_panel.ui.folderButton.click()
    assert [node.GetName() for node in a_panel.controller.request.volumes()] == ["Second", "Third"]
    said = a_panel.ui.messageLabel.text
    assert said.startswith("Patient: 2 volumes are chosen.") and "Cube: The volume is already isotropic" in said
    assert "Labels: Only scalar volumes" in said
    a_panel.ui.moreSelector.setCheckState(three_scans[2], 0)  # the list to choose from
    assert [node.GetName() for node in a_panel.controller.request.volumes()] == ["Second"]


# --- segmentations ---------------------------------------------------------------------------------------------------
def draw(a_scan, mask):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(a_scan)
    segment = node.GetSegmentation().AddEmptySegment("tumor", "Tumor", [1.0, 0.5, 0.0])
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segment, a_scan)
    node.CreateClosedSurfaceRepresentation()
    return node


def test_a_segmentation_is_carried_to_the_result_and_stays_what_was_drawn_on_each_slice(a_panel, a_scan):
    mask = np.zeros((6, 8, 7), bool)
    mask[1:5, 2:6, 1:5] = True
    mask[2, 1:7, 1:6] = True
    assert not a_panel.ui.segmentationButton.enabled
    drawn = draw(a_scan, mask)
    apply(a_panel)
    assert a_panel.ui.segmentationButton.enabled
    a_panel.ui.segmentationButton.click()
    made = slicer.util.getNode("Drawn on Scan z2")
    result = slicer.util.getNode("Scan z2")
    carried = slicer.util.arrayFromSegmentBinaryLabelmap(made, "tumor", result)
    assert carried.shape == (11, 8, 7) and np.array_equal(carried[::2] > 0, mask)
    assert (carried[3:9:2] > 0).any(axis=(1, 2)).all()
    segmentation = made.GetSegmentation()
    assert segmentation.ContainsRepresentation("Closed surface")
    assert segmentation.GetSegment("tumor").GetName() == "Tumor"
    assert segmentation.GetSegment("tumor").GetColor() == (1.0, 0.5, 0.0)
    assert made.GetNodeReference(made.GetReferenceImageGeometryReferenceRole()) is result
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(drawn, "tumor", a_scan) > 0, mask)
    assert a_panel.ui.messageLabel.text == "Made: Drawn on Scan z2"


def test_a_segmentation_that_is_a_surface_stays_that_surface(a_panel, a_scan):
    from vtk.util.numpy_support import vtk_to_numpy

    mask = np.zeros((6, 8, 7), bool)
    mask[1:5, 2:6, 1:5] = True
    drawn = draw(a_scan, mask)
    drawn.GetSegmentation().SetSourceRepresentationName("Closed surface")
    apply(a_panel)
    a_panel.ui.segmentationButton.click()
    surfaces = [vtk.vtkPolyData() for _ in range(2)]
    for node, surface in zip((drawn, slicer.util.getNode("Drawn on Scan z2")), surfaces):
        assert node.GetClosedSurfaceRepresentation("tumor", surface)
    points = [vtk_to_numpy(one.GetPoints().GetData()) for one in surfaces]
    assert np.array_equal(*points) and len(points[0]) > 0


# --- export ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["csv", "txt"])
def test_the_figures_are_exported(a_panel, tmp_path, monkeypatch, ending):
    import qt

    apply(a_panel)
    path = tmp_path / f"figures.{ending}"
    monkeypatch.setattr(qt, "QFileDialog", SimpleNamespace(getSaveFileName=lambda *_: str(path)), raising=False)
    a_panel.ui.exportButton.click()
    assert a_panel.ui.messageLabel.text == f"Written: {path}"
    lines = path.read_text("utf-8").splitlines()
    if ending == "csv":
        assert lines[:3] == ["volume,slice,position_mm,noise", "scan,0,0.0000,1", "scan,1,4.0000,2"]
        assert "result,0,0.0000," in lines and "result,1,2.0000,2" in lines
    else:
        assert lines[0].startswith("Scan z2") and "SNLI: scan 0.100, result 0.200" in lines


def test_an_export_that_fails_is_told_and_a_cancelled_one_does_nothing(a_panel, tmp_path, monkeypatch):
    import qt

    apply(a_panel)
    for path, words in (("", "Done: Scan z2"), (str(tmp_path / "no" / "x.csv"), "The file cannot be written")):
        monkeypatch.setattr(qt, "QFileDialog", SimpleNamespace(getSaveFileName=lambda *_, one=path: one), raising=False)
        a_panel.ui.exportButton.click()
        assert a_panel.ui.messageLabel.text.startswith(words)
