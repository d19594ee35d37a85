"""What the application has and `slicer-core` lacks, as far as CycleINR.py needs it; written for these tests alone.

`install()` puts the modules `qt`, `slicer.i18n`, `slicer.ScriptedLoadableModule`, `slicer.parameterNodeWrapper` and
`slicer.packaging` in place, and `slicer.app`. Widgets are built from the real .ui file. They are strict: a property or
signal that the Qt class does not have is an AttributeError.
"""

from __future__ import annotations

import enum
import json
import sys
import types
import typing
import unittest
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "CycleINR" / "CycleINR.py"
WIDGET = {"enabled": True, "visible": True, "toolTip": ""}
PROPERTIES = {  # Qt class -> its properties that may be used, with their defaults
    "qMRMLWidget": {},
    "ctkCollapsibleButton": {"text": "", "collapsed": False},
    "QLabel": {"text": "", "wordWrap": False, "textFormat": "", "textInteractionFlags": ""},
    "QCheckBox": {"checked": False},
    "QPushButton": {"text": ""},
    "QProgressBar": {"value": 0, "maximum": 100},
    "QDoubleSpinBox": {
        "value": 0.0,
        "minimum": 0.0,
        "maximum": 99.99,
        "singleStep": 1.0,
        "decimals": 2,
        "suffix": "",
        "specialValueText": "",
    },  # fmt: skip
    "QComboBox": {"currentText": "", "editable": False},
    "qMRMLNodeComboBox": {
        "nodeTypes": [],
        "showChildNodeTypes": True,
        "addEnabled": True,
        "removeEnabled": True,
        "renameEnabled": False,
        "noneEnabled": False,
        "noneDisplay": "None",
    },  # fmt: skip
}
SIGNALS = {
    "QPushButton": {"clicked(bool)"},
    "QCheckBox": {"toggled(bool)"},
    "QDoubleSpinBox": {"valueChanged(double)"},
    "QComboBox": {"currentTextChanged(QString)"},
    "qMRMLNodeComboBox": {"currentNodeChanged(vtkMRMLNode*)"},
    "qMRMLWidget": {"mrmlSceneChanged(vtkMRMLScene*)"},
}
BOUND = {  # Qt class -> property and signal that a parameter is bound to
    "QCheckBox": ("checked", "toggled(bool)"),
    "QDoubleSpinBox": ("value", "valueChanged(double)"),
    "QComboBox": ("currentText", "currentTextChanged(QString)"),
    "qMRMLNodeComboBox": ("node", "currentNodeChanged(vtkMRMLNode*)"),
}


class Signals:
    def __init__(self, names) -> None:
        self.__dict__["_slots"] = {name: [] for name in names}

    def connect(self, signal: str, slot) -> None:
        self._slots[signal].append(slot)

    def fire(self, signal: str, *arguments) -> None:
        for slot in list(self._slots[signal]):
            slot(*arguments)


class Widget(Signals):
    """One widget of a .ui file."""

    def __init__(self, kind: str, name: str) -> None:
        Signals.__init__(self, SIGNALS.get(kind, ()))
        self.__dict__.update(kind=kind, name=name, parameter=None, items=[], scene=None, node=None)
        self.__dict__.update(WIDGET, **PROPERTIES[kind])

    def __setattr__(self, name: str, value) -> None:
        if name not in self.__dict__:
            raise AttributeError(f"{self.kind} {self.name} has no property {name}")
        changed = self.__dict__.get(name) != value
        if name == "value" and self.kind == "QDoubleSpinBox":
            value = min(max(value, self.minimum), self.maximum)
        self.__dict__[name] = value
        if changed and self.kind in BOUND and BOUND[self.kind][0] == name:
            self.fire(BOUND[self.kind][1], value)

    # the slots that the module and Slicer's binding use
    def addItems(self, texts) -> None:
        self.items.extend(texts)
        if not self.currentText and self.items:
            self.currentText = self.items[0]

    def setCurrentText(self, text: str) -> None:
        if self.editable or text in self.items:
            self.currentText = text

    def setMRMLScene(self, scene) -> None:
        self.scene = scene
        if self.kind == "qMRMLWidget":
            self.fire("mrmlSceneChanged(vtkMRMLScene*)", scene)

    # what a person does
    def click(self) -> None:
        assert self.enabled, f"{self.name} is disabled: {self.toolTip}"
        self.fire("clicked(bool)", False)


