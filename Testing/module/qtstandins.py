"""Qt, ctk and the qMRML widgets of CycleINR.ui on PySide6, offscreen; written for these tests alone.

The module file speaks PythonQt: properties are attributes, signals are connected by signature. `Wrapped` gives real
PySide6 objects these manners, and is strict: a property or signal that the Qt class does not have is an error.
"""

from __future__ import annotations

import os
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
try:
    from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
except ImportError as error:  # a system without the few libraries that Qt needs
    pytest.skip(f"PySide6 cannot be loaded: {error}", allow_module_level=True)

from hearing import hear  # noqa: E402
from selectors_of_slicer import (  # noqa: E402
    ctkPathLineEdit,
    own_property,
    qMRMLCheckableNodeComboBox,
    qMRMLNodeComboBox,
)

NODE = "PyObject"  # what a MRML node is to PySide6's signals
_LOADED: dict[str, Any] = {}  # the application, for the life of the process


def application() -> QtWidgets.QApplication:
    """The one QApplication."""
    app = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["CycleINR"])
    app.setStyle("Fusion")
    _LOADED["app"] = app
    return app


class Wrapped:
    """A QObject as PythonQt shows it."""

    def __init__(self, real: QtCore.QObject) -> None:
        self.__dict__["real"] = real

    def __getattr__(self, name: str) -> Any:
        real = self.__dict__["real"]
        if real.metaObject().indexOfProperty(name) >= 0:
            return real.property(name)
        method = getattr(real, name)
        return lambda *arguments: wrapped(method(*(unwrapped(one) for one in arguments)))

    def __setattr__(self, name: str, value: Any) -> None:
        real, meta = self.real, self.real.metaObject()
        at = meta.indexOfProperty(name)
        if at < 0 or not meta.property(at).isWritable():
            raise AttributeError(f"{meta.className()} {real.objectName()} has no writable property {name}")
        real.setProperty(name, value)

    def connect(self, signal: str, slot: Any) -> None:
        signature = signal.replace("vtkMRMLNode*", NODE).replace("vtkMRMLScene*", NODE)
        if self.real.metaObject().indexOfSignal(signature) < 0:
            raise AttributeError(
                f"{self.real.metaObject().className()} {self.real.objectName()} has no signal {signal}"
            )
        getattr(self.real, signal.partition("(")[0]).connect(slot)

    def disconnect(self, signal: str, slot: Any) -> None:
        getattr(self.real, signal.partition("(")[0]).disconnect(slot)


def wrapped(value: Any) -> Any:
    return Wrapped(value) if isinstance(value, QtCore.QObject) else value


def unwrapped(value: Any) -> Any:
    return value.real if isinstance(value, Wrapped) else value


# --- ctk ----------------------------------------------------------------------------------------------------------
class ctkCollapsibleButton(QtWidgets.QWidget):
    BAR = 24

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.setContentsMargins(0, self.BAR, 0, 0)

    def _fold(self) -> None:
        self.setMaximumHeight(self.BAR if self.property("collapsed") else 16777215)

    text = own_property(str, "text", "", lambda self: self.update())
    collapsed = own_property(bool, "collapsed", False, _fold)

    def mousePressEvent(self, event) -> None:
        self.setProperty("collapsed", not self.property("collapsed"))

    def paintEvent(self, event) -> None:
        painter = QtGui.QPainter(self)
        bar = QtCore.QRect(0, 1, self.width() - 1, self.BAR - 4)
        painter.setPen(self.palette().mid().color())
        painter.setBrush(self.palette().midlight())
        painter.drawRoundedRect(bar, 3, 3)
        painter.setPen(self.palette().buttonText().color())
        arrow = "▸" if self.property("collapsed") else "▾"
        painter.drawText(bar.adjusted(6, 0, 0, 0), QtCore.Qt.AlignVCenter, f"{arrow}  {self.property('text')}")


class ctkSliderWidget(QtWidgets.QWidget):
    valueChanged = QtCore.Signal(float)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._slider, self._box = QtWidgets.QSlider(QtCore.Qt.Horizontal), QtWidgets.QDoubleSpinBox()
        self._slider.setMaximum(100)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(self._moved)
        self._slider.valueChanged.connect(lambda n: self._box.setValue(n / 100))

    def _moved(self, value: float) -> None:
        self._slider.setValue(round(100 * value))
        self.valueChanged.emit(value)

    value = QtCore.Property(float, lambda self: self._box.value(), lambda self, x: self._box.setValue(x))
    minimum = QtCore.Property(float, lambda self: self._box.minimum(), lambda self, x: self._box.setMinimum(x))
    maximum = QtCore.Property(float, lambda self: self._box.maximum(), lambda self, x: self._box.setMaximum(x))
    decimals = QtCore.Property(int, lambda self: self._box.decimals(), lambda self, x: self._box.setDecimals(x))
    singleStep = QtCore.Property(float, lambda self: self._box.singleStep(), lambda self, x: self._box.setSingleStep(x))


# --- qMRML --------------------------------------------------------------------------------------------------------
class qMRMLWidget(QtWidgets.QWidget):
    mrmlSceneChanged = QtCore.Signal(object)

    def setMRMLScene(self, scene) -> None:
        self.scene = scene
        self.mrmlSceneChanged.emit(scene)


CUSTOM = (
    ctkCollapsibleButton,
    ctkSliderWidget,
    ctkPathLineEdit,
    qMRMLWidget,
    qMRMLNodeComboBox,
    qMRMLCheckableNodeComboBox,
)


