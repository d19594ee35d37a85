"""Whom the stand-ins listen to, so that all of them fall silent before a scene ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_HEARD: list[tuple[Any, int]] = []


def hear(observed: Any, event: Any, slot: Callable) -> int:
    """AddObserver, until `hush`; returns the tag."""
    tag = observed.AddObserver(event, slot)
    _HEARD.append((observed, tag))
    return tag


def hush() -> None:
    """Ends all listening.

    A scene tells its own end. Where the garbage collector frees it together with a slot, VTK would call a function
    that is cleared already, which crashes the interpreter.
    """
    while _HEARD:
        observed, tag = _HEARD.pop()
        observed.RemoveObserver(tag)
