"""Prints the rooms of the library, one line a file: `python Testing/library/tree.py`.

The lines are the first sentences of the files themselves; `test_names.py` sees to it that each has one, with its floor.
"""

from __future__ import annotations

import ast
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2] / "CycleINRLib"


def sentence_of(file: Path) -> str:
    """What a file says of itself first, on one line."""
    told = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return " ".join(told.split("\n\n")[0].split())


def lines() -> list[str]:
    """Each folder with its files below it, those of the root first."""
    found = []
    for folder in (LIBRARY, *sorted(path for path in LIBRARY.iterdir() if (path / "__init__.py").is_file())):
        found.append(f"{folder.relative_to(LIBRARY.parent)}/")
        for file in sorted(folder.glob("*.py")):
            if file.name != "__init__.py":
                found.append(f"    {file.name:<18}{sentence_of(file)}")
    return found


if __name__ == "__main__":
    print("\n".join(lines()))
