"""`cycleinr run`: a job file again, or the job of a folder as the panel's child does it (floor 5)."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from pathlib import Path

from ..errors import RequestError
from ..jobs import AdaptJob, UpsampleJob, read_job
from .adapt import do_adapt
from .console import Console
from .options import Parser
from .upsample import do_upsample


def run(options: Namespace, console: Console) -> None:
    """A folder with job.json, as the panel's child does it, or a job file with paths, which a report is too."""
    path = Path(options.path)
    if path.is_dir():
        from ..child.worker import run_folder

        console.way = "events"
        with contextlib.redirect_stdout(sys.stderr):  # stdout carries events alone
            run_folder(path, console.hear)
        return
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("The job cannot be read", f"{path}: {error}", "name a job file or a folder") from error
    job = read_job(text)
    if isinstance(job, UpsampleJob):
        do_upsample(job, console)
    elif isinstance(job, AdaptJob):
        do_adapt(job, console)


def add_options(parser: Parser) -> None:
    """The options of this command."""
    parser.add_argument("path", metavar="PATH", help="a job file or a report, or a folder that holds job.json")
