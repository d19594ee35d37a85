"""`python -m CycleINRLib`, and the same started by path, as the panel starts its child (floor 5)."""

import sys
from pathlib import Path

if not __package__:
    # Started by path: Python put this folder first on the import path, where io/ would become a top-level module.
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        sys.path.pop(0)
    sys.path.insert(0, str(here.parent))

from CycleINRLib.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
