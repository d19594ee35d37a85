"""Signal and noise of acquired slices: what is taken is noise, no more of it than there is, nothing that stands out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch")

from CycleINRLib.imaging.figures import NORMAL_MAD  # noqa: E402
from CycleINRLib.imaging.noise import Flatness, gradient_parts  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.upsampling import split  # noqa: E402
from CycleINRLib.upsampling.noisemodel import RICIAN, NoiseModel, finest, small_things  # noqa: E402
from CycleINRLib.upsampling.split import SPLIT_HALO, take  # noqa: E402

SPACING = (5.0, 0.8, 0.8)
LEVEL = 12.0


def phantom() -> np.ndarray:
    """Soft tissue (0 HU) in air with a bright, a dark and a metal part; the same in all slices but for its size."""
    k, j, i = np.mgrid[:12, :128, :128]
    away = np.hypot(j - 64, i - 64)
    scan = np.where(away < 55 - k, 40.0, -1000.0)
    scan[np.hypot(j - 50, i - 45) < 9] = 120
    scan[np.hypot(j - 80, i - 80) < 7] = -80
    scan[(np.abs(j - 64) < 3) & (np.abs(i - 95) < 3)] = 3000
    return ndimage.gaussian_filter(scan, (0, 0.7, 0.7))


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return phantom()


@pytest.fixture(scope="module")
def noise(clean) -> np.ndarray:
    """Correlated within slices, as a reconstruction kernel leaves it; twice as strong on the right as on the left."""
    white = np.random.default_rng(1).standard_normal(clean.shape)
    smooth = ndimage.gaussian_filter(white, (0, 0.8, 0.8))
    return LEVEL * smooth / smooth.std() * np.linspace(0.67, 1.33, 128)


@pytest.fixture(scope="module")
def scan(clean, noise) -> np.ndarray:
    return np.clip(np.rint(clean + noise), -1024, 3071).astype(np.int16)


def fine(values: np.ndarray) -> np.ndarray:
    """Without waves broader than two slice spacings, which are left alone."""
    u = np.fft.fftfreq(128, SPACING[1])
    return np.fft.ifft2(np.fft.fft2(values) * (np.hypot(u[:, None], u[None]) > 1 / (2 * SPACING[0]))).real


@pytest.fixture(scope="module")
def model(scan) -> NoiseModel:
    found = NoiseModel.of(scan, SPACING, "CT")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def taken(scan, model):
    return take(scan, model)


@pytest.fixture(scope="module")
def tissue(clean) -> np.ndarray:
    """Well inside the soft tissue."""
    return ndimage.minimum_filter(np.abs(clean - 40) < 1, (1, 11, 11))


def test_the_noise_is_found_at_its_strength_and_where_it_is_stronger(model, noise, tissue):
    assert model.sigma == pytest.approx(np.sqrt(np.mean(fine(noise)[tissue] ** 2)), rel=0.25)
    left, right = (model.level_at(6, 64, 1, column, 1)[0, 0] for column in (35, 95))
    made = np.linspace(0.67, 1.33, 128)
    assert right / left == pytest.approx(made[95] / made[35], rel=0.2)
    assert 0.9 < model.halves < 1.1 and abs(model.neighbors) < 0.1


def test_most_of_the_fine_noise_is_taken_and_no_more_than_there_is(taken, noise, tissue):
    fine_noise, signal = (np.stack([finest(one) for one in of]) for of in (noise, noise - taken.noise))
    assert signal[tissue].std() < 0.75 * fine_noise[tissue].std()  # the rest is broader than 2 mm, or stood out
    assert taken.noise[tissue].std() < fine(noise)[tissue].std()


def test_the_broader_a_wave_the_more_of_it_stays(model):
    """What is faint and broad is seldom found, and hardly a streak."""
    diagonal = np.diag(model.left)
    assert (np.diff(diagonal) <= 0).all() and diagonal[1] > 0.3 and diagonal[-1] < 0.01


def test_new_noise_fills_up_what_the_signal_lacks(taken, noise, model, tissue):
    """The variance of the fine noise in the signal and that of the noise to be made are that of the scan."""
    level = np.stack([model.level_at(k, 0, 128, 0, 128) for k in range(len(noise))])
    signal = np.stack([finest(one) for one in noise - taken.noise]) / level
    rest = taken.rest / 255  # amplitude of what was taken and not given back
    new = np.repeat(np.repeat(taken.share, 4, axis=1), 4, axis=2) * rest * (2 - rest)
    assert np.mean(signal[tissue] ** 2) + new[tissue].mean() == pytest.approx(1, abs=0.05)


def test_what_is_taken_holds_no_structure(taken, clean):
    gradient = np.stack([ndimage.gaussian_gradient_magnitude(one, 1.0) for one in clean])
    body = (clean > -250) & (clean < 300)
    assert abs(np.corrcoef(taken.noise[body], gradient[body])[0, 1]) < 0.02
    edges = body & (gradient > np.quantile(gradient[body], 0.95))
    assert abs(taken.noise[edges].mean()) < 0.05 * LEVEL


def test_air_metal_and_padding_are_left_alone(scan, model, clean):
    padded = scan.copy()
    padded[:, :, :20] = -2000
    found = take(padded, model).noise
    assert not found[:, :, :19].any()
    deep = ndimage.maximum_filter(clean, (1, 9, 9)) < -995
    assert found[deep].std() < 0.01 * LEVEL and np.abs(found[clean > 2900]).max() < 0.01 * LEVEL


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.9])
def test_what_is_touched_fades_at_its_limits_be_they_many_pixels_or_few(model, modality, share):
    model = dataclasses.replace(model, modality=modality)
    rng = np.random.default_rng(5)
    smooth = np.where(rng.random((40, 50)) < share, rng.uniform(-1000, 3000, (40, 50)), 900).astype(np.float32)
    level = rng.uniform(5, 400, smooth.shape).astype(np.float32)

    def ramp(values, low, high):
        part = np.clip((values - low) / (high - low), 0, 1)
        return part * part * (3 - 2 * part)

    expected = ramp(smooth, *model.low) * (1 - ramp(smooth, *model.high))
    if modality == "MR":
        expected *= ramp(smooth / (level * model.total), *RICIAN)
    noise = np.ones((40, 100), np.float32)[:, ::2]  # neighbors in memory that are no neighbors
    model.touch(noise, smooth, level if model.is_rician else None)
    np.testing.assert_allclose(noise, expected, atol=1e-5)


def test_an_empty_scan_has_no_noise_to_be_measured():
    assert NoiseModel.of(np.full((6, 64, 64), -1000, np.int16), SPACING, "CT") is None


def test_a_part_of_the_scan_gives_what_the_whole_gives(scan, model, taken):
    part = take(scan[:, 32:, 20:], model, (0, 32, 20))
    np.testing.assert_array_equal(
        part.noise[:, SPLIT_HALO:, SPLIT_HALO:], taken.noise[:, 32 + SPLIT_HALO :, 20 + SPLIT_HALO :]
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_what_is_taken(scan, model, taken, threads, monkeypatch):
    monkeypatch.setattr(split, "SLICES_A_THREAD", 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = take(scan, model)
    finally:
        torch.set_num_threads(before)
    for name in ("noise", "share", "rest"):
        np.testing.assert_array_equal(getattr(found, name), getattr(taken, name))


def test_a_lesion_that_stands_out_stays(clean, noise, scan, model, taken):
    """A sphere of 5 mm of low contrast, in one slice: detectability 6."""
    away = np.hypot(*np.mgrid[-64:64, -64:64] + np.array([0, 12])[:, None, None])
    lesion = np.zeros(clean.shape)
    lesion[6] = ndimage.gaussian_filter((away < 3).astype(float), 0.7)
    cells = 2 * np.sum(lesion[6] ** 2) / (4 * np.pi * 0.8**2)  # area of independent noise: 4 pi sigma^2
    contrast = 6 * LEVEL / np.sqrt(cells / 2)
    kept = []
    for sign in (1, -1):
        with_it = np.rint(clean + noise + sign * contrast * lesion)
        change = (with_it - take(with_it, model).noise) - (scan - taken.noise)
        kept.append(np.sum(change * lesion) / (sign * contrast * np.sum(lesion**2)))
    assert np.mean(kept) > 0.95


def test_real_scans_pass_the_examination(a_thick_ct, a_thick_mr):
    from CycleINRLib.jobs import UpsampleJob
    from CycleINRLib.upsampling.grain import judged
    from CycleINRLib.upsampling.plan import plan

    for volume in (a_thick_ct, a_thick_mr):
        planned = plan(volume, UpsampleJob())
        source = volume.slices_first(planned.axis)
        found = NoiseModel.of(source.values, source.spacing_mm, planned.modality)
        assert found is not None
        rms, ratio, doubts = judged(source.values, found, planned)
        assert doubts == [] and 0.2 < ratio <= 1.1 and 0 < rms <= 1.1 * found.sigma


@pytest.fixture(scope="module")
def a_thick_ct() -> Volume:
    return sample("CT_abdomen_5mm.nrrd")


@pytest.fixture(scope="module")
def a_thick_mr() -> Volume:
    return sample("MR_knee_4.3mm.nrrd")


def sample(name: str) -> Volume:
    from pathlib import Path

    from CycleINRLib.io.files import read

    return read(Path(__file__).parents[2] / "Resources" / "SampleData" / name)


def test_nothing_stands_out_of_the_signal_that_did_not_stand_out_of_the_slice(a_thick_ct):
    """Seen by the matched filter, in a real scan, in deviations of what it gives at flat places of the slices."""
    values = np.asarray(a_thick_ct.slices_first("k").part(((8, 20), (32, 192), (32, 224))).values, np.float32)
    model = NoiseModel.of(values, a_thick_ct.spacing_mm, "CT")
    assert model is not None
    signal = values - take(values, model).noise
    flatness = Flatness.of(values, "CT")
    for slice_of, signal_of in zip(values, signal):
        flat = flatness.mask(slice_of, np.hypot(*gradient_parts(slice_of)))
        before, after = small_things(slice_of), small_things(signal_of)
        deviation = np.median(np.abs(before[flat])) / NORMAL_MAD
        for sign in (1, -1):
            stands_out = sign * after[flat] > 4.5 * deviation
            assert (ndimage.maximum_filter(sign * before, 3)[flat][stands_out] > 4 * deviation).all()


def test_a_pixel_that_stands_out_gets_no_noise_on_top(clean):
    """It may be noise that was taken for signal: with new noise on top it would be a dot that the scan has not."""
    scan = clean + np.random.default_rng(3).normal(0, LEVEL, clean.shape)
    scan[6, 64, 40] = clean[6, 64, 40] + 5 * LEVEL
    model = NoiseModel.of(scan, SPACING, "CT")
    assert model is not None
    found = take(scan, model)
    assert abs(found.noise[6, 64, 40]) < 2 * LEVEL
    assert found.rest[6, 64, 40] < 128 and found.rest[6, 32:96, 32:96].mean() > 220
