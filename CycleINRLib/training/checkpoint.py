"""What a training run leaves behind: its state, to go on from exactly, and its log (floor 3).

The state is a safetensors file, never a pickle; the log is a CSV file with the columns step, kind, value, seconds.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..errors import ModelError
from ..jobs import parse_json
from ..network.weights import in_use, save_tensors
from ..wholefile import write_whole
from .optimizer import Optimizer

LOG_COLUMNS = ("step", "kind", "value", "seconds")


@dataclass
class RunState:
    """Everything that the next step depends on."""

    network: torch.nn.Module
    average: torch.nn.Module
    optimizer: Optimizer
    step: int = 0
    seconds: float = 0.0  # spent so far, all calls together
    losses: list[float] = field(default_factory=list)  # since the last line of the log

    def save(self, path: Path, config: dict[str, Any]) -> None:
        """Written beside `path` and renamed; ResourceError where the disk is full."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for part, one in self.optimizer.parts.items():
            for index, moments in one.state_dict()["state"].items():
                tensors |= {f"{part}.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        told = {"step": self.step, "seconds": self.seconds, "losses": self.losses, "config": config}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(tensors, path, {name: json.dumps(value) for name, value in told.items()})

    def load(self, path: Path, config: dict[str, Any]) -> None:
        """Back from `save`.

        Raises
        ------
        ModelError : no state, or that of another network or optimizer
        """
        try:
            with safe_open(path, "pt") as file:
                told = {name: parse_json(text) for name, text in file.metadata().items()}
            tensors = load_file(path)
            other = told["config"]["network"]
        except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as error:
            raise ModelError("The state cannot be read", f"{path}: {error}", "start the run again") from error
        if (took := told["config"].get("optimizer", "adamw")) != config.get("optimizer", took):
            raise ModelError("The state is of another optimizer", f"{path}: {took}", "go on with that one")
        if other != config["network"]:
            raise ModelError("The state is of another network", str(path), "name another state file or the same sizes")
        try:
            self.network.load_state_dict(in_use(_part(tensors, "network.")))
            self.average.load_state_dict(in_use(_part(tensors, "average.")))
            for part, one in self.optimizer.parts.items():
                moments: dict[int, dict] = {}
                for name, value in _part(tensors, f"{part}.").items():
                    index, _, moment = name.partition(".")
                    moments.setdefault(int(index), {})[moment] = value
                one.load_state_dict({"state": moments, "param_groups": one.state_dict()["param_groups"]})
            self.step = int(told["step"])
            self.seconds, self.losses = float(told.get("seconds", 0.0)), list(told.get("losses", []))
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            found = f"{path}: {str(error).splitlines()[0]}"
            raise ModelError("The state lacks what it should hold", found, "start the run again") from error


def _part(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def log(path: Path, step: int, kind: str, value: float, seconds: float) -> None:
    """One more line; the value in as many digits as tell it from any other."""
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(LOG_COLUMNS)
        writer.writerow([step, kind, repr(float(value)), f"{seconds:.1f}"])


def _step_of(row: list[str]) -> float:
    try:
        return int(row[0])
    except ValueError:
        return math.inf  # a damaged line


def forget_after(path: Path, step: int) -> None:
    """Drops the lines after `step`: a killed run has logged steps that its state does not know."""
    if not path.exists():
        return
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = rows[:1] + [row for row in rows[1:] if len(row) == len(LOG_COLUMNS) and _step_of(row) <= step]

    def rewrite(part: Path) -> None:
        with open(part, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(kept)

    write_whole(path, rewrite)
