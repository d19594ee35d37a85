"""Node selectors and path edits that behave as those of Slicer and CTK do, also where that surprises.

Written for these tests from what the sources say (Slicer 583e9b37d5, CTK 868d56c72d; functions are named), over Qt's
own combo box, whose handling of rows makes most of it.
"""

from __future__ import annotations

from typing import Any

from hearing import hear
from PySide6 import QtCore, QtGui, QtWidgets


def own_property(kind: Any, name: str, default: Any, changed: Any = None) -> QtCore.Property:
    """A Qt property that only keeps its value, and tells `changed` of a new one."""

    def read(self) -> Any:
        return self.__dict__.get(f"_{name}", default)

    def write(self, value: Any) -> None:
        if value == read(self):
            return
        self.__dict__[f"_{name}"] = value
        if changed is not None:
            changed(self)

    return QtCore.Property(kind, read, write)


class _Nodes(QtWidgets.QWidget):
    """The nodes of some classes in a scene; rows hold their IDs alone, as qMRMLSceneModel's do."""

    nodeTypes = own_property("QStringList", "nodeTypes", [], lambda self: self._rebuild())
    showChildNodeTypes = own_property(bool, "showChildNodeTypes", True)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.scene: Any = None
        self._box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self.setFocusProxy(self._box)
        self._observed: list = []
        self.destroyed.connect(self.release)

    def setMRMLScene(self, scene) -> None:
        self.release()
        self.scene = scene
        if scene is not None:
            # qMRMLSceneModel::onMRMLSceneEvent: nodes one by one, but anew after closing and importing (updateScene)
            pairs = (
                (scene.NodeAddedEvent, lambda *_: self._follow()),
                (scene.NodeRemovedEvent, lambda *_: self._follow()),
                (scene.EndCloseEvent, lambda *_: self._rebuild()),
                (scene.EndImportEvent, lambda *_: self._rebuild()),
            )
            self._observed = [(scene, hear(scene, event, slot)) for event, slot in pairs]
        self._rebuild()

    def release(self, *_) -> None:
        for scene, tag in self._observed:
            scene.RemoveObserver(tag)
        self._observed = []

    def _found(self) -> list:
        """Without the child classes; nodes hidden from editors are not offered."""
        if self.scene is None:
            return []
        nodes = [self.scene.GetNthNode(n) for n in range(self.scene.GetNumberOfNodes())]
        kinds = self.property("nodeTypes")
        return [node for node in nodes if node.GetClassName() in kinds and not node.GetHideFromEditors()]

    def _follow(self) -> None:
        """qMRMLSceneModel::onMRMLSceneNodeAdded and ...Removed: while closing or importing nothing happens."""
        if not (self.scene.IsClosing() or self.scene.IsImporting()):
            self._update([node.GetID() for node in self._found()])


class qMRMLNodeComboBox(_Nodes):
    """Rows: the None item, the nodes, the actions. The row that is current says which node is, nothing else does."""

    currentNodeChanged = QtCore.Signal(object)
    nodeActivated = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    addEnabled = own_property(bool, "addEnabled", True, lambda self: self._actions())
    removeEnabled = own_property(bool, "removeEnabled", True, lambda self: self._actions())
    renameEnabled = own_property(bool, "renameEnabled", False, lambda self: self._actions())
    noneEnabled = own_property(bool, "noneEnabled", False, lambda self: self._none())
    noneDisplay = own_property(str, "noneDisplay", "None", lambda self: self._none())

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        # setComboBox(): the text of the current row is what counts, and a user's choice is told apart
        self._box.currentTextChanged.connect(self._emitCurrentNodeChanged)
        self._box.activated.connect(self._emitNodeActivated)

    # --- rows ---------------------------------------------------------------------------------------------------
    def _ids(self) -> list[str]:
        return [str(self._box.itemData(row)) for row in range(self._box.count()) if self._box.itemData(row)]

    def _first(self) -> int:
        return int(bool(self.property("noneEnabled") and self.scene is not None))

    def _rebuild(self) -> None:
        """qMRMLSceneModel::updateScene: all rows go, and come again."""
        self._box.clear()
        if self.scene is not None:
            self._none()
            self._update([node.GetID() for node in self._found()])
            self._actions()

    def _update(self, ids: list[str]) -> None:
        for row in reversed(range(self._box.count())):
            if self._box.itemData(row) and self._box.itemData(row) not in ids:
                self._box.removeItem(row)  # Qt makes a neighbor current where this row was
                if self.currentNode() is None:  # refreshIfCurrentNodeHidden()
                    self.setCurrentNode(None)
        for at, one in enumerate(ids):
            if one not in self._ids():
                self._box.insertItem(self._first() + at, self.scene.GetNodeByID(one).GetName(), one)

    def _none(self) -> None:
        """setNoneDisplay(), setNoneEnabled() -> qMRMLSceneModel::setPreItems: the row is removed and made anew.

        Where it was the current one, no row is (index -1) at the moment when the new text is told.
        """
        if self.scene is None:
            return
        box = self._box
        there = box.count() > 0 and not box.itemData(0) and box.property("hasNone")
        was_current = there and box.currentIndex() == 0
        quiet = QtCore.QSignalBlocker(box)
        if there:
            box.removeItem(0)
        box.setProperty("hasNone", self.property("noneEnabled"))
        if self.property("noneEnabled"):
            box.insertItem(0, self.property("noneDisplay"), "")
        if was_current:
            box.setCurrentIndex(-1)
        del quiet
        if was_current:
            self._emitCurrentNodeChanged()

    def _actions(self) -> None:
        """updateActionItems(): they are rows too; Create, Delete and Rename."""
        box, words = self._box, {"addEnabled": "Create new", "removeEnabled": "Delete", "renameEnabled": "Rename"}
        current, quiet = box.currentIndex(), QtCore.QSignalBlocker(box)
        for row in reversed(range(box.count())):
            if box.itemText(row).startswith(tuple(words.values())) and not box.itemData(row):
                box.removeItem(row)
        if self.scene is not None:
            box.addItems([f"{word} node" for name, word in words.items() if self.property(name)])
        box.setCurrentIndex(current)
        del quiet

    # --- as scripts use it ----------------------------------------------------------------------------------------
    def currentNode(self):
        one = self._box.itemData(self._box.currentIndex())
        return self.scene.GetNodeByID(one) if one and self.scene is not None else None

    def nodeCount(self) -> int:
        return len(self._ids())

    def setCurrentNode(self, node) -> None:
        """setCurrentNodeIDInternal(): None and nodes that are not offered select the None item, or no row."""
        row = self._box.findData(node.GetID()) if node is not None and node.GetID() else -1
        self._box.setCurrentIndex(row if row >= 0 else self._first() - 1)

    def _emitCurrentNodeChanged(self, *_) -> None:
        """Where a row without node is current, and not the None item, the last node takes its place."""
        node, row = self.currentNode(), self._box.currentIndex()
        enabled = self.property("noneEnabled")
        if node is None and ((not enabled and row != -1) or (enabled and row != 0)):
            if self._ids():
                self.setCurrentNode(self.scene.GetNodeByID(self._ids()[-1]))
        else:
            self.currentNodeChanged.emit(node)

    def _emitNodeActivated(self, row: int) -> None:
        one = self._box.itemData(row)
        node = self.scene.GetNodeByID(one) if one else None
        if node is not None or (self.property("noneEnabled") and row == 0):
            self.nodeActivated.emit(node)

    # --- as a user uses it ----------------------------------------------------------------------------------------
    def choose(self, node) -> None:
        """Picks a row of the opened list."""
        row = self._box.findData(node.GetID()) if node is not None else 0
        assert row >= 0, "the list does not offer it"
        self._box.setCurrentIndex(row)
        self._box.activated.emit(row)

    def create(self):
        """Picks *Create new*: addNode()."""
        node = self.scene.AddNewNodeByClass(self.property("nodeTypes")[0])
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node


