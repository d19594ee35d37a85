"""The unmodified module file on a real scene, with stand-ins for what only the application has."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import standins  # noqa: E402
from hearing import hush  # noqa: E402


@pytest.fixture
def a_scene(tmp_path):
    """A HeadlessScene, which is also slicer.mrmlScene."""
    pytest.importorskip("slicer", reason="needs slicer-core")
    from CycleINRLib.scene.headless import HeadlessScene

    folder = tmp_path / "scene"
    folder.mkdir()
    yield HeadlessScene(folder)
    hush()


@pytest.fixture
def an_app(a_scene, tmp_path, monkeypatch) -> standins.Application:
    """slicer.app, whose temporary folder holds nothing but what the module puts there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("CYCLEINR_PREPARE", "0")  # a process that nobody asked for is that of tests that ask for it
    logics = {"volumes": a_scene.volumes, "segmentations": a_scene.segmentations}
    return standins.install(str(folder), monkeypatch, **logics)


@pytest.fixture(autouse=True)
def nothing_swallowed(capfd):
    """Qt and VTK print the errors of slots and observers and go on; here they fail the test."""
    yield
    said = capfd.readouterr().err
    assert "Traceback" not in said, said


@pytest.fixture
def widgets(an_app, a_scene, monkeypatch) -> None:
    """Real Qt widgets, and the views of slicer.app."""
    standins.install_qt(an_app, a_scene, monkeypatch)


@pytest.fixture
def the_module(an_app, monkeypatch) -> ModuleType:
    """CycleINR.py, loaded as Slicer loads it."""
    monkeypatch.syspath_prepend(str(standins.MODULE.parent))  # Slicer puts the module's folder there
    for name in [name for name in sys.modules if name.partition(".")[0] == "CycleINRParts"]:
        monkeypatch.delitem(sys.modules, name)  # they hold the stand-ins of the test before
    spec = importlib.util.spec_from_file_location("CycleINR", standins.MODULE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(standins.ScriptedLoadableModuleWidget, "path", str(standins.MODULE))
    return module


@pytest.fixture
def a_scan(a_scene):
    """A CT of 6 slices, 4 mm apart, 1 mm pixels."""
    import slicer

    values = np.random.default_rng(0).normal(40, 20, (6, 8, 7)).astype(np.int16)
    node = slicer.util.addVolumeFromArray(values, np.diag([1.0, 1.0, 4.0, 1.0]), name="Scan")
    node.SetAttribute("DICOM.Modality", "CT")
    return node


@pytest.fixture
def open_panel(the_module, widgets):
    """Opens the module as a user does."""
    opened = []

    def open_it():
        widget = the_module.CycleINRWidget(SimpleNamespace(isEntered=True))
        widget.setup()
        opened.append(widget)
        return widget

    yield open_it
    for widget in opened:
        widget.cleanup()


@pytest.fixture
def a_panel(open_panel, a_scan, fake_child):
    """The module's widget on a scene with a scan, as a user finds it after opening the module."""
    return open_panel()


@pytest.fixture
def three_scans(a_scan, a_scene):
    """The scan and two more in one study, and one elsewhere."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(a_scene.scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    nodes = [a_scan]
    for name in ("Second", "Third", "Elsewhere"):
        values = slicer.util.arrayFromVolume(a_scan)
        nodes.append(slicer.util.addVolumeFromArray(values, np.diag([1.0, 1.0, 4.0, 1.0]), name=name))
        nodes[-1].SetAttribute("DICOM.Modality", "CT")
    for node in nodes[:3]:
        hierarchy.CreateItem(study, node)
    hierarchy.CreateItem(hierarchy.GetSceneItemID(), nodes[3])
    return nodes
