"""Evaluation against a known truth: thick slices, rivals, and the outside second opinion."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest

from CycleINRLib.errors import RequestError, VolumeError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.tasks import evaluate as ev


def ramp(slices: int = 40) -> Volume:
    """Values are their own height in thin slices, times ten."""
    values = np.broadcast_to(10 * np.arange(slices)[:, None, None], (slices, 30, 32)).astype(np.int16)
    return Volume(values, Geometry.from_spacing(values.shape, (0.8, 0.7, 0.7)), "MR", "stored", name="ramp")


@pytest.mark.parametrize("profile", ["box", "gaussian", "skip"])
@pytest.mark.parametrize("z_scale", [2.0, 3.5, 4.0])
def test_thick_slices_lie_where_their_values_say(z_scale: float, profile: str):
    case = ev.Case.of(ramp(), ev.Protocol(z_scale, profile))
    centers = case.first + z_scale * np.arange(len(case.source.values))
    inner = slice(1, -1)  # a profile that leaves the scan is cut there
    assert case.source.values[inner, 0, 0] == pytest.approx(10 * centers[inner], abs=6 if profile == "skip" else 1)
    heights = case.source.geometry.ras_of(np.stack([np.arange(len(centers)), 0 * centers, 0 * centers], -1))[:, 2]
    assert heights == pytest.approx(0.8 * centers)
    assert case.source.spacing_mm[0] == pytest.approx(0.8 * z_scale)
    assert case.source.thickness_mm == (None if profile == "skip" else pytest.approx(0.8 * z_scale))
    assert case.source.values.dtype == np.int16


def test_a_truth_that_is_given_back_scores_without_error_or_gap(mr_thin: Volume):
    def truth(case: ev.Case):
        yield case.truth.values[case.first : case.first + len(case.positions)]

    def shifted(case: ev.Case):
        yield case.truth.values[case.first - 1 : case.first - 1 + len(case.positions)]

    exact, late = ev.evaluate(mr_thin, [ev.Protocol(4.0, "skip")], {"truth": truth, "late": shifted}, with_ssim=True)
    assert exact.psnr_generated is None  # infinite
    assert exact.ssim == 1 and abs(exact.generated_gap) < 0.05
    assert late.psnr_generated < 30 and late.ssim < 0.9


def test_the_best_step_of_a_method_counts_and_each_figure_picks_its_own(mr_thin: Volume):
    def steps(case: ev.Case):
        good = case.truth.values[case.first : case.first + len(case.positions)].astype(float)
        yield good + 30
        yield good + 10
        yield good + 20

    def middle(case: ev.Case):
        yield list(steps(case))[1]

    several, one = ev.evaluate(mr_thin, [ev.Protocol(3.0)], {"steps": steps, "middle": middle})
    assert (several.psnr_generated, several.psnr_all) == (one.psnr_generated, one.psnr_all)


def test_projection_gains_on_thick_slices_and_generated_slices_are_harder_than_all(mr_thin: Volume):
    thick = {s.method: s for s in ev.evaluate(mr_thin, [ev.Protocol(4.0)], ev.RIVALS)}
    assert thick["linear"].psnr_generated < thick["cubic"].psnr_generated < thick["cubic + projection"].psnr_generated
    thin = {s.method: s for s in ev.evaluate(mr_thin, [ev.Protocol(4.0, "skip")], ev.RIVALS)}
    assert thin["cubic"].psnr_generated < thin["cubic"].psnr_all
    assert thin["linear"].generated_gap > 0.1


def test_too_few_slices_are_refused_with_the_number_that_would_do():
    with pytest.raises(VolumeError, match=r"Found: 20\. Next: take a scan of at least 25") as refused:
        ev.Case.of(ramp(20), ev.Protocol(4.0))
    assert refused.value.exit_code == 3
    ev.Case.of(ramp(25), ev.Protocol(4.0))


@pytest.mark.parametrize("asked", [{"z_scale": 1.0}, {"z_scale": float("nan")}, {"z_scale": 2.0, "profile": "round"}])
def test_an_impossible_protocol_is_refused(asked: dict):
    with pytest.raises(RequestError):
        ev.Protocol(**asked)


def test_a_central_block_keeps_its_place(mr_thin: Volume):
    block = ev.central_block(mr_thin, 40)
    assert block.values.shape == (60, 40, 40)
    assert np.array_equal(block.values, mr_thin.values[:, 12:52, 12:52])
    assert block.geometry.ras_of(np.zeros(3)) == pytest.approx(mr_thin.geometry.ras_of(np.array([0, 12, 12])))
    assert ev.central_block(mr_thin, 400).values.shape == mr_thin.values.shape


def test_the_table_tells_the_lead_over_the_best_rival():
    def score_of(method: str, z_scale: float, decibels: float | None) -> ev.Score:
        figures = dict.fromkeys(("ssim", "snli", "snli_detrended", "generated_gap", "noise_ratio"))
        return ev.Score("scan", "CT", z_scale, "box", 1.0, method, decibels, decibels, seconds=1.0, **figures)

    scores = [
        score_of("cubic", 2.0, 30.0),
        score_of("cubic + projection", 2.0, 31.0),
        score_of(ev.PRODUCT, 2.0, 32.5),
        score_of("cubic", 4.0, 28.0),
        score_of("cubic + projection", 4.0, None),
        score_of(ev.PRODUCT, 4.0, 27.5),
    ]
    table = ev.markdown(scores).splitlines()
    assert table[2] == "| scan | 2 | box | 30.00 | 31.00 | 32.50 | +1.50 |"
    assert table[3] == "| scan | 4 | box | 28.00 | - | 27.50 | -0.50 |"
    assert table[-1] == "Lead over the best rival: mean +0.50 dB, least -0.50 dB, ahead in 1 of 2."
    assert "lead" not in ev.markdown(scores, "snli")
    json.dumps([asdict(score) for score in scores], allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scan, modality, z_scale, profile",
    [("ct_chest_stephamar_0117", "CT", 3.5, "box"), ("mr_t1_brain_brainmrt", "MR", 4.0, "gaussian")],
)
def test_degraded_scan_and_rivals_agree_with_the_outside_yardstick(
    yardstick: Callable, scan: str, modality: str, z_scale: float, profile: str
):
    outside = yardstick(scan)
    outside.degrade(z_scale, profile)
    thin = outside.thin()
    truth = Volume(thin, Geometry.from_spacing(thin.shape, (1.0, 1.0, 1.0)), modality, name=scan)
    case = ev.Case.of(truth, ev.Protocol(z_scale, profile))
    # float32 or float64 sums may round a half to either side
    difference = np.abs(case.source.values.astype(int) - outside.source())
    assert difference.max() <= 1 and difference.mean() < 0.01

    outside.write_result(next(iter(ev.linear(case))).round().astype(np.int16), z_scale)
    theirs = outside.score(modality, profile)
    ours = {score.method: score for score in ev.evaluate(truth, [case.protocol], ev.RIVALS)}
    names = {"linear": "linear", "cubic": "cubic", "cubic_projection": "cubic + projection"}
    for their_name, name in names.items():
        assert ours[name].psnr_generated == pytest.approx(theirs["psnr_generated"][their_name], abs=0.01)
        assert ours[name].psnr_all == pytest.approx(theirs["psnr_all"][their_name], abs=0.01)
    assert ours["linear"].snli == pytest.approx(theirs["linear"]["snli"], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scan, modality, z_scale, profile",
    [("ct_chest_stephamar_0117", "CT", 3.5, "box"), ("mr_t1_brain_brainmrt", "MR", 4.0, "skip")],
)
def test_the_score_of_a_real_run_agrees_with_the_outside_yardstick(
    yardstick: Callable, scan: str, modality: str, z_scale: float, profile: str
):
    pytest.importorskip("torch")
    outside = yardstick(scan, crop=64)
    outside.degrade(z_scale, profile)
    thin = outside.thin()
    truth = Volume(thin, Geometry.from_spacing(thin.shape, (1.0, 1.0, 1.0)), modality, name=scan)
    case = ev.Case.of(truth, ev.Protocol(z_scale, profile))
    (output,) = ev.product(device="cpu", model="light")(case)
    outside.write_result(output, z_scale)
    theirs = outside.score(modality, profile)
    ours = ev.score(case, ev.PRODUCT, lambda _: [output])
    assert ours.psnr_generated == pytest.approx(theirs["psnr_generated"]["output"], abs=0.01)
    assert ours.psnr_all == pytest.approx(theirs["psnr_all"]["output"], abs=0.01)
    for figure in ("snli", "snli_detrended", "generated_gap"):
        assert getattr(ours, figure) == pytest.approx(theirs["output"][figure], rel=0.02)
    assert ours.noise_ratio == pytest.approx(theirs["noise_ratio"], rel=0.02)


def test_scores_of_a_turned_scan_are_those_of_the_scan(mr_thin: Volume):
    turned = replace(mr_thin.slices_back("i"), slice_axis="i").slices_first("i")
    seen, expected = (ev.evaluate(scan, [ev.Protocol(4.0)], {"cubic": ev.cubic})[0] for scan in (turned, mr_thin))
    assert seen.psnr_generated == expected.psnr_generated
