"""Training samples of slices as acquired: what stands for the truth, and what the network is told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training samples need torch")

from CycleINRLib.network.model import CycleINR, NetworkConfig  # noqa: E402
from CycleINRLib.training.degradation import ScanProtocol  # noqa: E402
from CycleINRLib.training.objective import Objective  # noqa: E402
from CycleINRLib.training.patches import SampleConfig, draw_batch  # noqa: E402
from CycleINRLib.training.scans import Scan  # noqa: E402

SIZES = SampleConfig(slices=5, crop=24, places=4, smooth_share=0.0, contrast_share=0.0, noise_share=0.0, ct_share=0.0)
OWN = ScanProtocol(4.0, 0.8, "gaussian")


@pytest.fixture
def ramp() -> Scan:
    """Slices whose value is their place along z, 100 a slice, and thin slices 25 apart to go with them."""
    acquired = np.broadcast_to(1000 + 100 * np.arange(14, dtype=np.float32)[:, None, None], (14, 40, 40))
    thin = np.broadcast_to(1000 + 25 * np.arange(53, dtype=np.float32)[:, None, None], (53, 40, 40))
    return Scan("ramp", thin, (1.0, 1.0, 1.0), "MR", 1000.0, protocols=(OWN,), acquired=acquired)


def samples(scan: Scan, **shares) -> object:
    return draw_batch([scan], dataclasses.replace(SIZES, **shares), 6, 0, 1)


def test_acquired_slices_without_a_truth_take_part_in_the_cycle_alone(ramp):
    batch = samples(ramp, acquired_share=1.0)
    assert torch.all(batch.cycle == 1) and not batch.weight.any()
    torch.manual_seed(0)
    network = CycleINR(NetworkConfig(channels=8, blocks=1))
    assert float(Objective(cycle=0.0).loss(network, batch).detach()) == 0
    noisy = dataclasses.replace(batch, source=batch.source + 0.1 * torch.randn_like(batch.source))
    loss = Objective(cycle=1.0).loss(network, noisy)
    loss.backward()
    assert float(loss.detach()) > 0 and any(p.grad is not None and p.grad.any() for p in network.parameters())


def test_direct_pairs_join_acquired_slices_with_the_thin_ones_between_them(ramp):
    batch = samples(ramp, direct=True)
    torch.testing.assert_close(batch.base.mean((2, 3)), batch.truth.mean((2, 3)), atol=2e-3, rtol=0)
    assert not batch.cycle.any() and torch.all((batch.source[:, 1] - batch.source[:, 0]).abs().sub(0.1).abs() < 1e-4)


def test_a_scan_with_its_own_protocols_is_thickened_by_these_alone(ramp):
    batch = samples(dataclasses.replace(ramp, acquired=None), in_plane_share=0.0)
    torch.testing.assert_close(batch.condition[:, 0], torch.full((6,), 0.8))
    torch.testing.assert_close(batch.places.query[..., 2], torch.full((6, SIZES.places), 0.25))


def test_a_stretch_of_too_few_slices_gives_way_to_another(ramp):
    short = dataclasses.replace(ramp, acquired=ramp.acquired[:4])
    batch = draw_batch([short, ramp], dataclasses.replace(SIZES, acquired_share=1.0), 4, 0, 0)
    assert torch.all(batch.cycle == 1)
