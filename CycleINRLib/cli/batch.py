"""`cycleinr batch`: many scans upsampled alike; a bad one does not stop the others (floor 5)."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..archive.batch import RESULT_FORMATS, BatchRequest, run_batch
from ..errors import ERROR_BY_CODE, RequestError
from ..jobs import UpsampleJob, parse_json
from .console import Console
from .options import Parser, add_dicom, add_json, add_target, add_way, check_target


def run(options: Namespace, console: Console) -> None:
    """Results, reports, the manifest and the summary go into the folder OUTPUT.

    Raises
    ------
    CycleINRError : some scans failed, of the kind of the first; which and why stands in batch.json
    """
    check_target(options)
    settings = UpsampleJob.from_options(vars(options), input=None, output=None, report=None, picture=None)
    request = BatchRequest(
        scans=(*map(Path, options.inputs), *_listed(options.list)),
        folder=Path(options.output),
        settings=settings,
        kind=options.format,
        pictures=options.pictures,
        thumbnails=not options.no_thumbnails,
        workers=options.workers,
        scheduler=options.scheduler,
        resume=options.resume,
        retries=options.retries,
        anonymous=options.anonymous_paths,
    )
    summary = run_batch(request, console.hear, console.mention)
    total, done = sum(summary.counts.values()), summary.counts.get("done", 0)
    console.say(f"{done} of {total} scans done; written to {request.folder}")
    for path in summary.files:
        console.say(f"written       {path}")
    facts = parse_json(Path(summary.files[0]).read_text("utf-8")) if console.way == "json" else summary.counts
    console.finish(facts, summary.files)
    if summary.failed:
        names_left = ", ".join(one["scan"] for one in summary.failed[:10])
        more = ", ..." if len(summary.failed) > 10 else ""
        raise ERROR_BY_CODE[summary.failed[0]["error"]["code"]](
            "Some scans were left out",
            f"{summary.counts['failed']} of {total}: {names_left}{more}",
            f"read why in {request.folder / 'batch.html'}, mend them and add --resume",
        )


def _listed(path: str | None) -> list[Path]:
    """The scans that a text file names, one a line, relative to where it lies."""
    if path is None:
        return []
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("The list of scans cannot be read", f"{path}: {error}", "write one path a line") from error
    return [Path(path).absolute().parent / line.strip() for line in lines if line.strip() and line.lstrip()[0] != "#"]


def add_options(parser: Parser) -> None:
    """The options of this command."""
    parser.add_argument("inputs", metavar="SCANS", nargs="*", help="scans, or folders, searched with all below them")
    parser.add_argument("--list", metavar="FILE.txt", help="more scans, one path a line")
    parser.add_argument("--output", metavar="FOLDER", required=True, help="where results, reports and the summary go")
    add_target(parser)
    add_way(parser)
    parser.add_argument("--format", choices=RESULT_FORMATS, default="nrrd", help="(%(default)s)")
    add_dicom(parser, "write a DICOM series for each scan instead")
    parser.add_argument("--pictures", action="store_true", help="write a coronal comparison of each scan")
    parser.add_argument("--no-thumbnails", action="store_true", help="no small pictures in batch.html")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", metavar="N", type=int, help="processes on this machine; 0: none but this one (default: what fits)"
    )
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a running Dask scheduler, tls://HOST:PORT")
    parser.add_argument("--resume", action="store_true", help="go on with what is not done yet")
    parser.add_argument("--retries", metavar="N", type=int, default=2, help="where a worker ended (%(default)s)")
    parser.add_argument(
        "--anonymous-paths", action="store_true", help="numbers instead of names; batch_key.sqlite tells which is which"
    )
    add_json(parser)
