"""The scan beside the result, in linked views across the slices, in layouts of the module's own."""

from itertools import combinations, product

import slicer
import vtk

from CycleINRParts.observing import Observers
from CycleINRParts.views import DIRECTIONS, OWN_VIEWS

LAYOUT_ID = 7400  # plus one bit for each direction; Slicer's own are below 100
SIDES = ("Scan", "Result")
VIEW = """<item><view class="vtkMRMLSliceNode" singletontag="{tag}">
<property name="orientation" action="default">{direction}</property>
<property name="viewlabel" action="default">{label}</property>
<property name="viewcolor" action="default">{color}</property>
<property name="viewgroup" action="default">{group}</property>
</view></item>"""
COLORS = {"Sagittal": "#EDD54C", "Coronal": "#6EB04B", "Axial": "#F34A33"}  # Slicer's own
RETRY_MS, RETRIES = 100, 20  # until Qt has given the views a size


def register_layouts() -> None:
    """Makes the layouts known to the application.

    A scene keeps the number of its layout and not the description: unless this was done before, one that was saved
    side by side comes back without views. Nothing to do without a main window.
    """
    if slicer.app.layoutManager() is not None:
        layout = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
        for count in (1, 2):
            for directions in combinations(("Coronal", "Sagittal", "Axial"), count):
                layout.AddLayoutDescription(_code(directions), _description(directions))  # known ones stay


class SideBySide:
    """Scan left, result right, one row for each direction; same window and level; gives the earlier layout back."""

    def __init__(self) -> None:
        self._before = None
        self._observers = Observers()
        self._to_fit: tuple | None = None  # what waits for Qt to lay the views out

    @property
    def shown(self) -> bool:
        """Whether the views are on screen now, of this session or of a loaded scene."""
        if slicer.app.layoutManager() is None:  # no main window
            return False
        return self._layout().GetViewArrangement() in range(LAYOUT_ID, LAYOUT_ID + 8)

    @property
    def fitted(self) -> bool:
        """Whether no view waits for Qt to give it a size."""
        return self._to_fit is None

    def shows(self, scan) -> bool:
        """Whether this scan is the one on the left."""
        return self.shown and any(
            view.GetBackgroundVolumeID() == scan.GetID()
            for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
            if (view.GetLayoutName() or "").startswith(OWN_VIEWS) and view.GetLayoutName().endswith(SIDES[0])
        )

    def show(self, scan, results: dict, place, alike: bool = True) -> None:
        """
        :param scan: volume node
        :param results: direction -> volume node beside it; several directions may show the same one
        :param place: in the world (RAS, mm), where the views meet
        :param alike: whether both sides share window and level
        """
        manager, layout = slicer.app.layoutManager(), self._layout()
        if not self.shown:
            self._before = layout.GetViewArrangement()
        register_layouts()
        manager.setLayout(_code(results))
        logics = []
        for direction, result in results.items():
            for side, node in zip(SIDES, (scan, result)):
                logics.append((self._fill(manager, direction, side, node, scan), result))
        for logic, _ in logics:  # only now: linking would copy one view's volume to the others
            logic.GetSliceCompositeNode().SetHotLinkedControl(True)
            logic.GetSliceCompositeNode().SetLinkedControl(True)
        self.link([scan, *dict.fromkeys(results.values())] if alike else [])
        self._to_fit = logics, place
        self._fit_soon(0, RETRIES)

    def jump(self, results: dict, place) -> None:
        """The views that `show` filled, at another place; their zoom stays.

        :param results: direction -> volume node, as they were shown
        """
        for direction, side in product(results, SIDES):
            widget = slicer.app.layoutManager().sliceWidget(f"{OWN_VIEWS}{direction}{side}")
            widget.sliceLogic().GetSliceNode().JumpSliceByOffsetting(*place)

    def link(self, nodes) -> None:
        """From now on each of the nodes is shown with the window and level of the one that was changed last."""
        self._observers.drop()
        displays = [display for display in (node.GetDisplayNode() for node in nodes) if display is not None]
        for display in displays:
            self._observers.add(display, vtk.vtkCommand.ModifiedEvent, self._window_changed)
        if displays:
            _copy(displays[0], displays)

    def restore(self) -> None:
        """The layout from before; nothing where the user chose another one meanwhile."""
        self.forget()
        if self.shown:
            four_up = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView  # of a loaded scene none is known
            slicer.app.layoutManager().setLayout(four_up if self._before is None else self._before)
        self._before = None

    def forget(self) -> None:
        """Lets go of the nodes that are shown."""
        self._observers.drop()
        self._to_fit = None

    @staticmethod
    def _layout():
        return slicer.app.layoutManager().layoutLogic().GetLayoutNode()

    @staticmethod
    def _fill(manager, direction: str, side: str, node, scan):
        logic = manager.sliceWidget(f"{OWN_VIEWS}{direction}{side}").sliceLogic()
        composite, view = logic.GetSliceCompositeNode(), logic.GetSliceNode()
        composite.SetLinkedControl(False)
        composite.SetBackgroundVolumeID(node.GetID())
        composite.SetForegroundVolumeID(None)
        view.SetOrientation(direction)
        view.RotateToVolumePlane(scan)  # an oblique scan is seen along its own rows and columns
        return logic

    def _fit_soon(self, milliseconds: int, tries: int) -> None:
        """A view that was just made has no size: Qt lays it out when the events before this timer are done."""
        import qt

        qt.QTimer.singleShot(milliseconds, lambda: self._fit(tries))

    def _fit(self, tries: int) -> None:
        if self._to_fit is None:
            return
        logics, place = self._to_fit
        sizes = [logic.GetSliceNode().GetDimensions()[:2] for logic, _ in logics]
        if min(min(size) for size in sizes) < 2 and tries > 0:
            self._fit_soon(RETRY_MS, tries - 1)
            return
        self._to_fit = None
        for (logic, result), size in zip(logics, sizes):
            logic.FitSliceToVolume(result, *size)
            logic.GetSliceNode().JumpSliceByOffsetting(*place)

    def _window_changed(self, caller, event) -> None:
        _copy(caller, self._observers.of())


def _copy(one, displays) -> None:
    """Window, level and threshold of `one` to all; values that agree already are not set, which ends the echo."""
    for other in displays:
        if other is not one:
            _copy_one(one, other)


def _copy_one(one, other) -> None:
    window, threshold = (one.GetWindow(), one.GetLevel()), (one.GetLowerThreshold(), one.GetUpperThreshold())
    if (other.GetWindow(), other.GetLevel()) != window or other.GetAutoWindowLevel():
        other.SetAutoWindowLevel(False)  # it would be computed anew from other voxels
        other.SetWindowLevel(*window)
    if other.GetApplyThreshold() != one.GetApplyThreshold():
        other.SetApplyThreshold(one.GetApplyThreshold())
    if (other.GetLowerThreshold(), other.GetUpperThreshold()) != threshold and one.GetApplyThreshold():
        other.SetThreshold(*threshold)


def _code(directions) -> int:
    return LAYOUT_ID + sum(1 << DIRECTIONS.index(direction) for direction in directions)


def _description(directions) -> str:
    rows = "".join(
        '<item><layout type="horizontal">'
        + "".join(
            VIEW.format(
                tag=f"{OWN_VIEWS}{direction}{side}",
                direction=direction,
                label=side[0],
                color=COLORS[direction],
                group=LAYOUT_ID,
            )
            for side in SIDES
        )
        + "</layout></item>"
        for direction in directions
    )
    return f'<layout type="vertical">{rows}</layout>'
