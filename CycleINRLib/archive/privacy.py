"""What may be said of a scan: never what stands in its header, and with `--anonymous-paths` no path (floor 4).

Only the texts of errors and warnings can quote anything. Those of the reader may quote the header value that they
stumble over, so of what was found only paths, files and counts are kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .order import Order

LEAST = 2  # characters of a name that is looked for in texts


@dataclass(frozen=True)
class Scrub:
    """Replaces the names of a scan by its alias; does nothing where there is none."""

    alias: str | None
    names: re.Pattern[str] | None

    @classmethod
    def of(cls, order: Order) -> Scrub:
        if order.alias is None:
            return cls(None, None)
        path = Path(str(order.job["input"]))
        names = {str(path), str(path.absolute()), str(path.resolve())}
        below = path.parts[len(Path(order.root).parts) :] if order.root else path.parts
        names |= {*below, *(Path(part).stem for part in below)}
        try:  # a reader may name any file beside the one it was given
            names |= {
                part for file in (path if path.is_dir() else path.parent).iterdir() for part in (file.name, file.stem)
            }
        except OSError:
            pass
        words = sorted((re.escape(name) for name in names if len(name) >= LEAST), key=len, reverse=True)
        return cls(order.alias, re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)") if words else None)

    def text(self, text: str) -> str:
        return text if self.names is None or self.alias is None else self.names.sub(self.alias, text)

    def error(self, error: dict[str, str]) -> dict[str, str]:
        return {name: value if name == "code" else self.text(value) for name, value in error.items()}

    def report(self, report: dict[str, Any]) -> dict[str, Any]:
        """The report whose job and warnings name no path of the input."""
        if self.alias is None:
            return report
        job = dict(report.get("job") or {})
        for name in ("input", "like"):
            if job.get(name):
                job[name] = self.alias if name == "input" else Path(job[name]).name
        for name in ("output", "report", "picture"):
            if job.get(name):
                job[name] = Path(job[name]).name
        return {**report, "job": job, "warnings": [self.text(one) for one in report.get("warnings") or ()]}
