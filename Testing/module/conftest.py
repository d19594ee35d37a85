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


@pytest.fixture
def the_module(an_app, monkeypatch) -> ModuleType:
    """CycleINR.py, loaded as Slicer loads it."""
    spec = importlib.util.spec_from_file_location("CycleINR", standins.MODULE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(standins.ScriptedLoadableModuleWidget, "path", str(standins.MODULE))
    return module
