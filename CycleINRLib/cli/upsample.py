"""`cycleinr upsample`: one scan in, an isotropic volume and its report out (floor 5)."""

from __future__ import annotations

import contextlib
import threading
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..jobs import UpsampleJob
from .console import Console, figure, grid_in_words
from .options import Parser, add_dicom, add_input, add_json, add_target, add_way, check_target
from .outputs import Outputs

NOISE_WORDS = {
    "renew": "new in each slice (synthetic)",
    "acquired": "as acquired, drawn along the slice axis",
    "remove": "removed",
}

LOADED_AHEAD_BYTES = 1 << 22  # of a file that takes as long to be read as a good part of loading torch

if TYPE_CHECKING:
    from ..imaging.volume import Volume


def run(options: Namespace, console: Console) -> None:
    """A finer volume from a file."""
    check_target(options)
    do_upsample(UpsampleJob.from_options(vars(options)), console)


def do_upsample(job: UpsampleJob, console: Console) -> None:
    """A job with paths: check every output, read, compute, write, tell."""
    outputs = Outputs.of(job)
    outputs.check()
    if _is_large(outputs.inputs[0]):
        threading.Thread(target=_load_network, name="torch").start()
    from ..io.files import changes_by, read

    source = read(outputs.inputs[0], series=job.series, frame=job.frame)
    for message in source.warnings:
        console.warn(message)
    like = read(job.like).geometry if job.like else None
    from ..upsampling.plan import plan

    target = plan(source, job, like).target  # what cannot be done is refused at once
    outputs.check(target, source)
    if job.enhanced:
        from ..io.dicomwrite import check_enhanced

        check_enhanced(outputs.inputs[0], target.shape, series=job.series, frame=job.frame, compress=job.compress)
    changes = [] if job.dicom else changes_by(outputs.volume, target)
    from ..upsampling.upsample import upsample  # torch: of a small input not before it is known to be good

    result = upsample(source, job, like=like, progress=console.hear)
    result.report["warnings"] += changes
    taken = result.taken if job.difference else None
    if job.difference and taken is None:
        result.report["warnings"].append(
            "No noise was taken from the acquired slices: there is no difference to write."
        )
    for message in result.report["warnings"]:
        console.warn(message)
    files = outputs.write(source, result.volume, result.report, taken)
    tell_result(source, result.volume, result.report, console)
    for path in files:
        console.say(f"written       {path}")
    console.finish({**result.report, "files": list(files)} if console.way == "json" else result.report, files)


def _is_large(path: Path) -> bool:
    """Whether a scan is one large file, during whose reading torch may be loaded; of a folder nothing is known yet."""
    return path.is_file() and path.stat().st_size >= LOADED_AHEAD_BYTES


def _load_network() -> None:
    with contextlib.suppress(ImportError, OSError, RuntimeError):  # told where the network is needed
        from ..network import infer, weights  # noqa: F401


def tell_result(source: Volume, output: Volume, report: dict[str, Any], console: Console) -> None:
    """Geometry and noise before and after, for people."""
    snli = report["snli"]
    console.say(f"input         {grid_in_words(source.geometry)}")
    console.say(f"output        {grid_in_words(output.geometry)}")
    console.say(f"z-scale       {report['z_scale']:.4g} along {report['input']['slice_axis']}, {report['consistency']}")
    console.say(
        f"SNLI          input {figure(snli['input'])}, output {figure(snli['output'])}, "
        f"linear {figure(snli['linear'])} (0: the same noise in every slice)"
    )
    grain = report["grain"]
    console.say(
        f"grain         output {figure(grain['output'])}, linear {figure(grain['linear'])} "
        "(0: streaks along the slice axis)"
    )
    console.say(f"noise         {NOISE_WORDS[report['noise']]}")
    console.say(f"noise ratio   {figure(report['noise_ratio'])} (1: as much as in the acquired slices)")
    console.say(f"gain          {figure(report['gain'], 2)} (1: all of the network's correction is used)")
    check = report.get("self_check")
    if check:
        console.say(
            f"self-check    {figure(check['psnr_db'], 2)} dB, cubic {figure(check['psnr_cubic_db'], 2)} dB, "
            f"cycle {figure(check['cycle_psnr_db'], 2)} dB"
        )
    console.say(f"model         {report['model']['name']} on {report['device']}, {report['seconds']:.1f} s")


def add_options(parser: Parser) -> None:
    """The options of this command."""
    add_input(parser)
    parser.add_argument("output", metavar="OUTPUT", help=".nrrd, .nii.gz or .mha file, or a folder with --dicom")
    target = add_target(parser)
    target.add_argument("--like", metavar="REF", help="fill the grid of this volume")
    add_way(parser)
    parser.add_argument("--report", metavar="FILE.json", help="write the report")
    parser.add_argument("--picture", metavar="FILE.png", help="write a coronal comparison")
    parser.add_argument("--difference", metavar="FILE", help="write what was taken from the acquired slices as noise")
    add_dicom(parser, "write a DICOM series into the folder OUTPUT")
    add_json(parser)
