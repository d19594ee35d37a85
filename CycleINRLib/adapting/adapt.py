"""Learning without ground truth: a model adapted to scans of thick slices alone (floor 3).

    scans -> ready (protocol, held-out slices) -> pairs by a route -> learn from the starting weights -> compare

Routes, what learns and where its pairs come from:

    last-layer  lines as in-plane takes them; the last layer alone is fitted, in closed form (`lastlayer`)
    in-plane    lines within the acquired slices, averaged and sampled as the scanner did across them (SMORE's way)
    synthetic   a VAE makes volumes of reduced spacing, which are degraded again (Xuan et al., arXiv 2003.12627)
    direct      synthetic volumes paired with the real scans: what that paper warns of, kept for comparison

Of the routes that train, all but `direct` run the cycle-consistent loss on the acquired slices themselves.
`docs/adapt.md` says how the routes compare. The adapted model must be better than the starting one on acquired slices
that it did not learn from.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import Cancelled, VolumeError
from ..events import Event, Listener, Progress, Stopwatch, Warned
from ..imaging.volume import Volume
from ..jobs import LAST_LAYER, SCRATCH, TWO_STAGES, AdaptJob, UpsampleJob
from ..modelcard import ModelCard
from .thick import ThickScan, groups, ready

VAE_SHARE = 0.4  # of the minutes, for the first stage of two
VAE_STEPS = 4  # for each step of the network, where steps are asked for
BATCH = 4
RATE = 1.5e-4  # more moves the network further from the start than one scan can tell
SCRATCH_RATE = 2e-3  # as `cycleinr train`
CYCLE_SHARE = 0.1  # of the samples, acquired slices for the cycle alone: each costs three passes
_MOST_SLICES, LEAST_PATCH_SLICES = 8, 5  # acquired slices of a patch
MOST_CROP, LEAST_CROP = 40, 24  # rows and columns of a patch
BETTER_DB = 0.02  # on what is held out, from which an adapted model counts as better
CHANCE_DB = 0.1  # by which a handful of slices can be worse by chance

Stop = Callable[[], bool] | None


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model and what is known of it.

    network : CycleINR on the CPU: the adapted one, or the starting one where that was better
    learned : the adapted one in any case
    card : its model card, without a name
    sample : where a synthetic volume was made, acquired slices (N, J, I), the synthetic ones, and their scan
    report : improved, route, held_out, groups, synthetic, seconds, warnings; ready for JSON
    """

    network: Any
    learned: Any
    card: ModelCard
    report: dict[str, Any]
    sample: tuple[np.ndarray, np.ndarray, ThickScan] | None = None


