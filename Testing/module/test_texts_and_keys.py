"""Every text that a user sees can be translated, and every control reached without a mouse; read from the files."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from standins import MODULE

SOURCES = sorted(MODULE.parent.rglob("*.py"))
LIBRARY = MODULE.parents[1] / "CycleINRLib"
SPOKEN = [
    *SOURCES,
    LIBRARY / "panel" / "state.py",
    LIBRARY / "panel" / "readout.py",
]  # all that words what the panel shows
UI = ElementTree.parse(MODULE.parent / "Resources" / "UI" / "CycleINR.ui").getroot()
WORDS = re.compile(r"[A-Za-z]{2,}[,:;.…]? [A-Za-z(]")  # two words: a text, no name and no Qt signature
SHOWN = ("text", "toolTip", "noneDisplay", "title", "windowTitle", "placeholderText")  # properties that a user reads
TRANSLATED = ("_", "translate")
SILENT = ("logging.",)  # a log is read by developers
ERRORS = ("Error", "Cancelled")  # the same sentence in panel, shell and log, so that a report can be searched for
LABELED = {  # inputs that carry no text of their own
    "qMRMLNodeComboBox",
    "qMRMLCheckableNodeComboBox",
    "qMRMLSubjectHierarchyTreeView",
    "QComboBox",
    "QSpinBox",
    "QDoubleSpinBox",
    "QLineEdit",
    "QSlider",
    "ctkSliderWidget",
    "ctkDoubleSpinBox",
    "ctkPathLineEdit",
}
BUTTONS = {"QPushButton", "QToolButton", "QCheckBox", "QRadioButton"}
FOCUSED = {*LABELED, *BUTTONS, "ctkCollapsibleButton", "QTableWidget"}  # where Tab stops
MAIN = {"applyButton", "previewButton", "compareButton"}  # 22 letters are free, so other buttons are left to Tab
MENUS = set("FEVH")  # Alt with these opens a menu of Slicer's main window: File, Edit, View, Help


# --- texts ------------------------------------------------------------------------------------------------------
def untranslated(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each literal that reads like a sentence and does not go through `_()`."""
    skipped = {*docstrings(tree), *names_of_people(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and is_exempt(ast.unparse(node.func)):
            skipped.update(ast.walk(node))
        if isinstance(node, ast.ClassDef) and (node.name.endswith("Test") or is_enum(node)):
            skipped.update(ast.walk(node))  # read by developers
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            if WORDS.search(node.value) and "<" not in node.value:
                yield node.lineno, node.value


def is_enum(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base) == "Enum" for base in node.bases)


def is_exempt(function: str) -> bool:
    return function in TRANSLATED or function.startswith(SILENT) or function.endswith(ERRORS)


def docstrings(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            yield from (s.value for s in body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))


def names_of_people(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith(".contributors"):
            yield from ast.walk(node)


def shown_without_translation(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Single words too, where they are put into a property that a user reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.JoinedStr)):
            names = {target.attr for target in node.targets if isinstance(target, ast.Attribute)}
            text = ast.unparse(node.value)
            if names & set(SHOWN) and re.search(r"[A-Za-z]{2}", text):
                yield node.lineno, text


@pytest.mark.parametrize("path", SPOKEN, ids=lambda path: path.name)
def test_no_text_of_the_module_escapes_translation(path):
    tree = ast.parse(path.read_text("utf-8"))
    assert [*untranslated(tree), *shown_without_translation(tree)] == []


@pytest.mark.parametrize("path", SPOKEN, ids=lambda path: path.name)
def test_what_is_translated_is_a_plain_text(path):
    """A text that is put together before `_()` is never found in a translation: insert values afterwards."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_":
            assert isinstance(node.args[0], ast.Constant), ast.unparse(node)


def test_a_sentence_and_a_label_outside_would_be_seen():
    tree = ast.parse("def f(ui):\n    '''Doc string here.'''\n    ui.x.text = 'Apply'\n    g(f'No volume {a} is')\n")
    assert [text for _, text in untranslated(tree)] == ["No volume "]
    assert [text for _, text in shown_without_translation(tree)] == ["'Apply'"]
    assert not list(untranslated(ast.parse("_('No volume is chosen'); logging.info('CycleINR made a node')")))


# --- keys -------------------------------------------------------------------------------------------------------
def prop(widget: ElementTree.Element, name: str) -> str | None:
    found = widget.find(f"property[@name='{name}']")
    return None if found is None else (found[0].text or "")


def widgets(kinds: set[str]) -> list[ElementTree.Element]:
    return [widget for widget in UI.iter("widget") if widget.get("class") in kinds]


def key_of(text: str | None) -> str | None:
    """The letter that Alt reaches: "&&" is an ampersand."""
    found = re.search(r"&([^&])", (text or "").replace("&&", ""))
    return found[1].upper() if found else None


BUDDIES = {prop(label, "buddy"): label for label in widgets({"QLabel"}) if prop(label, "buddy")}


def is_named(widget: ElementTree.Element) -> bool:
    """Whether a key leads there: by a mnemonic of its own or of its label."""
    label = BUDDIES.get(widget.get("name"))
    return bool(key_of(prop(widget, "text")) or (label is not None and key_of(prop(label, "text"))))


def test_every_input_has_a_label_that_a_key_and_a_screen_reader_follow():
    """The second control of a row has a name for the reader, and Tab leads there from the first."""
    controls = widgets(LABELED | {"QCheckBox"})
    assert [w.get("name") for w in controls if w.get("name") not in BUDDIES and not prop(w, "accessibleName")] == []
    assert [name for name, label in BUDDIES.items() if not key_of(prop(label, "text"))] == []
    assert len(BUDDIES) > 10


def test_the_main_buttons_have_a_key():
    assert sorted(w.get("name") for w in widgets(BUTTONS) if w.get("name") in MAIN and is_named(w)) == sorted(MAIN)


def test_no_key_is_given_twice_or_taken_from_the_menus():
    keys = Counter(filter(None, (key_of(prop(w, "text")) for w in widgets(BUTTONS | {"QLabel"}))))
    assert {key: count for key, count in keys.items() if count > 1} == {}
    assert not keys.keys() & MENUS


def test_a_buddy_is_a_widget_of_the_panel():
    names = {widget.get("name") for widget in UI.iter("widget")}
    assert BUDDIES and BUDDIES.keys() <= names


def test_tab_goes_through_every_control_from_top_to_bottom():
    stops = [stop.text for stop in UI.find("tabstops")]
    assert stops == [w.get("name") for w in UI.iter("widget") if w.get("class") in FOCUSED]


def test_every_control_explains_itself():
    controls = [w for w in UI.iter("widget") if w.get("class") in LABELED | BUTTONS]
    written = "\n".join(path.read_text("utf-8") for path in SOURCES)
    silent = [
        w.get("name")
        for w in controls
        if not prop(w, "toolTip") and not re.search(rf"{w.get('name')}\.toolTip\b", written)
    ]
    assert silent == []


# --- the pages say what the panel says ----------------------------------------------------------------------------
@pytest.mark.parametrize("page", ["module.md", "tutorial.md"])
def test_every_control_that_a_page_names_is_in_the_panel(page):
    text = (MODULE.parents[1] / "docs" / page).read_text("utf-8")
    named = {name.rstrip(".") for name in re.findall(r"\*\*([^*]+)\*\*", text)}
    said = {(string.text or "").replace("&", "").rstrip(":") for string in UI.iter("string")}
    elsewhere = {"Cancel", "Sample Data", "CycleINR", "CycleINRAbdomenCT", "CycleINRKneeMR"}
    assert named - said - elsewhere == set()
    assert named & said


def test_every_control_of_the_panel_is_on_its_page():
    text = (MODULE.parents[1] / "docs" / "module.md").read_text("utf-8")
    labels = {prop(w, "text").replace("&", "").rstrip(":") for w in widgets(BUTTONS | {"QLabel"}) if prop(w, "text")}
    assert {label for label in labels if f"**{label}**" not in text and f"*{label}*" not in text} == set()


def test_the_files_were_found():
    assert MODULE in SOURCES and Path(MODULE.parent / "Resources" / "UI" / "CycleINR.ui").is_file()
