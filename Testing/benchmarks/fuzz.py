"""Damages inputs of every parser for a given time and tells what came of them.

Anything but a value or the error that is owed, and anything slow, is listed and kept.

    python Testing/benchmarks/fuzz.py [--minutes 5] [--seed 0] [--keep FOLDER]

One line for each kind of input: how many, how many were read or refused with which error, the slowest in seconds.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "library"))

from damage import FACTS, JOB, corpus, damaged, damaged_facts, outcome, outcome_of_facts  # noqa: E402

SLOW_S = 5.0
FOLDER = "job folder"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that showed a fault")
    options = parser.parse_args()
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    counts: dict[str, Counter[str]] = {}
    slowest: dict[str, float] = {}
    faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        sound = corpus(folder / "sound")
        end, seed = time.monotonic() + 60 * options.minutes, options.seed
        while time.monotonic() < end:
            for name in (*sound, FOLDER):
                rng = np.random.default_rng([seed, len(name)])
                path = folder / name
                start = time.monotonic()
                try:
                    if name == FOLDER:
                        came = outcome_of_facts(folder / "sound", damaged_facts({**JOB, "volume": FACTS}, rng))
                    else:
                        path.write_bytes(damaged(sound[name], rng))
                        came = outcome(path)
                except Exception as error:  # what is looked for
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    came = f"FAULT {type(error).__name__}"
                    line = f"{Path(where.filename).name}:{where.lineno}"
                    told = f"{name}: {type(error).__name__} {str(error)[:100]} at {line}"
                    if not faults[told] and options.keep and name != FOLDER:
                        options.keep.mkdir(parents=True, exist_ok=True)
                        (options.keep / f"{seed}_{name}").write_bytes(path.read_bytes())
                    faults[told] += 1
                spent = time.monotonic() - start
                if spent > SLOW_S:
                    faults[f"{name}: {spent:.0f} s at seed {seed}"] += 1
                counts.setdefault(name, Counter())[came] += 1
                slowest[name] = max(slowest.get(name, 0.0), spent)
            seed += 1
    for name, came in counts.items():
        told = ", ".join(f"{what} {n}" for what, n in came.most_common())
        print(f"{name:14} {sum(came.values()):6} inputs: {told}; slowest {slowest[name]:.2f} s")
    print(f"{sum(sum(came.values()) for came in counts.values())} inputs, {sum(faults.values())} faults")
    for told, n in faults.most_common():
        print(f"  {n} x {told}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
