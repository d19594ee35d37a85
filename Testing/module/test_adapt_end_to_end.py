"""A user adapts the shipped weights to a real scan: real child, real scene, real learning, nothing played but steps."""

from __future__ import annotations

import functools
import os
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from driving import assert_gone, cancelled, finish, left_behind, run_until, volumes
from standins import MODULE

from CycleINRLib.child import launcher
from CycleINRLib.errors import CycleINRError, ModelError, ResourceError
from CycleINRLib.events import Progress
from CycleINRLib.panel.state import State

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")
pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("safetensors", reason="needs safetensors")

pytestmark = pytest.mark.slow
LONGEST_S = 600.0  # of one adaptation of a few steps on a busy machine
CHILD = """
import sys
sys.path.insert(0, {path!r})
from CycleINRLib.cli.main import entry
from CycleINRLib.adapting import adapt
{change}
sys.exit(entry())
"""
ALWAYS_BETTER = "adapt.BETTER_DB = -100.0"  # a few steps teach next to nothing, and their model must be seen
NO_MEMORY = """
def refuse(*_, **__):
    raise MemoryError("Unable to allocate 9.0 GiB")
adapt._learn = refuse
"""


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    """Small blocks gain nothing from many threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def changed_child(monkeypatch):
    """Lets the real child do one thing otherwise."""

    def change(code: str) -> None:
        command = [sys.executable, "-c", CHILD.format(path=str(MODULE.parents[1]), change=code), "run"]
        monkeypatch.setattr(launcher, "own_command", lambda folder: [*command, str(folder)])

    return change


@pytest.fixture
def an_mr(a_scene, thick_mr):
    """15 oblique sagittal slices of a brain, 3.6 mm apart."""
    node = slicer.util.addVolumeFromArray(thick_mr.values, np.array(thick_mr.geometry.ijk_to_ras), name="MR")
    node.CreateDefaultDisplayNodes()
    node.SetAttribute("DICOM.Modality", "MR")
    return node


@pytest.fixture
def kept(an_app):
    """The folder of adapted models."""
    return Path(an_app.slicerUserSettingsFilePath).parent / "CycleINR" / "Models"


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_user_adapts_a_model_cancels_adapts_again_and_applies_it(
    the_module, widgets, an_mr, an_app, kept, changed_child, monkeypatch
):
    from CycleINRLib.network.weights import find_model, load_model, sha256

    changed_child(ALWAYS_BETTER)
    widget = the_module.CycleINRWidget(types.SimpleNamespace(isEntered=True))
    widget.setup()
    monkeypatch.setattr(widget.logic, "adapt", functools.partial(widget.logic.adapt, steps=4))
    ui, before = widget.ui, slicer.util.arrayFromVolume(an_mr).copy()
    ui.deviceComboBox.setCurrentText("cpu")

    ui.adaptButton.click()
    run_until(widget, lambda: ui.messageLabel.text.startswith("Adapting: "), LONGEST_S)
    pid = widget.controller.jobs.run._child.pid
    ui.applyButton.click()
    run_until(widget, lambda: widget.controller.jobs.run is None)
    assert ui.messageLabel.text == "Stopped; no model was saved."
    assert_gone(pid)
    assert files_of(kept) == [] and left_behind(an_app) == []

    ui.adaptButton.click()
    run_until(widget, lambda: widget.controller.jobs.run is None, LONGEST_S)
    assert widget.controller.panel.state is State.DONE and ui.messageLabel.text.startswith(
        "Adapted model saved. On 2 slices"
    )
    finish(widget)
    assert files_of(kept) == ["MR adapted.safetensors"] and left_behind(an_app) == []
    path = kept / "MR adapted.safetensors"
    assert Path(ui.modelFileEdit.currentPath) == path
    network, card = load_model(path)
    assert card.name == "MR adapted" and card.training["adapted"]["start"]["name"] == "light"
    light = dict(load_model(find_model("light"))[0].named_parameters())
    assert any(not value.equal(light[name]) for name, value in network.named_parameters())  # it learned something

    ui.targetComboBox.setCurrentText("z-scale")
    ui.zScaleSpinBox.value = 2.0
    ui.selfCheckBox.checked = False
    ui.applyButton.click()
    run_until(widget, lambda: widget.controller.jobs.run is None, LONGEST_S)
    result = slicer.util.getNode("MR z2")
    assert result.GetAttribute("CycleINR.model.sha256") == sha256(path)
    assert result.GetAttribute("CycleINR.model.name") == "MR adapted"
    assert slicer.util.arrayFromVolume(result).shape == (29, 64, 64)
    assert np.array_equal(slicer.util.arrayFromVolume(an_mr), before) and volumes() == ["MR", "MR z2"]
    finish(widget)
    widget.cleanup()
    assert left_behind(an_app) == []


def test_cancel_ends_the_real_child_by_the_file_alone(the_module, an_mr, an_app, kept, monkeypatch):
    monkeypatch.setattr(launcher, "GRACE_S", 300.0)  # it must stop by itself, by the file `cancel`
    run = the_module.CycleINRLogic().adapt(an_mr, wait=False, steps=500, device="cpu")
    while not any(isinstance(event, Progress) and event.stage == "adapt" for event in run.poll()):
        assert not run.done, run.result()
        time.sleep(0.01)
    cancelled(run)
    assert files_of(kept) == [] and left_behind(an_app) == []


def test_bad_starting_weights_are_told_by_the_real_child(the_module, an_mr, an_app, kept, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ModelError, match="not safetensors"):
        the_module.CycleINRLogic().adapt(an_mr, model=bad, steps=2)
    assert files_of(kept) == [] and left_behind(an_app) == []


def test_memory_that_does_not_suffice_for_learning_is_told(the_module, an_mr, an_app, kept, changed_child):
    changed_child(NO_MEMORY)
    with pytest.raises(ResourceError, match="not enough memory.*9.0 GiB"):
        the_module.CycleINRLogic().adapt(an_mr, steps=2, device="cpu")
    assert files_of(kept) == [] and left_behind(an_app) == []


@pytest.mark.skipif(os.name != "posix", reason="limits of the shell")
def test_a_disk_that_is_full_when_the_child_writes_is_told(the_module, an_mr, an_app, kept, monkeypatch):
    """No file of the child may grow beyond 2 MB, less than weights take."""
    real = launcher.own_command
    limit = ["bash", "-c", 'ulimit -f 2000; exec "$@"', "bash"]
    monkeypatch.setattr(launcher, "own_command", lambda folder: [*limit, *real(folder)])
    with pytest.raises(CycleINRError, match="cannot be written.*(?i:too large|space)") as caught:
        the_module.CycleINRLogic().adapt(an_mr, steps=2, device="cpu")
    assert "Next:" in str(caught.value)
    assert files_of(kept) == [] and left_behind(an_app) == []
