"""Options that several commands share (floor 5; standard library only)."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import Any, NoReturn

from ..errors import RequestError
from ..jobs import CHOICES


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are RequestErrors, so that every error takes the same form."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise RequestError("The command line is not understood", message, f"see `{self.prog} --help`")


def add_everywhere(parser: Parser) -> None:
    """The options that may stand before or after the command."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no warnings on stderr")
    parser.add_argument("--events", choices=["json"], help="print each event as one line of JSON on stdout")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def add_input(parser: Parser) -> None:
    parser.add_argument("input", metavar="INPUT", help="NRRD, NIfTI, MHA or MHD file, or a DICOM file or folder")
    parser.add_argument("--series", metavar="UID", help="which DICOM series of a folder")
    parser.add_argument("--frame", metavar="N", type=number, help="which volume of a 4D file, counted from 0")


def add_target(parser: Parser) -> Any:
    target = parser.add_argument_group("target (isotropic unless one of these is given)")
    target.add_argument("--z-scale", metavar="X", type=number, help="source spacing / target spacing, 1 < X <= 16")
    target.add_argument("--spacing", metavar="MM", type=number, dest="spacing_mm", help="target spacing in mm")
    target.add_argument("--isotropic", action="store_true", help="spacing of the finer in-plane axis (the default)")
    return target


def add_dicom(parser: Parser, text: str) -> None:
    """DICOM output and its forms."""
    parser.add_argument("--dicom", action="store_true", help=text)
    parser.add_argument("--enhanced", action="store_true", help="with --dicom: one multi-frame file")
    parser.add_argument("--compress", action="store_true", help="with --dicom: compressed without loss (RLE)")


def add_way(parser: Parser) -> None:
    """How to upsample: the same for one scan and for many."""
    for name in ("axis", "modality", "profile", "consistency", "device", "precision"):
        parser.add_argument(f"--{name}", choices=CHOICES[name], default="auto")
    parser.add_argument("--model", default="auto", metavar="NAME", help="a name `cycleinr models` lists, or a file")
    parser.add_argument("--thickness", metavar="MM", type=number, dest="thickness_mm", help="slice thickness")
    parser.add_argument(
        "--noise", choices=CHOICES["noise"], default="auto",
        help="new in each slice, as acquired (least error, drawn along the slice axis), or removed; auto: new where "
        "signal and noise of the scan can be told apart",
    )  # fmt: skip
    parser.add_argument("--texture", type=number, help=argparse.SUPPRESS)  # before --noise: 0 acquired, else renew
    parser.add_argument(
        "--gain", metavar="G", type=number, help="0..1.5, correction used (default: fitted to the scan)"
    )
    parser.add_argument("--self-check", action="store_true", help="drop every second slice, rebuild it, say how well")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def number(text: str) -> Any:
    """A whole number, a number, or the text itself, which the job then refuses in its own words."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def check_target(options: Namespace) -> None:
    others = (options.z_scale, options.spacing_mm, getattr(options, "like", None))
    if options.isotropic and any(value is not None for value in others):
        raise RequestError("Only one target can be asked for", "--isotropic and another one", "keep one of them")
