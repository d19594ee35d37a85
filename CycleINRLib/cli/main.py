"""The command line: options into jobs, errors into one line and an exit status (floor 5).

Each command is a file of this folder, loaded when it is asked for; before that the standard library alone is.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .. import __version__
from ..errors import Cancelled, CycleINRError, MissingPackageError, RequestError, ResourceError
from ..machine import keep_memory, keep_waits_short
from .console import Console
from .options import Parser, add_everywhere

COMMANDS = {  # each is a file of this folder: `add_options(parser)` and `run(options, console)`
    "demo": "run the main job on a bundled scan",
    "upsample": "make a volume isotropic, or its slices as fine as asked",
    "batch": "upsample many scans alike; a bad one does not stop the others",
    "info": "show what is in a file or folder, and what upsample would do",
    "measure": "measure the noise slice by slice, and SNLI",
    "preview": "compute one plane across the slices alone",
    "pack": "put folders of scans into one file, for training elsewhere",
    "train": "train the network on folders or packs of scans",
    "adapt": "adapt a model to thick-slice scans that have no truth",
    "evaluate": "score models and interpolators on scans of known truth",
    "models": "list the models at hand",
    "check": "try packages, devices and models, and say what works",
    "run": "repeat a job file, or do the job of a folder that holds job.json",
}
ISSUES = "https://github.com/CycleINR/SlicerCycleINR/issues"
BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for any program whose reader went away
EXTRA_OF = {"torch": "torch", "safetensors": "torch", "matplotlib": "pictures"}
WORKS_WITHOUT = {"torch": "info, measure and models", "pictures": "everything but the picture"}
FULL_OR_READ_ONLY = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM}


def entry() -> int:
    """The installed command: `main`, where a polite kill is a Ctrl-C and foreign log lines stay silent."""
    keep_waits_short()
    keep_memory()
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
    console = Console("events" if "--events" in words else "people")
    try:
        asked = next((word for word in words if word in COMMANDS), None)
        options = build_parser(asked).parse_args(words)
        console = _console_for(options)
        with _silent_libraries(debug):
            options.run(options, console)
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
            console.fail(error)
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


def build_parser(asked: str | None = None) -> Parser:
    """Every command; the file of the one that is asked for adds its options, the others stay unloaded."""
    everywhere = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    add_everywhere(everywhere)
    parser = Parser("cycleinr", description="Isotropic CT and MR volumes, with an honest noise readout.")
    parser.add_argument("--version", action="version", version=f"cycleinr {__version__}")
    add_everywhere(parser)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, text in COMMANDS.items():
        command = subparsers.add_parser(name, help=text, description=text, parents=[everywhere])
        if name == asked:
            module = importlib.import_module(f".{name}", __package__)
            module.add_options(command)
            command.set_defaults(run=module.run)
    return parser


def _console_for(options: argparse.Namespace) -> Console:
    as_json = getattr(options, "json", False)
    if as_json and options.events:
        raise RequestError("Only one form of output can be asked for", "--json and --events", "keep one of them")
    return Console("events" if options.events else "json" if as_json else "people", options.quiet)


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
