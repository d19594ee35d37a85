"""`cycleinr info`: what is in a file or folder, and what upsample would do (floor 5)."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..errors import CycleINRError
from ..jobs import UpsampleJob
from .console import Console, geometry_facts, grid_in_words
from .options import Parser, add_input, add_json

if TYPE_CHECKING:
    from ..imaging.volume import Volume


def run(options: Namespace, console: Console) -> None:
    """What is in a file or folder, and what upsample would do."""
    from ..io.files import list_series, read

    series = list_series(options.input)
    facts: dict[str, Any] = {"input": options.input, "series": [asdict(one) for one in series]}
    for one in facts["series"]:
        console.say("series        " + ", ".join(f"{name} {value}" for name, value in one.items() if value is not None))
    if len(series) <= 1 or options.series:
        volume = read(options.input, series=options.series, frame=options.frame)
        facts.update(_volume_facts(volume, console))
        facts["upsample"] = _plan_facts(volume, console)
    else:
        console.say(f"{len(series)} series; name one with --series UID to see more")
    console.finish(facts)


def _volume_facts(volume: Volume, console: Console) -> dict[str, Any]:
    from ..imaging.volume import choose_slice_axis, guess_modality

    axis, modality = choose_slice_axis(volume), guess_modality(volume)
    said = "" if volume.modality else " (guessed)"
    thickness = "unknown" if volume.thickness_mm is None else f"{volume.thickness_mm:g} mm"
    console.say(f"geometry      {grid_in_words(volume.geometry)}")
    console.say(f"slice axis    {axis}, slice thickness {thickness}, modality {volume.modality or modality}{said}")
    for message in volume.warnings:
        console.warn(message)
    return {
        "geometry": geometry_facts(volume.geometry),
        "slice_axis": axis,
        "thickness_mm": volume.thickness_mm,
        "modality": volume.modality or modality,
        "modality_guessed": volume.modality is None,
        "unit": volume.unit,
        "values": str(volume.values.dtype),
        "warnings": list(volume.warnings),
    }


def _plan_facts(volume: Volume, console: Console) -> dict[str, Any]:
    """What upsample would do by default, or why it would refuse."""
    from ..upsampling.plan import plan
    from ..upsampling.speed import expected_seconds

    try:
        planned = plan(volume, UpsampleJob())
        planned = replace(planned, seconds=expected_seconds(volume, planned))
    except CycleINRError as error:
        console.say(f"upsample      would refuse: {error}")
        return {"refused": str(error), "code": error.code}
    names = ("z_scale", "profile", "thickness_mm", "consistency", "output_mb", "memory_mb", "seconds")
    facts = {name: getattr(planned, name) for name in names}
    time = "time unknown: run cycleinr check" if planned.seconds is None else f"about {planned.seconds:.0f} s"
    console.say(f"upsample      {grid_in_words(planned.target)}, z-scale {planned.z_scale:.4g}, {planned.consistency}")
    console.say(f"              memory about {planned.memory_mb:.0f} MB, file up to {planned.output_mb:.0f} MB, {time}")
    for message in planned.warnings:
        console.warn(message)
    return {"target": geometry_facts(planned.target), **facts}


def add_options(parser: Parser) -> None:
    """The options of this command."""
    add_input(parser)
    add_json(parser)
