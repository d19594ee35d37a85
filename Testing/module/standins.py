"""What the application has and `slicer-core` lacks, as far as CycleINR.py needs it; written for these tests alone.

`install()` puts the modules `slicer.i18n`, `slicer.ScriptedLoadableModule`, `slicer.parameterNodeWrapper` and
`slicer.packaging` in place, and `slicer.app`; `install_qt()` adds `qt` and real widgets (qtstandins).
"""

from __future__ import annotations

import enum
import json
import sys
import types
import typing
import unittest
import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest
from hearing import hear

MODULE = Path(__file__).resolve().parents[2] / "CycleINR" / "CycleINR.py"


# --- slicer.parameterNodeWrapper ------------------------------------------------------------------------------
@dataclass
class WithinRange:
    minimum: float
    maximum: float

    def check(self, value) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}")


@dataclass
class Choice:
    choices: list

    def check(self, value) -> None:
        if value not in self.choices:
            raise ValueError(f"{value} is none of {self.choices}")


def parameterNodeWrapper(cls):
    """Typed attributes kept in a vtkMRMLScriptedModuleNode: nodes as references, the rest as JSON."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for name, hint in hints.items():
        kind, *checks = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        default = getattr(cls, name, None)
        for check in checks:
            check.check(default)
        is_node = isinstance(kind, type) and kind.__name__.startswith("vtkMRML")
        assert is_node or kind in (bool, int, float, str) or issubclass(kind, enum.Enum), f"{name}: {kind}"
        setattr(cls, name, _node_property(name) if is_node else _value_property(name, kind, checks, default))
    cls.allParameters = hints
    cls.__init__ = _init
    cls.connectGui, cls.disconnectGui = _connect_gui, _disconnect_gui
    cls.AddObserver = lambda self, *arguments: self.parameterNode.AddObserver(*arguments)
    cls.RemoveObserver = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    return cls


WRAPPERS: weakref.WeakSet = weakref.WeakSet()  # those that are alive: each observes its node many times


def _init(self, parameterNode) -> None:
    self.parameterNode = parameterNode
    self._bindings = {}
    WRAPPERS.add(self)


def _node_property(name: str):
    def read(self):
        return self.parameterNode.GetNodeReference(name)

    def write(self, node) -> None:
        self.parameterNode.SetNodeReferenceID(name, node.GetID() if node is not None else None)
        self.parameterNode.Modified()

    return property(read, write)


def _value_property(name: str, kind: type, checks: list, default):
    def read(self):
        text = self.parameterNode.GetParameter(name)
        return json.loads(text) if text else default

    def write(self, value) -> None:
        if not isinstance(value, (kind, int) if kind is float else kind):
            raise TypeError(f"{name} must be {kind.__name__}, not {value!r}")
        for check in checks:
            check.check(value)
        self.parameterNode.SetParameter(name, json.dumps(value))

    return property(read, write)


def _connect_gui(self, ui) -> int:
    """Two-way binding by SlicerParameterName, as connectGui does; returns the tag for disconnectGui.

    What a widget says while it is set from the parameters is no wish (wrapper.py, _makeGuiToParamCallback).
    """
    tag = len(self._bindings) + 1
    named = {widget.real.property("SlicerParameterName"): widget for widget in vars(ui).values()}
    connectors = {name: _connector(self.allParameters[name], widget) for name, widget in named.items() if name}
    binding = self._bindings[tag] = {"connectors": connectors, "showing": False}

    def show(*_) -> None:
        if binding["showing"]:
            return
        binding["showing"] = True
        try:
            for name, connector in connectors.items():
                connector.write(getattr(self, name))
        finally:
            binding["showing"] = False

    show()
    for name, connector in connectors.items():

        def take(name=name, connector=connector) -> None:
            if not binding["showing"]:
                setattr(self, name, connector.read())

        connector.connect(take)
    binding["observer"] = hear(self.parameterNode, "ModifiedEvent", show)
    return tag


def _connector(hint, widget):
    from qtstandins import Connector

    kind, *checks = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
    is_node = isinstance(kind, type) and kind.__name__.startswith("vtkMRML")
    choices = next((check.choices for check in checks if isinstance(check, Choice)), None)
    limits = next(((check.minimum, check.maximum) for check in checks if isinstance(check, WithinRange)), None)
    return Connector(widget, "node" if is_node else kind, choices, limits)


def _disconnect_gui(self, tag: int) -> None:
    binding = self._bindings.pop(tag)
    for connector in binding["connectors"].values():
        connector.disconnect()
    self.parameterNode.RemoveObserver(binding["observer"])


# --- slicer.ScriptedLoadableModule ------------------------------------------------------------------------------
class ScriptedLoadableModule:
    def __init__(self, parent) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    path = ""  # of the module's file; set by the test

    def __init__(self, parent=None) -> None:
        self.parent = parent
        self.layout = types.SimpleNamespace(addWidget=lambda widget: widget.real.show())

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        return str(Path(self.path).parent / "Resources" / name)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        import slicer

        for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
            if node.GetSingletonTag() == self.moduleName:
                return node
        node = slicer.vtkMRMLScriptedModuleNode()
        node.SetSingletonTag(self.moduleName)
        return slicer.mrmlScene.AddNode(node)


class ScriptedLoadableModuleTest(unittest.TestCase):
    def delayDisplay(self, message: str) -> None:
        pass


# --- slicer.packaging ---------------------------------------------------------------------------------------------
def load_requirements(path) -> list[str]:
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def pip_ensure(requirements, *, prompt_install=True, prompt_restart=True, requester=None, show_progress=True) -> None:
    """Installs nothing."""


# --- all of it ----------------------------------------------------------------------------------------------------
class Application:
    """slicer.app, and a note of what the user was told."""

    def __init__(self, temporaryPath: str) -> None:
        self.temporaryPath = temporaryPath
        self.slicerUserSettingsFilePath = str(Path(temporaryPath).with_name("settings") / "Slicer.ini")
        self.defaultScenePath = temporaryPath
        self.connected: list[tuple[str, object]] = []
        self.placing: list = []  # nodes that the user may draw now
        self.charts: list = []  # brought to the plot view
        self.popups: list = []  # texts of dialogs that nobody asked for
        self.questions: list[str] = []
        self.agrees = True  # what the user answers
        self.manager = None  # of the layout; None as without a main window
        self.window = None  # the main window
        self.told: list[str] = []  # in its status bar

    def answer(self, question: str) -> bool:
        self.questions.append(question)
        return self.agrees

    def connect(self, signal: str, slot) -> None:
        self.connected.append((signal, slot))

    def testingEnabled(self) -> bool:
        return False

    def layoutManager(self):
        return self.manager

    def processEvents(self) -> None:
        pass


def module(name: str, **contents) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    return made


def install(temporaryPath: str, patch: pytest.MonkeyPatch, **app_logics) -> Application:
    """Puts the stand-ins in place until `patch` is undone.

    app_logics : real ones of slicer-core by the name of their module
    """
    import slicer
    import slicer.util

    app = Application(temporaryPath)
    parts = {
        "i18n": {"tr": lambda text: text, "translate": lambda context, text: text},
        "parameterNodeWrapper": {
            "parameterNodeWrapper": parameterNodeWrapper,
            "WithinRange": WithinRange,
            "Choice": Choice,
        },
        "ScriptedLoadableModule": {
            kind.__name__: kind
            for kind in (
                ScriptedLoadableModule,
                ScriptedLoadableModuleWidget,
                ScriptedLoadableModuleLogic,
                ScriptedLoadableModuleTest,
            )
        },
        "packaging": {
            "pip_check": lambda requirement: True,
            "load_requirements": load_requirements,
            "pip_ensure": pip_ensure,
        },
    }
    for name, contents in parts.items():
        part = module(f"slicer.{name}", **contents)
        patch.setitem(sys.modules, f"slicer.{name}", part)
        patch.setattr(slicer, name, part, raising=False)
    plots = types.SimpleNamespace(ShowChartInLayout=app.charts.append)
    markups = types.SimpleNamespace(SetActiveList=app.placing.append, StartPlaceMode=lambda persistent: True)
    logics = {"plots": plots, "markups": markups, **app_logics}
    modules = types.SimpleNamespace(
        **{name: types.SimpleNamespace(logic=lambda one=one: one) for name, one in logics.items()}
    )
    patch.setattr(slicer, "modules", modules, raising=False)
    patch.setattr(slicer, "app", app, raising=False)
    patch.setattr(slicer.util, "showStatusMessage", lambda text, duration=0: app.told.append(text))
    patch.setattr(slicer.util, "mainWindow", lambda: app.window)
    for name in ("errorDisplay", "warningDisplay", "infoDisplay", "messageBox"):
        patch.setattr(slicer.util, name, lambda text, *_, **__: app.popups.append(text))
    patch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, windowTitle=None: app.answer(text))
    return app


def install_qt(app: Application, scene, patch: pytest.MonkeyPatch) -> None:
    """Real widgets and views; skips the test where PySide6 cannot be loaded."""
    import qtstandins
    import slicer

    qtstandins.application()
    app.manager = qtstandins.LayoutManager(scene.scene, scene._application)
    patch.setitem(sys.modules, "qt", qtstandins.qt_module())
    patch.setattr(slicer.util, "loadUI", qtstandins.load_ui)
    patch.setattr(slicer.util, "childWidgetVariables", qtstandins.children_of)
