"""`cycleinr measure`: SNLI and the noise of each slice (floor 5)."""

from __future__ import annotations

from argparse import Namespace

from ..jobs import CHOICES
from .console import Console, figure, grid_in_words
from .options import Parser, add_input, add_json


def run(options: Namespace, console: Console) -> None:
    """SNLI and the noise of each slice."""
    from ..io.files import read
    from ..upsampling.measure import measure as measure_volume

    volume = read(options.input, series=options.series, frame=options.frame)
    for message in volume.warnings:
        console.warn(message)
    report = measure_volume(volume, axis=options.axis, modality=options.modality)
    console.say(f"geometry      {grid_in_words(volume.geometry)}")
    console.say(f"SNLI          {figure(report['snli'])} (0: the same noise in every slice)")
    console.say(f"detrended     {figure(report['snli_detrended'])}")
    console.say(
        f"noise         mean {figure(report['sigma_mean'])}, along {report['slice_axis']}, {report['modality']}"
    )
    for number, sigma in enumerate(report["noise_per_slice"]):
        console.say(f"slice {number:>5}   {figure(sigma)}")
    console.finish(report)


def add_options(parser: Parser) -> None:
    """The options of this command."""
    add_input(parser)
    parser.add_argument("--axis", choices=CHOICES["axis"], default="auto")
    parser.add_argument("--modality", choices=CHOICES["modality"], default="auto")
    add_json(parser)
