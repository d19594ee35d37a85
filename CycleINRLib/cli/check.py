"""`cycleinr check`: packages, devices and models, each tried (floor 5)."""

from __future__ import annotations

from argparse import Namespace

from ..errors import MissingPackageError
from .console import Console
from .options import Parser, add_json


def run(options: Namespace, console: Console) -> None:
    """Packages, devices and models, each tried; an error where the network cannot run."""
    from ..child.environment import examine, lines_of

    facts = examine()
    for label, text in lines_of(facts):
        console.say(f"{label:<14}{text}")
    console.finish(facts)
    if facts["problems"]:
        found = "; ".join(facts["problems"])
        raise MissingPackageError("The network cannot run here", found, "see docs/install.md; without it: measure")


def add_options(parser: Parser) -> None:
    """The options of this command."""
    add_json(parser)
