"""Sequences of the scene (4D): each frame as a Volume, the results as a sequence of their own (floor 2).

As the Sequences module has it: a browser node keeps sequences in step, each with one proxy node in the scene that shows
the selected item. A result joins the browser of its scan, so that both play together. Main thread only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import slicer
import slicer.util


@dataclass(frozen=True)
class Frames:
    """The sequence that a volume shows one item of."""

    browser: Any  # vtkMRMLSequenceBrowserNode
    sequence: Any  # vtkMRMLSequenceNode
    proxy: Any  # the volume in the scene

    def __len__(self) -> int:
        return self.sequence.GetNumberOfDataNodes()

    def label(self, n: int) -> str:
        """Of frame n: `time 1.5 s`, as the index of the sequence says."""
        name, unit = self.sequence.GetIndexName() or "", self.sequence.GetIndexUnit() or ""
        return " ".join(part for part in (name, self.sequence.GetNthIndexValue(n), unit) if part)

    def node(self, n: int) -> Any:
        """The data node of frame n; it lives in the sequence's own scene, without display, transform or study."""
        return self.sequence.GetNthDataNode(n)

    @property
    def selected(self) -> int:
        return max(0, self.browser.GetSelectedItemNumber())


def frames_of(node: Any) -> Frames | None:
    """The frames of a proxy volume; None for any other volume, and for a sequence of one frame."""
    scene = node.GetScene() if node is not None else None
    if scene is None:
        return None
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode", scene):
        sequence = browser.GetSequenceNode(node)
        if sequence is not None and sequence.GetNumberOfDataNodes() > 1:
            return Frames(browser, sequence, node)
    return None


def sequence_from_results(scene: Any, frames: Frames, made: list[Any], name: str) -> Any:
    """One sequence node of all results, and its proxy volume, which joins the browser of the scan.

    Parameters
    ----------
    made : vtkMRMLScalarVolumeNode of each frame, in order; the one of the selected frame becomes the proxy, the others
        are removed from the scene once they are stored
    name : of sequence and proxy

    Returns
    -------
    the proxy: vtkMRMLScalarVolumeNode
    """
    source = frames.sequence
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName(source.GetIndexName())
    sequence.SetIndexUnit(source.GetIndexUnit())
    sequence.SetIndexType(source.GetIndexType())
    sequence.SetNumericIndexValueTolerance(source.GetNumericIndexValueTolerance())
    sequence.SetAttribute("Sequences.Source", name)
    proxy = made[min(frames.selected, len(made) - 1)]
    for n, node in enumerate(made):
        sequence.SetDataNodeAtValue(node, source.GetNthIndexValue(n))
        if node is not proxy:
            scene.RemoveNode(node)
    proxy.SetName(name)
    frames.browser.AddProxyNode(proxy, sequence, False)
    frames.browser.SetSaveChanges(sequence, False)
    return proxy
