"""The lists of CycleINRLib/CMakeLists.txt and CycleINR/CMakeLists.txt against the files that git knows.

python Testing/library/cmake_lists.py           says what is missing or too much
python Testing/library/cmake_lists.py --write   brings the lists up to date
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY, MODULE = "CycleINRLib/CMakeLists.txt", "CycleINR/CMakeLists.txt"
LISTS = {  # (CMake file, variable) -> (folder that its entries are relative to, endings)
    (LIBRARY, "LIBRARY_PYTHON_SCRIPTS"): ("CycleINRLib", (".py",)),
    (LIBRARY, "LIBRARY_MODELS"): ("Resources/Models", (".safetensors",)),
    (LIBRARY, "LIBRARY_SAMPLES"): ("Resources/SampleData", (".nrrd", ".md", ".txt", ".json")),
    (MODULE, "MODULE_PYTHON_SCRIPTS"): ("CycleINR", (".py",)),
    (MODULE, "MODULE_PYTHON_RESOURCES"): ("CycleINR", (".png", ".ui", "requirements.txt")),
}


def listed(file: str, variable: str) -> list[str]:
    """What `set(variable ...)` of a CMake file lists."""
    return _block(variable).search((REPOSITORY / file).read_text(encoding="utf-8"))[2].split()


def present(file: str, variable: str) -> list[str]:
    """What git knows there; without git, what lies there."""
    folder, endings = LISTS[file, variable]
    command = ["git", "ls-files", "-z", "--", folder]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        paths = [REPOSITORY / name for name in done.stdout.split("\0") if name]
    else:
        paths = [path for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    names = (path.relative_to(REPOSITORY / folder).as_posix() for path in paths if path.is_file())
    return sorted(name for name in names if name.endswith(endings))


def write(file: str, variable: str) -> None:
    """Replaces one list by what is present."""
    path = REPOSITORY / file
    entries = "".join(f"  {name}\n" for name in present(file, variable))
    text = _block(variable).sub(lambda found: f"{found[1]}\n{entries})", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8", newline="\n")


def _block(variable: str) -> re.Pattern[str]:
    return re.compile(rf"(set\({variable})\s([^)]*)\)")


if __name__ == "__main__":
    for key in LISTS:
        if "--write" in sys.argv:
            write(*key)
        elif listed(*key) != present(*key):
            print(f"{' '.join(key)}: missing {set(present(*key)) - set(listed(*key))}", end=", ")
            print(f"too much {set(listed(*key)) - set(present(*key))}")
