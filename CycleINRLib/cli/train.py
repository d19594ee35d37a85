"""`cycleinr train`: folders or packs of scans in, a model file with its card out (floor 5)."""

from __future__ import annotations

import math
import os
import platform
import signal
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import RequestError
from ..io.discover import StoredScan, find_scans, read_volume
from ..io.packs import PackedScan
from ..jobs import CHOICES
from ..machine import usable_cores
from ..pictures.training import draw_curves
from ..wholefile import check_file
from .console import Console
from .options import Parser

LEAST_PATCH = 24  # pixels
GRADIENT = 0.3  # weight of the gradient term of least error: sharper at no cost in PSNR


def run(options: Namespace, console: Console) -> None:
    """Train until the steps are done or the minutes are over, and write the averaged network.

    The state lies beside the output (`NAME.state`, with a log `NAME.csv` and its picture `NAME.png`) and is what
    `--resume` goes on from; the model file is replaced with each saved state, so that a run can be stopped at any
    time (Ctrl-C or a polite kill saves first). Started by torchrun, each process trains on its share of every batch.

    Raises
    ------
    RequestError : no scans, a state exists and `--resume` is not given, or the reverse
    VolumeError : a scan cannot be read
    """
    output = Path(options.output)
    state = output.with_suffix(".state")
    if state.exists() != options.resume:
        what = "A run of this name exists already" if state.exists() else "There is no run to resume"
        raise RequestError(what, str(state), "add --resume" if state.exists() else "leave out --resume")
    check_file(output, [".safetensors"], overwrite=options.resume, replacing="remove it first")
    files = list(find_scans([Path(folder) for folder in options.data], options.scans))
    if not any(not facts["held_out"] for _, facts in files):
        raise RequestError("There is nothing to train on", ", ".join(options.data), "name a folder of thin-slice scans")
    from ..network.device import choose_device
    from ..training.ranks import joined

    device = choose_device(options.device)
    with joined(device) as ranks:
        scans = [(replace(read_scan(stored, facts["modality"]), share=_share(facts)), facts) for stored, facts in files]
        _train(options, console if ranks.is_first else Console("nothing", quiet=True), scans, output, device, ranks)


def _train(
    options: Namespace, console: Console, scans: list[tuple[Any, dict]], output: Path, device: str, ranks: Any
) -> None:
    from ..network.weights import find_model, load_model, save_model
    from ..training.train import train, validate

    config, state = _configuration(options), output.with_suffix(".state")
    shown = [scan for scan, facts in scans if not facts["held_out"]]
    hidden = [scan for scan, facts in scans if facts["held_out"]]
    start = time.monotonic()
    card = _card(output.stem, config, shown, [facts for _, facts in scans if not facts["held_out"]], device)

    def save(network: Any, step: int) -> None:
        spent = {"steps_done": step, "seconds_of_last_run": round(time.monotonic() - start), "processes": ranks.world}
        save_model(network, replace(card, training={**card.training, **spent}), output)
        if step % config.validate_every == 0:
            draw_curves(state.with_suffix(".csv"), state.with_suffix(".png"))

    together = f" in {ranks.world} processes" if ranks.world > 1 else ""
    console.mention(
        f"training on {len(shown)} scans, {len(hidden)} held out, on {device}{together}; "
        f"log: {state.with_suffix('.csv')}"
    )
    begin = None if options.start is None else load_model(find_model(options.start))[0]
    with stop_after_saving() as stopped:
        how: dict[str, Any] = {
            "minutes": options.minutes,
            "fit": options.fit,
            "progress": console.hear,
            "cancelled": stopped,
        }
        where: dict[str, Any] = {"device": device, "ranks": ranks}
        data: dict[str, Any] = {"held_out": hidden, "workers": _workers(options, device, ranks.world)}
        network = train(shown, state, config, start_from=begin, on_save=save, **data, **how, **where)
    gain = validate(network, hidden, config, **where) if hidden else None
    console.say(f"written       {output}")
    if gain is not None:
        console.say(f"held out      {gain:+.2f} dB over the closed-form base")
    if ranks.is_first and (problem := draw_curves(state.with_suffix(".csv"), state.with_suffix(".png"))):
        console.mention(problem)
    console.finish({"model": str(output), "held_out_gain_db": gain}, (str(output), str(state)))


