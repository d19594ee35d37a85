"""Learning without ground truth as methods of an evaluation, beside the upper bound that has seen it (floor 4).

Each case is one scan: the model is adapted to its thick slices alone, with a fixed number of steps, and then makes the
target slices. `supervised` learns the same steps from the truth of that very case, which no user has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapting.adapt import VAE_STEPS, adapt, tuned
from ..imaging.intensity import IntensityScale
from ..imaging.volume import Volume
from ..jobs import LAST_LAYER, AdaptJob
from ..training.degradation import ScanProtocol
from ..training.patches import SampleConfig
from ..training.scans import Scan
from .case import Case
from .interpolators import Attempt
from .score import Method, product

SUPERVISED, SYNTHESIS = "supervised", "synthesis"  # what is no route of `adapt`


def adapted(route: str, steps: int, seed: int = 0, **job_fields: Any) -> Method:
    """CycleINR adapted to the thick slices of the case by `route`; `job_fields` are those of `UpsampleJob`.

    The adapted network is scored as it is, whether or not it won on held-out slices; facts tell that.
    """

    def run(case: Case) -> Iterator[Attempt]:
        told = None if route == LAST_LAYER else steps
        job = AdaptJob(
            model=str(job_fields.get("model", "auto")), route=route, steps=told, axis="k", seed=seed, device="cpu",
            modality=case.modality.lower(), profile=case.protocol.profile, thickness_mm=case.source.thickness_mm,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            found = adapt([case.source], job, Path(folder))
            facts = {"held_out": found.report["held_out"], "improved": found.report["improved"], "route": route}
            yield from _with(found.learned, found.card, Path(folder), case, {**job_fields, "gain": 1.0}, facts)

    return run


def supervised(steps: int, seed: int = 0, **job_fields: Any) -> Method:
    """The same network trained as long on the truth of the case itself, thickened as the source was: an upper bound."""

    def run(case: Case) -> Iterator[Attempt]:
        from ..network.weights import find_model, load_model

        truth, protocol = case.truth, case.protocol
        own = ScanProtocol(protocol.z_scale, 0.0 if protocol.profile == "skip" else protocol.ratio, protocol.profile)
        scale = IntensityScale.of(truth.values, case.modality).scale
        scan = Scan(truth.name, truth.values, truth.spacing_mm, case.modality, scale, protocols=(own,))
        network, card = load_model(find_model(job_fields.get("model", "auto")))
        samples = SampleConfig(
            slices=min(8, case.count - 2), in_plane_share=0.0, smooth_share=0.0, contrast_share=0.0, noise_share=0.0
        )
        with tempfile.TemporaryDirectory() as folder:
            learned = tuned(network, [scan], samples, Path(folder), steps=steps, seed=seed)
            yield from _with(learned, card, Path(folder), case, {**job_fields, "gain": 1.0}, {"route": SUPERVISED})

    return run


def _with(network: Any, card: Any, folder: Path, case: Case, fields: dict[str, Any], facts: dict[str, Any]):
    from ..network.weights import save_model

    path = save_model(network, card, folder / "adapted.safetensors")
    for attempt in product(**{**fields, "model": str(path)})(case):
        assert isinstance(attempt, Attempt)
        yield replace(attempt, facts={**attempt.facts, **facts})


def synthesis(steps: int, seed: int = 0) -> Method:
    """Stage 1 alone: the synthetic volume that the autoencoder makes of the thick slices, taken for the result."""

    def run(case: Case) -> Iterator[np.ndarray]:
        from ..adapting.synthesis import synthesize, train_vae

        source: Volume = case.source
        scale = IntensityScale.of(source.values, case.modality).scale
        with tempfile.TemporaryDirectory() as folder:
            stacks = [np.asarray(source.values, np.float32) / np.float32(scale)]
            vae = train_vae(stacks, Path(folder) / "vae.state", steps=VAE_STEPS * steps, seed=seed)
        told, modality = case.protocol, case.modality
        made = synthesize(source.values, told.z_scale, vae, scale, seed, modality=modality, ratio=told.thickness)
        yield np.rint(made).astype(source.values.dtype) if source.values.dtype.kind in "iu" else made

    return run
