"""The measures of design section 6: analytic values, known noise, and the outside second opinion."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from CycleINRLib.imaging import accuracy, figures, intensity, noise
from CycleINRLib.imaging.interpolation import cubic_weights, linear_weights

NOISE = 20.0


@pytest.fixture(scope="module")
def white_noise() -> np.ndarray:
    """(25, 192, 192) soft tissue of one value with white noise of 20 HU."""
    return (40 + NOISE * np.random.default_rng(1).standard_normal((25, 192, 192))).astype(np.float32)


@pytest.fixture(scope="module")
def smooth_phantom() -> np.ndarray:
    """(9, 224, 224) HU without noise: an ellipse of tissue with smooth structure in air."""
    k, j, i = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 224), np.linspace(-1, 1, 224), indexing="ij")
    tissue = 40 + 60 * np.sin(9 * i + 2 * k) * np.cos(7 * j - 3 * k) + 80 * np.exp(-20 * ((i - 0.3 * k) ** 2 + j**2))
    return np.where(i**2 + 1.3 * j**2 < 0.8, tissue, -1000).astype(np.float32)


def linear_slices(source: np.ndarray, z_scale: float) -> np.ndarray:
    count = int(np.floor((len(source) - 1) * z_scale + 1e-6)) + 1
    return np.tensordot(linear_weights(np.arange(count) / z_scale, len(source)), source, 1).astype(np.float32)


# --- sigma ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("level", [2.0, 20.0])
def test_sigma_of_white_noise_is_within_5_percent(level: float):
    values = level * np.random.default_rng(2).standard_normal((512, 512))
    mask = np.zeros(values.shape, bool)
    mask[3:-3, 3:-3] = True
    assert noise.sigma(values, mask) == pytest.approx(level, rel=0.05)


def test_sigma_on_structured_anatomy_is_within_5_percent(smooth_phantom: np.ndarray):
    noisy = smooth_phantom + NOISE * np.random.default_rng(3).standard_normal(smooth_phantom.shape)
    measured = noise.slice_noise(noisy, "CT")
    assert np.isfinite(measured).all()
    assert measured == pytest.approx(NOISE, rel=0.05)


def test_anatomy_without_noise_measures_far_below_the_noise_of_a_scan(smooth_phantom: np.ndarray):
    assert np.nanmax(noise.slice_noise(smooth_phantom, "CT")) < 0.05 * NOISE


def test_a_slice_with_too_little_body_is_left_out(white_noise: np.ndarray):
    values = white_noise.copy()
    values[3] = -1000
    values[7, 20:] = -1000  # 20 x 31 pixels are body enough, but half of them are fewer than 300 without the rim
    values[7, :, 31:] = -1000
    measured = noise.slice_noise(values, "CT")
    assert np.isnan(measured[[3, 7]]).all()
    assert np.isfinite(np.delete(measured, [3, 7])).all()


def test_the_rim_is_not_measured():
    values = np.random.default_rng(4).normal(40, NOISE, (96, 96)).astype(np.float32)
    noisy_rim = values.copy()
    for edge in (np.s_[:2], np.s_[-2:], np.s_[:, :2], np.s_[:, -2:]):
        noisy_rim[edge] += 1e4
    mask = noise.Flatness(-250, 300).mask(values, np.hypot(*noise.gradient_parts(values)))
    assert noise.sigma(noisy_rim, mask) == noise.sigma(values, mask)


# --- white noise, linear: methods 1.6 -------------------------------------------------------------------------
@pytest.mark.parametrize("z_scale, expected", [(2, 0.1716), (3, 0.1446), (4, 0.1317), (5, 0.1246)])
def test_linear_interpolation_of_white_noise_has_the_analytic_snli(
    white_noise: np.ndarray, z_scale: int, expected: float
):
    # the analytic value is that of whole periods, so the last acquired slice is left out
    output = linear_slices(white_noise, z_scale)[:-1]
    readout = noise.noise_readout(white_noise, output, z_scale, "CT")
    assert readout["snli"]["output"] == pytest.approx(expected, abs=0.004)
    assert readout["snli"]["linear"] == pytest.approx(expected, abs=0.004)
    assert readout["snli"]["input"] < 0.02


def test_linear_interpolation_of_white_noise_has_the_analytic_generated_gap(white_noise: np.ndarray):
    readout = noise.noise_readout(white_noise, linear_slices(white_noise, 4), 4, "CT")
    assert readout["generated_gap"] == pytest.approx(1 - (0.7906 + 0.7071 + 0.7906) / 3, abs=0.004)
    assert readout["generated_gap"] == pytest.approx(0.237, abs=0.004)


def test_repeating_the_nearest_slice_has_neither_snli_nor_gap(white_noise: np.ndarray):
    output = white_noise[np.rint(np.arange(97) / 4).astype(int)]
    readout = noise.noise_readout(white_noise, output, 4, "CT")
    assert readout["snli"]["output"] < 0.02
    assert abs(readout["generated_gap"]) < 0.02
    assert readout["noise_ratio"] == pytest.approx(1, abs=0.01)


def test_uniform_smoothing_lowers_noise_ratio_and_leaves_snli(white_noise: np.ndarray):
    output = linear_slices(white_noise, 4)
    smooth = 40 + 0.5 * (output - 40)
    before, after = (noise.noise_readout(white_noise, values, 4, "CT") for values in (output, smooth))
    assert after["noise_ratio"] == pytest.approx(0.5 * before["noise_ratio"], rel=1e-3)
    assert after["snli"]["output"] == pytest.approx(before["snli"]["output"], abs=1e-4)


def test_the_detrended_snli_ignores_a_slow_change_of_noise_and_keeps_the_pattern_between_slices():
    slow = np.linspace(10, 20, 97)
    pattern = np.tile([1, 0.79, 0.71, 0.79], 25)[:97]
    assert figures.snli(slow) > 0.15
    assert figures.snli_detrended(slow, 4) < 0.01
    assert figures.snli_detrended(slow * pattern, 4) == pytest.approx(figures.snli_detrended(pattern, 4), abs=0.005)
    assert figures.snli_detrended(pattern, 4) > 0.1


# --- the readout ----------------------------------------------------------------------------------------------
def test_a_gap_at_an_odd_z_scale_needs_the_queried_acquired_positions(white_noise: np.ndarray):
    source = white_noise[:12]
    output = linear_slices(source, 3.7)
    positions = noise.target_positions(len(output), 3.7)
    at = noise.positions_to_query(positions, len(source))
    assert 5 <= len(at) <= noise.MOST_QUERIED
    alone = noise.noise_readout(source, output, 3.7, "CT")
    beside = noise.noise_readout(source, output, 3.7, "CT", acquired=noise.AcquiredQuery(source[at], at))
    assert alone["generated_gap"] is None
    t = positions[positions % 1 > 1e-3] % 1
    assert beside["generated_gap"] == pytest.approx(1 - np.sqrt(t**2 + (1 - t) ** 2).mean(), abs=0.01)


def test_nothing_is_queried_where_the_grid_holds_acquired_positions():
    assert len(noise.positions_to_query(noise.target_positions(41, 4), 11)) == 0


def test_queried_positions_stay_inside_a_target_that_covers_part_of_the_source():
    at = noise.positions_to_query(np.arange(10.3, 14.9, 0.3), 40)
    assert at.tolist() == [11, 12, 13, 14]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_air_around_the_body_is_not_looked_at_and_changes_no_figure(smooth_phantom, modality, monkeypatch):
    noisy = smooth_phantom + NOISE * np.random.default_rng(5).standard_normal(smooth_phantom.shape)
    source = np.pad(noisy + (1000 if modality == "MR" else 0), ((0, 0), (5, 40), (0, 21)), "reflect").astype(np.float32)
    source[:, :, :30] = source[:, 190:] = source.min()
    output = linear_slices(source, 3.5) + 0.5 * NOISE
    gauge = noise.NoiseGauge(source, 3.5, modality)
    found, mask = gauge.readout(output, noise.target_positions(len(output), 3.5)), gauge.mask(1.5)
    rows, columns = gauge.box
    assert rows.stop < source.shape[1] and columns.start > 0 and mask.shape == source.shape[1:]
    monkeypatch.setattr(noise.Flatness, "box", lambda *_: (slice(None), slice(None)))
    whole = noise.NoiseGauge(source, 3.5, modality)
    assert whole.readout(output, noise.target_positions(len(output), 3.5)) == found
    assert np.array_equal(whole.mask(1.5), mask) and found["snli"]["output"] is not None


def test_positions_of_their_own_give_the_figures_of_the_grid(white_noise: np.ndarray):
    source = white_noise[:9]
    output = linear_slices(source, 3)
    whole = noise.noise_readout(source, output, 3, "CT")
    part = noise.noise_readout(source, output[4:10], 3, "CT", positions=np.arange(4, 10) / 3)
    for name in ("output", "linear"):
        assert part["noise_per_slice"][name] == whole["noise_per_slice"][name][4:10]


def test_what_cannot_be_measured_is_none_and_valid_json():
    air = np.full((5, 40, 40), -1000, np.int16)
    readout = noise.noise_readout(air, np.repeat(air, 2, axis=0), 2, "CT")
    assert readout["snli"] == {"input": None, "output": None, "linear": None}
    assert readout["noise_ratio"] is None and readout["generated_gap"] is None
    assert readout["slices_measured"] == 0
    json.dumps(readout, allow_nan=False)


def test_whole_values_are_rounded_on_both_sides():
    source = np.random.default_rng(5).normal(40, 1.0, (9, 96, 96)).round().astype(np.int16)
    output = linear_slices(source, 4)
    found = noise.noise_readout(source, np.rint(output).astype(np.int16), 4, "CT")
    same = noise.noise_readout(source, output, 4, "CT")
    unrounded = noise.noise_readout(source, output, 4, "CT", whole_values=False)
    assert found["noise_per_slice"] == same["noise_per_slice"]
    assert found["noise_per_slice"]["output"] == found["noise_per_slice"]["linear"]
    assert unrounded["noise_per_slice"]["linear"] != same["noise_per_slice"]["linear"]


def test_a_float_scan_of_small_values_is_not_rounded(white_noise: np.ndarray):
    scan = (white_noise - white_noise.min()) / 1000
    readout = noise.noise_readout(scan, linear_slices(scan, 4), 4, "MR")
    assert readout["snli"]["output"] == pytest.approx(0.1317, abs=0.01)


def test_one_thread_and_two_give_the_same_figures(thick_mr):
    output = linear_slices(thick_mr.values, 3.5)
    one, two = (noise.noise_readout(thick_mr.values, output, 3.5, "MR", threads=n) for n in (1, 2))
    assert one == two


def test_the_output_is_read_slice_by_slice(white_noise: np.ndarray):
    """So a result that is made, or mapped from disk, slice by slice needs no second volume for its figures."""
    linear = linear_slices(white_noise, 4)

    class OnDemand:
        def __len__(self) -> int:
            return len(linear)

        def __getitem__(self, n: int) -> np.ndarray:
            assert isinstance(n, int)
            return linear[n]

    on_demand = noise.noise_readout(white_noise, OnDemand(), 4, "CT")
    assert on_demand == noise.noise_readout(white_noise, linear, 4, "CT")


# --- PSNR and SSIM --------------------------------------------------------------------------------------------
def test_psnr_of_a_known_error_uses_the_fixed_range():
    truth = np.full((4, 8, 8), 100.0)
    assert accuracy.psnr(truth + 20, truth, "CT") == pytest.approx(20 * np.log10(2000 / 20))
    assert accuracy.psnr(truth + 20, truth, "MR", peak=500) == pytest.approx(20 * np.log10(500 / 20))


def test_psnr_counts_only_the_body_and_clips_metal():
    truth = np.full((4, 8, 8), 0.0)
    truth[:, :4] = -1000
    truth[0, 7, 7] = 3000
    output = truth + 20
    output[:, :4] += 500  # air is not counted
    output[0, 7, 7] = 2500  # both above 1000 HU
    errors = 20.0**2 * 127 / 128
    assert accuracy.psnr(output, truth, "CT") == pytest.approx(10 * np.log10(2000**2 / errors))


def test_psnr_of_unsigned_values_does_not_wrap_around():
    truth = np.full((4, 8, 8), 100, np.uint8)
    assert accuracy.psnr(truth - 50, truth, "MR", peak=200) == pytest.approx(20 * np.log10(200 / 50))


def test_psnr_of_equal_volumes_is_none(thick_mr):
    assert accuracy.psnr(thick_mr.values, thick_mr.values, "MR") is None


# --- the second opinion ---------------------------------------------------------------------------------------
SCANS = [("ct_chest_stephamar_0117", "CT"), ("mr_t1_brain_brainmrt", "MR")]


@pytest.mark.slow
@pytest.mark.parametrize("z_scale", [4.0, 3.5])
@pytest.mark.parametrize("scan, modality", SCANS)
def test_the_figures_agree_with_the_outside_yardstick_within_2_percent(
    yardstick: Callable, scan: str, modality: str, z_scale: float
):
    outside = yardstick(scan)
    facts = outside.degrade(z_scale)
    source = outside.source()
    count = int(np.floor((len(source) - 1) * z_scale + 1e-6)) + 1
    # cubic, rounded: unlike linear in every figure, so that output and linear cannot be mixed up unseen
    cubic = np.rint(np.tensordot(cubic_weights(np.arange(count) / z_scale, len(source)), source, 1)).astype(np.int16)
    outside.write_result(cubic, z_scale)
    theirs = outside.score(modality)
    ours = noise.noise_readout(source, cubic, z_scale, modality)

    for name, kind in (("source", "input"), ("output", "output"), ("linear", "linear")):
        assert ours["sigma_mean"][kind] == pytest.approx(theirs[name]["sigma_mean"], rel=0.02)
        assert ours["snli"][kind] == pytest.approx(theirs[name]["snli"], rel=0.02)
    for kind in ("output", "linear"):
        assert ours["snli_detrended"][kind] == pytest.approx(theirs[kind]["snli_detrended"], rel=0.02)
    assert ours["generated_gap"] == pytest.approx(theirs["output"]["generated_gap"], rel=0.02)
    assert ours["noise_ratio"] == pytest.approx(theirs["noise_ratio"], rel=0.02)
    assert ours["slices_measured"] == theirs["output"]["slices_measured"]

    truth, t = outside.thin(), np.arange(count) / z_scale
    chosen = (t >= 1) & (t <= len(source) - 2) & (np.abs(t - np.round(t)) > 1e-3)
    at, peak = facts["first"] + np.flatnonzero(chosen), intensity.value_range(truth, modality)
    ours_db = accuracy.psnr(cubic[chosen], truth[at], modality, peak=peak)
    assert ours_db == pytest.approx(theirs["psnr_generated"]["output"], rel=0.002)
