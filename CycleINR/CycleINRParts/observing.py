"""Who listens to which object of the scene, without keeping it alive."""

from collections.abc import Callable, Sequence
from typing import Any

import vtk


class Observers:
    """The observers of one listener.

    Slicer's `VTKObservationMixin` holds each object that it ever observed as the key of a dictionary, after
    `removeObserver` too: closed scans would stay in memory, with their voxels. Here nothing is held.
    """

    def __init__(self) -> None:
        self._tags: list[tuple[Any, int]] = []

    def add(self, observed: Any, events: Any, heard: Callable) -> None:
        """
        :param events: one event or several; `heard` is called with (caller, event)
        """
        for event in events if isinstance(events, (list, tuple)) else [events]:
            reference = vtk.vtkWeakReference()
            reference.Set(observed)
            self._tags.append((reference, observed.AddObserver(event, heard)))

    def drop(self, *observed: Any) -> None:
        """Ends listening to these; without any, to all."""
        kept = []
        for reference, tag in self._tags:
            there = reference.Get()
            if there is not None and observed and not any(there is one for one in observed):
                kept.append((reference, tag))
            elif there is not None:
                there.RemoveObserver(tag)
        self._tags = kept

    def of(self) -> Sequence[Any]:
        """What is listened to and still there, each once."""
        return list(dict.fromkeys(there for there in (one.Get() for one, _ in self._tags) if there is not None))
