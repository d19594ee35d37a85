"""Stage 1 without ground truth: the training of the autoencoder, and the volumes that it synthesizes."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from CycleINRLib.adapting.residuals import Residual, Residuals  # noqa: E402
from CycleINRLib.adapting.synthesis import Codes, SynthesisConfig, draw_patches, synthesize, train_vae  # noqa: E402
from CycleINRLib.errors import Cancelled, ModelError, RequestError, VolumeError  # noqa: E402
from CycleINRLib.events import Progress  # noqa: E402
from CycleINRLib.imaging import accuracy, noise  # noqa: E402
from CycleINRLib.imaging.intensity import IntensityScale  # noqa: E402
from CycleINRLib.imaging.interpolation import base_weights, linear_weights  # noqa: E402
from CycleINRLib.network.vae import VAE, VAEConfig  # noqa: E402

CONFIG = SynthesisConfig(
    network=VAEConfig(codes=6, channels=16, blocks=1), steps=12, batch=2, crop=32, warmup=2, save_every=5, log_every=4
)


def normalized(volume) -> np.ndarray:
    return volume.values.astype(np.float32) / IntensityScale.of(volume.values, volume.modality).scale


@pytest.fixture(scope="module")
def trained(thick_mr, tmp_path_factory) -> VAE:
    path = tmp_path_factory.mktemp("vae") / "vae.state"
    return train_vae([normalized(thick_mr)], path, CONFIG, steps=60)


@pytest.fixture(scope="module")
def volume(thick_mr, trained) -> np.ndarray:
    scale = IntensityScale.of(thick_mr.values, "MR").scale
    return synthesize(thick_mr.values, 3.5, trained, scale, 0, modality="MR")


def error(vae: VAE, stack: np.ndarray) -> float:
    """Mean |D(mu) - x| of a normalized stack."""
    codes = Codes(stack, vae, 1.0)
    return float(np.mean([np.abs(codes.slice(k) - stack[k]).mean() for k in range(len(stack))]))


def decoded(values: np.ndarray, vae: VAE, scale: float, mix: np.ndarray) -> np.ndarray:
    """The synthetic slices before noise comes back to them, for a (M, N) mix of codes."""
    codes = Codes(values, vae, scale)
    return np.stack([codes.decode(weights) for weights in mix])


# --- training -------------------------------------------------------------------------------------------------
def test_training_brings_slices_back_better_than_the_cosines_it_starts_from(thick_mr, trained):
    stack = normalized(thick_mr)
    torch.manual_seed(0)
    assert error(trained, stack) < 0.8 * error(VAE(CONFIG.network), stack)


def test_a_killed_run_goes_on_bit_for_bit(thick_mr, thick_ct, tmp_path):
    stacks = [normalized(thick_mr), normalized(thick_ct)]
    whole = train_vae(stacks, tmp_path / "whole.state", CONFIG)
    seen: list[int] = []
    with pytest.raises(Cancelled):
        train_vae(stacks, tmp_path / "cut.state", CONFIG, cancelled=lambda: seen.append(1) or len(seen) >= 8)
    resumed = train_vae(stacks, tmp_path / "cut.state", CONFIG)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name
    losses = [line.split(",")[2] for line in (tmp_path / "whole.csv").read_text("utf-8").splitlines()]
    assert len(losses) == 4
    assert losses == [line.split(",")[2] for line in (tmp_path / "cut.csv").read_text("utf-8").splitlines()]


def test_a_finished_run_takes_no_further_step(thick_mr, tmp_path):
    first = train_vae([normalized(thick_mr)], tmp_path / "vae.state", CONFIG)
    before = (tmp_path / "vae.state").read_bytes()
    again = train_vae([normalized(thick_mr)], tmp_path / "vae.state", CONFIG, cancelled=lambda: True)
    assert (tmp_path / "vae.state").read_bytes() == before
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))


def test_minutes_end_a_run_and_count_over_all_calls(thick_mr, tmp_path):
    stack, path = [normalized(thick_mr)], tmp_path / "vae.state"
    train_vae(stack, path, dataclasses.replace(CONFIG, steps=10**9), minutes=0.02)
    before = path.read_bytes()
    train_vae(stack, path, dataclasses.replace(CONFIG, steps=10**9), minutes=0.02)
    assert path.read_bytes() == before


def test_progress_tells_the_stage_and_what_is_left(thick_mr, tmp_path):
    told: list[Progress] = []
    slowly = lambda: time.sleep(0.02)  # noqa: E731  a fast machine has less left than the tenth of a second that is told
    train_vae([normalized(thick_mr)], tmp_path / "vae.state", CONFIG, progress=told.append, cancelled=slowly)
    assert [(event.stage, event.done, event.of) for event in told] == [("synthesize", n, 12) for n in (4, 8, 12)]
    assert told[0].remaining_s > 0 and told[-1].remaining_s == 0


def test_scans_that_are_too_small_are_passed_over_or_refused(thick_mr, tmp_path):
    stack = normalized(thick_mr)
    with pytest.raises(RequestError, match="nothing to learn from"):
        train_vae([stack[:2], stack[:, :15]], tmp_path / "vae.state", CONFIG)
    assert not list(tmp_path.iterdir())
    train_vae([stack[:2], stack], tmp_path / "vae.state", dataclasses.replace(CONFIG, steps=1))


def test_a_state_of_another_network_is_refused(thick_mr, tmp_path):
    train_vae([normalized(thick_mr)], tmp_path / "vae.state", dataclasses.replace(CONFIG, steps=1))
    wider = dataclasses.replace(CONFIG, network=VAEConfig(codes=6, channels=24, blocks=1))
    with pytest.raises(ModelError, match="another network"):
        train_vae([normalized(thick_mr)], tmp_path / "vae.state", wider)


def test_patches_are_a_function_of_seed_and_step_and_hold_neighbors():
    ramp = np.broadcast_to(np.arange(9, dtype=np.float32)[:, None, None], (9, 40, 50))
    batch, noise = draw_patches([ramp], CONFIG, 3, 7)
    again, _ = draw_patches([ramp], CONFIG, 3, 7)
    other, _ = draw_patches([ramp], CONFIG, 3, 8)
    assert batch.shape == (2, 3, 32, 32) and noise.shape == (2, 6, 8, 8)
    assert torch.equal(batch, again) and not torch.equal(batch, other)
    steps = batch[:, 1:, 0, 0] - batch[:, :-1, 0, 0]
    assert torch.all(steps.abs() == 1) and torch.all(steps[:, 0] == steps[:, 1])


def test_the_configuration_is_ready_for_json():
    assert json.loads(json.dumps(CONFIG.to_dict()))["network"]["codes"] == 6


# --- volumes --------------------------------------------------------------------------------------------------
def test_a_synthetic_volume_has_all_places_the_unit_and_the_range_of_the_scan(thick_mr, volume):
    assert volume.shape == (50, 64, 64) and volume.dtype == np.float32  # floor(14 * 3.5) + 1
    assert volume.min() >= thick_mr.values.min() and volume.max() <= thick_mr.values.max()
    assert accuracy.psnr(volume[::7], thick_mr.values[::2], "MR") > 20


def test_synthetic_slices_have_the_noise_of_the_acquired_ones(thick_mr, volume):
    readout = noise.noise_readout(thick_mr.values, volume, 3.5, "MR", threads=1)
    assert 0.9 < readout["noise_ratio"] < 1.1
    assert readout["snli_detrended"]["output"] < 0.5 * readout["snli_detrended"]["linear"]


def test_decoding_alone_loses_noise(thick_mr, trained):
    scale = IntensityScale.of(thick_mr.values, "MR").scale
    plain = decoded(thick_mr.values, trained, scale, base_weights(np.arange(29) / 2, 15, 1.0, 0.5))
    assert noise.noise_readout(thick_mr.values, plain, 2.0, "MR", threads=1)["noise_ratio"] < 0.8


def test_a_mix_that_knows_the_thickness_is_nearer_to_the_thin_slices(thick_mr, mr_thin, trained):
    scale = IntensityScale.of(thick_mr.values, "MR").scale
    # thin slice n lies at (n - 1.5) / 4 thick ones
    wanted, places = mr_thin.values[6:54].astype(np.float32), (np.arange(6, 54) - 1.5) / 4
    known = decoded(thick_mr.values, trained, scale, base_weights(places, 15, 1.0, 0.25))
    published = decoded(thick_mr.values, trained, scale, linear_weights(places, 15))
    assert accuracy.psnr(known, wanted, "MR") > accuracy.psnr(published, wanted, "MR")


def test_without_a_ratio_two_neighbors_are_mixed_by_distance(trained):
    values = np.full((4, 32, 32), 50, np.float32)
    values[3], values[0, 0, 0] = 100, 0  # the range of the scan bounds what is synthesized
    two, wide = (
        synthesize(values, 2.0, trained, 100.0, 0, modality="MR", ratio=ratio).mean((1, 2)) for ratio in (None, 1.0)
    )
    assert np.ptp(two[:5]) < 1 and two[5] > two[0] + 10  # slices 0 to 2, halfway to slice 3
    assert np.abs(wide[3] - two[3]) > 2  # slice 3 acts beyond its neighbor


def test_the_seed_decides_what_is_drawn(thick_mr, trained):
    made = [synthesize(thick_mr.values[:4], 1.5, trained, 500.0, seed, modality="MR") for seed in (1, 1, 2)]
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])


def test_no_two_slices_between_the_same_neighbors_carry_the_same_noise(thick_mr, trained):
    scale = IntensityScale.of(thick_mr.values, "MR").scale
    plain = decoded(thick_mr.values[:4], trained, scale, base_weights(np.arange(13) / 4, 4, 1.0, 0.25))
    added = synthesize(thick_mr.values[:4], 4.0, trained, scale, 0, modality="MR") - plain
    inner = added[:, 8:-8, 8:-8].reshape(13, -1)
    assert np.abs(np.corrcoef(inner) - np.eye(13)).max() < 0.2


def test_residuals_of_the_body_do_not_land_in_air():
    random = np.random.default_rng(0)
    values = np.zeros((6, 64, 64), np.float32)
    values[:, 12:52, 20:60] = 500
    body = values[0] > 0
    values += random.normal(0, np.where(body, 20, 1), values.shape).astype(np.float32)
    plain = np.where(body, np.float32(500), np.float32(0))
    residuals = Residuals(values, lambda k: plain, "MR", 0)
    drawn = np.stack([residuals.draw(plain, n / 4, n) for n in range(12)])
    air, inside = drawn[:, ~body], drawn[:, body]
    assert np.abs(air).max() < 8 and 0.8 < air.std() < 1.3
    assert 18 < inside.std() < 22


def test_a_background_without_noise_stays_so():
    random = np.random.default_rng(0)
    body = np.zeros((48, 48), bool)
    body[8:40, 8:40] = True
    plain = np.where(body, np.float32(100), np.float32(0))
    noisy = np.where(body, plain + random.normal(0, 5, body.shape), 0).astype(np.float32)
    residual = Residual.of(noisy, plain, body)
    assert residual.strength[~body].max() < 1e-3 and np.isfinite(residual.unit).all()
    assert 0.9 < residual.unit[body].std() < 1.1


def test_synthesis_stops_when_asked_and_needs_two_slices(thick_mr, trained):
    with pytest.raises(Cancelled):
        synthesize(thick_mr.values, 2.0, trained, 500.0, 0, modality="MR", cancelled=lambda: True)
    with pytest.raises(VolumeError, match="too few slices"):
        synthesize(thick_mr.values[:1], 2.0, trained, 500.0, 0, modality="MR")