def _workers(options: Namespace, device: str, processes: int) -> int:
    """Processes that draw samples: on CUDA as many as there are cores to spare, else none, but a thread."""
    spare = max(1, usable_cores() // processes - 1)
    workers = options.workers if options.workers is not None else min(16, spare) if device == "cuda" else 0
    if workers < 0:
        raise RequestError("The number of workers makes no sense", str(workers), "give 0 or more")
    if workers:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the workers, which start with this environment
    return workers


def _configuration(options: Namespace) -> Any:
    from ..network.model import CONFIGS
    from ..training.objective import Objective
    from ..training.patches import SampleConfig
    from ..training.train import TrainConfig

    if options.patch < LEAST_PATCH or options.patch % 8:
        found = f"{options.patch} pixels"
        raise RequestError("The size of a patch makes no sense", found, f"give a multiple of 8, {LEAST_PATCH} or more")
    if not 0 <= options.cycle < math.inf:
        raise RequestError("The weight of the cycle makes no sense", str(options.cycle), "give 0 or more")
    sizes = {"crop": options.patch, "margin": options.patch // 8}
    return TrainConfig(
        network=CONFIGS[options.network],
        samples=SampleConfig(**sizes, cycle=options.cycle),
        steps=options.steps,
        batch=options.batch,
        optimizer=options.optimizer,
        rate=options.rate,
        seed=options.seed,
        objective=Objective(precision=options.precision, gradient=GRADIENT),
    )


def _card(name: str, config: Any, shown: list[Any], facts: list[dict], device: str) -> Any:
    from ..modelcard import ModelCard

    thin = [mm for scan in shown for mm in scan.spacing_mm]
    finest, coarsest = config.samples.z_scale
    return ModelCard(
        name,
        config.network.to_dict(),
        description=f"Trained by cycleinr train {__version__} on {len(facts)} scans.",
        z_scale_range=(finest, coarsest),
        spacing_range_mm=(round(min(thin) * finest, 2), round(max(thin) * coarsest, 2)),
        ratio_range=config.samples.ratio,
        trained_on=tuple({name: value for name, value in one.items() if name != "held_out"} for one in facts),
        training={"configuration": config.to_dict(), "device": device, "python": platform.python_version()},
    )


def _share(facts: dict[str, Any]) -> float:
    """How often the scan is drawn, relative to the others of its modality: 1 where nothing is told."""
    share = facts.get("share", 1)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < math.inf:
        raise RequestError(
            "The share of a scan makes no sense", f"{share!r} of {facts['scan']}", "give a number above 0"
        )
    return float(share)


def read_scan(stored: StoredScan, modality: str | None) -> Any:
    """The scan ready for drawing samples; of a pack, its values stay in the file until they are looked at."""
    from ..training.scans import Scan

    return Scan.of(stored if isinstance(stored, PackedScan) else read_volume(stored, modality))


@contextmanager
def stop_after_saving() -> Iterator[Any]:
    """The first Ctrl-C or polite kill asks the loop to save and stop, another Ctrl-C a second later stops at once.

    What is ignored already stays so: shells let the background jobs of a script ignore Ctrl-C.
    """
    asked: float | None = None

    def note(number: int, _: object) -> None:
        nonlocal asked
        # torchrun sends on what the terminal has sent already: two signals at once are one wish
        if asked is not None and number == signal.SIGINT and time.monotonic() - asked > 1:
            raise KeyboardInterrupt
        asked = asked or time.monotonic()

    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield lambda: asked is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def add_options(parser: Parser) -> None:
    """The options of this command."""
    parser.add_argument("data", metavar="DATA", nargs="+", help="folders of thin-slice scans, or packs of them")
    parser.add_argument("--output", metavar="FILE.safetensors", required=True)
    parser.add_argument("--scans", metavar="FILE.json", help="use these scans alone, with these facts about them")
    parser.add_argument("--network", choices=["light", "base"], default="light", help="its size (%(default)s)")
    parser.add_argument(
        "--cycle", metavar="W", type=float, default=0.0, help="weight of the cycle-consistent loss (%(default)s)"
    )
    parser.add_argument("--steps", metavar="N", type=int, default=20000, help="length of the run (%(default)s)")
    parser.add_argument("--minutes", metavar="M", type=float, help="stop earlier; --resume goes on")
    parser.add_argument("--fit", action="store_true", help="--minutes is the length of the run, not --steps")
    parser.add_argument("--start", metavar="MODEL", help="begin with the weights of a model: light, or a file")
    parser.add_argument("--resume", action="store_true", help="go on exactly where the last run into OUTPUT stopped")
    parser.add_argument("--batch", metavar="N", type=int, default=4, help="patches a step (%(default)s)")
    parser.add_argument(
        "--patch", metavar="PIXELS", type=int, default=64, help="rows and columns of a patch (%(default)s)"
    )
    parser.add_argument(
        "--optimizer", choices=["adamw", "muon"], default="adamw", help="muon learns faster, see docs (%(default)s)"
    )
    parser.add_argument("--rate", metavar="R", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--device", choices=CHOICES["device"], default="auto")
    parser.add_argument("--workers", metavar="N", type=int, help="processes that draw samples (CUDA: each core)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="(%(default)s)")
