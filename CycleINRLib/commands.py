"""What each command does: open files, call the library, say what came of it (floor 4).

The library is imported inside each command, so that `cycleinr --help` and mistakes in options cost nothing.
"""

from __future__ import annotations

import contextlib
import math
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CycleINRError, MissingPackageError, RequestError
from .jobs import UpsampleJob, check_z_scale, read_job
from .outputs import Outputs, check_picture, write_whole
from .talk import Talk

if TYPE_CHECKING:
    from .imaging.geometry import Geometry
    from .imaging.volume import Volume


def demo(options: Namespace, talk: Talk) -> None:
    """The main job on a bundled scan."""
    from .demo import run_demo

    run_demo(Path(options.output), talk)


def upsample(options: Namespace, talk: Talk) -> None:
    """A finer volume from a file."""
    _check_target(options)
    names = {field.name for field in fields(UpsampleJob)}
    do_upsample(UpsampleJob(**{name: value for name, value in vars(options).items() if name in names}), talk)


def batch(options: Namespace, talk: Talk) -> None:
    """Finer volumes from many scans."""
    _check_target(options)
    from .batch import run_batch

    run_batch(options, talk)


def _check_target(options: Namespace) -> None:
    others = (options.z_scale, options.spacing_mm, getattr(options, "like", None))
    if options.isotropic and any(value is not None for value in others):
        raise RequestError("Only one target can be asked for", "--isotropic and another one", "keep one of them")


def do_upsample(job: UpsampleJob, talk: Talk) -> None:
    """A job with paths: check every output, read, compute, write, tell."""
    outputs = Outputs.of(job)
    outputs.check()
    from .io.files import read

    source = read(outputs.inputs[0], series=job.series, frame=job.frame)
    for message in source.warnings:
        talk.warn(message)
    like = read(job.like).geometry if job.like else None
    outputs.check(like or source.geometry)
    from .tasks.upsample import upsample  # torch: not before the input is known to be good

    result = upsample(source, job, like=like, progress=talk.hear)
    for message in result.report["warnings"]:
        talk.warn(message)
    files = outputs.write(source, result.volume, result.report)
    tell_result(source, result.volume, result.report, talk)
    for path in files:
        talk.say(f"written       {path}")
    talk.finish({**result.report, "files": list(files)} if talk.way == "json" else result.report, files)


def tell_result(source: Volume, output: Volume, report: dict[str, Any], talk: Talk) -> None:
    """Geometry and noise before and after, for people."""
    snli = report["snli"]
    talk.say(f"input         {place_of(source.geometry)}")
    talk.say(f"output        {place_of(output.geometry)}")
    talk.say(f"z-scale       {report['z_scale']:.4g} along {report['input']['slice_axis']}, {report['consistency']}")
    talk.say(
        f"SNLI          input {figure(snli['input'])}, output {figure(snli['output'])}, "
        f"linear {figure(snli['linear'])} (0: the same noise in every slice)"
    )
    talk.say(f"noise ratio   {figure(report['noise_ratio'])} (1: the texture of the scan was kept)")
    talk.say(f"gain          {figure(report['gain'], 2)} (1: all of the network's correction is used)")
    check = report.get("self_check")
    if check:
        talk.say(
            f"self-check    {figure(check['psnr_db'], 2)} dB, cubic {figure(check['psnr_cubic_db'], 2)} dB, "
            f"cycle {figure(check['cycle_psnr_db'], 2)} dB"
        )
    talk.say(f"model         {report['model']['name']} on {report['device']}, {report['seconds']:.1f} s")


def info(options: Namespace, talk: Talk) -> None:
    """What is in a file or folder, and what upsample would do."""
    from .io.files import list_series, read

    series = list_series(options.input)
    facts: dict[str, Any] = {"input": options.input, "series": [asdict(one) for one in series]}
    for one in facts["series"]:
        talk.say("series        " + ", ".join(f"{name} {value}" for name, value in one.items() if value is not None))
    if len(series) <= 1 or options.series:
        volume = read(options.input, series=options.series, frame=options.frame)
        facts.update(_volume_facts(volume, talk))
        facts["upsample"] = _plan_facts(volume, talk)
    else:
        talk.say(f"{len(series)} series; name one with --series UID to see more")
    talk.finish(facts)


