"""The command line: options into jobs, errors into one line and an exit status (floor 4).

It translates; `commands` calls the library. Only the standard library is loaded before a command runs.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from . import __version__, commands
from .errors import Cancelled, CycleINRError, MissingPackageError, RequestError, ResourceError
from .jobs import ADAPT_CHOICES, CHOICES, ROUTES
from .talk import Talk

ISSUES = "https://github.com/CycleINR/SlicerCycleINR/issues"
COMPARED = (*ROUTES[1:], "synthesis", "supervised")  # routes of adapt; stage 1 alone; the upper bound
PROFILES = ("skip", "box", "gaussian")
BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for any program whose reader went away
EXTRA_OF = {"torch": "torch", "safetensors": "torch", "matplotlib": "pictures"}
WORKS_WITHOUT = {"torch": "info, measure and models", "pictures": "everything but the picture"}
FULL_OR_READ_ONLY = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM}


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are RequestErrors, so that every error takes the same form."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise RequestError("The command line is not understood", message, f"see `{self.prog} --help`")


def entry() -> int:
    """The installed command: `main`, where a polite kill is a Ctrl-C and foreign log lines stay silent."""
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _interrupt)
    if "--debug" not in sys.argv:
        logging.getLogger().addHandler(logging.NullHandler())
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : the words after the command's name; None takes those of this process

    Returns
    -------
    int, the exit status of design section 7: 0 done, else that of the error, which is one line on stderr
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    talk = Talk("events" if "--events" in words else "people")
    try:
        options = build_parser().parse_args(words)
        talk = _talk(options)
        with _silent_libraries(debug):
            options.run(options, talk)
        return 0
    except SystemExit as leaving:  # --help and --version
        return int(leaving.code or 0)
    except BrokenPipeError:
        return _reader_went_away()
    except BaseException as problem:
        if debug:
            traceback.print_exc()
        error = as_error(problem)
        try:
            talk.fail(error)
        except BrokenPipeError:
            _reader_went_away()
        return error.exit_code


def as_error(problem: BaseException) -> CycleINRError:
    """The error of design section 7 that any exception amounts to."""
    text = str(problem)
    if isinstance(problem, CycleINRError):
        return problem
    if isinstance(problem, KeyboardInterrupt):
        return Cancelled("Stopped on request", "", "nothing was left behind; start again when ready")
    if isinstance(problem, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return ResourceError(
            "There is not enough memory",
            text or type(problem).__name__,
            "close other programs, crop the volume, or ask for a smaller z-scale",
        )
    package = (getattr(problem, "name", None) or "").partition(".")[0]
    if isinstance(problem, ImportError) and package in EXTRA_OF:
        extra = EXTRA_OF[package]
        return MissingPackageError(
            f"The package {package} is needed and not installed",
            text,
            f'pip install "CycleINR[{extra}]"; without it works: {WORKS_WITHOUT[extra]}',
        )
    if isinstance(problem, OSError) and problem.errno in FULL_OR_READ_ONLY:
        return ResourceError("The disk is full or read-only", text, "free some space or choose another folder")
    return CycleINRError(
        "CycleINR met an error of its own",
        f"{type(problem).__name__}: {text[:300]}",
        f"repeat the command with --debug and report what it prints at {ISSUES}",
    )


def build_parser() -> Parser:
    """Every command with its options."""
    everywhere = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_everywhere(everywhere)
    parser = Parser("cycleinr", description="Isotropic CT and MR volumes, with an honest noise readout.")
    parser.add_argument("--version", action="version", version=f"cycleinr {__version__}")
    _add_everywhere(parser)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def add(name: str, run: Any, text: str) -> Parser:
        command = subparsers.add_parser(name, help=text, description=text, parents=[everywhere])
        command.set_defaults(run=run)
        return command

    _demo_options(add("demo", commands.demo, "run the main job on a bundled scan"))
    _upsample_options(add("upsample", commands.upsample, "make a volume isotropic, or its slices as fine as asked"))
    _batch_options(add("batch", commands.batch, "upsample many scans alike; a bad one does not stop the others"))
    _info_options(add("info", commands.info, "show what is in a file or folder, and what upsample would do"))
    _measure_options(add("measure", commands.measure, "measure the noise slice by slice, and SNLI"))
    _preview_options(add("preview", commands.preview, "compute one plane across the slices alone"))
    _pack_options(add("pack", commands.pack, "put folders of scans into one file, for training elsewhere"))
    _train_options(add("train", commands.train, "train the network on folders or packs of scans"))
    _adapt_options(add("adapt", commands.adapt, "adapt a model to thick-slice scans that have no truth"))
    _evaluate_options(add("evaluate", commands.evaluate, "score models and interpolators on scans of known truth"))
    _add_json(add("models", commands.models, "list the models at hand"))
    _add_json(add("check", commands.check, "try packages, devices and models, and say what works"))
    run = add("run", commands.run, "repeat a job file, or do the job of a folder that holds job.json")
    run.add_argument("path", metavar="PATH")
    return parser


def _add_everywhere(parser: Parser) -> None:
    """The options that may stand before or after the command."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no warnings on stderr")
    parser.add_argument("--events", choices=["json"], help="print each event as one line of JSON on stdout")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def _add_input(parser: Parser) -> None:
    parser.add_argument("input", metavar="INPUT", help="NRRD, NIfTI, MHA or MHD file, or a DICOM file or folder")
    parser.add_argument("--series", metavar="UID", help="which DICOM series of a folder")
    parser.add_argument("--frame", metavar="N", type=number, help="which volume of a 4D file, counted from 0")


