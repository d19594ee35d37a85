"""Adapting a model to thick-slice scans: what is learned from, what is held out, and what is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapting needs torch")

from CycleINRLib.adapting import adapt as adapting  # noqa: E402
from CycleINRLib.adapting.adapt import adapt  # noqa: E402
from CycleINRLib.adapting.thick import groups, ready  # noqa: E402
from CycleINRLib.errors import Cancelled, RequestError, VolumeError  # noqa: E402
from CycleINRLib.events import Progress, Warned  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.io.files import read  # noqa: E402
from CycleINRLib.jobs import AdaptJob, UpsampleJob  # noqa: E402
from CycleINRLib.network.weights import find_model, load_model, save_model  # noqa: E402
from CycleINRLib.upsampling.upsample import upsample  # noqa: E402

SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "MR_knee_4.3mm.nrrd"


@pytest.fixture(scope="module")
def knee() -> Volume:
    """A block of a real scan with thick sagittal slices."""
    volume = read(SAMPLE)
    axis = "kji"[int(np.argmax(volume.spacing_mm))]
    first = volume.slices_first(axis)
    n, j, i = first.values.shape
    block = first.values[:, j // 2 - 40 : j // 2 + 40, i // 2 - 40 : i // 2 + 40]
    geometry = first.geometry.cropped((0, j // 2 - 40, i // 2 - 40), block.shape)
    return dataclasses.replace(first.with_values(np.ascontiguousarray(block), geometry), name="knee")


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


# --- scans --------------------------------------------------------------------------------------------------------
def test_held_out_slices_are_no_part_of_what_is_shown(knee):
    (scan,) = ready([knee], AdaptJob())
    values, held = scan.volume.values, scan.held_out
    assert len(held) % 2 == 1 and len(held) >= 5
    assert sum(len(part) for part in scan.shown) + len(held) == len(values)
    for part in scan.shown:
        assert not any(np.array_equal(plane, other) for plane in part for other in held)


def test_a_scan_that_tells_its_thickness_is_believed(knee):
    (told,) = ready([dataclasses.replace(knee, thickness_mm=3.0)], AdaptJob())
    (asked,) = ready([knee], AdaptJob(thickness_mm=4.0))
    assert (told.thickness_mm, told.estimated) == (3.0, False) and asked.thickness_mm == 4.0
    assert told.protocol.ratio == pytest.approx(3.0 / knee.spacing_mm[0])


def test_a_scan_that_does_not_is_estimated_or_the_spacing_is_taken_and_both_are_said(knee):
    heard = []
    (scan,) = ready([dataclasses.replace(knee, thickness_mm=None)], AdaptJob(), heard.append)
    assert any(isinstance(event, Warned) and "thickness" in event.message for event in heard)
    assert scan.estimated or scan.thickness_mm == knee.spacing_mm[0]


def test_scans_of_mixed_protocols_are_grouped(knee):
    matrix = np.array(knee.geometry.ijk_to_ras)
    matrix[:3, 2] *= 1.5
    wider = dataclasses.replace(knee, geometry=Geometry(knee.values.shape, matrix), name="wider")
    again = dataclasses.replace(knee, name="again")
    found = groups(ready([knee, wider, again], AdaptJob(thickness_mm=3.0)))
    assert [group["scans"] for group in found] == [["knee", "again"], ["wider"]]


def few(volume: Volume) -> Volume:
    return volume.with_values(volume.values[:8], volume.geometry.cropped((0, 0, 0), (8, *volume.values.shape[1:])))


def isotropic(volume: Volume) -> Volume:
    return dataclasses.replace(volume, geometry=Geometry(volume.values.shape, np.eye(4)), slice_axis="k")


def labels(volume: Volume) -> Volume:
    return volume.with_values((volume.values > volume.values.mean()).astype(np.uint8))


@pytest.mark.parametrize(("spoil", "word"), [(few, "few slices"), (isotropic, "isotropic"), (labels, "label map")])
def test_a_scan_that_cannot_be_learned_from_is_refused_in_a_sentence(knee, spoil, word, tmp_path):
    with pytest.raises(VolumeError, match=word) as caught:
        adapt([spoil(knee)], AdaptJob(steps=1), tmp_path / "run")
    assert "knee" in caught.value.found and caught.value.next
    assert not (tmp_path / "run").exists()


def test_one_bad_scan_among_good_ones_is_left_out_with_a_warning(knee):
    heard = []
    found = ready([dataclasses.replace(few(knee), name="short"), knee], AdaptJob(), heard.append)
    assert [scan.volume.name for scan in found] == ["knee"]
    assert any("short is left out" in event.message for event in heard)


def test_scans_of_two_modalities_are_refused(knee, ct_thin):
    matrix = np.diag([1.0, 1.0, 5.0, 1.0])
    ct = dataclasses.replace(ct_thin, geometry=Geometry(ct_thin.values.shape, matrix), modality="CT")
    with pytest.raises(RequestError, match="two modalities"):
        ready([knee, ct], AdaptJob())


# --- learning -----------------------------------------------------------------------------------------------------
def test_adapting_changes_the_weights_and_reports_what_came_of_it(knee, tmp_path):
    heard = []
    found = adapt([knee], AdaptJob(steps=5), tmp_path, progress=heard.append)
    start = load_model(find_model("light"))[0]
    assert not same(found.learned, start)
    held = found.report["held_out"]
    assert held["slices"] >= 2 and held["scans"][0]["scan"] == "knee" and held["psnr_start_db"] > 10
    assert found.report["improved"] == (held["psnr_db"] - held["psnr_start_db"] >= adapting.BETTER_DB)
    assert held["lines_gain_db"] is None
    assert same(found.network, found.learned if found.report["improved"] else start)
    assert {event.stage for event in heard if isinstance(event, Progress)} >= {"adapt", "self_check"}


@pytest.mark.parametrize("route", ["synthetic", "direct"])
def test_two_stage_routes_learn_from_a_synthetic_volume_and_tell_how_real_it_looks(knee, route, tmp_path):
    heard = []
    found = adapt([knee], AdaptJob(route=route, steps=2), tmp_path, progress=heard.append)
    assert found.report["synthetic"]["noise_ratio"] > 0
    assert "synthesize" in {event.stage for event in heard if isinstance(event, Progress)}


def test_untrained_weights_can_be_the_start(knee, tmp_path):
    found = adapt([knee], AdaptJob(model="scratch", steps=3), tmp_path)
    held = found.report["held_out"]
    assert found.report["start"]["name"] == "scratch" and held["psnr_start_db"] < held["psnr_cubic_db"] + 3
    assert [scan["scan"] for scan in found.card.trained_on] == (["knee"] if found.report["improved"] else [])
    if found.report["improved"]:
        assert found.card.z_scale_range[0] <= found.card.z_scale_range[1]


def test_an_adapted_model_works_as_any_other(knee, tmp_path):
    found = adapt([knee], AdaptJob(steps=2), tmp_path / "run")
    path = save_model(found.learned, dataclasses.replace(found.card, name="mine"), tmp_path / "mine.safetensors")
    _, card = load_model(path)
    assert card.name == "mine"
    block = knee.with_values(knee.values[:, :48, :48], knee.geometry.cropped((0, 0, 0), (len(knee.values), 48, 48)))
    result = upsample(block, UpsampleJob(model=str(path), z_scale=2.0, noise="acquired"))
    assert result.report["model"]["name"] == "mine"


def test_a_stopped_run_goes_on_to_the_very_same_weights(knee, tmp_path):
    job = AdaptJob(steps=6)
    whole = adapt([knee], job, tmp_path / "whole").learned
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Cancelled):
        adapt([knee], job, tmp_path / "parts", cancelled=stop)
    assert same(adapt([knee], job, tmp_path / "parts").learned, whole)


def test_the_job_of_a_report_repeats_the_adaptation_to_the_last_bit(knee, tmp_path):
    found = adapt([knee], AdaptJob(), tmp_path)
    told, held = found.report["job"], found.report["held_out"]
    gain = held["psnr_db"] - held["psnr_start_db"]
    assert found.report["improved"] == adapting.is_better(gain, held["lines_gain_db"])
    assert told["route"] == "last-layer" and told["precision"] in ("float32", "bfloat16")
    assert same(adapt([knee], AdaptJob.from_json(told), tmp_path).learned, found.learned)


@pytest.mark.parametrize(
    ("slices_db", "lines_db", "kept"),
    [(0.3, None, True), (0.0, None, False), (-0.05, -0.02, True), (-0.2, 0.2, False), (0.3, -0.2, False)],
)
def test_a_fitted_layer_is_kept_unless_clearly_worse_and_a_trained_network_where_better(slices_db, lines_db, kept):
    assert adapting.is_better(slices_db, lines_db) == kept


# --- never worse --------------------------------------------------------------------------------------------------
def damaged(network):
    with torch.no_grad():
        network.last.weight.mul_(-1.0)
    return network


def test_a_model_that_became_worse_is_not_kept(knee, tmp_path, monkeypatch):
    light = load_model(find_model("light"))[0]
    monkeypatch.setattr(adapting, "tuned", lambda *_, **__: damaged(load_model(find_model("light"))[0]))
    found = adapt([knee], AdaptJob(steps=1), tmp_path)
    assert not found.report["improved"] and same(found.network, light) and not same(found.learned, light)
    assert found.report["held_out"]["psnr_db"] < found.report["held_out"]["psnr_start_db"]
    assert "did not make it better" in found.card.description
    assert len(found.card.trained_on) == len(load_model(find_model("light"))[1].trained_on)


def test_a_model_that_became_better_is_kept_and_its_card_says_on_what(knee, tmp_path, monkeypatch):
    light, card = load_model(find_model("light"))
    start = save_model(damaged(load_model(find_model("light"))[0]), card, tmp_path / "start.safetensors")
    monkeypatch.setattr(adapting, "tuned", lambda *_, **__: light)
    found = adapt([knee], AdaptJob(steps=1, model=str(start)), tmp_path / "run")
    assert found.report["improved"] and same(found.network, light)
    assert found.card.trained_on[-1]["scan"] == "knee"
    assert found.card.figures["held_out"]["psnr_db"] == found.report["held_out"]["psnr_db"]
    low, high = found.card.spacing_range_mm
    assert low <= knee.spacing_mm[0] <= high
