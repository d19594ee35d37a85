"""`cycleinr demo`: the main job on a bundled scan, through a real MRML scene where there is one (floor 5)."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..errors import CycleINRError, RequestError
from ..jobs import UpsampleJob
from ..wholefile import SAMPLES, files_of, write_text, write_whole
from .console import Console
from .options import Parser
from .outputs import draw
from .upsample import tell_result

_SAMPLE = "CT"  # the bundled scan whose name starts like this


def run(options: Namespace, console: Console) -> None:
    """The main job on a bundled scan."""
    run_demo(Path(options.output), console)


def run_demo(folder: Path, console: Console) -> None:
    """Upsample the bundled CT to isotropic and write volume, report and picture into `folder`.

    Raises
    ------
    RequestError : `folder` is a file
    CycleINRError : the bundled scans are missing from this installation
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError("The output is a file", str(folder), "name a folder with --output")
    scan = find_sample(_SAMPLE)
    folder.mkdir(parents=True, exist_ok=True)
    console.say(f"scan          {scan.name}, bundled with CycleINR")
    if importlib.util.find_spec("slicer") is not None:
        files, report = _through_scene(scan, folder, console)
    else:
        console.say("scene         none: slicer-core is not installed, so the scan is read as a plain file")
        files, report = _through_file(scan, folder, console)
    for path in files:
        console.say(f"written       {path}")
    console.finish(report, files)


def find_sample(start: str) -> Path:
    """The bundled scan whose file name begins with `start`."""
    found = files_of(SAMPLES, f"{start}*.nrrd")
    if not found:
        where = str(SAMPLES[0].parent)
        raise CycleINRError(
            "The bundled scans are missing from this installation", where, "install CycleINR again, or clone it"
        )
    return found[0]


def _through_file(scan: Path, folder: Path, console: Console) -> tuple[tuple[str, ...], dict[str, Any]]:
    from ..io.files import read
    from ..upsampling.upsample import upsample

    source = read(scan)
    result = upsample(source, progress=console.hear)
    return _deliver(source, result.volume, result.report, scan, folder, console), result.report


def _through_scene(scan: Path, folder: Path, console: Console) -> tuple[tuple[str, ...], dict[str, Any]]:
    """File to node, node to Volume, result to node, and what is written comes from that node."""
    from ..io.files import read
    from ..scene.headless import HeadlessScene
    from ..scene.volumes import node_from_result, volume_from_node
    from ..upsampling.upsample import upsample

    facts = read(scan)  # thickness and modality: a scene keeps them for DICOM alone
    with tempfile.TemporaryDirectory(prefix="cycleinr-demo-") as temporary:
        world = HeadlessScene(temporary)
        node = world.load_volume(scan)
        source = volume_from_node(node)
        job = UpsampleJob(modality=(facts.modality or "auto").lower(), thickness_mm=facts.thickness_mm)
        result = upsample(source, job, progress=console.hear)
        output_node = node_from_result(world.scene, result.volume, result.report, node)
        console.say(f'scene         MRML of slicer-core: node "{node.GetName()}" gave node "{output_node.GetName()}"')
        files = _deliver(source, volume_from_node(output_node), result.report, scan, folder, console)
        bundle = folder / f"{scan.stem}.mrb"
        saved = world.save(Path(temporary) / "scene.mrb")  # a scene cannot be saved to a name with a leading dot
        write_whole(bundle, lambda partial: shutil.copyfile(saved, partial))
    return (*files, str(bundle)), result.report


def _deliver(
    source: Any, output: Any, report: dict[str, Any], scan: Path, folder: Path, console: Console
) -> tuple[str, ...]:
    """Volume, report and picture; files of an earlier demo are replaced."""
    from ..io.files import write

    tell_result(source, output, report, console)
    volume, facts, picture = (
        folder / f"{scan.stem}{end}" for end in ("_isotropic.nrrd", "_report.json", "_coronal.png")
    )
    write(output, volume, overwrite=True)
    write_text(facts, json.dumps(report, indent=2) + "\n")
    files = [volume, facts]
    if importlib.util.find_spec("matplotlib") is None:
        console.warn('no picture: matplotlib is not installed (pip install "CycleINR[pictures]")')
    else:
        draw(picture, source, output, report)
        files.append(picture)
    return tuple(str(path) for path in files)


def add_options(parser: Parser) -> None:
    """The options of this command."""
    parser.add_argument("--output", metavar="FOLDER", default="demo_output", help="where the files go (%(default)s)")
