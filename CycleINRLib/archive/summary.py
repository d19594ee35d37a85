"""What became of the scans, from the manifest: batch.json, batch.csv and batch.html (floor 4).

They are written row by row, so that a million scans need no more memory than a page.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .. import __version__
from ..wholefile import write_whole
from .manifest import Manifest, ScanRow
from .page import write_page

FILES = ("batch.json", "batch.csv", "batch.html")
NESTED = {  # columns of the table that stand deeper in the figures
    "snli_input": ("snli", "input"),
    "snli_output": ("snli", "output"),
    "snli_linear": ("snli", "linear"),
    "grain_input": ("grain", "input"),
    "grain_output": ("grain", "output"),
    "self_check_psnr_db": ("self_check", "psnr_db"),
}
PLAIN = (
    "z_scale", "generated_gap", "noise_ratio", "noise_taken", "gain", "noise", "consistency", "device",
    "precision", "peak_memory_mb",
)  # fmt: skip
_COLUMNS = (
    "number", "scan", "state", "input", "output", "report", "seconds", *NESTED, *PLAIN, "warnings", "error", "hash"
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a formula


@dataclass(frozen=True)
class Summary:
    """How many scans are in each state, those that failed (at most 100) with their errors, and the files written."""

    counts: dict[str, int]
    failed: list[dict[str, Any]]
    files: tuple[str, ...]


def write_summary(manifest: Manifest, folder: Path) -> Summary:
    """Writes the three files, each whole or not at all."""
    counts = manifest.count()
    head = {"version": __version__, "scans": sum(counts.values()), **counts}
    write_whole(folder / FILES[0], lambda path: _write_json(path, head, manifest))
    write_whole(folder / FILES[1], lambda path: _write_csv(path, manifest))
    write_whole(folder / FILES[2], lambda path: write_page(path, head, manifest))
    failed = [_facts(row, manifest.anonymous) for row, _ in zip(manifest.rows("failed"), range(100))]
    return Summary(counts, failed, tuple(str(folder / name) for name in FILES))


def _facts(row: ScanRow, anonymous: bool) -> dict[str, Any]:
    """One scan of batch.json."""
    facts: dict[str, Any] = {"number": row.id, "scan": row.name, "state": row.state}
    facts["input"] = row.name if anonymous else row.path
    if row.state == "done":
        facts |= {"output": row.output, "report": row.report, "hash": row.hash, **row.figures}
        facts |= {"picture": row.picture} if row.picture else {}
        facts["seconds"] = row.seconds
    if row.error and row.state == "failed":
        facts["error"] = row.error
    return facts


def _write_json(path: Path, head: dict[str, Any], manifest: Manifest) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps({"batch": head})[:-1] + ', "scans": [')
        between = "\n"
        for row in manifest.rows():
            file.write(between + json.dumps(_facts(row, manifest.anonymous), allow_nan=False))
            between = ",\n"
        file.write("\n]}\n")


def _write_csv(path: Path, manifest: Manifest) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        _write_table(file, (_cells(row, manifest.anonymous) for row in manifest.rows()))


def _write_table(file: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    table = csv.DictWriter(file, _COLUMNS, restval="")
    table.writeheader()
    table.writerows({name: _safe(value) for name, value in row.items()} for row in rows)


def _cells(row: ScanRow, anonymous: bool) -> dict[str, Any]:
    facts = _facts(row, anonymous)
    cells = {name: facts[name] for name in _COLUMNS if facts.get(name) is not None}
    for name, (outer, inner) in NESTED.items():
        cells[name] = (facts.get(outer) or {}).get(inner)
    error = facts.get("error")
    cells["error"] = f"{error['what']}. Found: {error['found']}" if error else None
    cells["warnings"] = " ".join(facts.get("warnings") or ())
    return cells


def _safe(value: Any) -> Any:
    """A text that a spreadsheet shows and does not run."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