def adapt(
    volumes: Sequence[Volume],
    job: AdaptJob,
    folder: Path,
    *,
    progress: Listener | None = None,
    cancelled: Stop = None,
) -> Adapted:
    """Adapts the starting model of `job` to scans of thick slices, which have no truth.

    Parameters
    ----------
    volumes : the scans, (K, J, I) in HU (CT) or stored units (MR), all of one modality
    job : what is asked for; its paths are not looked at, but for the model's
    folder : for the states of the stages; a later call with the same scans and job goes on from them
    progress : told events.Progress of the stages "synthesize", "adapt" and "self_check", and events.Warned
    cancelled : looked at before each step; true saves the state and stops

    Returns
    -------
    Adapted

    Raises
    ------
    VolumeError : no scan can be learned from; says why
    RequestError : CT and MR together
    ModelError : the starting weights cannot be read, or the states in `folder` belong to another network
    Cancelled : `cancelled()` turned true
    """
    start = time.monotonic()
    warnings: list[str] = []
    hear = _heard_by(progress, warnings)
    scans = ready(volumes, job, hear)
    folder.mkdir(parents=True, exist_ok=True)
    from ..network.device import choose_device, choose_precision
    from ..network.weights import find_model, load_model

    device = choose_device(job.device)
    path = _untrained(folder, job.seed) if job.model == SCRATCH else find_model(job.model)
    network, card = load_model(path)
    precision = choose_precision(job.precision, device)
    job = job.settled("float32" if precision == "float16" else precision)  # in which nothing is learned
    how: dict[str, Any] = {"device": device, "precision": job.precision, "progress": hear, "cancelled": cancelled}
    synthetic, realism, lines_db = None, None, None
    if job.route == LAST_LAYER:
        from .lastlayer import fitted

        learned, lines_db = fitted(network, scans, **how)
    else:
        how |= {"seed": job.seed, "rate": SCRATCH_RATE if job.model == SCRATCH else RATE}
        if job.route in TWO_STAGES:
            synthetic, realism = _synthetic(scans, job, folder, how)
        learned = _learn(scans, synthetic, network, job, folder, how)
    held_out = {**compare_held_out(scans, path, learned, hear, cancelled), "lines_gain_db": lines_db}
    improved = is_better(held_out["psnr_db"] - held_out["psnr_start_db"], lines_db)
    report = {
        "version": __version__,
        "improved": improved,
        "route": job.route,
        "start": {"name": card.name, "file": path.name},
        "held_out": held_out,
        "groups": groups(scans),
        "synthetic": realism,
        "seconds": round(time.monotonic() - start, 1),
        "warnings": warnings,
        "job": job.to_json(),
    }
    sample = None if synthetic is None else (scans[0].shown[0], synthetic[0][0], scans[0])
    return Adapted(learned if improved else network, learned, _card(card, scans, report), report, sample)


def _untrained(folder: Path, seed: int) -> Path:
    """A network of `light`'s size that knows nothing: its correction is about zero."""
    import torch

    from ..network.model import CONFIGS, CycleINR
    from ..network.weights import save_model

    torch.manual_seed(seed)
    card = ModelCard(SCRATCH, CONFIGS["light"].to_dict(), description="Untrained.", z_scale_range=(16.0, 1.0))
    card = dataclasses.replace(card, spacing_range_mm=(1000.0, 0.0))  # adapting widens both to what it saw
    return save_model(CycleINR(CONFIGS["light"]), card, folder / f"{SCRATCH}.safetensors")


def _heard_by(progress: Listener | None, warnings: list[str]) -> Listener:
    """A listener that keeps the warnings and calls the training of the network by the name of this task."""

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            warnings.append(event.message)
        if isinstance(event, Progress) and event.stage == "train":
            event = dataclasses.replace(event, stage="adapt")
        if progress is not None:
            progress(event)

    return hear


# --- pairs --------------------------------------------------------------------------------------------------------
def _synthetic(scans: Sequence[ThickScan], job: AdaptJob, folder: Path, how: dict[str, Any]):
    """Stage 1: for each shown stretch of each scan, a synthetic volume (or None: too few slices); and its realism."""
    from .realism import realism
    from .synthesis import synthesize, train_vae

    stacks = [np.asarray(part, np.float32) / np.float32(scan.scale) for scan in scans for part in scan.shown]
    minutes = job.minutes or 0.0
    budget: dict[str, Any] = {"steps": VAE_STEPS * job.steps} if job.steps else {"minutes": VAE_SHARE * minutes}
    told = {name: how[name] for name in ("progress", "cancelled")}
    vae = train_vae(stacks, folder / "vae.state", seed=job.seed, device=how["device"], **budget, **told)
    made: list[list[np.ndarray | None]] = []
    for scan in scans:
        how_thick: dict[str, Any] = {"modality": scan.modality, "ratio": scan.protocol.ratio}
        made.append(
            [
                synthesize(part, scan.protocol.z_scale, vae, scan.scale, job.seed, **how_thick, **told)
                if len(part) >= LEAST_PATCH_SLICES
                else None
                for part in scan.shown
            ]
        )
    first, shown = scans[0], made[0][0]
    assert shown is not None  # the lower half of a scan has six slices at least
    return made, realism(first.shown[0], shown, first.protocol.z_scale, first.modality, seed=job.seed)


