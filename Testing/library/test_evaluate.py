"""Evaluation against a known truth: thick slices, interpolators, ceilings, and the outside second opinion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest

from CycleINRLib.errors import RequestError, VolumeError
from CycleINRLib.evaluation import score as ev
from CycleINRLib.evaluation.case import Acquisition, Case, central_block
from CycleINRLib.evaluation.interpolators import INTERPOLATORS
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume


def ramp(slices: int = 40) -> Volume:
    """Values are their own height in thin slices, times ten."""
    values = np.broadcast_to(10 * np.arange(slices)[:, None, None], (slices, 30, 32)).astype(np.int16)
    return Volume(values, Geometry.from_spacing(values.shape, (0.8, 0.7, 0.7)), "MR", "stored", name="ramp")


@pytest.mark.parametrize("profile", ["box", "gaussian", "skip"])
@pytest.mark.parametrize("z_scale", [2.0, 3.5, 4.0])
def test_thick_slices_lie_where_their_values_say(z_scale: float, profile: str):
    case = Case.of(ramp(), Acquisition(z_scale, profile))
    centers = case.first + z_scale * np.arange(len(case.source.values))
    inner = slice(1, -1)  # a profile that leaves the scan is cut there
    assert case.source.values[inner, 0, 0] == pytest.approx(10 * centers[inner], abs=6 if profile == "skip" else 1)
    heights = case.source.geometry.ras_of(np.stack([np.arange(len(centers)), 0 * centers, 0 * centers], -1))[:, 2]
    assert heights == pytest.approx(0.8 * centers)
    assert case.source.spacing_mm[0] == pytest.approx(0.8 * z_scale)
    assert case.source.thickness_mm == (None if profile == "skip" else pytest.approx(0.8 * z_scale))
    assert case.source.values.dtype == np.int16


def record_of(scan: Volume, protocol: Acquisition, methods) -> dict:
    """A case of the table, as the command makes it."""
    ruler = ev.Ruler(Case.of(scan, protocol))
    return ev.case_record(ruler, {name: asdict(ruler.score(name, one)[0]) for name, one in methods.items()})


def scored(scan: Volume, protocol: Acquisition, **methods) -> dict[str, dict]:
    return record_of(scan, protocol, methods or INTERPOLATORS)["results"]


@pytest.mark.parametrize("profile, phase", [("box", 0.5), ("gaussian", 1.25), ("skip", 2.0)])
def test_a_phase_moves_the_thick_slices_and_the_target_stays_on_thin_ones(profile: str, phase: float):
    case = Case.of(ramp(), Acquisition(4.0, profile, phase=phase))
    centers = 4 + phase + 4.0 * np.arange(case.count)
    assert case.source.values[1:-1, 0, 0] == pytest.approx(10 * centers[1:-1], abs=1)
    assert case.source.geometry.ras_of(np.zeros(3))[2] == pytest.approx(0.8 * centers[0])
    assert case.target.ras_of(np.zeros(3))[2] == pytest.approx(0.8 * case.first)
    assert case.wanted[:, 0, 0] / 10 == pytest.approx(centers[0] + 4 * case.positions)
    assert centers[0] <= case.first < centers[0] + 1
    assert case.first + len(case.positions) - 1 <= centers[-1] < case.first + len(case.positions)


def test_thinner_and_thicker_slices_than_their_spacing_average_less_and_more(mr_thin: Volume):
    noise = {}
    for ratio in (0.25, 1.0, 1.3):
        case = Case.of(mr_thin, Acquisition(4.0, "box", ratio))
        assert case.source.thickness_mm == pytest.approx(ratio * 4 * mr_thin.spacing_mm[0])
        noise[ratio] = np.abs(np.diff(case.source.values.astype(float), 2, axis=1)).mean()
    assert noise[0.25] > noise[1.0] > noise[1.3]


def test_a_truth_that_is_given_back_scores_without_error_or_gap(mr_thin: Volume):
    def truth(case: Case):
        yield case.wanted

    def shifted(case: Case):
        yield case.truth.values[case.first - 1 : case.first - 1 + len(case.positions)]

    results = scored(mr_thin, Acquisition(4.0, "skip"), truth=truth, late=shifted)
    exact, late = results["truth"], results["late"]
    assert exact["psnr_generated"] is None  # infinite
    assert [exact["ssim"], *exact["ssim_planes"].values()] == pytest.approx([1, 1, 1, 1], abs=2e-5)
    assert exact["gradient_error"] == 0 and abs(exact["generated_gap"]) < 0.05
    assert late["psnr_generated"] < 30 and late["ssim"] < 0.9 and late["gradient_error"] > 1


def test_the_best_step_of_a_method_counts_and_each_figure_picks_its_own(mr_thin: Volume):
    def steps(case: Case):
        good = case.wanted.astype(float)
        yield good + 30
        yield good + 10
        yield good + 20

    def middle(case: Case):
        yield list(steps(case))[1]

    results = scored(mr_thin, Acquisition(3.0), steps=steps, middle=middle)
    several, one = results["steps"], results["middle"]
    assert (several["psnr_generated"], several["psnr_all"]) == (one["psnr_generated"], one["psnr_all"])


def test_projection_gains_on_thick_slices_and_generated_slices_are_harder_than_all(mr_thin: Volume):
    thick = scored(mr_thin, Acquisition(4.0))
    psnr = {name: figures["psnr_generated"] for name, figures in thick.items()}
    assert psnr["linear"] < psnr["cubic"] < psnr["cubic + projection"]
    assert psnr["sinc"] == pytest.approx(psnr["cubic"], abs=0.5)
    assert thick["cubic + projection"]["facts"]["step"] > 0
    thin = scored(mr_thin, Acquisition(4.0, "skip"))
    assert thin["cubic"]["psnr_generated"] < thin["cubic"]["psnr_all"]
    assert thin["linear"]["generated_gap"] > 0.1


def test_projection_as_matrices_is_the_loop_it_stands_for(mr_thin: Volume):
    from scipy.interpolate import make_interp_spline

    case = Case.of(central_block(mr_thin, 16), Acquisition(3.5, "gaussian"))
    thick = case.source.values.astype(float)
    grid = np.clip(case.thin_places, 0, case.count - 1)
    x = make_interp_spline(np.arange(case.count), thick, axis=0)(grid)
    for attempt in INTERPOLATORS["cubic + projection"](case):
        seen = x[case.first : case.first + len(case.positions)]
        assert np.abs(attempt.values - seen).max() < 0.02
        missing = thick - np.tensordot(case.weights, x, 1)
        x = x + make_interp_spline(np.arange(case.count), missing, axis=0)(grid)


def test_a_gap_is_told_where_no_target_slice_lies_at_an_acquired_one(mr_thin: Volume):
    figures = scored(mr_thin, Acquisition(3.0, "box", phase=0.5), linear=INTERPOLATORS["linear"])["linear"]
    assert figures["generated_gap"] > 0.05


def test_the_ceiling_of_white_noise_is_its_own_level():
    rng = np.random.default_rng(3)
    values = np.rint(100 + rng.normal(0, 20, (60, 64, 64))).astype(np.int16)
    noise = Volume(values, Geometry.from_spacing(values.shape, (1.0, 1.0, 1.0)), "CT", "HU", name="noise")
    expected = 10 * np.log10(2000**2 / 20**2)
    thick, thin = (ev.Ruler(Case.of(noise, Acquisition(3.0, profile))) for profile in ("box", "skip"))
    for ruler in (thick, thin):
        ceiling = ruler.noise_ceiling()
        assert ceiling["sigma"] == pytest.approx(20, rel=0.03)
        assert ceiling["sigma_through"] == pytest.approx(20, rel=0.03)
        assert ceiling["psnr_db"] == pytest.approx(expected, abs=0.2)
        assert ceiling["through_db"] == pytest.approx(expected, abs=0.2)
    # a mean of three slices knows a third of the noise of each, and repeating it is all that can be done
    assert thick.noise_ceiling()["averages_db"] == pytest.approx(expected + 10 * np.log10(3 / 2), abs=0.2)
    nearest = thick.case.source.values[np.rint(thick.case.positions).astype(int)]
    assert thick.psnr(nearest)[0] == pytest.approx(thick.noise_ceiling()["averages_db"], abs=0.2)
    assert thin.noise_ceiling()["averages_db"] == thin.noise_ceiling()["psnr_db"]
    assert thin.psnr(np.full(thin.case.wanted.shape, 100.0))[0] == pytest.approx(expected, abs=0.2)


def test_smooth_noise_makes_the_ceiling_too_high_and_the_one_through_the_slices_does_not():
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(4)
    smooth = gaussian_filter(rng.normal(0, 1, (60, 64, 64)), (0, 0.8, 0.8))
    values = np.rint(100 + 20 * smooth / smooth.std()).astype(np.int16)
    noise = Volume(values, Geometry.from_spacing(values.shape, (1.0, 1.0, 1.0)), "CT", "HU", name="noise")
    ceiling = ev.Ruler(Case.of(noise, Acquisition(4.0, "skip"))).noise_ceiling()
    assert ceiling["sigma"] < 8
    assert ceiling["sigma_through"] == pytest.approx(20, rel=0.05)


def test_too_few_slices_are_refused_with_the_number_that_would_do():
    with pytest.raises(VolumeError, match=r"Found: 20\. Next: take a scan of at least 25") as refused:
        Case.of(ramp(20), Acquisition(4.0))
    assert refused.value.exit_code == 3
    Case.of(ramp(25), Acquisition(4.0))


@pytest.mark.parametrize(
    "asked",
    [
        {"z_scale": 1.0},
        {"z_scale": float("nan")},
        {"z_scale": 2.0, "profile": "round"},
        {"z_scale": 2.0, "ratio": -1.0},
        {"z_scale": 2.0, "phase": 2.0},
        {"z_scale": 2.0, "profile": "skip", "phase": 0.5},
    ],
)
def test_an_impossible_protocol_is_refused(asked: dict):
    with pytest.raises(RequestError):
        Acquisition(**asked)


def test_a_central_block_keeps_its_place(mr_thin: Volume):
    block = central_block(mr_thin, 40)
    assert block.values.shape == (60, 40, 40)
    assert np.array_equal(block.values, mr_thin.values[:, 12:52, 12:52])
    assert block.geometry.ras_of(np.zeros(3)) == pytest.approx(mr_thin.geometry.ras_of(np.array([0, 12, 12])))
    assert central_block(mr_thin, 400).values.shape == mr_thin.values.shape


@pytest.mark.slow
@pytest.mark.parametrize(
    "scan, modality, z_scale, profile",
    [("ct_chest_stephamar_0117", "CT", 3.5, "box"), ("mr_t1_brain_brainmrt", "MR", 4.0, "gaussian")],
)
def test_degraded_scan_and_interpolators_agree_with_the_outside_yardstick(
    yardstick: Callable, scan: str, modality: str, z_scale: float, profile: str
):
    outside = yardstick(scan)
    outside.degrade(z_scale, profile)
    thin = outside.thin()
    truth = Volume(thin, Geometry.from_spacing(thin.shape, (1.0, 1.0, 1.0)), modality, name=scan)
    case = Case.of(truth, Acquisition(z_scale, profile))
    # float32 or float64 sums may round a half to either side
    difference = np.abs(case.source.values.astype(int) - outside.source())
    assert difference.max() <= 1 and difference.mean() < 0.01

    record = record_of(truth, case.protocol, INTERPOLATORS)
    ours = record["results"]
    outside.write_result(next(INTERPOLATORS["linear"](case)).values.round().astype(np.int16), z_scale)
    theirs = outside.score(modality, profile)
    names = {"linear": "linear", "cubic": "cubic", "cubic_projection": "cubic + projection"}
    for their_name, name in names.items():
        assert ours[name]["psnr_generated"] == pytest.approx(theirs["psnr_generated"][their_name], abs=0.01)
        assert ours[name]["psnr_all"] == pytest.approx(theirs["psnr_all"][their_name], abs=0.01)
    for figure in ("snli", "snli_detrended", "generated_gap"):
        assert ours["linear"][figure] == pytest.approx(theirs["linear"][figure], rel=0.02, abs=1e-3)
        assert record["truth"][figure] == pytest.approx(theirs["truth"][figure], rel=0.02, abs=1e-3)


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
    case = Case.of(truth, Acquisition(z_scale, profile))
    ours, output = ev.Ruler(case).score("CycleINR", ev.product(device="cpu", model="light"))
    outside.write_result(output, z_scale)
    theirs = outside.score(modality, profile)
    assert ours.psnr_generated == pytest.approx(theirs["psnr_generated"]["output"], abs=0.01)
    assert ours.psnr_all == pytest.approx(theirs["psnr_all"]["output"], abs=0.01)
    for figure in ("snli", "snli_detrended", "generated_gap"):
        assert getattr(ours, figure) == pytest.approx(theirs["output"][figure], rel=0.02, abs=1e-3)
    assert ours.noise_ratio == pytest.approx(theirs["noise_ratio"], rel=0.02)


def test_scores_of_a_turned_scan_are_those_of_the_scan(mr_thin: Volume):
    turned = replace(mr_thin.slices_back("i"), slice_axis="i").slices_first("i")
    seen, expected = (
        scored(scan, Acquisition(4.0), cubic=INTERPOLATORS["cubic"])["cubic"] for scan in (turned, mr_thin)
    )
    assert seen["psnr_generated"] == expected["psnr_generated"]


def test_the_network_at_a_fractional_phase_answers_on_the_thin_slices(mr_thin: Volume):
    pytest.importorskip("torch")
    thin = central_block(mr_thin, 32)
    results = scored(
        thin,
        Acquisition(3.0, "box", phase=0.5),
        cubic=INTERPOLATORS["cubic"],
        ours=ev.product(device="cpu", model="light"),
    )
    assert results["ours"]["psnr_generated"] > results["cubic"]["psnr_generated"]  # half a slice off costs several dB
    assert results["ours"]["facts"]["consistency"] == "project"
