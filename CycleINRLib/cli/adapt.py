"""`cycleinr adapt`: scans of thick slices in, a model adapted to them and its card out (floor 5)."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, RequestError, VolumeError
from ..io.discover import NEXT, find_all
from ..jobs import SCRATCH, TWO_STAGES, AdaptJob
from ..wholefile import check_file, write_text, write_whole
from .console import Console
from .train import stop_after_saving

if TYPE_CHECKING:
    from ..adapting.adapt import Adapted
    from ..imaging.volume import Volume

from ..jobs import ADAPT_CHOICES, CHOICES, ROUTES, parse_json
from .options import Parser, add_json, number

RUN = ".adapt"  # the folder of a run's states, beside the output, until it is done


def run(options: Namespace, console: Console) -> None:
    """Adapt a model to scans that have no thin-slice truth, and write it."""
    do_adapt(AdaptJob.from_options(vars(options)), console)


def do_adapt(job: AdaptJob, console: Console) -> None:
    """A job with paths: check every output, read, learn, write, tell.

    The states of the stages lie in a folder beside the output (`NAME.adapt`) until the model is written; `--resume`
    goes on from them.

    Raises
    ------
    RequestError : a path is missing; a run into this output exists and `--resume` is not given, or the reverse;
        other scans than before
    VolumeError : no scan can be learned from
    """
    if not job.inputs or not job.output:
        found = f"inputs {list(job.inputs)}, output {job.output!r}"
        raise RequestError("The job lacks a path", found, 'give both "inputs" and "output"')
    output, start = Path(job.output), _start(job)
    check_file(output, [".safetensors"], overwrite=job.overwrite, inputs=[start] if start else [])
    if job.route in TWO_STAGES:
        check_file(output.with_suffix(".png"), [".png"], overwrite=job.overwrite)
    folder = output.with_suffix(RUN)
    volumes = list(read_scans([Path(path) for path in job.inputs], console))
    _begin(folder, job, start)
    from ..adapting.adapt import adapt

    try:
        with stop_after_saving() as stopped:
            adapted = adapt(volumes, job, folder, progress=console.hear, cancelled=stopped)
    except Cancelled as error:
        raise Cancelled(error.what, str(folder), "go on with --resume, or remove that folder") from error
    except (RequestError, VolumeError):
        if not job.resume:  # else what earlier calls learned stays
            shutil.rmtree(folder, ignore_errors=True)
        raise
    _write(adapted, output, console)
    shutil.rmtree(folder, ignore_errors=True)


def _start(job: AdaptJob) -> Path | None:
    """The file of the starting weights; None: from scratch."""
    if job.model == SCRATCH:
        return None
    from ..network.weights import find_model

    return find_model(job.model)


def _begin(folder: Path, job: AdaptJob, start: Path | None) -> None:
    """A fresh folder for the states, or the one of the run that goes on.

    Raises
    ------
    RequestError : a run exists and none is to go on, or the reverse, or it was asked for something else
    """
    from ..network.weights import sha256

    asked = {**job.to_json(), "start_sha256": sha256(start) if start else None}
    asked = {name: value for name, value in asked.items() if name not in ("resume", "overwrite", "device", "minutes")}
    told = folder / "job.json"
    if job.resume:
        try:
            before = parse_json(told.read_text("utf-8"))
            if not isinstance(before, dict):
                raise ValueError("no JSON object")
        except (OSError, ValueError) as error:
            raise RequestError("There is no run to resume", str(folder), "leave out --resume") from error
        if before != json.loads(json.dumps(asked)):
            changed = ", ".join(
                sorted(name for name in asked if before.get(name) != json.loads(json.dumps(asked[name])))
            )
            raise RequestError("The run was begun with something else", changed, "give the same, or begin anew")
        return
    if folder.exists() and not job.overwrite:
        raise RequestError(
            "A run into this output was stopped", str(folder), "add --resume to go on, or --overwrite to begin anew"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_text(told, json.dumps(asked, indent=1))


# --- scans --------------------------------------------------------------------------------------------------------
def read_scans(paths: list[Path], console: Console) -> Iterator[Volume]:
    """Every scan of the files and folders; what cannot be read is warned of where something else can.

    Raises
    ------
    VolumeError : a path is missing, or nothing can be read; says why for the first
    """
    from ..io.files import read

    refused: list[VolumeError] = []
    count = 0
    for found in find_all(paths):
        try:
            if found.problem is not None:
                raise found.problem
            volume = read(found.path)
        except VolumeError as error:
            refused.append(error)
            console.warn(f"{found.path.name} is left out: {error.what[0].lower()}{error.what[1:]} ({error.found}).")
            continue
        count += 1
        yield volume
    if not count:
        if refused:
            raise refused[0]
        raise VolumeError("There is no scan to adapt to", ", ".join(map(str, paths)), NEXT)


# --- results ------------------------------------------------------------------------------------------------------
def _write(adapted: Adapted, output: Path, console: Console) -> None:
    """The model, the picture of the synthetic slices where there are, and what to know of both."""
    from ..network.weights import save_model

    save_model(adapted.network, dataclasses.replace(adapted.card, name=output.stem), output)
    files = [str(output)]
    for line in lines_about(adapted.report):
        console.say(line)
    if adapted.sample is not None and (picture := _picture(adapted, output.with_suffix(".png"), console)):
        files.append(picture)
    for file in files:
        console.say(f"written       {file}")
    console.finish({**adapted.report, "model": str(output)}, tuple(files))


def _picture(adapted: Adapted, path: Path, console: Console) -> str | None:
    """How the synthetic volume of the first scan looks and measures; None where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        console.mention("The picture of the synthetic volume is left out: matplotlib is not installed.")
        return None
    from ..pictures.synthetic import realism_picture

    assert adapted.sample is not None
    acquired, synthetic, scan = adapted.sample
    facts = (scan.protocol.z_scale, scan.modality, adapted.report["synthetic"])
    write_whole(
        path, lambda to: realism_picture(to, acquired, synthetic, *facts, spacing_mm=scan.volume.spacing_mm[1:])
    )
    return str(path)


