"""What the application showed to be wrong, against stand-ins that behave as its classes do; and what users see."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import standins
import vtk
from driving import add_scan, apply, asked, background, checksum, finish, rows, run_until, settle, volumes

from CycleINRLib.child import launcher

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")


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
        alive = run.folder / "alive"
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


# --- opening ---------------------------------------------------------------------------------------------------------
OPEN = """
import sys, tempfile, types
sys.path[:0] = {paths!r}
import pytest, slicer, standins
from CycleINRLib.scene.headless import HeadlessScene
from hearing import hush
patch, folder = pytest.MonkeyPatch(), tempfile.mkdtemp()
scene = HeadlessScene(folder)
app = standins.install(folder, patch)
standins.install_qt(app, scene, patch)
standins.ScriptedLoadableModuleWidget.path = str(standins.MODULE)
import CycleINR
widget = CycleINR.CycleINRWidget(types.SimpleNamespace(isEntered=True))
widget.setup()
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "scipy", "SimpleITK", "pydicom"}})
print("loaded:", *heavy, "running:", len(widget.logic._running.runs))
widget.cleanup()
hush()
"""


def test_opening_the_module_without_a_volume_computes_nothing_and_loads_no_large_package(tmp_path):
    paths = [str(standins.MODULE.parent), str(standins.MODULE.parents[1]), str(Path(__file__).parent)]
    code = OPEN.format(paths=paths)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: running: 0"


def test_the_test_that_runs_inside_slicer_holds_with_these_widgets_too(a_panel, the_module, an_app, monkeypatch):
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: object())
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: a_panel.enter(), raising=False)
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: a_panel, raising=False)
    monkeypatch.setattr(an_app, "processEvents", lambda: settle(a_panel))
    monkeypatch.setattr(a_panel.controller._bar, "_bars", lambda: None)
    the_module.CycleINRTest("test_panel").test_panel()
