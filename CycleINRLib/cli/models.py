"""`cycleinr models`: the models at hand, from their headers; no torch is needed (floor 5)."""

from __future__ import annotations

import math
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from .console import Console
from .options import Parser, add_json


def run(options: Namespace, console: Console) -> None:
    """The models at hand, from their headers; no torch is needed."""
    from ..modelcard import read_card, tensor_header
    from ..network.weights import list_models, sha256

    found = []
    for name, path in list_models():
        tensors = [tensor for key, tensor in tensor_header(path).items() if key != "__metadata__"]
        card, digest = read_card(path), sha256(path)
        parameters = sum(math.prod(tensor["shape"]) for tensor in tensors)
        facts = {"name": name, "file": str(path), "sha256": digest, "parameters": parameters, "card": asdict(card)}
        found.append(facts)
        scans = ", ".join(f"{n} {kind}" for kind, n in _count(scan.get("modality") for scan in card.trained_on).items())
        console.say(f"{name:<13} {path}")
        console.say(
            f"              {parameters} parameters, sha256 {digest[:16]}, trained on {scans or 'unknown'} scans"
        )
        console.say(f"              z-scale {card.z_scale_range[0]:g} to {card.z_scale_range[1]:g} in training")
    if not found:
        console.say("no models are installed")
    console.finish({"models": found})


def _count(words: Iterable[str | None]) -> Counter[str]:
    return Counter(word or "other" for word in words)


def add_options(parser: Parser) -> None:
    """The options of this command."""
    add_json(parser)
