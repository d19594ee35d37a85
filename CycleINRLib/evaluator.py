"""`cycleinr evaluate`: scans whose truth is known in, a table of every method out (floor 4).

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

from . import __version__
from .contenders import choose_contenders
from .errors import RequestError, VolumeError
from .evaluation_cases import Setting, all_cases, read_truth
from .io.files import EXTENSIONS, stem_of, write
from .outputs import write_text
from .talk import Talk
from .tasks.evaluate import PROTOCOL, Case, Protocol
from .tasks.tables import markdown

PACKAGES = ("numpy", "scipy", "torch")


def run_evaluation(options: Namespace, talk: Talk) -> None:
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
        write_sources(Path(options.write_sources), files, protocols, setting, talk)
        return
    contenders = choose_contenders(options, talk)
    folder = Path(options.output) if options.output else None
    if options.resume and folder is None:
        raise RequestError("There is nothing to resume", "no --output", "name the folder of the earlier run")
    if folder:
        _prepare(folder, options.resume)
    cases = all_cases(files, protocols, setting, contenders, folder, options.jobs, talk)
    record = {
        "version": __version__,
        "protocol": PROTOCOL,
        "setting": {**asdict(setting), "block": setting.block or None},
        "versions": {"python": platform.python_version(), **_versions()},
        "methods": {one.name: one.facts() for one in contenders},
        "cases": cases,
    }
    written = _write(folder, record) if folder else ()
    talk.say(markdown(record, every_case=folder is None))
    for path in written:
        talk.say(f"written       {path}")
    talk.finish(record if talk.way == "json" else {"cases": len(cases)}, written)


# --- what is asked --------------------------------------------------------------------------------------------
def find_truths(paths: list[Path]) -> dict[str, Path]:
    """Name to path of every scan: files as they are, folders by their files of a known ending."""
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise VolumeError("There is no such file or folder", str(path), "name scans of thin slices")
        inside = [one for one in sorted(path.iterdir()) if _is_scan(one)] if path.is_dir() else [path]
        for one in inside or [path]:  # a folder without such files: a DICOM series
            if (name := stem_of(one)) in found:
                raise RequestError("Two scans have the same name", f"{found[name]} and {one}", "rename one of them")
            found[name] = one
    return found


def _is_scan(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith((*EXTENSIONS, ".mhd"))


def all_protocols(options: Namespace) -> list[Protocol]:
    """Every z-scale with every profile, ratio and phase that makes sense, each once.

    Skip knows no ratio and whole phases alone; phases from the z-scale on are those of the next slice and left out.
    """
    found: dict[Protocol, None] = {}
    for z_scale in options.z_scales:
        for profile in options.profiles:
            for ratio in options.ratios if profile != "skip" else [1.0]:
                for phase in options.phases:
                    if phase < z_scale and not (profile == "skip" and phase % 1):
                        found[Protocol(z_scale, profile, ratio, phase)] = None
    if not found:
        raise RequestError("No case is left", f"phases {options.phases}", "give phase 0, which fits every z-scale")
    return list(found)


# --- files ----------------------------------------------------------------------------------------------------
def _prepare(folder: Path, resume: bool) -> None:
    if not folder.absolute().parent.is_dir():
        raise RequestError("The output folder cannot be made", str(folder), "make the folder above it first")
    if folder.exists() and not folder.is_dir():
        raise RequestError("The output is no folder", str(folder), "name a folder")
    if (folder / "cases").exists() and not resume:
        raise RequestError("The folder holds an evaluation already", str(folder), "add --resume, or choose another")
    (folder / "cases").mkdir(parents=True, exist_ok=True)


def _write(folder: Path, record: dict[str, Any]) -> tuple[str, ...]:
    """evaluation.json, evaluation.md and the pictures."""
    from .evaluation_pictures import draw_all

    texts = {
        "evaluation.json": json.dumps(record, indent=1, allow_nan=False) + "\n",
        "evaluation.md": markdown(record),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return tuple(str(path) for path in (*(folder / name for name in texts), *draw_all(folder, record)))


def write_sources(
    folder: Path, files: dict[str, Path], protocols: list[Protocol], setting: Setting, talk: Talk
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
                talk.warn(f"{truth.name} {protocol} is left out: {error}")
                continue
            write(case.source, folder / f"{case.name}.nrrd", overwrite=True)
            target = {"dimensions": list(case.target.shape[::-1]), "ijk_to_ras": case.target.ijk_to_ras.tolist()}
            told[case.name] = {**case.facts(), "target": target}
            talk.say(f"written       {folder / case.name}.nrrd")
    write_text(folder / "sources.json", json.dumps(told, indent=1) + "\n")
    talk.finish({"sources": told}, (str(folder / "sources.json"),))


# --- words ----------------------------------------------------------------------------------------------------
def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