def _demo_options(parser: Parser) -> None:
    parser.add_argument("--output", metavar="FOLDER", default="demo_output", help="where the files go (%(default)s)")


def _upsample_options(parser: Parser) -> None:
    _add_input(parser)
    parser.add_argument("output", metavar="OUTPUT", help=".nrrd, .nii.gz or .mha file, or a folder with --dicom")
    target = _add_target(parser)
    target.add_argument("--like", metavar="REF", help="fill the grid of this volume")
    _add_way(parser)
    parser.add_argument("--report", metavar="FILE.json", help="write the report")
    parser.add_argument("--picture", metavar="FILE.png", help="write a coronal comparison")
    parser.add_argument("--dicom", action="store_true", help="write a DICOM series into the folder OUTPUT")
    _add_json(parser)


def _batch_options(parser: Parser) -> None:
    parser.add_argument("inputs", metavar="SCANS", nargs="+", help="scans, or folders of them")
    parser.add_argument("--output", metavar="FOLDER", required=True, help="where results, reports and batch.json go")
    _add_target(parser)
    _add_way(parser)
    parser.add_argument("--format", choices=["nrrd", "nii.gz", "mha"], default="nrrd", help="(%(default)s)")
    parser.add_argument("--dicom", action="store_true", help="write a DICOM series for each scan instead")
    parser.add_argument("--pictures", action="store_true", help="write a coronal comparison of each scan")
    parser.add_argument("--resume", action="store_true", help="leave the scans that are done already")
    _add_json(parser)


def _add_target(parser: Parser) -> Any:
    target = parser.add_argument_group("target (isotropic unless one of these is given)")
    target.add_argument("--z-scale", metavar="X", type=number, help="source spacing / target spacing, 1 < X <= 16")
    target.add_argument("--spacing", metavar="MM", type=number, dest="spacing_mm", help="target spacing in mm")
    target.add_argument("--isotropic", action="store_true", help="spacing of the finer in-plane axis (the default)")
    return target