def lines_about(report: dict[str, Any]) -> Iterator[str]:
    """The report in lines for people."""
    for group in report["groups"]:
        spacing = " x ".join(f"{mm:g}" for mm in reversed(group["spacing_mm"]))
        guess = " (estimated)" if group["estimated"] else ""
        count = len(group["scans"])
        yield (
            f"scans         {count} {group['modality']} of {spacing} mm, slices {group['thickness_mm']:g} mm"
            f"{guess} thick, {group['profile']}: {', '.join(group['scans'])}"
        )
    if report["synthetic"] is not None:
        facts = report["synthetic"]
        yield f"synthetic     {_realism(facts)}"
    held = report["held_out"]
    yield (
        f"held out      {held['slices']} acquired slices predicted from their neighbors: {held['psnr_db']:.2f} dB; "
        f"{report['start']['name']} as it was {held['psnr_start_db']:.2f} dB, cubic {held['psnr_cubic_db']:.2f} dB"
    )
    better = f"{held['psnr_db'] - held['psnr_start_db']:+.2f} dB on slices that it never saw"
    if held.get("lines_gain_db") is not None:
        better = f"{held['lines_gain_db']:+.2f} dB on lines within them, {better}"
    if report["improved"]:
        yield f"adapted       {better}"
    else:
        yield f"not adapted   {better}: the file holds the starting weights"


def _realism(facts: dict[str, Any]) -> str:
    """How far synthetic slices can be told from acquired ones."""
    test = facts["two_sample"] or {}
    figures = {
        "sharpness": facts["sharpness"]["between"],
        "noise ratio": facts["noise_ratio"],
        "told by patches": test.get("auc"),
    }
    known = [f"{name} {value:.2f}" for name, value in figures.items() if value is not None]
    return "slices against acquired ones: " + (", ".join(known) or "not measurable")


def add_options(parser: Parser) -> None:
    """The options of this command."""
    parser.add_argument("inputs", metavar="SCANS", nargs="+", help="scans of one modality, or folders of them")
    parser.add_argument("--output", metavar="FILE.safetensors", required=True)
    parser.add_argument(
        "--model", default="auto", metavar="NAME", help="the starting weights, or scratch (%(default)s)"
    )
    parser.add_argument("--route", choices=ROUTES, default="auto", help="what learns and from which pairs")
    parser.add_argument("--minutes", metavar="M", type=float, help="train all of the network, not the last layer alone")
    parser.add_argument("--steps", metavar="N", type=int, help="of the network, instead of minutes")
    for name in ADAPT_CHOICES:
        parser.add_argument(f"--{name}", choices=CHOICES[name], default="auto")
    parser.add_argument("--thickness", metavar="MM", type=number, dest="thickness_mm", help="slice thickness")
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on where a stopped run into OUTPUT was")
    parser.add_argument("--overwrite", action="store_true", help="replace a model or a stopped run of this name")
    add_json(parser)
