"""What revision 8443a11 wrote still opens: an adapted model, jobs, reports, scenes; `Testing/data/README.md`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the network needs torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.cli.main import main  # noqa: E402
from CycleINRLib.errors import ModelError  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402
from CycleINRLib.modelcard import tensor_header  # noqa: E402
from CycleINRLib.network.weights import load_model, save_model, save_tensors, weights_sha256  # noqa: E402
from CycleINRLib.panel.readout import readout  # noqa: E402

OLD = Path(__file__).parents[1] / "data" / "revision_8443a11"
ADAPTED = OLD / "adapted.safetensors"


def test_an_adapted_model_opens_without_the_tensors_that_nothing_uses():
    assert any(name.startswith("texture.") for name in tensor_header(ADAPTED))
    network, card = load_model(ADAPTED)
    assert card.name == "adapted" and "adapted" in card.training
    assert not any("texture" in name for name in network.state_dict())


def test_it_gives_the_voxels_that_it_gave():
    scan, before = (cycleinr.read(OLD / name) for name in ("input.nrrd", "adapted_least.nrrd"))
    job = UpsampleJob.from_json(json.loads((OLD / "adapted_least.json").read_text("utf-8"))["job"])
    assert (job.noise, job.texture, job.precision) == ("acquired", 0, "float32")
    job = UpsampleJob(**{**job.computing(), "texture": None, "model": str(ADAPTED)})
    made = cycleinr.upsample(scan, job).volume
    assert made.geometry.same_place_as(before.geometry, 1e-4)
    plain = cycleinr.upsample(scan, UpsampleJob(**{**job.computing(), "gain": 0.0})).volume.values
    change = np.abs(plain.astype(float) - before.values).mean()
    assert change > 0.5  # in stored steps: what the adapted network adds
    # other kernels and another order of sums; an MR is counted from where its own values begin
    assert np.abs(made.values.astype(float) - before.values).mean() < 0.05 * change


def test_saved_again_it_loses_what_nothing_uses_and_computes_the_same(tmp_path):
    network, card = load_model(ADAPTED)
    again = load_model(save_model(network, card, tmp_path / "again.safetensors"))
    assert not any("texture" in name for name in tensor_header(tmp_path / "again.safetensors"))
    assert again[1].training == card.training and again[1].weights_sha256 == weights_sha256(
        tmp_path / "again.safetensors"
    )
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(again[0].state_dict()[name].numpy(), value.numpy(), err_msg=name)


def test_a_hash_of_all_tensors_of_a_file_holds_for_those_that_nothing_uses_too(tmp_path):
    """Revisions between told the hash of their tensors, texture's among them."""
    path, (network, card) = tmp_path / "between.safetensors", load_model(ADAPTED)
    more = {**network.state_dict(), "texture.last.weight": network.last.weight}
    save_tensors(more, path, {"card": card.to_json()})
    card = dataclasses.replace(card, weights_sha256=weights_sha256(path))
    save_tensors(more, path, {"card": card.to_json()})
    assert load_model(path)[1] == card
    damaged = {**more, "texture.last.weight": network.last.weight + 1}
    save_tensors(damaged, path, {"card": card.to_json()})
    with pytest.raises(ModelError, match="not those that the model card tells"):
        load_model(path)


def test_a_tensor_that_no_version_had_is_still_refused(tmp_path):
    network, card = load_model(ADAPTED)
    tensors = {**network.state_dict(), "blocks.1.plane.bias": network.enter.bias}
    save_tensors(tensors, tmp_path / "more.safetensors", {"card": card.to_json()})
    with pytest.raises(ModelError, match="do not fit"):
        load_model(tmp_path / "more.safetensors")


def test_a_report_of_an_adapted_model_is_repeated_with_new_noise_or_says_why_not(tmp_path):
    job = json.loads((OLD / "adapted_half.json").read_text("utf-8"))["job"]
    assert job["texture"] == 0.5 and UpsampleJob.from_json(job).noise == "renew"
    paths = {"input": OLD / "input.nrrd", "output": tmp_path / "out.nrrd", "model": ADAPTED}
    asked = {**job, **{name: str(path) for name, path in paths.items()}, "report": str(tmp_path / "report.json")}
    (tmp_path / "job.json").write_text(json.dumps(asked), "utf-8")
    assert main(["run", str(tmp_path / "job.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["model"]["name"] == "adapted" and "texture" not in report["job"]
    assert sum("no texture any more" in text for text in report["warnings"]) == 1


@pytest.mark.parametrize("name", ["least", "half", "fitted"])
def test_a_scene_opens_with_its_result_and_what_was_told_of_it(a_scene, name):
    import slicer

    from CycleINRLib.scene.volumes import SOURCE_ROLE, report_of, volume_from_node

    a_scene.load(OLD / f"scene_{name}.mrb")
    result = slicer.util.getNode("MR z2")
    scan = result.GetNodeReference(SOURCE_ROLE)
    assert scan.GetName() == "MR" and slicer.util.arrayFromVolume(scan).shape == (6, 16, 16)
    assert volume_from_node(result).values.shape == (11, 16, 16)
    report = report_of(result)
    assert report["texture"] == {"least": 0.0, "half": 0.5, "fitted": 0.0}[name]
    told = {row.label: row.text for row in readout(report)}
    assert told["Size"].startswith("16 × 16 × 11 voxels") and told["Computed by"].startswith("light on cpu")
    job = UpsampleJob.from_json(report["job"])  # which the report alone repeats
    assert job.noise == {"least": "acquired", "half": "renew", "fitted": "auto"}[name]