def _volume_facts(volume: Volume, talk: Talk) -> dict[str, Any]:
    from .imaging.volume import choose_slice_axis, guess_modality

    axis, modality = choose_slice_axis(volume), guess_modality(volume)
    said = "" if volume.modality else " (guessed)"
    thickness = "unknown" if volume.thickness_mm is None else f"{volume.thickness_mm:g} mm"
    talk.say(f"geometry      {place_of(volume.geometry)}")
    talk.say(f"slice axis    {axis}, slice thickness {thickness}, modality {volume.modality or modality}{said}")
    for message in volume.warnings:
        talk.warn(message)
    return {
        "geometry": _geometry_facts(volume.geometry),
        "slice_axis": axis,
        "thickness_mm": volume.thickness_mm,
        "modality": volume.modality or modality,
        "modality_guessed": volume.modality is None,
        "unit": volume.unit,
        "values": str(volume.values.dtype),
        "warnings": list(volume.warnings),
    }


def _plan_facts(volume: Volume, talk: Talk) -> dict[str, Any]:
    """What upsample would do by default, or why it would refuse."""
    from .tasks.speed import expected_seconds
    from .tasks.upsample import plan

    try:
        planned = plan(volume, UpsampleJob())
        planned = replace(planned, seconds=expected_seconds(volume, planned))
    except CycleINRError as error:
        talk.say(f"upsample      would refuse: {error}")
        return {"refused": str(error), "code": error.code}
    names = ("z_scale", "profile", "thickness_mm", "consistency", "output_mb", "memory_mb", "seconds")
    facts = {name: getattr(planned, name) for name in names}
    time = "time unknown without torch" if planned.seconds is None else f"about {planned.seconds:.0f} s"
    talk.say(f"upsample      {place_of(planned.target)}, z-scale {planned.z_scale:.4g}, {planned.consistency}")
    talk.say(f"              memory about {planned.memory_mb:.0f} MB, file up to {planned.output_mb:.0f} MB, {time}")
    for message in planned.warnings:
        talk.warn(message)
    return {"target": _geometry_facts(planned.target), **facts}


def measure(options: Namespace, talk: Talk) -> None:
    """SNLI and the noise of each slice."""
    from .io.files import read
    from .tasks.measure import measure as measure_volume

    volume = read(options.input, series=options.series, frame=options.frame)
    for message in volume.warnings:
        talk.warn(message)
    report = measure_volume(volume, axis=options.axis, modality=options.modality)
    talk.say(f"geometry      {place_of(volume.geometry)}")
    talk.say(f"SNLI          {figure(report['snli'])} (0: the same noise in every slice)")
    talk.say(f"detrended     {figure(report['snli_detrended'])}")
    talk.say(f"noise         mean {figure(report['sigma_mean'])}, along {report['slice_axis']}, {report['modality']}")
    for number, sigma in enumerate(report["noise_per_slice"]):
        talk.say(f"slice {number:>5}   {figure(sigma)}")
    talk.finish(report)


def preview(options: Namespace, talk: Talk) -> None:
    """One plane alone, and its picture where asked for."""
    check_z_scale(options.z_scale)
    picture = Path(options.picture) if options.picture else None
    if picture:
        check_picture(picture, options.overwrite, (Path(options.input),))
    from .io.files import read
    from .tasks.preview import preview as preview_plane

    volume = read(options.input, series=options.series, frame=options.frame)
    plane = preview_plane(volume, options.plane, options.at_mm, options.z_scale, model=options.model)
    facts = {"plane": options.plane, "geometry": _geometry_facts(plane.geometry), "files": []}
    talk.say(f"{options.plane:<13} {place_of(plane.geometry)}")
    if picture:
        from .pictures import plane_picture

        write_whole(picture, lambda partial: plane_picture(partial, plane))
        facts["files"] = [str(picture)]
        talk.say(f"written       {picture}")
    talk.finish(facts, (str(picture),) if picture else ())