def _learn(
    scans: Sequence[ThickScan], synthetic, network: Any, job: AdaptJob, folder: Path, how: dict[str, Any]
) -> Any:
    """Stage 2: the starting network, trained on the pairs of the route."""
    from ..training.patches import SampleConfig

    known = [
        _pairs(scan, part, None if synthetic is None else synthetic[n][m])
        for n, scan in enumerate(scans)
        for m, part in enumerate(scan.shown)
        if synthetic is None or synthetic[n][m] is not None
    ]
    samples = SampleConfig(
        **_patch_sizes(known, job.route),
        in_plane_share=0.0,
        smooth_share=0.0,
        contrast_share=0.0,
        noise_share=0.0,
        acquired_share=CYCLE_SHARE,
        direct=job.route == "direct",
    )
    minutes = (1 - VAE_SHARE * (synthetic is not None)) * (job.minutes or 0.0)
    budget = {"steps": job.steps} if job.steps else {"minutes": minutes}
    return tuned(network, known, samples, folder, **budget, **how)


def tuned(
    network: Any,
    scans: Sequence[Any],
    samples: Any,
    folder: Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    rate: float = RATE,
    precision: str = "float32",
    **how: Any,
) -> Any:
    """The network after a short training on samples of `scans`, from where it stands, on the CPU.

    how : seed, device, progress, cancelled
    """
    from ..training.objective import Objective
    from ..training.train import TrainConfig, train

    config = TrainConfig(
        network=network.config, samples=samples, steps=steps or 1000, batch=BATCH, rate=rate, warmup=20,
        objective=Objective(precision=precision), ema=0.98, seed=how.pop("seed", 0), save_every=50, log_every=5,
    )  # fmt: skip
    state = folder / "network.state"
    learned = train(scans, state, config, start_from=network, minutes=minutes, fit=steps is None, **how)
    return learned.to("cpu").eval().requires_grad_(False)


def _pairs(scan: ThickScan, part: np.ndarray, synthetic: np.ndarray | None):
    """Where samples of one stretch of acquired slices are drawn from: its own lines, or its synthetic volume."""
    from ..training.scans import Scan

    return Scan(
        scan.volume.name,
        part if synthetic is None else synthetic,
        scan.fine_mm,
        scan.modality,
        scan.scale,
        finer=(scan.protocol.z_scale if synthetic is None else 1.0, 1.0, 1.0),
        protocols=scan.protocols,
        acquired=part,
    )


def _patch_sizes(scans: Sequence[Any], route: str) -> dict[str, Any]:
    """Slices, rows and columns of a patch: as many as the largest stretch has room for."""
    largest = max(scans, key=lambda scan: len(scan.acquired))
    count, rows = len(largest.acquired), min(largest.acquired.shape[1:])
    deep = int((count - 1) * largest.protocols[0].z_scale) + 1  # slices once the stretch is filled
    z, ratio = largest.protocols[-1].z_scale, largest.protocols[-1].ratio
    along = deep if route in TWO_STAGES else rows  # samples of a line that is degraded
    room = int((along - 1) / z - 2 * max(ratio, 1 / z)) + 1
    slices = max(LEAST_PATCH_SLICES, min(_MOST_SLICES, room, count - 1))
    within = min(rows, deep) if route not in TWO_STAGES else rows
    crop = min(MOST_CROP, within - within % 4)
    if crop < LEAST_CROP:
        found = f"{count} slices shown, {rows} rows or columns"
        raise VolumeError("The scan is too small to learn from", found, "give scans of more slices or a larger field")
    return {"slices": slices, "crop": crop}


