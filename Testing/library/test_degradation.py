"""Physics of the training samples against analytic cases."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.imaging.profile import profile_weights
from CycleINRLib.training.degradation import Contrast, Noise, ScanProtocol, Smooth

L = 240


def _wave(period: float) -> np.ndarray:
    return (1000 * np.cos(2 * np.pi * np.arange(L) / period))[:, None, None] * np.ones((1, 2, 2))


@pytest.mark.parametrize(
    ("profile", "response"),
    [
        ("box", lambda x: np.sinc(x)),
        ("trapezoid", lambda x: np.sinc(x) * np.sinc(x / 2)),
        ("gaussian", lambda x: np.exp(-((np.pi * x) ** 2) / (4 * np.log(2)))),
    ],
)
@pytest.mark.parametrize("thickness", [5.0, 8.0, 6.5])
def test_a_thick_slice_weakens_a_wave_as_its_profile_says(profile, response, thickness):
    """Box: sinc(thickness / period); a trapezoid is a box of the thickness averaged over half of it."""
    period = 20.0
    centers = np.arange(40, 200, 10.0)
    thick = ScanProtocol(10.0, thickness / 10, profile).thicken(_wave(period), centers)
    expected = 1000 * np.cos(2 * np.pi * centers / period) * response(thickness / period)
    np.testing.assert_allclose(thick[:, 0, 0], expected, atol=12)  # HU of 1000: cells of one thin slice


@pytest.mark.parametrize("profile", ["box", "trapezoid", "gaussian", "skip"])
def test_noise_falls_by_the_root_of_the_sum_of_squares_of_the_profile(profile):
    noise = np.random.default_rng(0).normal(0, 100, (L, 80, 80)).astype(np.float32)
    centers = np.arange(20, 220, 8.0)
    thick = ScanProtocol(8.0, 1.0, profile).thicken(noise, centers)
    weights = profile_weights(centers, 8.0, L, profile)
    expected = 100 * np.sqrt((weights**2).sum(1).mean())
    assert thick.std() == pytest.approx(expected, rel=0.02)


def test_a_box_as_thick_as_four_slices_halves_white_noise():
    noise = np.random.default_rng(1).normal(0, 100, (L, 80, 80)).astype(np.float32)
    thick = ScanProtocol(4.0, 1.0, "box").thicken(noise, np.arange(10, 220, 4) + 0.5)
    assert thick.std() == pytest.approx(50, rel=0.02)


@pytest.mark.parametrize("profile", ["box", "trapezoid", "gaussian"])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.3])
def test_three_places_average_a_smooth_function_as_the_profile_does(profile, ratio):
    protocol = ScanProtocol(20.0, ratio, profile)
    offsets, nodes = protocol.nodes()
    assert nodes.sum() == pytest.approx(1)
    fine = _wave(100.0)[:, 0, 0]  # five spacings long
    whole = profile_weights(np.array([103.0]), protocol.thickness, L, profile) @ fine
    three = nodes @ (1000 * np.cos(2 * np.pi * (103 + 20 * offsets) / 100))
    assert three == pytest.approx(float(whole[0]), abs=12)


def test_a_slice_that_skips_is_one_place():
    offsets, nodes = ScanProtocol(3.0, 0.0, "skip").nodes()
    assert not offsets.any() and nodes.tolist() == [1, 0, 0]


def test_protocols_are_drawn_within_their_ranges_and_every_profile_occurs():
    rng = np.random.default_rng(0)
    drawn = [ScanProtocol.drawn((1.5, 6.0), (0.0, 1.3), 0.3, 0.3, rng) for _ in range(400)]
    assert {one.profile for one in drawn} == {"skip", "box", "gaussian", "trapezoid"}
    assert all(1.5 <= one.z_scale <= 6 and 0 <= one.ratio <= 1.3 for one in drawn)
    assert max(one.ratio for one in drawn) > 1.2
    assert all((one.profile == "skip") == (one.ratio == 0) for one in drawn)


@pytest.mark.parametrize("zero_filled", [True, False])
def test_a_smoothed_scan_keeps_its_mean_and_loses_its_finest_detail(zero_filled):
    k = np.arange(64)[:, None, None] + np.zeros((1, 24, 24))
    smooth = Smooth(zero_filled, 2.0, 1.5)
    np.testing.assert_allclose(smooth.of(np.full((64, 24, 24), 7.0)), 7.0, atol=1e-4)
    slow, fast = (np.cos(np.pi * k * f) for f in (0.1, 0.9))
    assert smooth.of(slow)[8:-8].std() > 0.9 * slow.std()
    assert smooth.of(fast)[8:-8].std() < 0.25 * fast.std()


def test_another_ct_calibration_is_a_line_in_hounsfield_units():
    hu = np.linspace(-1000, 1500, 24).reshape(2, 3, 4)
    places = [np.linspace(0, 1, n) for n in hu.shape]
    np.testing.assert_allclose(Contrast(1.02, -10.0, 1.0, (0, 0, 0)).of(hu, 1000.0, places), 1.02 * hu - 10, rtol=1e-5)


def test_another_mr_contrast_keeps_zero_and_the_range_and_its_field_is_smooth():
    ones = np.full((5, 6, 7), 200.0)
    places = [np.linspace(0, 1, n) for n in ones.shape]
    np.testing.assert_allclose(Contrast(1.0, 0.0, 0.7, (0, 0, 0)).of(ones, 200.0, places), 200.0, rtol=1e-5)
    assert (Contrast(1.0, 0.0, 0.7, (0.3, 0, 0)).of(0 * ones, 200.0, places) == 0).all()
    field = np.log(Contrast(1.0, 0.0, 1.0, (0.4, 0.0, -0.2)).of(ones, 200.0, places) / 200)
    assert field[-1, 0, 0] - field[0, 0, 0] == pytest.approx(0.4, abs=1e-4)
    assert field[0, 0, -1] - field[0, 0, 0] == pytest.approx(-0.2, abs=1e-4)


@pytest.mark.parametrize("correlated", [True, False])
def test_added_noise_has_the_sigma_that_it_says(correlated):
    noise = Noise(25.0, rician=False, correlated=correlated, seed=3)
    added = noise.of(np.full((20, 64, 64), 100.0, np.float32)) - 100
    assert added.std() == pytest.approx(25, rel=0.03)
    neighbors = np.corrcoef(added[:, :, 1:].ravel(), added[:, :, :-1].ravel())[0, 1]
    assert neighbors == pytest.approx(2 / 3 if correlated else 0, abs=0.03)
    np.testing.assert_array_equal(noise.of(np.zeros((4, 5, 6), np.float32)), noise.of(np.zeros((4, 5, 6), np.float32)))


def test_magnitude_noise_is_rician_rayleigh_where_there_is_no_signal():
    noise = Noise(10.0, rician=True, correlated=False, seed=0)
    assert np.abs(noise.of(np.zeros((20, 64, 64), np.float32))).mean() == pytest.approx(
        10 * np.sqrt(np.pi / 2), rel=0.02
    )


@pytest.mark.parametrize("profile", ["box", "trapezoid", "gaussian", "skip"])
def test_a_window_of_thin_slices_gives_the_same_thick_ones_as_all_of_them(profile):
    block = np.random.default_rng(0).normal(0, 100, (L, 4, 4)).astype(np.float32)
    protocol, centers = ScanProtocol(3.5, 1.2, profile), 80.25 + 3.5 * np.arange(6)
    window = protocol.window(centers, L)
    assert window.stop - window.start < 60
    from_window = protocol.thicken(block[window], centers - window.start)
    np.testing.assert_allclose(from_window, protocol.thicken(block, centers), atol=1)  # rounded as stored


@pytest.mark.parametrize("smooth", [Smooth(True, 2.0, 2.0), Smooth(False, 1.7, 1.7)])
def test_smooth_slices_are_the_same_whether_the_others_are_kept_or_not(smooth):
    block = np.random.default_rng(0).normal(0, 100, (60, 16, 16)).astype(np.float32)
    some = slice(20, 33)
    np.testing.assert_allclose(smooth.of(block, kept=some), smooth.of(block)[some], atol=1e-3)
