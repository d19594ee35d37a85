"""The picture of a training run from its log (floor 4)."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

from ..wholefile import write_whole

LOSS = "loss"
INCHES, _DPI = (7.0, 6.0), 120


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by kind, in the order of the file."""
    found: dict[str, list[tuple[int, float]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["kind"], []).append((int(row["step"]), float(row["value"])))
    return found


def draw_curves(log: Path, picture: Path) -> str | None:
    """Loss above, what was held out below, over the steps; None, or a sentence why there is no picture."""
    if importlib.util.find_spec("matplotlib") is None:
        return f'no picture of {log.name}: matplotlib is not installed (pip install "CycleINR[pictures]")'
    curves = read_log(log) if log.exists() else {}
    if not any(len(points) > 1 for points in curves.values()):
        return f"no picture of {log.name}: it has no two points yet"
    write_whole(picture, lambda partial: _draw(curves, partial))
    return None


def _draw(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    losses = {kind: points for kind, points in curves.items() if kind == LOSS}
    held_out = {kind: points for kind, points in curves.items() if kind.startswith("held_out")}
    shown = [(part, name) for part, name in ((losses, LOSS), (held_out, "dB over the base, held out")) if part]
    figure = Figure(INCHES, _DPI, layout="constrained")
    for axes, (part, name) in zip(figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0], shown):
        for kind, points in part.items():
            axes.plot(*zip(*points), label=kind.removeprefix("held_out_gain_db_"), linewidth=1)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        if len(part) > 1:
            axes.legend()
    axes.set_xlabel("step")
    figure.savefig(path)
