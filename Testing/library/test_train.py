"""Training: samples, loss, resume."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from CycleINRLib.errors import Cancelled, ModelError, RequestError  # noqa: E402
from CycleINRLib.network.model import NetworkConfig  # noqa: E402
from CycleINRLib.tasks.losses import charbonnier, gain_db  # noqa: E402
from CycleINRLib.tasks.samples import SampleConfig, Scan, draw_batch  # noqa: E402
from CycleINRLib.tasks.train import TrainConfig, learning_rate, predict, train, validate  # noqa: E402

SAMPLES = SampleConfig(slices=5, crop=24, margin=4, places=4, z_scale=(1.5, 3.5))
CONFIG = TrainConfig(
    network=NetworkConfig(channels=16, blocks=2, codes=8, hidden=16, key=4),
    samples=SAMPLES,
    steps=60,
    batch=2,
    warmup=5,
    save_every=4,
    validate_every=1000,
)


@pytest.fixture(scope="module")
def scans(ct_thin, mr_thin) -> list[Scan]:
    return [Scan.of(ct_thin), Scan.of(mr_thin)]


def test_a_batch_is_the_same_for_the_same_step_and_another_for_the_next(scans):
    one, again, other = (draw_batch(scans, SAMPLES, 3, 7, step) for step in (1, 1, 2))
    for name in one.__dataclass_fields__:
        assert torch.equal(getattr(one, name), getattr(again, name)), name
    assert not torch.equal(one.truth, other.truth)


def test_places_stay_between_their_bracketing_slices(scans):
    for step in range(20):
        batch = draw_batch(scans, SAMPLES, 4, 0, step)
        assert (batch.t >= 0).all() and (batch.t <= 1).all()
        assert (batch.below >= 0).all() and (batch.below <= SAMPLES.slices - 2).all()
        torch.testing.assert_close(batch.query[..., 0], batch.t)
        torch.testing.assert_close(batch.query[..., 1], 1 - batch.t)


def test_source_base_and_truth_show_the_same_place(ct_thin):
    """Where the scan is its own position along z, base and truth agree and the source is k * z-scale apart."""
    k = np.arange(60, dtype=np.float32)[:, None, None] + np.zeros((60, 64, 64), np.float32)
    ramp = dataclasses.replace(ct_thin, values=k * 10 + 100, modality="MR")
    config = dataclasses.replace(SAMPLES, in_plane_share=0.0, smooth_share=0.0)
    for step in range(10):
        batch = draw_batch([Scan.of(ramp)], config, 2, 0, step)
        inner = (batch.below >= 1) & (batch.below <= SAMPLES.slices - 3)
        error = (batch.base - batch.truth).abs().amax((2, 3))
        assert float(error[inner].max() if inner.any() else 0) < 2e-3


def test_a_truth_at_an_acquired_slice_that_skips_is_that_slice(scans):
    config = dataclasses.replace(SAMPLES, skip_share=1.0, z_scale=(2.0, 2.0), smooth_share=0.0)
    batch = draw_batch(scans, config, 4, 0, 3)
    rim = slice(SAMPLES.margin, -SAMPLES.margin)
    for b, p in zip(*torch.nonzero(batch.t == 0, as_tuple=True)):
        torch.testing.assert_close(batch.truth[b, p], batch.source[b, batch.below[b, p], rim, rim], atol=2e-3, rtol=0)


@pytest.mark.parametrize("zero_filled", [True, False])
def test_a_smoothed_scan_keeps_its_mean_and_loses_its_finest_detail(zero_filled):
    from CycleINRLib.tasks.samples import _Smooth

    k = np.arange(64)[:, None, None] + np.zeros((1, 24, 24))
    smooth = _Smooth(zero_filled, 2.0, 1.5)
    np.testing.assert_allclose(smooth.of(np.full((64, 24, 24), 7.0)), 7.0, atol=1e-4)
    slow, fast = (np.cos(np.pi * k * f) for f in (0.1, 0.9))
    assert smooth.of(slow)[8:-8].std() > 0.9 * slow.std()
    assert smooth.of(fast)[8:-8].std() < 0.25 * fast.std()


def test_the_loss_is_zero_for_the_truth_and_absolute_for_large_errors():
    weight = torch.ones(4)
    assert float(charbonnier(torch.zeros(4), weight, 0.3)) == 0
    assert float(charbonnier(torch.full((4,), 100.0), weight, 0.3)) == pytest.approx(99.7, rel=1e-3)


def test_gain_counts_in_decibel():
    error, weight = torch.full((2, 3, 3), 0.5), torch.ones(2, 3, 3)
    assert float(gain_db(error, 2 * error, weight)) == pytest.approx(6.02, abs=0.01)


def test_training_lowers_the_loss_on_real_scans(scans, tmp_path):
    easy = dataclasses.replace(SAMPLES, z_scale=(2.0, 2.0), skip_share=1.0, smooth_share=0.0, in_plane_share=0.0)
    quick = dataclasses.replace(CONFIG, samples=easy, steps=150, rate=5e-3, ema=0.9)
    torch.manual_seed(0)
    network = train(scans, tmp_path / "run.state", quick)
    assert validate(network, scans, quick, batches=6) > 0.02  # dB above the closed-form base; untrained: 0.00


def test_a_killed_run_goes_on_bit_for_bit(scans, tmp_path):
    whole = train(scans, tmp_path / "whole.state", dataclasses.replace(CONFIG, steps=12))
    seen = []
    with pytest.raises(Cancelled):
        train(
            scans,
            tmp_path / "cut.state",
            dataclasses.replace(CONFIG, steps=12),
            cancelled=lambda: seen.append(1) or len(seen) >= 7,
        )
    resumed = train(scans, tmp_path / "cut.state", dataclasses.replace(CONFIG, steps=12))
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items()):
        assert torch.equal(a, b), name


def test_a_run_begins_with_the_weights_that_it_is_given(scans, tmp_path):
    first = train(scans, tmp_path / "first.state", dataclasses.replace(CONFIG, steps=6))
    still = dataclasses.replace(CONFIG, steps=1, rate=0.0)
    second = train(scans, tmp_path / "second.state", still, start_from=first)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, msg=name)
    wider = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, channels=32))
    with pytest.raises(ModelError, match="another network"):
        train(scans, tmp_path / "third.state", wider, start_from=first)


def test_a_state_of_another_network_is_refused(scans, tmp_path):
    train(scans, tmp_path / "run.state", dataclasses.replace(CONFIG, steps=2))
    wider = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, channels=32))
    with pytest.raises(ModelError, match="another network"):
        train(scans, tmp_path / "run.state", wider)


def test_no_scans_is_refused(tmp_path):
    with pytest.raises(RequestError, match="nothing to train on"):
        train([], tmp_path / "run.state", CONFIG)


def test_configuration_survives_json():
    import json

    assert TrainConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth():
    rates = [learning_rate(step, CONFIG) for step in range(CONFIG.steps + 1)]
    assert max(rates) == pytest.approx(CONFIG.rate) and np.argmax(rates) == CONFIG.warmup - 1
    assert rates[-1] == pytest.approx(0.01 * CONFIG.rate)


def test_prediction_has_the_shape_of_the_truth(scans):
    from CycleINRLib.network.model import CycleINR

    batch = draw_batch(scans, SAMPLES, 2, 0, 0)
    assert predict(CycleINR(CONFIG.network), batch, SAMPLES.margin).shape == batch.truth.shape
