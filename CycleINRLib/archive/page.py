"""batch.html: one file that needs nothing else, with a picture, the figures and the warnings of each scan (floor 4).

No script and nothing from elsewhere: the page's own policy forbids both, and every text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from itertools import islice
from pathlib import Path
from typing import IO, Any

from .manifest import Manifest, ScanRow

SHOWN = 2000  # scans of each state on the page; the others are in batch.csv
DOTS = 2000  # of the chart
STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c0392b; --doubt: #b9770e; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; vertical-align: top; }
tr + tr, tbody tr { border-top: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
img { display: block; background: #000; border-radius: 2px; }
.bad { color: var(--bad); } .doubt { color: var(--doubt); }
.counts { display: flex; gap: 2rem; flex-wrap: wrap; } .counts b { font-size: 1.6rem; display: block; }
small { opacity: .75; } td.name { overflow-wrap: anywhere; max-width: 22rem; }
svg text { fill: currentColor; font-size: 11px; } figure { margin: 1rem 0; } figcaption { max-width: 26rem; }
"""
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><title>CycleINR batch</title><style>{style}</style></head><body>
"""


def write_page(path: Path, head: dict[str, Any], manifest: Manifest) -> None:
    """The page of all scans; those that failed come first, then those with warnings."""
    small = manifest.thumbnails()
    with open(path, "w", encoding="utf-8") as file:
        file.write(HEAD.format(style=STYLE))
        file.write(f"<h1>CycleINR {escape(head['version'])}: {head['scans']} scans</h1>\n")
        counts = ((name, head.get(name, 0)) for name in ("done", "failed", "running", "waiting"))
        file.write('<p class="counts">')
        file.write("".join(f"<span><b>{count}</b>{name}</span>" for name, count in counts if count or name == "done"))
        file.write("</p>\n")
        _write_failed(file, manifest)
        _write_chart(file, manifest)
        _write_done(file, "With warnings", manifest, small, warned=True)
        _write_done(file, "Without warnings", manifest, small, warned=False)
        file.write("</body></html>\n")


def _write_failed(file: IO[str], manifest: Manifest) -> None:
    rows = list(islice(manifest.rows("failed"), SHOWN + 1))
    if not rows:
        return
    file.write('<h2 class="bad">Left out</h2>\n<table><thead><tr><th>scan<th>why<th>found<th>next</thead><tbody>\n')
    for row in rows[:SHOWN]:
        error = row.error or {"what": "", "found": "", "next": ""}
        cells = "".join(f"<td>{escape(error[name])}" for name in ("what", "found", "next"))
        file.write(f'<tr><td class="name">{escape(row.name)}{cells}\n')
    file.write("</tbody></table>\n" + _more(len(rows)))


def _write_done(file: IO[str], title: str, manifest: Manifest, small: dict[int, bytes], warned: bool) -> None:
    fitting = (row for row in manifest.rows("done") if bool(row.figures.get("warnings")) == warned)
    rows = list(islice(fitting, SHOWN + 1))
    if not rows:
        return
    file.write(
        f"<h2>{title}</h2>\n<table><thead><tr><th>before, after<th>scan<th class=n>z-scale<th class=n>SNLI before"
    )
    file.write("<th class=n>after<th class=n>noise ratio<th class=n>gain<th class=n>s</thead><tbody>\n")
    file.writelines(_line(row, small.get(row.id)) for row in rows[:SHOWN])
    file.write("</tbody></table>\n" + _more(len(rows)))


def _line(row: ScanRow, picture: bytes | None) -> str:
    """One row of the table, its warnings beneath the name."""
    figures = row.figures
    snli = figures.get("snli") or {}
    image = f'<img alt="" src="data:image/png;base64,{base64.b64encode(picture).decode()}">' if picture else ""
    doubts = "".join(f'<br><small class="doubt">{escape(one)}</small>' for one in figures.get("warnings") or ())
    numbers = (
        (figures.get("z_scale"), 2), (snli.get("input"), 3), (snli.get("output"), 3), (figures.get("noise_ratio"), 2),
        (figures.get("gain"), 2), (row.seconds, 1),
    )  # fmt: skip
    cells = "".join(f"<td class=n>{_number(value, digits)}" for value, digits in numbers)
    return f'<tr><td>{image}<td class="name">{escape(row.name)}{doubts}{cells}\n'


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _more(count: int) -> str:
    return f"<p>Only the first {SHOWN} are shown here; all are in batch.csv.</p>\n" if count > SHOWN else ""


def _write_chart(file: IO[str], manifest: Manifest) -> None:
    """Each scan as a dot: SNLI before and after; below the diagonal is an improvement."""
    dots = list(islice(_pairs(manifest), DOTS))
    if len(dots) < 2:
        return
    most = max(max(pair) for pair in dots) * 1.05 or 1.0
    size, left = 220, 34
    at = [(left + x / most * size, size - y / most * size + 6) for x, y in dots]
    circles = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#2980b9" fill-opacity=".5"/>' for x, y in at)
    file.write(
        f'<figure><svg width="{size + left + 10}" height="{size + 40}" role="img" aria-label="SNLI before and after">'
        f'<path d="M{left} 6V{size + 6}H{size + left}M{left} {size + 6}L{size + left} 6" fill="none" stroke="#8888"/>'
        f'{circles}<text x="{left}" y="{size + 22}">0</text>'
        f'<text x="{size + left - 28}" y="{size + 22}">{most:.2f}</text>'
        f'<text x="{left + 60}" y="{size + 36}">SNLI before</text><text x="2" y="16">{most:.2f}</text>'
        f'<text x="2" y="{size // 2}">after</text></svg><figcaption>'
        "SNLI, slice-wise noise level inconsistency: 0 is the same noise in every slice. "
        "Below the diagonal the output is the more even one.</figcaption></figure>\n"
    )


def _pairs(manifest: Manifest) -> Iterator[tuple[float, float]]:
    for row in manifest.rows("done"):
        snli = row.figures.get("snli") or {}
        if isinstance(snli.get("input"), (int, float)) and isinstance(snli.get("output"), (int, float)):
            yield float(snli["input"]), float(snli["output"])
