"""`cycleinr batch`: many scans upsampled alike, one after another; a bad one does not stop the others (floor 5)."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import (
    ERROR_BY_CODE,
    Cancelled,
    CycleINRError,
    RequestError,
    VolumeError,
)
from ..io.discover import NEXT, Found, find_all
from ..io.names import stem_of
from ..jobs import UpsampleJob
from ..wholefile import write_text
from .console import Console
from .options import Parser, add_dicom, add_json, add_target, add_way, check_target
from .upsample import do_upsample

SUMMARY = "batch.json"
FIGURES = ("z_scale", "snli", "generated_gap", "noise_ratio", "gain", "texture", "self_check", "seconds", "warnings")


def run(options: Namespace, console: Console) -> None:
    """Results, a report for each, and `batch.json` with a line for each scan go into the folder OUTPUT.

    Raises
    ------
    VolumeError : there is no scan
    RequestError : the folder cannot be used, or the same options would not do for a single scan
    CycleINRError : some scans failed, of the kind of the first; which and why stands in batch.json
    """
    check_target(options)
    folder = Path(options.output)
    _check_folder(folder)
    jobs = list(_jobs(find_all([Path(path) for path in options.inputs]), folder, options))
    if not jobs:
        raise VolumeError("There is no scan to upsample", ", ".join(options.inputs), NEXT)
    folder.mkdir(exist_ok=True)
    told: list[dict[str, Any]] = []
    for n, job in enumerate(jobs, 1):
        console.say(f"{n} of {len(jobs)}: {job.input}" + (f", series {job.series}" if job.series else ""))
        told.append(_done_before(job) if options.resume and _is_done(job) else _do(job, console))
        write_text(folder / SUMMARY, json.dumps({"scans": told}, indent=2, allow_nan=False) + "\n")
    failed = [one for one in told if "error" in one]
    console.say(f"{len(told) - len(failed)} of {len(told)} scans done; written to {folder}")
    console.finish({"scans": told}, (str(folder / SUMMARY),))
    if failed:
        names = ", ".join(Path(one["input"]).name for one in failed)
        raise ERROR_BY_CODE[failed[0]["error"]["code"]](
            "Some scans were left out",
            f"{len(failed)} of {len(told)}: {names}",
            f"read why in {folder / SUMMARY}, mend them and add --resume",
        )


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RequestError("The output is a file", str(folder), "name a folder")
    if not folder.absolute().parent.is_dir():
        raise RequestError("The output folder does not exist", str(folder.absolute().parent), "make it first")


def _jobs(scans: list[Found], folder: Path, options: Namespace) -> Iterator[UpsampleJob]:
    """One job a scan, each with a name of its own in the folder."""
    names = {field.name for field in fields(UpsampleJob)} - {"input", "output", "series", "report", "picture"}
    asked = {name: value for name, value in vars(options).items() if name in names}
    taken = {Path(SUMMARY).stem}  # the report of a scan of that name would be lost to the summary
    for scan in scans:
        name = stem = stem_of(scan.path)
        count = 1
        while name.lower() in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name.lower())
        yield UpsampleJob(
            **asked,
            input=str(scan.path),
            series=scan.series,
            output=str(folder / (name if options.dicom else f"{name}.{options.format}")),
            report=str(folder / f"{name}.json"),
            picture=str(folder / f"{name}.png") if options.pictures else None,
        )


def _do(job: UpsampleJob, console: Console) -> dict[str, Any]:
    """Upsamples one scan; what came of it, or the error in words."""
    listener = _OneOfMany(console)
    try:
        do_upsample(job, listener)
    except Cancelled:
        raise
    except CycleINRError as error:
        console.warn(f"{job.input} is left out: {error}")
        told = {"what": error.what, "found": error.found, "next": error.next, "code": error.code}
        return {"input": job.input, "series": job.series, "error": told}
    return _summed_up(job, listener.facts)


class _OneOfMany(Console):
    """Talks as the batch does, but keeps the end of each scan for itself."""

    def __init__(self, console: Console) -> None:
        super().__init__(console.way, console.quiet)
        self.facts: dict[str, Any] = {}

    def finish(self, facts: dict[str, Any], files: tuple[str, ...] = ()) -> None:
        self._clear_bar()
        self.facts = facts


def _is_done(job: UpsampleJob) -> bool:
    """Whether an earlier run finished this scan: the report is written after the volume."""
    return Path(str(job.output)).exists() and Path(str(job.report)).exists()


def _done_before(job: UpsampleJob) -> dict[str, Any]:
    return _summed_up(job, json.loads(Path(str(job.report)).read_text("utf-8")))


def _summed_up(job: UpsampleJob, report: dict[str, Any]) -> dict[str, Any]:
    figures = {name: report.get(name) for name in FIGURES}
    return {"input": job.input, "series": job.series, "output": job.output, "report": job.report, **figures}


def add_options(parser: Parser) -> None:
    """The options of this command."""
    parser.add_argument("inputs", metavar="SCANS", nargs="+", help="scans, or folders of them")
    parser.add_argument("--output", metavar="FOLDER", required=True, help="where results, reports and batch.json go")
    add_target(parser)
    add_way(parser)
    parser.add_argument("--format", choices=["nrrd", "nii.gz", "mha"], default="nrrd", help="(%(default)s)")
    add_dicom(parser, "write a DICOM series for each scan instead")
    parser.add_argument("--pictures", action="store_true", help="write a coronal comparison of each scan")
    parser.add_argument("--resume", action="store_true", help="leave the scans that are done already")
    add_json(parser)