def pack(options: Namespace, talk: Talk) -> None:
    """One file from folders of scans."""
    from .packing import run_packing

    run_packing(options, talk)


def train(options: Namespace, talk: Talk) -> None:
    """A model from folders or packs of scans."""
    from .trainer import run_training

    run_training(options, talk)


def adapt(options: Namespace, talk: Talk) -> None:
    """A model from scans that have no truth."""
    from .adapter import run_adaptation

    run_adaptation(options, talk)


def evaluate(options: Namespace, talk: Talk) -> None:
    """The table of every method on scans whose truth is known."""
    from .evaluator import run_evaluation

    run_evaluation(options, talk)


def check(options: Namespace, talk: Talk) -> None:
    """Packages, devices and models, each tried; an error where the network cannot run."""
    from .environment import examine, lines_of

    facts = examine()
    for label, text in lines_of(facts):
        talk.say(f"{label:<14}{text}")
    talk.finish(facts)
    if facts["problems"]:
        found = "; ".join(facts["problems"])
        raise MissingPackageError("The network cannot run here", found, "see docs/install.md; without it: measure")


def models(options: Namespace, talk: Talk) -> None:
    """The models at hand, from their headers; no torch is needed."""
    from .modelcard import read_card, read_header
    from .network.weights import list_models, sha256

    found = []
    for name, path in list_models():
        tensors = [tensor for key, tensor in read_header(path).items() if key != "__metadata__"]
        card, digest = read_card(path), sha256(path)
        parameters = sum(math.prod(tensor["shape"]) for tensor in tensors)
        facts = {"name": name, "file": str(path), "sha256": digest, "parameters": parameters, "card": asdict(card)}
        found.append(facts)
        scans = ", ".join(f"{n} {kind}" for kind, n in _count(scan.get("modality") for scan in card.trained_on).items())
        talk.say(f"{name:<13} {path}")
        talk.say(f"              {parameters} parameters, sha256 {digest[:16]}, trained on {scans or 'unknown'} scans")
        talk.say(f"              z-scale {card.z_scale_range[0]:g} to {card.z_scale_range[1]:g} in training")
    if not found:
        talk.say("no models are installed")
    talk.finish({"models": found})


def run(options: Namespace, talk: Talk) -> None:
    """A folder with job.json, as the panel's child does it, or a job file with paths."""
    path = Path(options.path)
    if path.is_dir():
        from .child import run_folder

        talk.way = "events"
        with contextlib.redirect_stdout(sys.stderr):  # stdout carries events alone
            run_folder(path, talk.hear)
        return
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("The job cannot be read", f"{path}: {error}", "name a job file or a folder") from error
    facts = read_job(text)
    if facts["task"] != UpsampleJob.task:
        raise RequestError("The task is unknown", repr(facts["task"]), f"choose {UpsampleJob.task}")
    do_upsample(UpsampleJob.from_json(facts), talk)


def place_of(geometry: Geometry) -> str:
    """Size and spacing in the order people say them: i, j, k."""
    size = " x ".join(str(n) for n in geometry.shape[::-1])
    spacing = " x ".join(f"{mm:.3g}" for mm in geometry.spacing_mm[::-1])
    return f"{size} voxels of {spacing} mm"


def figure(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where it could not be measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def _count(words: Iterable[str | None]) -> Counter[str]:
    return Counter(word or "other" for word in words)


def _geometry_facts(geometry: Geometry) -> dict[str, Any]:
    return {
        "shape": list(geometry.shape),
        "spacing_mm": list(geometry.spacing_mm),
        "ijk_to_ras": geometry.ijk_to_ras.tolist(),
        "sheared": geometry.is_sheared,
        "left_handed": geometry.is_left_handed,
    }
