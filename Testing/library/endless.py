"""The command line on a network that computes its first slab again and again: no job ends before a signal comes.

python endless.py upsample INPUT OUTPUT ..., or `run FOLDER`, as `cycleinr` takes them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from CycleINRLib.cli.main import entry
    from CycleINRLib.upsampling.engine import Engine

    once = Engine._slab

    def endless(*arguments: Any) -> Any:
        while True:
            once(*arguments)

    Engine._slab = endless  # type: ignore[method-assign]
    sys.exit(entry())
