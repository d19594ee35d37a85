"""`cycleinr train`: folders of scans in, a model file with its card out (floor 4).

A folder may hold `scans.json`, which says of each scan what a file does not: {"NAME.nrrd": {"modality": "CT",
"license": "...", "source": "...", "held_out": true}}. Those that are held out are never trained on, only scored.
With `--scans FILE` these facts come from FILE, and only the scans that it names are used.
"""

from __future__ import annotations

import json
import platform
import signal
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import __version__
from .errors import RequestError, VolumeError
from .outputs import check_file
from .talk import Talk

FACTS = "scans.json"
ENDINGS = (".nrrd", ".nii", ".nii.gz", ".mha", ".mhd")
KINDS = {"ct": "CT", "mr": "MR"}


def run_training(options: Namespace, talk: Talk) -> None:
    """Train until the steps are done or the minutes are over, and write the averaged network.

    The state lies beside the output (`NAME.state`, with a log `NAME.csv`) and is what `--resume` goes on from; the
    model file is replaced with each saved state, so that a run can be stopped at any time (Ctrl-C saves first).

    Raises
    ------
    RequestError : no scans, a state exists and `--resume` is not given, or the reverse
    VolumeError : a scan cannot be read
    """
    output = Path(options.output)
    check_file(output, ".safetensors", overwrite=options.resume)
    state = output.with_suffix(".state")
    if state.exists() != options.resume:
        what = "A run of this name exists already" if state.exists() else "There is no run to resume"
        raise RequestError(what, str(state), "add --resume" if state.exists() else "leave out --resume")
    files = list(find_scans([Path(folder) for folder in options.data], options.scans))
    if not any(not facts["held_out"] for _, facts in files):
        raise RequestError("There is nothing to train on", ", ".join(options.data), "name a folder of thin-slice scans")
    scans = [(read_scan(path, facts["modality"]), facts) for path, facts in files]
    _train(options, talk, scans, output, state)


def _train(options: Namespace, talk: Talk, scans: list[tuple[Any, dict]], output: Path, state: Path) -> None:
    from .network.device import choose_device
    from .network.model import CONFIGS
    from .network.weights import find_model, load_model, save_model
    from .tasks.train import TrainConfig, train, validate

    config = TrainConfig(
        network=CONFIGS[options.network],
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
    )
    device = choose_device(options.device)
    shown = [scan for scan, facts in scans if not facts["held_out"]]
    hidden = [scan for scan, facts in scans if facts["held_out"]]
    start = time.monotonic()
    card = _card(output.stem, config, shown, [facts for _, facts in scans if not facts["held_out"]], device)

    def save(network: Any, step: int) -> None:
        spent = {"steps_done": step, "seconds_of_last_run": round(time.monotonic() - start)}
        save_model(network, replace(card, training={**card.training, **spent}), output)

    talk.mention(
        f"training on {len(shown)} scans, {len(hidden)} held out, on {device}; log: {state.with_suffix('.csv')}"
    )
    begin = None if options.start is None else load_model(find_model(options.start))[0]
    with _stop_after_saving() as stopped:
        options_of_run = {"minutes": options.minutes, "device": device, "progress": talk.hear, "cancelled": stopped}
        network = train(shown, state, config, start_from=begin, held_out=hidden, on_save=save, **options_of_run)
    gain = validate(network, hidden, config, device) if hidden else None
    talk.say(f"written       {output}")
    if gain is not None:
        talk.say(f"held out      {gain:+.2f} dB over the closed-form base")
    talk.finish({"model": str(output), "held_out_gain_db": gain}, (str(output), str(state)))


def _card(name: str, config: Any, shown: list[Any], facts: list[dict], device: str) -> Any:
    from .modelcard import ModelCard

    thin = [mm for scan in shown for mm in scan.spacing_mm]
    finest, coarsest = config.samples.z_scale
    return ModelCard(
        name,
        config.network.to_dict(),
        description=f"Trained by cycleinr train {__version__} on {len(facts)} scans.",
        z_scale_range=(finest, coarsest),
        spacing_range_mm=(round(min(thin) * finest, 2), round(max(thin) * coarsest, 2)),
        trained_on=tuple({name: value for name, value in one.items() if name != "held_out"} for one in facts),
        training={"configuration": config.to_dict(), "device": device, "python": platform.python_version()},
    )


def find_scans(folders: list[Path], listed: str | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each scan with its facts: scan, modality, license, source, held_out; a DICOM folder inside is one scan."""
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise VolumeError("There is no such folder", ", ".join(missing), "name a folder of thin-slice scans")
    for path in [Path(listed)] if listed else [folder / FACTS for folder in folders]:
        names = {entry.name for folder in folders for entry in folder.iterdir()}
        if unknown := sorted(set(_told(path, bool(listed))) - names):
            raise RequestError("The facts name scans that are not there", ", ".join(unknown), f"correct {path}")
    for folder in folders:
        told = _told(Path(listed) if listed else folder / FACTS, bool(listed))
        for entry in sorted(folder.iterdir()):
            if _may_be_scan(entry) and (not listed or entry.name in told):
                facts = {"license": None, "source": None, "held_out": False, **told.get(entry.name, {})}
                kind = facts.get("modality") or KINDS.get(entry.name[:2].lower())
                yield entry, {"scan": entry.name, **facts, "modality": kind}


def _may_be_scan(entry: Path) -> bool:
    return not entry.name.startswith(".") and (entry.is_dir() or entry.name.lower().endswith(ENDINGS))


def _told(path: Path, required: bool) -> dict[str, dict[str, Any]]:
    if not required and not path.exists():
        return {}
    try:
        told = json.loads(path.read_text("utf-8"))
        if not all(isinstance(facts, dict) for facts in told.values()):
            raise ValueError("not an object of objects")
    except (OSError, ValueError, AttributeError) as error:
        found = f"{path}: {error}"
        raise RequestError("The facts about the scans cannot be read", found, "write a JSON object") from error
    return told


def read_scan(path: Path, modality: str | None) -> Any:
    """The scan ready for drawing samples; its modality as told, else as the file says or its values suggest."""
    from .io.files import read
    from .tasks.samples import Scan

    volume = read(path)
    return Scan.of(replace(volume, modality=volume.modality or modality))


@contextmanager
def _stop_after_saving() -> Iterator[Any]:
    """The first Ctrl-C asks the loop to save and stop, a second one stops at once."""
    asked = False

    def note(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
