"""One name, one thing: read from the sources of the library."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_layers import floor_of, name_of
from tree import lines, sentence_of

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = REPOSITORY / "CycleINRLib"
OF_EVERY_COMMAND = {"run", "add_options"}  # the two functions that each file of cli/ has
MOST_LINES = 400
OTHER_WORDS = {  # a word that once stood beside the one to its right
    "aim": "plan",
    "contender": "method",
    "rival": "interpolator, or method",
    "talk": "console",
}
PRODUCT = sorted([*LIBRARY.rglob("*.py"), *(REPOSITORY / "CycleINR" / "CycleINRParts").glob("*.py")])


def top_level_names(file: Path) -> Iterator[str]:
    """What a file defines at its top level, without what begins with an underscore and is its own matter."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def test_a_top_level_name_stands_once_in_the_library():
    homes = defaultdict(set)
    for file in LIBRARY.rglob("*.py"):
        for name in top_level_names(file):
            if not (file.parent.name == "cli" and name in OF_EVERY_COMMAND):
                homes[name].add(str(file.relative_to(LIBRARY)))
    assert len(homes) > 500
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


@pytest.mark.parametrize("file", PRODUCT, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_no_file_of_the_product_is_longer_than_a_sitting(file):
    assert len(file.read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("word", OTHER_WORDS)
def test_one_idea_has_one_word(word):
    used = {}
    for file in LIBRARY.rglob("*.py"):
        named = {node.id for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Name)}
        if wrong := {name for name in named if word in name.lower().strip("_").removesuffix("s").split("_")}:
            used[file.name] = wrong
    assert used == {}, f"say {OTHER_WORDS[word]}"


@pytest.mark.parametrize("file", sorted(LIBRARY.rglob("*.py")), ids=lambda file: str(file.relative_to(LIBRARY)))
def test_a_file_begins_with_what_it_is_and_its_floor(file):
    told = re.search(r"[Ff]loor (\d)", ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "")
    assert sentence_of(file)
    assert file == LIBRARY / "__init__.py" or (told and int(told.group(1)) == int(floor_of(name_of(file))))


def test_the_printed_tree_names_every_file_but_those_that_make_a_folder_a_package():
    assert sum(".py" in line for line in lines()) == sum(file.name != "__init__.py" for file in LIBRARY.rglob("*.py"))


def test_the_table_of_rooms_names_every_folder():
    table = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    rooms = {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(re.findall(r"\| `(\w+)/` \|", table))
    roots = {path.stem for path in LIBRARY.glob("*.py")} - {"__init__", "__main__"}
    assert roots <= set(re.findall(r"`(\w+)`", table))
