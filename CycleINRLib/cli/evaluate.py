"""`cycleinr evaluate`: scans whose truth is known in, a table of every method out (floor 5).

Cases (a scan, z-scale, profile, thickness ratio and phase) are independent: `--jobs` of them run at a time, each in a
process. With `--output` each finished case is a file in `cases/`, which `--resume` goes on from; only what is missing
there, a new model say, is computed again.
"""

from __future__ import annotations

import json
import platform
from argparse import Namespace
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import RequestError, VolumeError
from ..evaluation.case import PROTOCOL, Acquisition, Case
from ..evaluation.methods import choose_methods
from ..evaluation.runner import Setting, all_cases, read_truth
from ..evaluation.tables import markdown
from ..io.files import write
from ..io.names import is_named_as_scan, stem_of
from ..jobs import CHOICES, ROUTES
from ..wholefile import check_folder, write_text
from .console import Console
from .options import Parser, add_json

PACKAGES = ("numpy", "scipy", "torch")


def run(options: Namespace, console: Console) -> None:
    """Score every method on every case, write and tell the table.

    Raises
    ------
    RequestError : options that contradict, no scan, names that occur twice, an output folder in use without `--resume`
    VolumeError : no scan has slices enough for any case
    """
    if options.jobs < 1 or options.block < 0:
        found = f"--jobs {options.jobs}, --block {options.block}"
        raise RequestError("The number of jobs or pixels makes no sense", found, "give whole numbers above 0")
    setting = Setting(options.axis, options.block, options.modality)
    files = find_truths([Path(path) for path in options.truth])
    protocols = all_protocols(options)
    if options.write_sources:
        write_sources(Path(options.write_sources), files, protocols, setting, console)
        return
    methods = choose_methods(options, console)
    folder = Path(options.output) if options.output else None
    if options.resume and folder is None:
        raise RequestError("There is nothing to resume", "no --output", "name the folder of the earlier run")
    if folder:
        _prepare(folder, options.resume)
    cases = all_cases(files, protocols, setting, methods, folder, options.jobs, console)
    record = {
        "version": __version__,
        "protocol": PROTOCOL,
        "setting": {**asdict(setting), "block": setting.block or None},
        "versions": {"python": platform.python_version(), **_versions()},
        "methods": {one.name: one.facts() for one in methods},
        "cases": cases,
    }
    written = _write(folder, record) if folder else ()
    console.say(markdown(record, every_case=folder is None))
    for path in written:
        console.say(f"written       {path}")
    console.finish(record if console.way == "json" else {"cases": len(cases)}, written)


# --- what is asked --------------------------------------------------------------------------------------------
def find_truths(paths: list[Path]) -> dict[str, Path]:
    """Name to path of every scan: files as they are, folders by their files of a known ending."""
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise VolumeError("There is no such file or folder", str(path), "name scans of thin slices")
        inside = (
            [one for one in sorted(path.iterdir()) if one.is_file() and is_named_as_scan(one)]
            if path.is_dir()
            else [path]
        )
        for one in inside or [path]:  # a folder without such files: a DICOM series
            if (name := stem_of(one)) in found:
                raise RequestError("Two scans have the same name", f"{found[name]} and {one}", "rename one of them")
            found[name] = one
    return found


def all_protocols(options: Namespace) -> list[Acquisition]:
    """Every z-scale with every profile, ratio and phase that makes sense, each once.

    Skip knows no ratio and whole phases alone; phases from the z-scale on are those of the next slice and left out.
    """
    found: dict[Acquisition, None] = {}
    for z_scale in options.z_scales:
        for profile in options.profiles:
            for ratio in options.ratios if profile != "skip" else [1.0]:
                for phase in options.phases:
                    if phase < z_scale and not (profile == "skip" and phase % 1):
                        found[Acquisition(z_scale, profile, ratio, phase)] = None
    if not found:
        raise RequestError("No case is left", f"phases {options.phases}", "give phase 0, which fits every z-scale")
    return list(found)


# --- files ----------------------------------------------------------------------------------------------------
def _prepare(folder: Path, resume: bool) -> None:
    check_folder(folder)
    if (folder / "cases").exists() and not resume:
        raise RequestError("The folder holds an evaluation already", str(folder), "add --resume, or choose another")
    (folder / "cases").mkdir(parents=True, exist_ok=True)


def _write(folder: Path, record: dict[str, Any]) -> tuple[str, ...]:
    """evaluation.json, evaluation.md and the pictures."""
    from ..evaluation.pictures import draw_all

    texts = {
        "evaluation.json": json.dumps(record, indent=1, allow_nan=False) + "\n",
        "evaluation.md": markdown(record),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return tuple(str(path) for path in (*(folder / name for name in texts), *draw_all(folder, record)))


def write_sources(
    folder: Path, files: dict[str, Path], protocols: list[Acquisition], setting: Setting, console: Console
) -> None:
    """The thick sources of all cases as NRRD, and what another program must know of them in sources.json.

    Each is called by its case, has its true place and, where slices average, its slice thickness; results under the
    same name in another folder are scored by `--add NAME=FOLDER`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = {}
    for path in files.values():
        truth = read_truth(path, setting)
        for protocol in protocols:
            try:
                case = Case.of(truth, protocol)
            except VolumeError as error:
                console.warn(f"{truth.name} {protocol} is left out: {error}")
                continue
            write(case.source, folder / f"{case.name}.nrrd", overwrite=True)
            target = {"dimensions": list(case.target.shape[::-1]), "ijk_to_ras": case.target.ijk_to_ras.tolist()}
            told[case.name] = {**case.facts(), "target": target}
            console.say(f"written       {folder / case.name}.nrrd")
    write_text(folder / "sources.json", json.dumps(told, indent=1) + "\n")
    console.finish({"sources": told}, (str(folder / "sources.json"),))


# --- words ----------------------------------------------------------------------------------------------------
def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def add_options(parser: Parser) -> None:
    """The options of this command."""
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
    methods.add_argument("--noise", metavar="N", nargs="+", default=["auto"], help="each for every model, likewise")
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
    add_json(parser)


COMPARED = (*ROUTES[1:], "synthesis", "supervised")  # routes of adapt; stage 1 alone; the upper bound


PROFILES = ("skip", "box", "gaussian")