# --- .ui and binding ----------------------------------------------------------------------------------------------
def load_ui(path: str | Path) -> Wrapped:
    """The top widget of a .ui file in real widgets; its connections are made, its names are kept for `children_of`."""
    application()
    tree = ElementTree.parse(path)
    connections = tree.getroot().find("connections")
    tree.getroot().remove(connections)  # their types are MRML's, which PySide6 does not know
    loader = QtUiTools.QUiLoader()
    for kind in CUSTOM:
        loader.registerCustomWidget(kind)
    data = QtCore.QBuffer()
    data.setData(ElementTree.tostring(tree.getroot()))
    top = loader.load(data)
    assert top is not None, loader.errorString()
    top.names = [element.get("name") for element in tree.iter("widget")]
    top.loader = loader
    children = vars(children_of(Wrapped(top)))
    for connection in connections:
        sender, signal, receiver, slot = (connection.find(tag).text for tag in ("sender", "signal", "receiver", "slot"))
        children[sender].connect(signal, getattr(children[receiver].real, slot.partition("(")[0]))
    return Wrapped(top)


def children_of(top: Wrapped) -> types.SimpleNamespace:
    """The widgets by name, as `slicer.util.childWidgetVariables` gives them."""
    found = {name: top.real.findChild(QtWidgets.QWidget, name) or top.real for name in top.real.names}
    return types.SimpleNamespace(**{name: Wrapped(real) for name, real in found.items()})


class Connector:
    """One widget bound to one parameter, with the same pairs of types as Slicer's `guiConnectors`.

    Raises
    ------
    RuntimeError : Slicer binds no such widget to such a parameter
    """

    PAIRS = {  # class -> types, property, signal
        "QCheckBox": ((bool,), "checked", "toggled(bool)"),
        "QDoubleSpinBox": ((float,), "value", "valueChanged(double)"),
        "ctkSliderWidget": ((float,), "value", "valueChanged(double)"),
        "QComboBox": ((int, float, str, bool), "currentIndex", "currentIndexChanged(int)"),
        "qMRMLNodeComboBox": (("node",), None, "currentNodeChanged(vtkMRMLNode*)"),
    }

    def __init__(self, widget: Wrapped, kind: Any, choices: list | None, limits: tuple | None) -> None:
        self._slot: Any = None
        name = type(widget.real).__name__
        kinds, self._property, self._signal = self.PAIRS.get(name, ((), None, ""))
        if kind not in kinds or (name == "QComboBox" and choices is None):
            raise RuntimeError(f"Unable to create GUI connector from datatype '{kind}' to widget type '{name}'")
        self._widget, self._choices = widget, choices if name == "QComboBox" else None
        if self._choices is not None:
            widget.clear()
            widget.addItems([str(choice) for choice in self._choices])
        if limits is not None:
            widget.minimum, widget.maximum = limits

    def connect(self, changed: Any) -> None:
        self._slot = lambda *_: changed()
        self._widget.connect(self._signal, self._slot)

    def disconnect(self) -> None:
        self._widget.disconnect(self._signal, self._slot)

    def read(self) -> Any:
        if self._property is None:
            return self._widget.currentNode()
        value = getattr(self._widget, self._property)
        return self._choices[value] if self._choices is not None else value

    def write(self, value: Any) -> None:
        if self._property is None:
            self._widget.setCurrentNode(value)
        else:
            setattr(self._widget, self._property, self._choices.index(value) if self._choices is not None else value)


# --- qt -----------------------------------------------------------------------------------------------------------
class _Timer:
    """qt.QTimer: made by a call, and with the static singleShot."""

    singleShot = staticmethod(QtCore.QTimer.singleShot)

    def __new__(cls) -> Any:
        return Wrapped(QtCore.QTimer())


def qt_module() -> types.ModuleType:
    """What the module file imports as `qt`."""
    module = types.ModuleType("qt")
    module.QTimer = _Timer
    module.QProgressBar = lambda: Wrapped(QtWidgets.QProgressBar())
    module.Qt = QtCore.Qt
    module.QTableWidgetItem = QtWidgets.QTableWidgetItem
    module.QApplication = QtWidgets.QApplication
    return module


class LayoutManager:
    """slicer.app.layoutManager() over the real layout and slice nodes and logics; nothing is drawn."""

    def __init__(self, scene, application_logic) -> None:
        import slicer

        self._scene, self._application = scene, application_logic
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(scene)
        self._slices: dict[str, Any] = {}
        self.size = (200, 200)  # of each view, in pixels
        # a view goes with its node (qMRMLLayoutManager::onMRMLSceneClosed)
        hear(scene, scene.EndCloseEvent, lambda *_: self._slices.clear())

    def layoutLogic(self):
        return self._logic

    def setLayout(self, arrangement: int) -> None:
        self._logic.GetLayoutNode().SetViewArrangement(arrangement)

    def sliceWidget(self, name: str) -> types.SimpleNamespace:
        """As qMRMLSliceWidget does, the logic of a view is made when the view is; it has no size then."""
        import slicer

        node = next(node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode") if node.GetLayoutName() == name)
        if name not in self._slices:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self._application)
            logic.SetMRMLScene(self._scene)
            logic.SetSliceNode(node)
            node.SetDimensions(1, 1, 1)  # Qt lays the new view out once the caller has returned to its events
            QtCore.QTimer.singleShot(0, lambda: node.SetDimensions(*self.size, 1))
            self._slices[name] = logic
        return types.SimpleNamespace(sliceLogic=lambda: self._slices[name])
