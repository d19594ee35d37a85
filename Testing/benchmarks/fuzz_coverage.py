"""Looks for inputs that reach new branches of each parser (atheris, which is libFuzzer), and tells what they did.

    pip install atheris
    python Testing/benchmarks/fuzz_coverage.py [NAME ...] [--minutes 5] [--keep FOLDER]

Where `fuzz.py` damages sound inputs at random, this keeps every input that reaches a branch not reached before and goes
on from there, so that it gets behind the checks at the head of a header. A NAME is an input of the corpus, such as
a.nrrd. Anything but a value or the error that is owed, more than 30 seconds or more than 2 GB is a finding; the input
that shows it is put into `--keep`. One line for each kind: how many inputs, branches, findings.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "library"), str(Path(__file__).resolve().parents[2])]

LONGEST, SLOW_S, MOST_MB = 65536, 30, 2048
PACKED = "b.nii.gz"  # grown unpacked, since no random bytes are a sound checksum


def grow(name: str, corpus: Path, folder: Path, seconds: float) -> None:
    """Runs libFuzzer in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["CycleINRLib"]):
        from damage import outcome
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    path = folder / name

    def once(content: bytes) -> None:
        path.write_bytes(gzip.compress(content, 1) if name == PACKED else content)
        outcome(path)

    once((corpus / "sound").read_bytes())  # libraries that are loaded late count for no input
    limits = [f"-max_total_time={seconds:.0f}", f"-timeout={SLOW_S}", f"-rss_limit_mb={MOST_MB}"]
    atheris.Setup(
        [sys.argv[0], str(corpus), f"-artifact_prefix={folder}/", f"-max_len={LONGEST}", "-seed=1", *limits], once
    )
    atheris.Fuzz()


def watch(name: str, content: bytes, seconds: float, keep: Path | None) -> int:
    """One line of what came of one kind of input; gives the count of findings: libFuzzer stops at the first."""
    with tempfile.TemporaryDirectory() as made:
        folder, corpus = Path(made), Path(made) / "corpus"
        corpus.mkdir()
        (corpus / "sound").write_bytes(gzip.decompress(content) if name == PACKED else content)
        command = [sys.executable, __file__, "--grow", name, str(corpus), str(folder), str(seconds)]
        told = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stderr
        runs = [tuple(map(int, one)) for one in re.findall(r"#(\d+)\s+\w+\s+cov: (\d+)", told)]
        done = re.search(r"Done (\d+) runs", told)
        count = int(done.group(1)) if done else max((one[0] for one in runs), default=0)
        found = sorted(folder.glob("*-*"))
        print(
            f"{name:14} {count:8} inputs, {max((one[1] for one in runs), default=0):5} branches, {len(found)} findings"
        )
        for path in found:
            print(f"  {path.name}: {_why(told)}")
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{path.name}_{name}").write_bytes(path.read_bytes())
        if not count:
            print(told[-2000:])
        return len(found) + (not count)


def _why(told: str) -> str:
    lines = [
        line for line in told.splitlines() if re.match(r"\w*(Error|Exception)\b|ERROR: libFuzzer|.*: .*Error", line)
    ]
    return lines[0][:200] if lines else "it ended"


def main() -> int:
    if sys.argv[1:2] == ["--grow"]:
        name, corpus, folder, seconds = sys.argv[2:]
        grow(name, Path(corpus), Path(folder), float(seconds))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of the corpus; none: all")
    parser.add_argument("--minutes", type=float, default=5, help="of all kinds together")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that showed a fault")
    options = parser.parse_args()
    from damage import corpus

    with tempfile.TemporaryDirectory() as made:
        sound = {
            name: content for name, content in corpus(Path(made)).items() if name in options.names or not options.names
        }
    seconds = 60 * options.minutes / len(sound)
    return int(sum(watch(name, content, seconds, options.keep) for name, content in sound.items()) > 0)


if __name__ == "__main__":
    sys.exit(main())