class qMRMLCheckableNodeComboBox(_Nodes):
    """The marks live in the rows: rows that are made anew have none."""

    checkedNodesChanged = QtCore.Signal()

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._marks: dict[str, bool] = {}

    def _rebuild(self) -> None:
        before, self._marks = any(self._marks.values()), {}
        self._update([node.GetID() for node in self._found()])
        if before:
            self.checkedNodesChanged.emit()

    def _update(self, ids: list[str]) -> None:
        lost = any(mark for one, mark in self._marks.items() if one not in ids)
        self._marks = {one: self._marks.get(one, False) for one in ids}
        self._show()
        if lost:
            self.checkedNodesChanged.emit()

    def _show(self) -> None:
        self._box.clear()
        self._box.addItem(", ".join(node.GetName() for node in self.checkedNodes()) or "None")

    def checkedNodes(self) -> list:
        nodes = (self.scene.GetNodeByID(one) for one, mark in self._marks.items() if mark)
        return [node for node in nodes if node is not None]

    def setCheckState(self, node, state) -> None:
        wanted, one = state == QtCore.Qt.Checked, node.GetID() if node is not None else None
        if one in self._marks and wanted != self._marks[one]:
            self._marks[one] = wanted
            self._show()
            self.checkedNodesChanged.emit()


class ctkPathLineEdit(QtWidgets.QWidget):
    """An editable combo box with a validator made of the name filters; only what it accepts is told."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)
    nameFilters = own_property("QStringList", "nameFilters", [], lambda self: self._validate())

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._combo, self._valid = QtWidgets.QComboBox(editable=True), False
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        layout.addWidget(QtWidgets.QToolButton(text="…"))
        self.setFocusProxy(self._combo.lineEdit())
        self._combo.lineEdit().textChanged.connect(self._updateHasValidInput)

    def _validate(self) -> None:
        """ctkPathLineEditPrivate::updateFilter(): the name filters as an expression that the whole text must match."""
        # ctk::extensionToRegExp puts a question mark behind the last letter
        endings = [rf".*\.{one.removeprefix('*.')}?$" for one in self.property("nameFilters")]
        expression = QtCore.QRegularExpression(f"({'|'.join(endings)})" if endings else ".+")
        self._combo.setValidator(QtGui.QRegularExpressionValidator(expression, self))

    def _updateHasValidInput(self, *_) -> None:
        """ctkPathLineEdit::updateHasValidInput(): an empty or half-typed path is never told as the current one."""
        before, self._valid = self._valid, self._combo.lineEdit().hasAcceptableInput()
        if self._valid:
            self.currentPathChanged.emit(self._combo.currentText())
        if self._valid != before:
            self.validInputChanged.emit(self._valid)

    currentPath = QtCore.Property(
        str, lambda self: self._combo.lineEdit().text(), lambda self, text: self._combo.lineEdit().setText(text)
    )

    def comboBox(self) -> QtWidgets.QComboBox:
        return self._combo