def load_ui(path: str | Path) -> Widget:
    """The top widget of a .ui file; its widgets are in `.children`, its connections are made."""
    tree = ElementTree.parse(path)
    widgets = {}
    for element in tree.iter("widget"):
        widget = widgets[element.get("name")] = Widget(element.get("class"), element.get("name"))
        for prop in element.findall("property"):
            if prop.get("name") == "SlicerParameterName":
                widget.parameter = prop[0].text
            else:
                setattr(widget, prop.get("name"), _value(prop[0]))
    top = widgets[tree.getroot().find("widget").get("name")]
    top.__dict__["children"] = types.SimpleNamespace(**widgets)
    for connection in tree.iter("connection"):
        sender, signal, receiver, slot = (connection.find(tag).text for tag in ("sender", "signal", "receiver", "slot"))
        widgets[sender].connect(signal, getattr(widgets[receiver], slot.partition("(")[0]))
    return top


def _value(element):
    kinds = {"bool": lambda text: text == "true", "number": int, "double": float}
    if element.tag == "stringlist":
        return [item.text for item in element]
    return kinds.get(element.tag, str)(element.text or "")


# --- qt -----------------------------------------------------------------------------------------------------------
class QTimer(Signals):
    """Ticks when the test says so."""

    def __init__(self) -> None:
        Signals.__init__(self, {"timeout()"})
        self.active, self.interval = False, 0

    def setInterval(self, milliseconds: int) -> None:
        self.interval = milliseconds

    def start(self) -> None:
        self.active = True

    def stop(self) -> None:
        self.active = False

    def tick(self) -> None:
        if self.active:
            self.fire("timeout()")


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


def _init(self, parameterNode) -> None:
    self.parameterNode = parameterNode
    self._bindings = {}


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
    """Two-way binding by SlicerParameterName, as connectGui does; returns the tag for disconnectGui."""
    tag = len(self._bindings) + 1
    widgets = [widget for widget in vars(ui).values() if widget.parameter]
    binding = self._bindings[tag] = {"on": True}

    def show(*_) -> None:
        for widget in widgets:
            setattr(widget, BOUND[widget.kind][0], getattr(self, widget.parameter))

    for widget in widgets:
        hint = self.allParameters[widget.parameter]
        for check in getattr(hint, "__metadata__", ()):
            if isinstance(check, Choice):
                widget.items[:] = check.choices
            elif isinstance(check, WithinRange):
                widget.minimum, widget.maximum = check.minimum, check.maximum
    show()
    for widget in widgets:

        def take(value, name=widget.parameter) -> None:
            if binding["on"] and getattr(self, name) != value:
                setattr(self, name, value)

        widget.connect(BOUND[widget.kind][1], take)
    binding["observer"] = self.parameterNode.AddObserver("ModifiedEvent", show)
    return tag


def _disconnect_gui(self, tag: int) -> None:
    binding = self._bindings.pop(tag)
    binding["on"] = False
    self.parameterNode.RemoveObserver(binding["observer"])


# --- slicer.ScriptedLoadableModule ------------------------------------------------------------------------------
class ScriptedLoadableModule:
    def __init__(self, parent) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    path = ""  # of the module's file; set by the test

    def __init__(self, parent=None) -> None:
        self.parent = parent
        self.layout = types.SimpleNamespace(addWidget=lambda widget: None)

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
        self.connected: dict[str, object] = {}
        self.shown: list = []  # nodes brought to the slice views
        self.errors: list = []  # (text, details) of error dialogs
        self.questions: list[str] = []
        self.agrees = True  # what the user answers

    def answer(self, question: str) -> bool:
        self.questions.append(question)
        return self.agrees

    def connect(self, signal: str, slot) -> None:
        self.connected[signal] = slot

    def testingEnabled(self) -> bool:
        return False


def module(name: str, **contents) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    return made


def install(temporaryPath: str, patch: pytest.MonkeyPatch) -> Application:
    """Puts the stand-ins in place until `patch` is undone."""
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
    patch.setitem(sys.modules, "qt", module("qt", QTimer=QTimer))
    patch.setattr(slicer, "app", app, raising=False)
    patch.setattr(slicer.util, "loadUI", load_ui)
    patch.setattr(slicer.util, "childWidgetVariables", lambda widget: widget.children)
    patch.setattr(slicer.util, "setSliceViewerLayers", lambda background=None: app.shown.append(background))
    patch.setattr(slicer.util, "errorDisplay", lambda text, detailedText=None: app.errors.append((text, detailedText)))
    patch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, windowTitle=None: app.answer(text))
    return app
