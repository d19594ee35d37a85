"""What a step minimizes: each term is zero where it should be, and lower where it should be."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from CycleINRLib.network.model import CycleINR, NetworkConfig  # noqa: E402
from CycleINRLib.training.objective import (  # noqa: E402  # noqa: E402
    Objective,
    charbonnier,
    gain_db,
    gradient_difference,
    predict,
)
from CycleINRLib.training.patches import SampleConfig, Scan, draw_batch  # noqa: E402

SAMPLES = SampleConfig(slices=6, crop=32, margin=4, places=4, z_scale=(1.5, 3.5))
NETWORK = NetworkConfig(channels=16, blocks=2, codes=8, hidden=16, key=4)


@pytest.fixture(scope="module")
def scans(ct_thin, mr_thin) -> list[Scan]:
    return [Scan.of(ct_thin), Scan.of(mr_thin)]


@pytest.fixture
def network() -> CycleINR:
    torch.manual_seed(0)
    return CycleINR(NETWORK)


def test_the_error_is_zero_for_the_truth_and_absolute_for_large_errors():
    weight = torch.ones(4)
    assert float(charbonnier(torch.zeros(4), weight, 0.3)) == 0
    assert float(charbonnier(torch.full((4,), 100.0), weight, 0.3)) == pytest.approx(99.7, rel=1e-3)


def test_gain_counts_in_decibel():
    error, weight = torch.full((2, 3, 3), 0.5), torch.ones(2, 3, 3)
    assert float(gain_db(error, 2 * error, weight)) == pytest.approx(6.02, abs=0.01)


def test_a_constant_error_has_no_gradient_difference_and_a_ramp_has_its_slope():
    weight = torch.ones(1, 1, 5, 6)
    assert float(gradient_difference(torch.full((1, 1, 5, 6), 3.0), weight)) == 0
    ramp = 2.0 * torch.arange(6.0).expand(1, 1, 5, 6)
    assert float(gradient_difference(ramp, weight)) == pytest.approx(2 * 25 / (24 + 25), rel=1e-5)


def test_without_the_cycle_only_the_error_counts(scans, network):
    plain, asked = (draw_batch(scans, dataclasses.replace(SAMPLES, cycle=s), 3, 0, 0) for s in (0.0, 1.0))
    error_alone = Objective(cycle=0)
    assert torch.equal(Objective().loss(network, plain), error_alone.loss(network, plain))
    assert (Objective().loss(network, asked) > error_alone.loss(network, asked)).item()


@pytest.mark.parametrize("skip_share", [1.0, 0.0])
def test_the_cycle_reaches_each_part_of_the_network(scans, network, skip_share):
    """Of thin and of thick slices: with the error left out, the gradient is that of the cycle alone."""
    samples = dataclasses.replace(SAMPLES, cycle=1.0, skip_share=skip_share, cycle_share=1)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = draw_batch(scans, samples, 2, 0, 1)
    (Objective().loss(network, batch) - Objective(cycle=0).loss(network, batch)).backward()
    for part in (network.enter.weight, network.attend.output.weight, network.first.weight, network.last.weight):
        assert float(part.grad.abs().sum()) > 0


def test_the_patches_that_go_there_and_back_count_for_those_that_do_not(scans):
    samples = dataclasses.replace(SAMPLES, cycle=0.8)
    cycle = torch.cat([draw_batch(scans, samples, 4, 0, step).cycle for step in range(60)])
    assert 0.35 < float((cycle > 0).float().mean()) < 0.65
    torch.testing.assert_close(cycle[cycle > 0], torch.full_like(cycle[cycle > 0], 1.6))
    assert float(cycle.mean()) == pytest.approx(0.8, rel=0.2)


def test_the_cycle_term_of_a_batch_is_the_mean_of_its_patches(scans, network):
    samples = dataclasses.replace(SAMPLES, cycle=1.0, cycle_share=1.0, skip_share=0.5)
    batch, objective = draw_batch(scans, samples, 3, 0, 4), Objective()

    def term(batch) -> torch.Tensor:
        return objective.loss(network, batch) - Objective(cycle=0).loss(network, batch)

    def row(n: int):
        kept = torch.tensor([n])
        return dataclasses.replace(batch, **{k: v[kept] for k, v in vars(batch).items() if k != "margin"})

    torch.testing.assert_close(term(batch), torch.stack([term(row(n)) for n in range(3)]).mean(), atol=1e-4, rtol=1e-4)


def test_reduced_precision_changes_a_prediction_a_little_and_gradients_reach_the_network(scans, network):
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    batch = draw_batch(scans, dataclasses.replace(SAMPLES, cycle=1.0, cycle_share=1.0), 1, 0, 2)
    places = (batch.source, batch.scan, batch.places, batch.margin)
    with torch.no_grad():
        full, reduced = (Objective(precision=p).predict(network, *places) for p in ("float32", "bfloat16"))
    assert reduced.dtype == torch.float32 and not torch.equal(full, reduced)
    assert float((full - reduced).std()) < 0.05 * float(full.std())
    Objective(precision="bfloat16").loss(network, batch).backward()
    assert network.enter.weight.grad.dtype == torch.float32 and network.enter.weight.grad.abs().sum() > 0


def test_prediction_has_the_shape_of_the_truth(scans, network):
    batch = draw_batch(scans, SAMPLES, 2, 0, 0)
    places = (batch.source, batch.scan, batch.places, batch.margin)
    assert predict(network, *places).shape == batch.truth.shape
