"""Texts of the library follow the language of the application, and stay as written without one."""

from __future__ import annotations

import sys
import types

import pytest

from CycleINRLib.panel.translate import tr

GERMAN = {
    "Apply": "Anwenden",
    "{done} of {of}": "{done} von {of}",
    "{left} left": "noch {rest}",
    "open {": "offen {",
}


@pytest.fixture
def german(monkeypatch) -> list[str]:
    """An application that speaks German; the contexts it was asked for."""
    contexts: list[str] = []

    def translate(context: str, text: str) -> str:
        contexts.append(context)
        return GERMAN.get(text, text)

    monkeypatch.setitem(sys.modules, "slicer.i18n", types.SimpleNamespace(translate=translate))
    return contexts


def test_without_the_application_a_text_stays_as_written(monkeypatch):
    monkeypatch.delitem(sys.modules, "slicer.i18n", raising=False)
    assert tr("Apply") == "Apply"


def test_in_the_application_a_text_is_translated_in_the_context_of_its_file(german):
    caller = {"__name__": "CycleINRLib.panel", "_": tr}
    assert eval("_('Apply')", caller) == "Anwenden"
    assert german == ["CycleINRLib.panel"]
    eval("_('Apply')", {"__name__": "CycleINRLib.imaging.volume", "_": tr})
    assert german[-1] == "imaging.volume"


def test_values_are_put_in_afterwards(german):
    assert tr("{done} of {of}").format(done=3, of=4) == "3 von 4"


def test_a_translation_that_loses_a_value_is_not_used(german):
    assert tr("{left} left") == "{left} left"


def test_a_text_that_is_no_format_is_compared_as_a_whole(german):
    assert tr("open {") == "open {"
