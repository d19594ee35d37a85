"""What the application showed to be wrong, against stand-ins that behave as its classes do; and what users see."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import standins
import vtk
from driving import finish, left_behind, rows, run_until, volumes

from CycleINRLib.child import launcher
from CycleINRLib.errors import Cancelled, RequestError

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")


def checksum(node) -> str:
    return hashlib.sha256(slicer.util.arrayFromVolume(node).tobytes()).hexdigest()


def asked(widget):
    """The parameters, as a script gets them."""
    return widget.logic.getParameterNode()


def add_scan(like, name: str):
    values = slicer.util.arrayFromVolume(like)[::-1] + 1
    node = slicer.util.addVolumeFromArray(values, np.diag([1.0, 1.0, 4.0, 1.0]), name=name)
    node.SetAttribute("DICOM.Modality", "CT")
    return node


def apply(widget) -> None:
    widget.ui.applyButton.click()
    finish(widget)


def settle(widget, milliseconds: int = 30) -> None:
    """All that Qt has to do at once."""
    end = time.monotonic() + milliseconds / 1000
    run_until(widget, lambda: time.monotonic() > end)


# --- 1: the output changes by the user's hand alone -----------------------------------------------------------------
def test_apply_twice_on_two_scans_without_an_output_makes_two_volumes_and_changes_no_scan(a_panel, a_scan):
    second = add_scan(a_scan, "Second")
    before = checksum(a_scan), checksum(second)
    settle(a_panel)
    assert asked(a_panel).outputVolume is None and a_panel.ui.applyButton.enabled
    apply(a_panel)
    a_panel.ui.inputSelector.choose(second)
    settle(a_panel)
    assert asked(a_panel).outputVolume is None and a_panel.ui.outputSelector.currentNode() is None
    apply(a_panel)
    assert volumes() == ["Scan", "Second", "Scan z2", "Second z2"]
    assert (checksum(a_scan), checksum(second)) == before


@pytest.mark.parametrize("parameter, selector", [("outputVolume", "outputSelector"), ("region", "regionSelector")])
def test_deleting_what_was_chosen_chooses_no_neighbor(a_panel, a_scan, a_scene, parameter, selector):
    kind = "vtkMRMLScalarVolumeNode" if parameter == "outputVolume" else "vtkMRMLMarkupsROINode"
    mine, other = (a_scene.scene.AddNewNodeByClass(kind, name) for name in ("Mine", "Other"))
    widget = getattr(a_panel.ui, selector)
    widget.choose(mine)
    assert getattr(asked(a_panel), parameter) is mine
    a_scene.scene.RemoveNode(mine)
    settle(a_panel)
    assert getattr(asked(a_panel), parameter) is None and widget.currentNode() is None
    assert other.GetScene() is not None


def test_an_output_that_is_created_in_the_selector_is_chosen_and_comes_back_with_the_module(a_panel):
    node = a_panel.ui.outputSelector.create()
    assert asked(a_panel).outputVolume is node
    a_panel.exit()
    a_panel.enter()
    settle(a_panel)
    assert a_panel.ui.outputSelector.currentNode() is node
    a_panel.ui.outputSelector.choose(None)
    assert asked(a_panel).outputVolume is None


# --- 2: a path that becomes empty or is typed half -------------------------------------------------------------------
def type_path(widget, text: str) -> None:
    """Letter by letter into the edit, after the earlier text was deleted."""
    line = widget.ui.modelFileEdit.comboBox().lineEdit()
    line.real.clear()
    line.real.insert(text)


def test_a_model_file_is_cleared_by_hand_and_the_model_can_be_chosen_again(a_panel, tmp_path):
    asked(a_panel).modelFile = str(tmp_path / "adapted.safetensors")  # as an adaptation leaves it
    settle(a_panel)
    assert not a_panel.ui.modelComboBox.enabled
    type_path(a_panel, "")
    settle(a_panel)
    assert asked(a_panel).modelFile == "" and a_panel.ui.modelFileEdit.currentPath == ""
    assert a_panel.ui.modelComboBox.enabled and a_panel.ui.applyButton.enabled


def test_a_half_typed_path_stays_as_typed_and_apply_says_what_is_missing(a_panel):
    type_path(a_panel, "/models/mine.safeten")
    settle(a_panel)
    assert a_panel.ui.modelFileEdit.currentPath == "/models/mine.safeten" and asked(a_panel).modelFile == ""
    assert not a_panel.ui.applyButton.enabled and "/models/mine.safeten" in a_panel.ui.applyButton.toolTip
    assert "clear Model file" in a_panel.ui.applyButton.toolTip


def test_a_model_of_another_installation_is_shown_refused_and_can_be_left(a_panel):
    asked(a_panel).model = "huge"
    settle(a_panel)
    assert a_panel.ui.modelComboBox.currentText == "huge" and not a_panel.ui.applyButton.enabled
    assert "no such model" in a_panel.ui.applyButton.toolTip
    a_panel.ui.modelComboBox.setCurrentText("auto")
    settle(a_panel)
    assert asked(a_panel).model == "auto" and a_panel.ui.applyButton.enabled


# --- 3: what is closed or removed leaves the memory -----------------------------------------------------------------
def held(*objects) -> list:
    """Asks later which of them are still in memory."""
    references = []
    for one in objects:
        references.append(vtk.vtkWeakReference())
        references[-1].Set(one)

    def still() -> list[str]:
        gc.collect()
        return [one.Get().GetClassName() for one in references if one.Get() is not None]

    return still


def test_closing_the_scene_frees_scan_result_and_their_voxels(a_panel, a_scan, a_scene):
    a_panel.ui.inputSelector.choose(add_scan(a_scan, "Second"))
    apply(a_panel)
    a_panel.ui.compareButton.click()
    a_panel.ui.previewButton.click()
    finish(a_panel)
    settle(a_panel)
    nodes = [slicer.util.getNode(name) for name in ("Second", "Second z2", "Second preview coronal")]
    still = held(*nodes, *(node.GetImageData() for node in nodes))
    del nodes
    a_scene.scene.Clear(False)
    settle(a_panel)
    assert still() == []


def test_a_removed_scan_is_freed_while_the_panel_stays_open(a_panel, a_scan, a_scene):
    second = add_scan(a_scan, "Second")
    a_panel.ui.inputSelector.choose(second)
    apply(a_panel)
    still = held(second)  # its voxels go with its display node, which the scene keeps
    a_scene.scene.RemoveNode(second)
    del second
    settle(a_panel)
    assert still() == []


def test_opening_and_leaving_the_module_leaves_no_observers(a_panel):
    for _ in range(5):
        a_panel.exit()
        a_panel.enter()
    gc.collect()
    assert len([one for one in list(standins.WRAPPERS) if one.parameterNode is asked(a_panel).parameterNode]) == 1


# --- 4: runs that nobody asks about ----------------------------------------------------------------------------------
def test_a_run_that_nobody_polls_is_kept_alive_and_read_by_the_application(the_module, widgets, a_scan, fake_child):
    from PySide6.QtWidgets import QApplication

    fake_child("slow")
    logic = the_module.CycleINRLogic()
    with pytest.MonkeyPatch.context() as patch:  # C++ is busy: no thread of Python runs
        patch.setattr(launcher.Child, "_keep_alive", lambda self: None)
        run = logic.upsample(a_scan, wait=False)
        alive = run._folder / "alive"
        os.utime(alive, (0, 0))
        end = time.monotonic() + 60
        while alive.stat().st_mtime == 0 and time.monotonic() < end:
            QApplication.processEvents()
        assert alive.stat().st_mtime > 0
        run.cancel()
        while logic._running._timer.active and time.monotonic() < end:
            QApplication.processEvents()
    assert run.done and not logic._running._timer.active
    run.discard()


# --- 5 and 6: side by side -------------------------------------------------------------------------------------------
def background(app, view: str) -> str:
    composite = app.manager.sliceWidget(view).sliceLogic().GetSliceCompositeNode()
    node = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
    return node.GetName() if node is not None else ""


def test_apply_while_scan_and_result_are_side_by_side_leaves_the_scan_on_its_side(a_panel, an_app):
    apply(a_panel)
    a_panel.ui.compareButton.click()
    settle(a_panel)
    apply(a_panel)
    settle(a_panel)
    for direction in ("Coronal", "Sagittal"):
        assert background(an_app, f"CycleINR{direction}Scan") == "Scan"
        assert background(an_app, f"CycleINR{direction}Result") == "Scan z2_1"
    assert a_panel.ui.compareButton.text == "&Back to the earlier layout"


def test_a_scene_that_was_saved_side_by_side_comes_back_so_in_a_new_session(
    a_panel, a_scan, a_scene, an_app, the_module, tmp_path, monkeypatch, capfd
):
    import qtstandins

    from CycleINRLib.scene.headless import HeadlessScene

    a_scan.CreateDefaultDisplayNodes()
    apply(a_panel)
    a_panel.ui.compareButton.click()
    settle(a_panel)
    saved = a_scene.save(tmp_path / "case.mrb")
    (tmp_path / "next").mkdir()
    session = HeadlessScene(tmp_path / "next")  # the application starts anew: its layout node knows Slicer's own alone
    an_app.manager = qtstandins.LayoutManager(session.scene, session._application)
    capfd.readouterr()
    for _, started in [*an_app.connected] or [("", slot) for slot in startup_slots(the_module)]:
        started()
    session.load(saved)
    layout = an_app.manager.layoutLogic().GetLayoutNode()
    assert "CycleINRCoronalScan" in (layout.GetCurrentLayoutDescription() or "")
    assert "Can't find layout" not in capfd.readouterr().err
    widget = the_module.CycleINRWidget(SimpleNamespace(isEntered=True))
    widget.setup()
    assert widget.ui.compareButton.text == "&Back to the earlier layout"
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    scan, result = (node.GetDisplayNode() for node in nodes)
    scan.SetAutoWindowLevel(False)
    scan.SetWindowLevel(321, 45)
    assert (result.GetWindow(), result.GetLevel()) == (321, 45)
    widget.ui.compareButton.click()
    assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    widget.cleanup()


def startup_slots(module) -> list:
    parent = SimpleNamespace()
    module.CycleINR(parent)
    return [slot for signal, slot in slicer.app.connected if signal == "startupCompleted()" and "Layout" in str(slot)]


# --- 7: a model that is not there ------------------------------------------------------------------------------------
def test_a_missing_model_file_disables_apply_and_no_tooltip_tells_tales(a_panel, tmp_path):
    a_panel.ui.modelFileEdit.currentPath = str(tmp_path / "gone.safetensors")
    settle(a_panel)
    ui = a_panel.ui
    assert not ui.applyButton.enabled and "There is no such model" in ui.applyButton.toolTip
    assert ui.messageLabel.text == ui.applyButton.toolTip
    assert not ui.textureCheckBox.enabled and "least error only" not in ui.textureCheckBox.toolTip
    assert "cannot be read" in ui.textureCheckBox.toolTip


def test_a_file_that_is_no_model_disables_apply(a_panel, tmp_path):
    path = tmp_path / "empty.safetensors"
    path.write_bytes(b"no weights")
    a_panel.ui.modelFileEdit.currentPath = str(path)
    settle(a_panel)
    assert not a_panel.ui.applyButton.enabled and "empty.safetensors" in a_panel.ui.applyButton.toolTip


# --- what the user sees ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(200, 200), (90, 400)])
def test_views_are_fitted_to_the_size_that_qt_gives_them(a_panel, a_scan, an_app, size):
    an_app.manager.size = size
    apply(a_panel)
    a_panel.ui.compareButton.click()
    settle(a_panel)
    bounds = [0.0] * 6
    slicer.util.getNode("Scan z2").GetRASBounds(bounds)
    for side in ("Scan", "Result"):
        view = an_app.manager.sliceWidget(f"CycleINRCoronal{side}").sliceLogic().GetSliceNode()
        field = view.GetFieldOfView()
        assert field[0] / field[1] == pytest.approx(size[0] / size[1])
        assert field[0] >= bounds[1] - bounds[0] and field[1] >= bounds[5] - bounds[4]  # all of it is seen
        assert min(field[0] / (bounds[1] - bounds[0]), field[1] / (bounds[5] - bounds[4])) < 1.5  # and not from afar


def test_a_result_takes_the_place_of_its_scan_in_the_views_and_keeps_the_window(a_panel, a_scan, an_app):
    other = add_scan(a_scan, "Other")
    a_scan.CreateDefaultDisplayNodes()
    a_scan.GetDisplayNode().SetAutoWindowLevel(False)
    a_scan.GetDisplayNode().SetWindowLevel(350, 40)
    shown = {"Red": a_scan, "Green": other}
    for view, node in shown.items():
        an_app.manager.sliceWidget(view).sliceLogic().GetSliceCompositeNode().SetBackgroundVolumeID(node.GetID())
    apply(a_panel)
    assert {view: background(an_app, view) for view in shown} == {"Red": "Scan z2", "Green": "Other"}
    display = slicer.util.getNode("Scan z2").GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (350, 40, 0)
    apply(a_panel)  # an earlier result of the scan counts as the scan
    assert {view: background(an_app, view) for view in shown} == {"Red": "Scan z2_1", "Green": "Other"}


def test_where_no_view_shows_the_scan_the_result_is_shown_like_a_loaded_volume(a_panel, an_app):
    background(an_app, "Red")  # the view is there, and empty
    apply(a_panel)
    assert background(an_app, "Red") == "Scan z2"


def test_an_output_with_voxels_is_replaced_only_after_a_question(a_panel, a_scan, an_app):
    mine = add_scan(a_scan, "Mine")
    before = checksum(mine)
    a_panel.ui.outputSelector.choose(mine)
    an_app.agrees = False
    apply(a_panel)
    assert checksum(mine) == before and len(an_app.questions) == 1 and "Mine" in an_app.questions[0]
    an_app.agrees = True
    apply(a_panel)
    assert slicer.util.arrayFromVolume(mine).shape == (11, 8, 7) and volumes() == ["Scan", "Mine"]


def test_the_status_bar_tells_the_progress_while_the_panel_is_hidden(a_panel, fake_child, an_app):
    from PySide6 import QtWidgets
    from qtstandins import Wrapped

    window = QtWidgets.QMainWindow()
    an_app.window = Wrapped(window)

    def bars() -> list:
        return [one for one in window.statusBar().findChildren(QtWidgets.QProgressBar) if not one.isHidden()]

    fake_child("slow")
    a_panel.ui.applyButton.click()
    run_until(a_panel, lambda: a_panel.ui.progressBar.value == 25)
    assert bars() == []
    a_panel.exit()
    run_until(a_panel, bars)
    (bar,) = bars()
    assert bar.value() == 25 and window.statusBar().currentMessage().startswith("CycleINR: Upsampling: 1 of 4")
    a_panel.enter()
    a_panel.ui.applyButton.click()
    finish(a_panel)
    run_until(a_panel, lambda: not bars())


def test_a_queue_is_shown_when_its_last_job_is_done_and_its_list_keeps_each_error(
    three_scans, a_panel, fake_child, an_app
):
    scans = dict(zip(("Red", "Green", "Yellow"), three_scans))
    for view, node in scans.items():
        an_app.manager.sliceWidget(view).sliceLogic().GetSliceCompositeNode().SetBackgroundVolumeID(node.GetID())
    fake_child("failure of Second")
    a_panel.ui.folderButton.click()
    a_panel.ui.applyButton.click()
    assert rows(a_panel.ui.queueTable) == {"Scan": ["running"], "Second": ["waiting"], "Third": ["waiting"]}
    run_until(a_panel, lambda: "Scan z2" in volumes())
    assert background(an_app, "Red") == "Scan"  # not before the last
    finish(a_panel)
    assert [background(an_app, view) for view in scans] == ["Scan z2", "Second", "Third z2"]
    table = rows(a_panel.ui.queueTable)
    assert table["Scan"] == ["done: Scan z2"] and table["Second"][0].startswith("Out of memory")
    a_panel.ui.thicknessSpinBox.value = 3.0  # another request: the list stays
    assert rows(a_panel.ui.queueTable)["Second"][0].startswith("Out of memory")


# --- region ----------------------------------------------------------------------------------------------------------
def test_a_region_is_drawn_on_the_scan_with_its_size_and_time_while_it_is_dragged(a_panel, a_scan, an_app):
    run_until(a_panel, lambda: not a_panel.controller.speeds.busy)
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


# --- opening ---------------------------------------------------------------------------------------------------------
OPEN = """
import sys, tempfile, types
sys.path[:0] = {paths!r}
import pytest, slicer, standins
from CycleINRLib.scene.headless import HeadlessScene
patch, folder = pytest.MonkeyPatch(), tempfile.mkdtemp()
scene = HeadlessScene(folder)
app = standins.install(folder, patch)
standins.install_qt(app, scene, patch)
standins.ScriptedLoadableModuleWidget.path = str(standins.MODULE)
import CycleINR
widget = CycleINR.CycleINRWidget(types.SimpleNamespace(isEntered=True))
widget.setup()
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "scipy", "SimpleITK", "pydicom"}})
print("loaded:", *heavy, "running:", widget.controller.speeds.busy, len(widget.logic._running.runs))
widget.cleanup()
"""


def test_opening_the_module_without_a_volume_computes_nothing_and_loads_no_large_package(tmp_path):
    paths = [str(standins.MODULE.parent), str(standins.MODULE.parents[1]), str(Path(__file__).parent)]
    code = OPEN.format(paths=paths)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: running: False 0"


def test_the_test_that_runs_inside_slicer_holds_with_these_widgets_too(a_panel, the_module, an_app, monkeypatch):
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: object())
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: a_panel.enter(), raising=False)
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: a_panel, raising=False)
    monkeypatch.setattr(an_app, "processEvents", lambda: settle(a_panel))
    monkeypatch.setattr(a_panel.controller._bar, "_bars", lambda: None)
    the_module.CycleINRTest("test_panel").test_panel()
