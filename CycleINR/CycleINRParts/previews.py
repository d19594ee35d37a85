"""Previews: which planes are asked for, their provisional picture, and what is made ready before anybody asks."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from CycleINRLib.child import dependencies
from CycleINRLib.child.resident import PREPARE
from CycleINRLib.errors import CycleINRError
from CycleINRParts.views import across, fill_planes, looked_at, place_across, place_seen

AHEAD_MS = 1000  # for which request and crosshair are left alone before a preview of them is prepared
TOLD_MS = 3000


@dataclass(frozen=True, eq=False)
class PreviewAsked:
    """Planes where the user looks.

    :param node: of the scan
    :param scan: its Volume; part: the region of it that is asked for
    :param planned: the Plan of the job
    :param place: RAS in the frame of the volume, mm, where the planes meet
    :param planes: name -> coordinate across the plane in mm
    """

    node: Any
    scan: Any
    part: Any
    planned: Any
    facts: dict[str, Any]
    place: Any
    planes: dict[str, float]

    @classmethod
    def of(cls, node, scan, job, planned) -> "PreviewAsked":
        part = scan.part(job.region)
        place = looked_at(part, node)
        axes = across(part, planned.axis)
        planes = {direction.lower(): place_across(part, axis, direction, place) for direction, axis in axes.items()}
        return cls(node, scan, part, planned, {**job.to_json(), "task": "preview"}, place, planes)


def start_preview(
    start: Callable, asked: PreviewAsked, told: dict[str, Any], made: dict[str, Any], provisional, wait, progress, stay
):
    """
    :param start: starts a child process, see `Running.start`
    :param told: what is returned beside the nodes
    :param made: nodes that are filled anew

    The other parameters and what is returned are those of `Logic.preview`.
    """
    from CycleINRLib.child.folder import result_planes
    from CycleINRLib.upsampling.planes import provisional_planes  # loads scipy

    if provisional is not None:
        made = fill_planes(asked.node, dict(provisional_planes(asked.part, asked.planned, asked.planes)), made, True)
        provisional({**made, **told})

    def finish(folder: Path, facts: dict[str, Any]):
        return {**fill_planes(asked.node, result_planes(folder, facts), made), **told}

    beside = {"planes": asked.planes}
    return start(asked.facts, asked.scan, [asked.node], finish, wait, progress, beside=beside, stays=stay)


class Ahead:
    """Has the next preview made ready, once request and crosshair were left alone for a moment; and PyTorch loaded
    before, when the module is entered or another scan chosen.

    :param logic: of the module
    :param requirements: path of the list of Python packages that computing needs
    :param following: gives (scan, arguments of `Logic.preview`), None where no preview can be asked for
    :param chosen: gives the scan that is chosen, None for none; False where the module is not in use
    :param busy: whether jobs run
    """

    def __init__(
        self,
        logic,
        requirements: str,
        following: Callable[[], Any],
        chosen: Callable[[], Any],
        busy: Callable[[], bool],
    ) -> None:
        import qt

        self._logic, self._requirements, self._busy = logic, requirements, busy
        self._following, self._chosen = following, chosen
        self._loaded: Any = False  # id of the scan that was chosen when PyTorch was last loaded ahead, None: none was
        self._seen: Any = None  # scan, request and place, as they were at the last look
        self._prepared: Any = None  # as they were when it was prepared
        self._timer = qt.QTimer()
        self._timer.setInterval(AHEAD_MS)
        self._timer.connect("timeout()", self.tick)

    def look(self) -> None:
        """The request may be another one."""
        if self._following() is None:
            self._rest()
        elif _is_wanted():
            self._timer.start()
        self._load()

    def end(self) -> None:
        """Nothing can be asked for any more."""
        self._timer.stop()
        self._seen, self._prepared, self._loaded = None, None, False
        self._logic.endPrepared()

    def _rest(self) -> None:
        """Until the request can run, or the module is entered again."""
        self._timer.stop()
        self._seen = self._prepared = None
        self._logic.endPrepared(keepWaiting=self._chosen() is not False)

    def _load(self) -> None:
        """PyTorch, once for each scan that is chosen, also where there is none yet."""
        chosen = self._chosen()
        scan = chosen.GetID() if chosen else chosen
        if scan is False:
            self._loaded = False
        elif scan != self._loaded and _is_wanted() and not self._busy():
            self._loaded = scan
            with contextlib.suppress(CycleINRError):  # told when something is asked
                if not dependencies.missing(self._requirements):
                    self._logic.awaitScan(chosen)

    def tick(self) -> None:
        following = self._following()
        if following is None:
            self._rest()
        elif not self._busy():
            node, request = following
            place, region = place_seen(node.GetScene()), request["region"]
            changed = [one and one.GetMTime() for one in (node, node.GetImageData(), region)]
            at = None if place is None else [round(float(mm), 1) for mm in place]
            seen = node.GetID(), changed, {**request, "region": region and region.GetID()}, at
            if seen != self._prepared and (seen == self._seen or self._prepared is None):  # the first one at once
                self._prepared = seen
                self._prepare(node, request)
            self._seen = seen

    def _prepare(self, node, request: dict[str, Any]) -> None:
        """What cannot be prepared is told when it is asked for."""
        with contextlib.suppress(CycleINRError):
            if not dependencies.missing(self._requirements) and self._logic.preparePreview(node, **request):
                text = _("CycleINR prepares previews of {name} in the background.").format(name=node.GetName())
                slicer.util.showStatusMessage(text, TOLD_MS)


def _is_wanted() -> bool:
    """Not without a window, nor in Slicer's tests, unless the user says so."""
    asked = os.environ.get(PREPARE)
    shown = slicer.util.mainWindow() is not None and not slicer.app.testingEnabled()
    return asked != "0" and (asked == "1" or shown)
