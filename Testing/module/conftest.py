"""The unmodified module file on a real scene, with stand-ins for what only the application has."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import standins  # noqa: E402


@pytest.fixture
def a_scene(tmp_path):
    """A HeadlessScene, which is also slicer.mrmlScene."""
    pytest.importorskip("slicer", reason="needs slicer-core")
    from CycleINRLib.io.scene import HeadlessScene

    folder = tmp_path / "scene"
    folder.mkdir()
    return HeadlessScene(folder)


@pytest.fixture
def an_app(a_scene, tmp_path, monkeypatch) -> standins.Application:
    """slicer.app, whose temporary folder holds nothing but what the module puts there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return standins.install(str(folder), monkeypatch)


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
