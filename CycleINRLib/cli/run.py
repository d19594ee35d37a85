"""`cycleinr run`: a job file again, or the job of a folder as the panel's child does it (floor 5)."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from pathlib import Path

from ..errors import RequestError
from ..jobs import UpsampleJob, read_job
from .console import Console
from .options import Parser
from .upsample import do_upsample


def run(options: Namespace, console: Console) -> None:
    """A folder with job.json, as the panel's child does it, or a job file with paths."""
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
    facts = read_job(text)
    if facts["task"] != UpsampleJob.task:
        raise RequestError("The task is unknown", repr(facts["task"])[:60], f"choose {UpsampleJob.task}")
    do_upsample(UpsampleJob.from_json(facts), console)


def add_options(parser: Parser) -> None:
    """The options of this command."""
    parser.add_argument("path", metavar="PATH", help="a job file, or a folder that holds job.json")