def _add_way(parser: Parser) -> None:
    """How to upsample: the same for one scan and for many."""
    for name in ("axis", "modality", "profile", "consistency", "device", "precision"):
        parser.add_argument(f"--{name}", choices=CHOICES[name], default="auto")
    parser.add_argument("--model", default="auto", metavar="NAME", help="a name `cycleinr models` lists, or a file")
    parser.add_argument("--thickness", metavar="MM", type=number, dest="thickness_mm", help="slice thickness")
    parser.add_argument(
        "--texture",
        metavar="T",
        type=number,
        help="0 least error, 1 natural noise, -1 smoothed (default: fitted to the scan)",
    )
    parser.add_argument("--gain", metavar="G", type=number, help="0..1, correction used (default: fitted to the scan)")
    parser.add_argument("--self-check", action="store_true", help="drop every second slice, rebuild it, say how well")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def _info_options(parser: Parser) -> None:
    _add_input(parser)
    _add_json(parser)


def _measure_options(parser: Parser) -> None:
    _add_input(parser)
    parser.add_argument("--axis", choices=CHOICES["axis"], default="auto")
    parser.add_argument("--modality", choices=CHOICES["modality"], default="auto")
    _add_json(parser)


def _preview_options(parser: Parser) -> None:
    _add_input(parser)
    parser.add_argument("--plane", choices=["coronal", "sagittal", "axial"], required=True)
    parser.add_argument("--at", metavar="MM", type=number, dest="at_mm", help="RAS coordinate of the plane")
    parser.add_argument("--z-scale", metavar="X", type=number)
    parser.add_argument("--model", default="auto", metavar="NAME")
    parser.add_argument("--picture", metavar="FILE.png")
    parser.add_argument("--overwrite", action="store_true", help="replace a picture that exists")
    _add_json(parser)


def _pack_options(parser: Parser) -> None:
    parser.add_argument("data", metavar="FOLDER", nargs="+", help="folders of thin-slice scans, see collection.py")
    parser.add_argument("output", metavar="OUTPUT.pack")
    parser.add_argument("--scans", metavar="FILE.json", help="take these scans alone, with these facts about them")
    parser.add_argument("--compress", action="store_true", help="write OUTPUT.pack.gz beside it, for travel")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    _add_json(parser)


