"""The facts about a model that travel in its weight file, readable before torch is installed (floor 0).

A weight file is safetensors: eight bytes with the header's length, the header as JSON, then the tensors. The card is
the JSON text under the header's metadata key "card".
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import ModelError
from .jobs import parse_json

CARD_VERSION = 1
MAX_HEADER_BYTES = 8_000_000
CHOOSE_MODEL = "choose a .safetensors file written by cycleinr train, or light"


RANGES = ("z_scale_range", "spacing_range_mm", "ratio_range")  # what a model has seen


@dataclass(frozen=True)
class ModelCard:
    """What a model is, what it was trained on, and how far it can be trusted."""

    name: str
    network: dict[str, Any]  # sizes, NetworkConfig
    card_version: int = CARD_VERSION
    description: str = ""
    modalities: tuple[str, ...] = ("CT", "MR")
    z_scale_range: tuple[float, float] = (1.5, 6.0)  # seen in training
    spacing_range_mm: tuple[float, float] = (0.25, 10.0)  # source spacing along the slice axis seen in training
    ratio_range: tuple[float, float] = (0.0, 1.3)  # slice thickness / spacing seen in training
    trained_on: tuple[dict[str, Any], ...] = ()  # scan, modality, license, source
    training: dict[str, Any] = field(default_factory=dict)  # steps, seconds, device, configuration, git revision
    figures: dict[str, Any] = field(default_factory=dict)  # accuracy on scans never seen
    limits: tuple[str, ...] = ()
    license: str = "Apache-2.0"
    weights_sha256: str = ""  # of the tensors, by which a damaged file is told; "" in cards before 0.2

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> ModelCard:
        """Back from `to_json`; ModelError where it is no card or of a newer version."""
        try:
            facts = parse_json(text)
            version = int(facts["card_version"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ModelError("The model card is unreadable", f"{where}: {error}", CHOOSE_MODEL) from error
        if version > CARD_VERSION:
            raise ModelError("The model card is of a newer version", f"{version} in {where}", "update CycleINR")
        known = {name: facts[name] for name in cls.__dataclass_fields__ if name in facts}
        try:
            for name in ("modalities", "trained_on", "limits", *RANGES):
                if name in known:
                    known[name] = tuple(known[name])
            card = cls(**known)
            _check_kinds(card)
            return card
        except (TypeError, ValueError) as error:
            raise ModelError("The model card lacks facts", f"{where}: {error}", CHOOSE_MODEL) from error


def _check_kinds(card: ModelCard) -> None:
    """ValueError names a fact that is of another kind than a card has: it comes from a file."""
    for name, kind in (("name", str), ("network", dict), ("weights_sha256", str)):
        if not isinstance(getattr(card, name), kind):
            raise ValueError(f"{name} is no {kind.__name__}")
    for name in RANGES:
        limits = getattr(card, name)
        if len(limits) != 2 or not all(isinstance(n, (int, float)) and abs(n) < 1e9 for n in limits):
            raise ValueError(f"{name} is no pair of numbers")
    if not all(isinstance(one, dict) for one in card.trained_on) or not all(
        isinstance(m, str) for m in card.modalities
    ):
        raise ValueError("modalities or trained_on is no list of such")


def read_card(path: str | Path) -> ModelCard:
    """The card of a weight file, without reading the weights.

    Raises
    ------
    ModelError : file missing, not safetensors (a pickle is never opened), no card, or a newer card
    """
    metadata = tensor_header(path).get("__metadata__") or {}
    if "card" not in metadata:
        raise ModelError("The file has no model card", str(path), CHOOSE_MODEL)
    return ModelCard.from_json(metadata["card"], str(path))


def tensor_header(path: str | Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: tensor names, types, shapes, offsets, metadata."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size):
                raise ValueError("no safetensors header")
            header = parse_json(file.read(length).decode("utf-8"))
            if not isinstance(header, dict) or not all(isinstance(one, dict) for one in header.values()):
                raise ValueError("no safetensors header")
    except OSError as error:
        raise ModelError("The model cannot be read", f"{path}: {error.strerror}", CHOOSE_MODEL) from error
    except (ValueError, RecursionError, struct.error) as error:
        raise ModelError("The file is not safetensors", str(path), CHOOSE_MODEL) from error
    return header
