"""What the next preview needs is made ready before it is asked for, and by nobody where it is not wanted."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from driving import add_scan, asked, assert_gone, finish, left_behind, run_until, settle, volumes

from CycleINRLib.child import resident

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")


@pytest.fixture
def prepares(monkeypatch, an_app, the_module):
    """On a machine that is large enough, as with a window, and soon."""
    from CycleINRParts import previews

    monkeypatch.setenv(resident.PREPARE, "1")
    monkeypatch.setattr(resident, "usable_cores", lambda: 2)
    monkeypatch.setattr(resident, "memory_bytes", lambda: 1e12)
    monkeypatch.setattr(previews, "AHEAD_MS", 5)
    return monkeypatch


@pytest.fixture
def crosshair(a_scene):
    node = a_scene.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    node.SetCrosshairMode(node.ShowBasic)
    node.SetCrosshairRAS(2, 6, 9)
    return node


def prepared(widget, app, z_scale: float | None = None, coronal: float | None = None) -> int:
    """Waits until the process has heard what it is to prepare; its id."""

    def heard() -> bool:
        for told in (folder / "prepared" for folder in left_behind(app)):
            facts = json.loads(told.read_text("utf-8")) if told.exists() else None
            if facts and (z_scale in (None, facts["job"]["z_scale"])):
                return coronal is None or facts["planes"]["coronal"] == pytest.approx(coronal, abs=0.6)
        return False

    run_until(widget, heard)
    return widget.logic._running._resident.child.pid


def test_the_process_that_prepared_answers_and_follows_the_crosshair_and_the_request(
    prepares, open_panel, a_scan, an_app, fake_child, crosshair
):
    panel = open_panel()
    pid = prepared(panel, an_app, coronal=6)
    assert an_app.told == ["CycleINR prepares previews of Scan in the background."] and volumes() == ["Scan"]
    assert panel.ui.previewButton.enabled and panel.ui.applyButton.enabled
    crosshair.SetCrosshairRAS(2, 2, 9)
    assert prepared(panel, an_app, coronal=2) == pid
    asked(panel).target, asked(panel).zScale = "z-scale", 3.0
    assert prepared(panel, an_app, z_scale=3.0) == pid
    panel.ui.previewButton.click()
    finish(panel)
    assert panel.ui.messageLabel.text.startswith("Preview shown")
    assert panel.logic._running._resident.child.pid == pid and len(left_behind(an_app)) == 1
    panel.exit()  # a process that gave a preview stays for a while, as without preparing
    assert panel.logic._running._resident.child.pid == pid and len(an_app.told) == 1


@pytest.mark.parametrize("how", ["apply", "refused", "other", "exit", "scene", "removed", "closed"])
def test_it_ends_with_all_that_ends_the_wish_for_it(prepares, open_panel, a_scan, a_scene, an_app, fake_child, how):
    panel = open_panel()
    pid = prepared(panel, an_app)
    if how == "apply":
        panel.ui.applyButton.click()
        assert panel.logic._running._resident is None
        finish(panel)
        settle(panel, 100)  # what was prepared is not prepared again: the volume was computed
    elif how == "refused":
        asked(panel).modelFile = "/no/such.safetensors"
    elif how == "other":
        asked(panel).inputVolume = add_scan(a_scan, "Other")
        run_until(panel, lambda: panel.logic._running._scan is asked(panel).inputVolume)
        prepared(panel, an_app)
    elif how == "exit":
        panel.exit()
    elif how == "scene":
        a_scene.scene.Clear(0)
    elif how == "removed":
        a_scene.scene.RemoveNode(a_scan)
    else:
        panel.cleanup()
    assert_gone(pid)
    waits = how in ("scene", "removed")  # for the scan that will be chosen
    resident = panel.logic._running._resident
    assert len(left_behind(an_app)) == (resident is not None) == (how == "other" or waits)
    assert resident is None or resident.has_scan == (how == "other")


def test_torch_is_loaded_when_the_module_is_entered_by_the_process_that_then_prepares_what_is_chosen(
    prepares, open_panel, a_scene, an_app, fake_child, request
):
    panel = open_panel()
    waiting = panel.logic._running._resident
    assert waiting is not None and not waiting.has_scan and an_app.told == []
    panel.controller.look()  # whatever else changes
    settle(panel, 100)
    assert panel.logic._running._resident is waiting and not waiting.idle
    asked(panel).inputVolume = request.getfixturevalue("a_scan")
    assert prepared(panel, an_app) == waiting.child.pid and waiting.has_scan
    assert an_app.told == ["CycleINR prepares previews of Scan in the background."]
    panel.exit()
    assert_gone(waiting.child.pid)
    assert left_behind(an_app) == [] and panel.logic._running._resident is None


def test_a_click_before_anything_was_prepared_asks_the_process_that_has_loaded_torch(
    prepares, open_panel, a_scan, an_app, fake_child
):
    from CycleINRParts import previews

    prepares.setattr(previews, "AHEAD_MS", 10**6)
    panel = open_panel()
    waiting = panel.logic._running._resident
    assert not waiting.has_scan
    panel.ui.previewButton.click()
    finish(panel)
    assert panel.ui.messageLabel.text.startswith("Preview shown")
    assert panel.logic._running._resident is waiting and len(left_behind(an_app)) == 1
    pid = waiting.child.pid
    asked(panel).inputVolume = None
    panel.exit()  # it was asked, and stays for a while
    assert panel.logic._running._resident is waiting and waiting.child.pid == pid


def test_it_is_prepared_again_where_the_module_is_entered_again(prepares, open_panel, a_scan, an_app, fake_child):
    panel = open_panel()
    pid = prepared(panel, an_app)
    panel.exit()
    assert_gone(pid)
    panel.enter()
    assert prepared(panel, an_app) != pid


@pytest.mark.parametrize("why", ["no window", "Slicer's tests", "the user", "small machine", "no torch", "a job runs"])
def test_nothing_is_prepared_where_it_is_not_wanted(prepares, open_panel, a_scan, an_app, fake_child, why):
    from CycleINRParts import previews

    an_app.window = None if why == "no window" else SimpleNamespace(statusBar=lambda: None)
    prepares.setenv(resident.PREPARE, "0") if why == "the user" else prepares.delenv(resident.PREPARE)
    if why == "Slicer's tests":
        prepares.setattr(an_app, "testingEnabled", lambda: True, raising=False)
    elif why == "small machine":
        prepares.setattr(resident, "memory_bytes", lambda: 4e9)
    elif why == "no torch":
        prepares.setattr(slicer.packaging, "pip_check", lambda requirement: "torch" not in requirement)
    looks: list = []
    real = previews.Ahead.tick
    prepares.setattr(previews.Ahead, "tick", lambda self: real(self) or looks.append(1))
    panel = open_panel()
    if why == "a job runs":
        run = panel.logic.measure(a_scan, wait=False)
    if why in ("no window", "Slicer's tests", "the user"):
        settle(panel, 100)
        assert not looks
    else:
        run_until(panel, lambda: len(looks) > 3)
    assert panel.logic._running._resident is None and an_app.told == []
    if why == "a job runs":
        run.discard()


def test_a_scan_whose_voxels_changed_is_handed_over_again(prepares, open_panel, a_scan, an_app, fake_child):
    panel = open_panel()
    pid = prepared(panel, an_app)
    slicer.util.arrayFromVolume(a_scan)[2, 3, 4] += 1
    slicer.util.arrayFromVolumeModified(a_scan)
    run_until(panel, lambda: panel.logic._running._resident.child.pid != pid)
    prepared(panel, an_app)
    (folder,) = left_behind(an_app)
    np.testing.assert_array_equal(np.load(folder / "input.npy"), slicer.util.arrayFromVolume(a_scan))
