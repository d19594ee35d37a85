"""`cycleinr preview`: one plane across the slices, computed alone (floor 5)."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..jobs import check_z_scale
from ..wholefile import write_whole
from .console import Console, geometry_facts, grid_in_words
from .options import Parser, add_input, add_json, number
from .outputs import check_picture


def run(options: Namespace, console: Console) -> None:
    """One plane alone, and its picture where asked for."""
    check_z_scale(options.z_scale)
    picture = Path(options.picture) if options.picture else None
    if picture:
        check_picture(picture, options.overwrite, (Path(options.input),))
    from ..io.files import read
    from ..upsampling.preview import preview as preview_plane

    volume = read(options.input, series=options.series, frame=options.frame)
    plane = preview_plane(volume, options.plane, options.at_mm, options.z_scale, model=options.model)
    facts = {"plane": options.plane, "geometry": geometry_facts(plane.geometry), "files": []}
    console.say(f"{options.plane:<13} {grid_in_words(plane.geometry)}")
    if picture:
        from ..pictures.planes import plane_picture

        write_whole(picture, lambda partial: plane_picture(partial, plane))
        facts["files"] = [str(picture)]
        console.say(f"written       {picture}")
    console.finish(facts, (str(picture),) if picture else ())


def add_options(parser: Parser) -> None:
    """The options of this command."""
    add_input(parser)
    parser.add_argument("--plane", choices=["coronal", "sagittal", "axial"], required=True)
    parser.add_argument("--at", metavar="MM", type=number, dest="at_mm", help="RAS coordinate of the plane")
    parser.add_argument("--z-scale", metavar="X", type=number)
    parser.add_argument("--model", default="auto", metavar="NAME")
    parser.add_argument("--picture", metavar="FILE.png")
    parser.add_argument("--overwrite", action="store_true", help="replace a picture that exists")
    add_json(parser)
