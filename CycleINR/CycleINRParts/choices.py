"""Widgets that Slicer's parameter binding does not fit, bound to the parameters by hand."""

from collections.abc import Callable
from typing import Any

SUFFIX = ".safetensors"
MORE_ROLE = "moreVolumes"  # node references of the parameter node: the further volumes of the queue


class ChosenNode:
    """A node that only the user's hand changes, in the selector of a parameter.

    A `qMRMLNodeComboBox` has a current node wherever it has a current row: when that row goes (its node was deleted,
    the text of None was changed), a neighbor becomes current and is told like a choice. Bound the common way, a scan
    becomes the output so. Therefore only `nodeActivated` and `nodeAddedByUser` count; the selector follows the
    parameter.

    :param selector: the widget
    :param name: of the parameter
    :param changed: called after the user chose
    """

    def __init__(self, selector, name: str, changed: Callable[[], None]) -> None:
        self._selector, self._name, self._changed = selector, name, changed
        self._parameters: Any = None
        selector.connect("nodeActivated(vtkMRMLNode*)", self._chosen)
        selector.connect("nodeAddedByUser(vtkMRMLNode*)", self._chosen)
        selector.connect("currentNodeChanged(vtkMRMLNode*)", self._moved)

    def bind(self, parameters) -> None:
        """
        :param parameters: the wrapped parameter node; None: nothing can be chosen
        """
        self._parameters = parameters
        self.show()

    def show(self) -> None:
        """The selector says what the parameter is."""
        if self._parameters is not None:
            node = getattr(self._parameters, self._name)
            if self._selector.currentNode() is not node:
                self._selector.setCurrentNode(node)

    def _chosen(self, node) -> None:
        if self._parameters is not None:
            setattr(self._parameters, self._name, node)
            self._changed()

    def _moved(self, node) -> None:
        """Not at once: where the user chose, `nodeActivated` follows."""
        import qt

        qt.QTimer.singleShot(0, self.show)


class ModelChoice:
    """The list of installed models, and the file that takes its place.

    A `ctkPathLineEdit` tells a path only while its name filters accept it, never that it became empty or was typed
    half; its combo box tells every text.

    :param ui: the widgets by name
    :param names: of the installed models
    :param changed: called after the user chose
    """

    def __init__(self, ui, names: list[str], changed: Callable[[], None]) -> None:
        self._list, self._edit, self._changed = ui.modelComboBox, ui.modelFileEdit, changed
        self._parameters: Any = None
        self._list.addItems(["auto", *names])
        self._edit.currentPath = ""  # CTK remembers the last path of other edits without a name
        self._list.connect("currentTextChanged(QString)", self._listed)
        self._edit.comboBox().connect("editTextChanged(QString)", self._typed)

    @property
    def problem(self) -> str:
        """What stands in the edit and names no model; empty where it does."""
        text = self._edit.currentPath.strip()
        return "" if not text or text.endswith(SUFFIX) else text

    def bind(self, parameters) -> None:
        """
        :param parameters: the wrapped parameter node; None: nothing can be chosen
        """
        self._parameters = None  # what the edit says while it is set is no choice
        if parameters is not None:
            self._edit.currentPath = parameters.modelFile
        self._parameters = parameters
        self.show()

    def show(self) -> None:
        """The widgets say what the parameters are; a half-typed path stays."""
        if self._parameters is None:
            return
        parameters, self._parameters = self._parameters, None
        if self._accepted() != parameters.modelFile:
            self._edit.currentPath = parameters.modelFile
        model = parameters.model
        if self._list.findText(model) < 0:  # of a scene from another installation: shown, and refused in words
            self._list.addItem(model)
        self._list.setCurrentText(model)
        self._parameters = parameters

    def _accepted(self) -> str:
        text = self._edit.currentPath.strip()
        return text if text.endswith(SUFFIX) else ""

    def _listed(self, text: str) -> None:
        if self._parameters is not None and text and self._parameters.model != text:
            self._parameters.model = text

    def _typed(self, text: str) -> None:
        if self._parameters is not None:
            if self._parameters.modelFile != self._accepted():
                self._parameters.modelFile = self._accepted()
            self._changed()


class MoreVolumes:
    """The further volumes of the queue: marks of a list, kept as node references of the parameter node.

    The marks live in the rows of the selector, which are made anew when a scene is closed or loaded: then they are
    gone, and that is told like a choice.

    :param selector: a qMRMLCheckableNodeComboBox
    :param changed: called after the user chose
    """

    def __init__(self, selector, changed: Callable[[], None]) -> None:
        self._selector, self._changed = selector, changed
        self._parameters, self._marking = None, False
        selector.connect("checkedNodesChanged()", self._chosen)

    def bind(self, parameters) -> None:
        """
        :param parameters: the wrapped parameter node; None: nothing can be chosen
        """
        self._parameters = parameters
        if parameters is not None:
            self._mark(self.nodes())

    def nodes(self) -> list:
        """As the scene keeps them."""
        if self._parameters is None:
            return []
        kept = self._parameters.parameterNode
        nodes = [kept.GetNthNodeReference(MORE_ROLE, n) for n in range(kept.GetNumberOfNodeReferences(MORE_ROLE))]
        return [node for node in nodes if node]

    def choose(self, nodes) -> None:
        """Marks these and no others."""
        self._keep(list(nodes))
        self._mark(self.nodes())
        self._changed()

    def _mark(self, wanted) -> None:
        import qt

        self._marking = True
        try:
            for node in self._selector.checkedNodes():
                if node not in wanted:
                    self._selector.setCheckState(node, qt.Qt.Unchecked)
            for node in wanted:
                self._selector.setCheckState(node, qt.Qt.Checked)
        finally:
            self._marking = False

    def _chosen(self) -> None:
        if self._parameters is not None and not self._marking:
            wanted = [node for node in self._selector.checkedNodes() if node]
            if wanted != self.nodes():
                self._keep(wanted)
            self._changed()

    def _keep(self, nodes: list) -> None:
        kept = self._parameters.parameterNode
        kept.RemoveNodeReferenceIDs(MORE_ROLE)
        for node in nodes:
            kept.AddNodeReferenceID(MORE_ROLE, node.GetID())
