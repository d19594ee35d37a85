"""What was taken from a scan as noise, as a volume beside it: the second look at a result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from CycleINRLib.errors import RequestError
from CycleINRLib.scene.volumes import DIFFERENCE_ROLE, SOURCE_ROLE, difference_node, report_of


def start_difference(start: Callable, volume_of: Callable, result, wait: bool, progress):
    """
    :param start: starts a child process, see `Running.start`
    :param volume_of: the Volume of a node
    :param result: node that `upsample` made
    :return: the volume node, or a `Run`
    :raises CycleINRError: nothing was taken, or the scan is not in the scene
    """
    scan = result.GetNodeReference(SOURCE_ROLE) if result is not None else None
    if scan is None:
        found = result.GetName() if result is not None else _("no volume")
        raise RequestError(_("The scan of the result is not in the scene"), found, _("choose a result of CycleINR"))
    report = report_of(result)
    if report.get("noise") not in ("renew", "remove"):
        todo = _("choose a result whose noise is new or removed")
        raise RequestError(_("Nothing was taken from the scan of this result"), result.GetName(), todo)

    def finish(folder: Path, facts: dict[str, Any]):
        from CycleINRLib.child.folder import result_volume

        return difference_node(slicer.mrmlScene, result_volume(folder, facts), scan, result)

    job = {**report["job"], "task": "difference"}
    return start(job, volume_of(scan), [scan, result], finish, wait, progress)


def shown_difference(result):
    """The volume that was made of a result already; None: none, or it was removed."""
    return result.GetNodeReference(DIFFERENCE_ROLE) if result is not None else None