def _train_options(parser: Parser) -> None:
    parser.add_argument("data", metavar="DATA", nargs="+", help="folders of thin-slice scans, or packs of them")
    parser.add_argument("--output", metavar="FILE.safetensors", required=True)
    parser.add_argument("--scans", metavar="FILE.json", help="use these scans alone, with these facts about them")
    parser.add_argument("--network", choices=["light", "base"], default="light", help="its size (%(default)s)")
    parser.add_argument("--part", choices=["network", "texture"], default="network", help="what learns (%(default)s)")
    parser.add_argument("--steps", metavar="N", type=int, default=20000, help="length of the run (%(default)s)")
    parser.add_argument("--minutes", metavar="M", type=float, help="stop earlier; --resume goes on")
    parser.add_argument("--fit", action="store_true", help="--minutes is the length of the run, not --steps")
    parser.add_argument("--start", metavar="MODEL", help="begin with the weights of a model: light, or a file")
    parser.add_argument("--resume", action="store_true", help="go on exactly where the last run into OUTPUT stopped")
    parser.add_argument("--batch", metavar="N", type=int, default=4, help="patches a step (%(default)s)")
    parser.add_argument("--rate", metavar="R", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--device", choices=CHOICES["device"], default="auto")
    parser.add_argument("--workers", metavar="N", type=int, help="processes that draw samples (CUDA: each core)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="(%(default)s)")


def _adapt_options(parser: Parser) -> None:
    parser.add_argument("inputs", metavar="SCANS", nargs="+", help="scans of one modality, or folders of them")
    parser.add_argument("--output", metavar="FILE.safetensors", required=True)
    parser.add_argument(
        "--model", default="auto", metavar="NAME", help="the starting weights, or scratch (%(default)s)"
    )
    parser.add_argument("--route", choices=ROUTES, default="auto", help="where training pairs come from (in-plane)")
    parser.add_argument("--minutes", metavar="M", type=float, default=20.0, help="of all stages (%(default)g)")
    parser.add_argument("--steps", metavar="N", type=int, help="of the network, instead of minutes")
    for name in ADAPT_CHOICES:
        parser.add_argument(f"--{name}", choices=CHOICES[name], default="auto")
    parser.add_argument("--thickness", metavar="MM", type=number, dest="thickness_mm", help="slice thickness")
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on where a stopped run into OUTPUT was")
    parser.add_argument("--overwrite", action="store_true", help="replace a model or a stopped run of this name")
    _add_json(parser)


def _evaluate_options(parser: Parser) -> None:
    parser.add_argument("truth", metavar="TRUTH", nargs="+", help="thin-slice scans, or folders of them")
    cases = parser.add_argument_group("cases: each scan with every")
    cases.add_argument("--z-scales", metavar="X", nargs="+", type=float, default=[2, 2.5, 3, 4, 5, 6])
    cases.add_argument("--profiles", nargs="+", choices=PROFILES, default=list(PROFILES))
    cases.add_argument("--ratios", metavar="R", nargs="+", type=float, default=[1.0], help="slice thickness / spacing")
    cases.add_argument(
        "--phases",
        metavar="P",
        nargs="+",
        type=float,
        default=[0.0],
        help="offset of the first thick slice, in thin ones",
    )
    cases.add_argument("--block", metavar="PIXELS", type=int, default=0, help="central rows and columns alone")
    cases.add_argument("--axis", choices=CHOICES["axis"], default="k", help="of the thin slices (%(default)s)")
    cases.add_argument("--modality", choices=CHOICES["modality"], default="auto")
    methods = parser.add_argument_group("methods")
    methods.add_argument(
        "--methods", metavar="NAME", nargs="+",
        help="linear, cubic, sinc, histospline, cubic+projection, models or their files (all, and the bundled models)",
    )  # fmt: skip
    methods.add_argument("--consistency", metavar="C", nargs="+", default=["auto"], help="each for every model")
    methods.add_argument("--texture", metavar="T", nargs="+", default=["default"], help="-1 to 1 or default, likewise")
    methods.add_argument("--add", metavar="NAME=FOLDER", action="append", default=[], help="results of another program")
    methods.add_argument(
        "--adapt", metavar="ROUTE", nargs="+", choices=COMPARED, default=[],
        help="adapt to the thick slices of each case, by these routes: " + ", ".join(COMPARED),
    )  # fmt: skip
    methods.add_argument("--adapt-steps", metavar="N", type=int, default=150, help="of each of these (%(default)s)")
    methods.add_argument("--start", metavar="MODEL", default="light", help="the weights they begin with (%(default)s)")
    methods.add_argument("--device", choices=CHOICES["device"], default="cpu", help="for the models (%(default)s)")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="cases at a time (%(default)s)")
    parser.add_argument("--output", metavar="FOLDER", help="evaluation.json and .md, pictures, and a file a case")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder --output")
    parser.add_argument("--write-sources", metavar="FOLDER", help="write the thick scans for another program, and stop")
    _add_json(parser)


def number(text: str) -> Any:
    """A whole number, a number, or the text itself, which the job then refuses in its own words."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _talk(options: argparse.Namespace) -> Talk:
    as_json = getattr(options, "json", False)
    if as_json and options.events:
        raise RequestError("Only one form of output can be asked for", "--json and --events", "keep one of them")
    return Talk("events" if options.events else "json" if as_json else "people", options.quiet)


@contextmanager
def _silent_libraries(debug: bool) -> Iterator[None]:
    """Other libraries' Python warnings stay off stderr, where each line has its form."""
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        yield


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _reader_went_away() -> int:
    """stdout's reader closed it (`cycleinr info x | head -1`): leave in silence, also at the last flush."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return BROKEN_PIPE