# --- examination --------------------------------------------------------------------------------------------------
def compare_held_out(
    scans: Sequence[ThickScan], start: Path, learned: Any, progress: Listener | None = None, cancelled: Stop = None
) -> dict[str, Any]:
    """Every second held-out slice predicted from the others by both networks, as they are (gain 1).

    Returns
    -------
    slices predicted; psnr_db, psnr_start_db, psnr_cubic_db: means over the scans, in dB; scans: the same for each
    """
    watch = Stopwatch("self_check", len(scans), progress)
    found = []
    for scan in scans:
        if cancelled is not None and cancelled():
            raise Cancelled()
        found.append({"scan": scan.volume.name, **_examined(scan, start, learned)})
        watch.step()
    names = ("psnr_db", "psnr_start_db", "psnr_cubic_db")
    means = {name: round(float(np.mean([one[name] for one in found])), 3) for name in names}
    return {"slices": sum(one["slices"] for one in found), **means, "scans": found}


def _examined(scan: ThickScan, start: Path, learned: Any) -> dict[str, Any]:
    from ..upsampling.engine import Engine
    from ..upsampling.gain import Dropped, middle_block
    from ..upsampling.plan import plan

    asked = UpsampleJob(
        axis="k", modality=scan.modality.lower(), profile=scan.protocol.profile, thickness_mm=scan.thickness_mm,
        z_scale=2.0, model=str(start), device="cpu", precision="float32", noise="acquired",
    )  # fmt: skip
    engine = Engine.of(scan.volume, asked, plan(scan.volume, asked), None, None)
    block = middle_block(np.asarray(scan.held_out, np.float32), (len(scan.held_out), 192, 192))
    before = Dropped.of(engine, block)
    assert before is not None  # at least five slices are held out
    after = Dropped.of(engine.with_network(learned), block)
    assert after is not None
    old, new = before.decibels(1.0, scan.modality), after.decibels(1.0, scan.modality)
    return {
        "slices": len(before.truth),
        "psnr_db": new["psnr_db"],
        "psnr_start_db": old["psnr_db"],
        "psnr_cubic_db": old["psnr_cubic_db"],
    }


def is_better(gain_db: float, lines_gain_db: float | None) -> bool:
    """Whether a model is kept, by its gain on dropped slices and, where the last layer alone was fitted, on lines.

    Both are seen twice as far apart, or along the wrong axis: on real scans they told little of the gain on slices
    half-way between all, which was above 0 on most. So they can forbid a fitted layer, where they are clearly worse;
    a trained network, which loses more often, must do better.
    """
    if lines_gain_db is None:
        return gain_db >= BETTER_DB
    return min(gain_db, lines_gain_db) >= -CHANCE_DB


def _card(start: ModelCard, scans: Sequence[ThickScan], report: dict[str, Any]) -> ModelCard:
    """The card of the result: that of the start, what it was adapted to and how it did on held-out slices."""
    kept = {name: report[name] for name in ("version", "route", "start", "improved", "groups", "seconds")}
    if not report["improved"]:
        text = f"{start.name} as it was: adapting it to {len(scans)} scans did not make it better on held-out slices."
        return dataclasses.replace(start, description=text, training={**start.training, "adapted": kept})
    facts = [{"scan": s.volume.name, "modality": s.modality, "license": None, "source": "adapted to"} for s in scans]
    z = [protocol.z_scale for scan in scans for protocol in scan.protocols]
    mm = [scan.volume.spacing_mm[0] for scan in scans]
    return dataclasses.replace(
        start,
        description=f"{start.name} adapted to {len(scans)} {scans[0].modality} scans by CycleINR {__version__}.",
        z_scale_range=(min([start.z_scale_range[0], *z]), max([start.z_scale_range[1], *z])),
        spacing_range_mm=(min([start.spacing_range_mm[0], *mm]), max([start.spacing_range_mm[1], *mm])),
        trained_on=(*start.trained_on, *facts),
        training={**start.training, "adapted": kept},
        figures={"held_out": report["held_out"], "of_the_start": start.figures},
        limits=(*start.limits, "Adapted to the scans named here: for other scans take the bundled model."),
    )
