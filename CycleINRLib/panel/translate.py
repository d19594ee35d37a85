"""Texts that people read in the panel, in the language of the application (floor 1; standard library only).

Inside Slicer `slicer.i18n` is loaded before this library, so texts made at import are translated too. Anywhere else,
in the shell and in tests, they stay as written. Slicer's tools find what is to be translated by the name `_`:

    from .words import tr as _
"""

from __future__ import annotations

import sys


def tr(text: str) -> str:
    """`text` in the language of the application.

    Parameters
    ----------
    text : a plain literal; values are put in afterwards, `_("{done} of {of}").format(done=3, of=40)`
    """
    i18n = sys.modules.get("slicer.i18n")
    if i18n is None:
        return text
    package, _, module = sys._getframe(1).f_globals["__name__"].rpartition(".")
    translated = i18n.translate(f"{package.rpartition('.')[2]}.{module}", text)  # the context that Slicer's tools write
    return translated if _fields(translated) == _fields(text) else text


def _fields(text: str) -> set[str]:
    """The fields that `format` fills: a translation that loses one would fail at run time."""
    from string import Formatter

    try:
        return {field for _, field, _, _ in Formatter().parse(text) if field is not None}
    except ValueError:
        return {text}
