"""Synthetic against acquired slices: what each figure sees, and what it must not see; the picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from CycleINRLib.adapting.realism import (
    PatchSample,
    classifier_auc,
    compare,
    draw_sample,
    edge_strength,
    features_of,
    mmd_test,
    realism,
    spectrum,
)
from CycleINRLib.errors import RequestError


@pytest.fixture(scope="module")
def slices(mr_thin) -> np.ndarray:
    """(60, 64, 64) real slices; every second one serves as acquired."""
    return mr_thin.values.astype(np.float32)


@pytest.fixture(scope="module")
def of_itself(slices) -> dict:
    """Real slices between real slices: a synthesis that cannot be told."""
    return realism(slices[::2], slices[:59], 2.0, "MR")


@pytest.fixture(scope="module")
def of_smooth(slices) -> dict:
    made = slices[:59].copy()
    made[1::2] = ndimage.gaussian_filter(made[1::2], (0, 1, 1))
    return realism(slices[::2], made, 2.0, "MR")


def test_real_slices_cannot_be_told_from_real_slices(of_itself):
    assert 0.93 < of_itself["sharpness"]["between"] < 1.07 and of_itself["sharpness"]["at_acquired"] == 1
    assert 0.9 < of_itself["fine_power"]["between"] < 1.1
    assert 0.95 < of_itself["noise_ratio"] < 1.05
    test = of_itself["two_sample"]
    assert abs(test["mmd2"]) < 0.01 and test["p"] > 0.02 and abs(test["auc"] - 0.5) < 0.1


def test_smooth_slices_are_told_by_every_figure(of_smooth):
    assert of_smooth["sharpness"]["between"] < 0.8 and of_smooth["sharpness"]["at_acquired"] == 1
    assert of_smooth["fine_power"]["between"] < 0.2
    assert of_smooth["noise_ratio"] < 0.8 and of_smooth["generated_gap"] > 0.3
    test = of_smooth["two_sample"]
    assert test["mmd2"] > 0.1 and test["p"] < 0.01 and test["auc"] > 0.9
    assert abs(test["acquired"]["auc"] - 0.5) < 0.1


def test_noise_too_much_is_told_too(slices):
    made = slices[:59] + np.random.default_rng(0).normal(0, 40, (59, 64, 64)).astype(np.float32)
    found = realism(slices[::2], made, 2.0, "MR")
    assert found["noise_ratio"] > 1.5 and found["fine_power"]["between"] > 1.5 and found["two_sample"]["auc"] > 0.8


def test_the_figures_are_ready_for_json_and_the_same_each_time(slices, of_itself):
    assert json.loads(json.dumps(of_itself, allow_nan=False)) == of_itself
    assert realism(slices[::2], slices[:59], 2.0, "MR") == of_itself


def test_what_cannot_be_measured_is_none(slices):
    air = np.zeros((8, 64, 64), np.float32)
    air[:, 0, 0] = 100  # the range of an MR scan must not be 0
    found = realism(air - 1, air[:7] - 1, 1.5, "CT")
    assert found["noise_ratio"] is None
    only = realism(slices[:8], slices[:8], 1.0, "MR")
    assert only["sharpness"]["between"] is None and only["two_sample"] is None and only["spectra"]["between"] is None


def test_few_slices_at_acquired_positions_are_not_compared(slices):
    found = realism(slices[::2], slices[:59], 7 / 4, "MR")  # 9 of 59 lie there
    assert found["sharpness"]["at_acquired"] is not None
    found = realism(slices[::2], slices[:59], 37 / 20, "MR")  # 2 of 59
    assert found["sharpness"]["at_acquired"] is None and found["fine_power"]["at_acquired"] is None
    assert found["sharpness"]["between"] is not None and found["spectra"]["at_acquired"] is None


def test_edge_strength_of_a_blurred_step_falls_as_the_blur_grows():
    step = np.zeros((3, 64, 64), np.float32)
    step[:, :, 32:] = 100
    step += 100
    one, two, three = (edge_strength(ndimage.gaussian_filter(step, (0, s, s)), "MR", 200.0) for s in (0, 1, 2))
    assert one > 1.2 * two > 1.44 * three


def test_the_spectrum_of_white_noise_is_flat_and_its_power_is_the_variance():
    noise = np.random.default_rng(0).normal(0, 3, (20, 64, 80))
    power = spectrum(noise)
    assert np.all(np.abs(power[1:] / 9 - 1) < 0.15)


def test_the_spectrum_knows_a_wave_by_its_frequency():
    wave = np.broadcast_to(np.cos(2 * np.pi * 0.3 * np.arange(100)), (2, 100, 100))
    assert np.argmax(spectrum(wave)) == int(0.3 * 48)


def test_features_see_spread_gradient_and_texture():
    random = np.random.default_rng(0)
    white = random.normal(0, 1, (40, 8, 8))
    smooth = ndimage.gaussian_filter(random.normal(0, 1, (40, 20, 20)), (0, 1, 1))[:, 6:14, 6:14]
    of_white, of_smooth = (np.mean([features_of(p) for p in x], axis=0) for x in (white, smooth))
    assert of_white[3] > of_smooth[3] + 1 and of_white[4] < -0.5 and of_smooth[4] > of_white[4] + 0.3
    twice = features_of(2 * white[0] + 5)
    np.testing.assert_allclose(np.subtract(twice, features_of(white[0]))[1:], [*[np.log(2)] * 3, 0], atol=1e-3)


def test_patches_come_from_the_body_alone(slices):
    values = slices[:6].copy()
    values[:, :, :32] = 0
    sample = draw_sample(values, "MR", float(slices.max()), np.random.default_rng(0), 60)
    assert len(sample.place) == 60 and sample.place.min() == 0 and sample.place.max() == 1
    assert sample.features[:, 0].min() > 0
    assert draw_sample(np.zeros((4, 32, 32), np.float32), "MR", 1.0, np.random.default_rng(0)) is None


def test_the_p_value_is_uniform_for_samples_alike_and_small_for_others():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    alike = [mmd_test(random.normal(0, 1, (80, 3)), labels, random)[1] for _ in range(20)]
    assert 0.25 < np.mean(alike) < 0.75 and min(alike) > 0
    shifted = random.normal(0, 1, (80, 3)) + labels[:, None]
    assert mmd_test(shifted, labels, random)[1] < 0.01


def test_mmd_without_a_difference_is_unbiased():
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 60)
    values = [mmd_test(random.normal(0, 1, (120, 3)), labels, random)[0] for _ in range(20)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(20)


def test_the_classifier_sees_a_change_of_spread_and_is_tested_on_other_places():
    random = np.random.default_rng(0)
    labels, place = np.repeat([0, 1], 200), np.tile(np.linspace(0, 1, 200), 2)
    wider = random.normal(0, 1, (400, 3)) * (1 + labels[:, None])
    assert classifier_auc(wider, labels, place) > 0.7
    turning = (2 * labels - 1) * np.where((place * 4).astype(int) % 2, 1, -1)  # tells them, but not alike everywhere
    assert classifier_auc(np.stack([turning, random.normal(0, 1, 400)], 1), labels, place) < 0.5


def test_comparing_a_sample_with_itself_finds_nothing():
    random = np.random.default_rng(0)
    sample = PatchSample(random.normal(0, 1, (80, 5)), np.linspace(0, 1, 80))
    found = compare(sample, sample, random)
    assert found["mmd2"] <= 0 and found["p"] > 0.5 and found["auc"] == pytest.approx(0.5)


def test_the_picture_shows_slices_and_curves(slices, of_itself, tmp_path):
    pytest.importorskip("matplotlib")
    from CycleINRLib.pictures.synthetic import realism_picture

    path = realism_picture(tmp_path / "real.png", slices[::2], slices[:59], 2.0, "MR", of_itself, spacing_mm=(1, 1.5))
    from matplotlib.image import imread

    shown = imread(path)
    assert shown.shape[0] > 600 and shown.shape[1] > 1000 and shown[..., :3].std() > 0.1
    assert [file.name for file in tmp_path.iterdir()] == ["real.png"]
    with pytest.raises(RequestError, match="PNG"):
        realism_picture(tmp_path / "real.jpg", slices[::2], slices[:59], 2.0, "MR", of_itself)
