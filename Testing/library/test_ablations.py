"""The ablations train alike but for the named part, and a stopped run goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

from CycleINRLib.network.model import NetworkConfig  # noqa: E402
from CycleINRLib.training.patches import SampleConfig, draw_batch  # noqa: E402
from CycleINRLib.training.scans import Scan  # noqa: E402

TINY = NetworkConfig(channels=8, blocks=2, codes=8, hidden=8, key=4)


@pytest.fixture(scope="module")
def ablations(benchmark_module) -> ModuleType:
    module = benchmark_module("ablations")
    module.BATCHES = 1
    return module


@pytest.fixture(scope="module")
def scans(ct_thin, mr_thin) -> list[Scan]:
    return [Scan.of(ct_thin), Scan.of(mr_thin)]


def test_a_variant_sees_the_same_patch_but_for_its_part(ablations: ModuleType, scans):
    variants = {variant.name: variant for variant in ablations.VARIANTS}
    batch = draw_batch(scans, SampleConfig(), 4, 0, 0)
    assert variants["full"].seen(batch) is batch
    untold = variants["thickness not told"].seen(batch)
    assert not untold.condition[:, [0, 1]].any() and batch.condition[:, [0, 1]].any()
    assert not untold.places.query[..., [3, 4]].any() and torch.equal(untold.source, batch.source)
    cubic = variants["cubic base"].seen(batch)
    assert not torch.equal(cubic.places.weights, batch.places.weights)
    assert torch.equal(cubic.truth, batch.truth) and torch.equal(cubic.places.t, batch.places.t)


@pytest.mark.parametrize("name", ["full", "without LAM", "cubic base", "with the cycle"])
def test_a_variant_learns_from_scans_and_is_scored_on_others(ablations: ModuleType, scans, name: str):
    (variant,) = (variant for variant in ablations.VARIANTS if variant.name == name)
    variant = dataclasses.replace(variant, network=dataclasses.replace(TINY, attention=variant.network.attention))
    network, pace = ablations.trained(variant, scans, 1)
    assert pace > 0 and (network.attend is None) == (name == "without LAM")
    found = ablations.figures(variant, network, scans)
    assert set(found) == {"CT gain", "MR gain"}
    assert all(value == value and abs(value) < 10 for value in found.values())


def test_what_is_done_is_not_done_again(ablations: ModuleType, tmp_path: Path, monkeypatch, capsys):
    known = {"full": {"CT gain": 0.3, "MR gain": -0.2, "steps": 9}}
    known["full"] |= {"seconds_per_step": 1.5, "parameters": 7}
    (tmp_path / "found.json").write_text(json.dumps(known), "utf-8")
    monkeypatch.setattr(ablations, "trained", lambda *_: pytest.fail("trained again"))
    folders = [str(tmp_path), str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["x", *folders, "--only", "full", "--json", str(tmp_path / "found.json")])
    ablations.main()
    assert "| full | +0.30 | -0.20 | 7 | 1.50 |" in capsys.readouterr().out
