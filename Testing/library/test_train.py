"""Training: the loop, its state, resume."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from CycleINRLib.errors import Cancelled, MissingPackageError, ModelError, RequestError  # noqa: E402
from CycleINRLib.network.model import NetworkConfig  # noqa: E402
from CycleINRLib.training.checkpoint import forget_after, log  # noqa: E402
from CycleINRLib.training.loop import Pace, learning_rate  # noqa: E402
from CycleINRLib.training.optimizer import Optimizer  # noqa: E402
from CycleINRLib.training.patches import SampleConfig, Scan  # noqa: E402
from CycleINRLib.training.ranks import Ranks  # noqa: E402
from CycleINRLib.training.train import TrainConfig, train, validate  # noqa: E402

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
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")


@pytest.fixture(scope="module")
def scans(ct_thin, mr_thin) -> list[Scan]:
    return [Scan.of(ct_thin), Scan.of(mr_thin)]


def test_training_lowers_the_loss_on_real_scans(scans, tmp_path):
    easy = dataclasses.replace(SAMPLES, z_scale=(2.0, 2.0), skip_share=1.0, in_plane_share=0.0)
    easy = dataclasses.replace(easy, smooth_share=0.0, contrast_share=0.0, noise_share=0.0)
    quick = dataclasses.replace(CONFIG, samples=easy, steps=150, rate=5e-3, ema=0.9)
    torch.manual_seed(0)
    network = train(scans, tmp_path / "run.state", quick)
    assert validate(network, scans, quick, batches=6) > 0.02  # dB above the closed-form base; untrained: 0.00


def test_a_run_of_a_time_when_networks_held_more_goes_on(scans, tmp_path):
    path, longer = tmp_path / "run.state", dataclasses.replace(CONFIG, steps=8)
    train(scans, path, dataclasses.replace(CONFIG, steps=4))
    whole = train(scans, tmp_path / "whole.state", longer)
    with safe_open(path, "pt") as file:
        told = file.metadata()
    held = load_file(path)
    more = {f"{of}.texture.last.weight": torch.ones(1, 16, 1, 1) for of in ("network", "average")}
    save_file({**held, **more}, path, told)
    resumed = train(scans, path, longer)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=needs_muon)])
def test_a_killed_run_goes_on_bit_for_bit(scans, tmp_path, optimizer):
    config = dataclasses.replace(CONFIG, steps=12, optimizer=optimizer)
    whole = train(scans, tmp_path / "whole.state", config)
    seen = []
    with pytest.raises(Cancelled):
        train(
            scans,
            tmp_path / "cut.state",
            config,
            cancelled=lambda: seen.append(1) or len(seen) >= 7,
        )
    resumed = train(scans, tmp_path / "cut.state", config)
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items()):
        assert torch.equal(a, b), name


def test_a_run_begins_with_the_weights_that_it_is_given(scans, tmp_path):
    first = train(scans, tmp_path / "first.state", dataclasses.replace(CONFIG, steps=6))
    still = dataclasses.replace(CONFIG, steps=1, rate=0.0)
    second = train(scans, tmp_path / "second.state", still, start_from=first)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, msg=name)
    narrower = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, channels=8))
    with pytest.raises(ModelError, match="cannot grow"):
        train(scans, tmp_path / "third.state", narrower, start_from=first)


def test_a_state_of_another_network_is_refused(scans, tmp_path):
    train(scans, tmp_path / "run.state", dataclasses.replace(CONFIG, steps=2))
    wider = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, channels=32))
    with pytest.raises(ModelError, match="another network"):
        train(scans, tmp_path / "run.state", wider)


@needs_muon
def test_a_state_of_another_optimizer_is_refused(scans, tmp_path):
    train(scans, tmp_path / "run.state", dataclasses.replace(CONFIG, steps=2))
    with pytest.raises(ModelError, match="another optimizer"):
        train(scans, tmp_path / "run.state", dataclasses.replace(CONFIG, optimizer="muon"))


@needs_muon
def test_muon_steps_kernels_alike_in_all_directions_and_leaves_small_layers_to_adamw():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv3d(16, 24, (1, 3, 3)), torch.nn.Conv3d(24, 2, 1))
    before = [one.detach().clone() for one in layers.parameters()]
    optimizer = Optimizer("muon", layers.parameters(), 0.01)
    layers(torch.randn(2, 16, 3, 8, 8)).square().sum().backward()
    left, _, right = torch.linalg.svd(torch.randn(24, 16 * 9), full_matrices=False)
    layers[0].weight.grad = (left * torch.linspace(1, 0.1, 24) @ right).reshape(layers[0].weight.shape)
    optimizer.step(0.01)
    kernel, *others = [new.detach() - old for new, old in zip(layers.parameters(), before)]
    singular = torch.linalg.svdvals(kernel.flatten(1))
    assert singular.min() > 0.5 * singular.max()  # of the gradient itself: 0.1
    for other in others:  # AdamW's first step has the size of the rate
        torch.testing.assert_close(other.abs(), torch.full_like(other, 0.01), rtol=0.02, atol=0.0)


def test_an_old_pytorch_without_muon_says_what_to_do(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(MissingPackageError, match="adamw"):
        Optimizer("muon", torch.nn.Conv3d(16, 16, 3).parameters(), 0.01)


def test_no_scans_is_refused(tmp_path):
    with pytest.raises(RequestError, match="nothing to train on"):
        train([], tmp_path / "run.state", CONFIG)


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth():
    rates = [learning_rate(step, CONFIG) for step in range(CONFIG.steps + 1)]
    assert max(rates) == pytest.approx(CONFIG.rate) and np.argmax(rates) == CONFIG.warmup - 1
    assert rates[-1] == pytest.approx(0.01 * CONFIG.rate)


def test_a_schedule_that_fits_follows_the_clock_over_all_calls():
    pace = Pace(CONFIG, minutes=1.0, fit=True, before=45.0)
    assert 0.75 <= pace.done(0) < 0.8 and not pace.is_over(CONFIG.steps)
    assert Pace(CONFIG, minutes=1.0, fit=True, before=60.0).is_over(0)
    assert learning_rate(50, CONFIG, 1.0) == pytest.approx(0.01 * CONFIG.rate)
    assert learning_rate(50, CONFIG, 0.5) == pytest.approx(0.505 * CONFIG.rate)


def test_minutes_alone_stop_this_call_and_leave_the_schedule():
    pace = Pace(CONFIG, minutes=1.0, before=1e6)
    assert pace.done(30) == 0.5 and not pace.is_over(30) and pace.is_over(CONFIG.steps)
    assert Pace(CONFIG, minutes=0.0).is_over(0)


def test_the_shares_of_all_ranks_are_the_batch():
    for count, world in ((4, 1), (3, 2), (7, 4), (2, 2)):
        shares = [Ranks(rank, world).share(count) for rank in range(world)]
        assert [n for share in shares for n in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_fewer_patches_than_ranks_are_refused(scans, tmp_path):
    with pytest.raises(RequestError, match="2 patches a step for 3 processes"):
        train(scans, tmp_path / "run.state", CONFIG, ranks=Ranks(0, 3))


def test_a_loss_that_is_no_number_ends_the_run_before_the_state_is_lost(scans, tmp_path):
    wild = dataclasses.replace(CONFIG, steps=6, log_every=1, rate=1e30)
    with pytest.raises(RequestError, match="no number any more"):
        train(scans, tmp_path / "run.state", wild)
    assert not (tmp_path / "run.state").exists()


def test_a_state_that_is_none_is_refused(scans, tmp_path):
    (tmp_path / "run.state").write_bytes(b"no state at all")
    with pytest.raises(ModelError, match="cannot be read"):
        train(scans, tmp_path / "run.state", CONFIG)


def test_the_log_forgets_what_the_state_does_not_know(tmp_path):
    path = tmp_path / "run.csv"
    for step in (2, 4, 6):
        log(path, step, "loss", 1 / 3 + step, 0.1)
    with open(path, "a") as file:
        file.write("8,lo")  # cut off in the middle
    forget_after(path, 4)
    assert path.read_text() == f"step,kind,value,seconds\n2,loss,{1 / 3 + 2!r},0.1\n4,loss,{1 / 3 + 4!r},0.1\n"


@pytest.mark.slow
def test_processes_that_draw_give_the_batches_of_the_thread(scans):
    """From any step on, in order; they end with the generator."""
    import multiprocessing

    from CycleINRLib.training.loop import ahead
    from CycleINRLib.training.train import _Steps

    steps = _Steps(scans, CONFIG, range(2))
    by_thread, by_processes = (ahead(steps, 3, workers) for workers in (0, 1))
    for _ in range(4):
        one, other = next(by_thread), next(by_processes)
        assert torch.equal(one.source, other.source) and torch.equal(one.places.weights, other.places.weights)
    by_thread.close()
    by_processes.close()
    assert not multiprocessing.active_children()
