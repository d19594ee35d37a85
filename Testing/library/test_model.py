"""The network: shapes, exact ablation, and that streaming and slabs change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

from keys import keys_of  # noqa: E402
from random_network import random_network  # noqa: E402

from CycleINRLib.network import infer  # noqa: E402
from CycleINRLib.network.infer import corrections, encode_streamed, step_count  # noqa: E402
from CycleINRLib.network.model import CONFIGS, Conditions, CycleINR, NetworkConfig, fold, source_features, unfold  # noqa: E402
from CycleINRLib.upsampling.memory import plan_slabs  # noqa: E402

SMALL = NetworkConfig(channels=16, blocks=3, codes=8, hidden=12, key=4)
DETAIL = 0.3
TOLD = Conditions(1.0, 0.0, 4.0, 0.4, 0.1)
SCAN: dict[str, Any] = {"detail": DETAIL, "conditions": TOLD}


@pytest.fixture(scope="module")
def network() -> CycleINR:
    return random_network(SMALL).eval()


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 61, 45)).astype(np.float32)


def _corrections(network, source, rows, z_scale, columns=None):
    positions = np.arange(int((len(source) - 1) * z_scale + 1e-6) + 1) / z_scale
    width = source.shape[2] if columns is None else columns.stop - columns.start
    out = np.full((len(positions), rows.stop - rows.start, width), np.nan, np.float32)
    facts = {"z_scale": z_scale, **SCAN}
    for part, values in corrections(network, source, rows, positions, columns=columns, **facts):
        out[part] = values
    return out


@pytest.mark.parametrize("z_scale", [1.7, 2.0, 3.5, 6.0])
@pytest.mark.parametrize("rows_per_slab", [8, 14, 40])
def test_slab_result_equals_whole_result(network, source, z_scale, rows_per_slab):
    whole = _corrections(network, source, slice(0, 61), z_scale)
    assert np.isfinite(whole).all() and whole.std() > 1e-3
    for slab in plan_slabs(61, network.reach, rows_per_slab):
        rows = slice(slab.first - slab.read_first, slab.last - slab.read_first)
        part = _corrections(network, source[:, slab.read_first : slab.read_last], rows, z_scale)
        np.testing.assert_allclose(part, whole[:, slab.first : slab.last], atol=1e-5 * whole.std())


def test_the_halo_is_not_larger_than_the_network_looks(network, source):
    """A change just inside the reach is seen; one beyond it is not."""
    row, reach = 30, network.reach
    before = _corrections(network, source, slice(row, row + 1), 2.0)
    seen = []
    for distance in range(reach - 8, reach + 3):
        changed = source.copy()
        changed[:, row + distance] += 5
        seen.append(bool(np.abs(_corrections(network, changed, slice(row, row + 1), 2.0) - before).max() > 0))
    assert any(seen[:8]) and not any(seen[8:])


def test_single_columns_are_the_columns_of_the_whole(network, source):
    whole = _corrections(network, source, slice(0, 61), 2.0)
    for column in (0, 17, 44):
        part = _corrections(network, source, slice(0, 61), 2.0, columns=slice(column, column + 1))
        np.testing.assert_allclose(part[:, :, 0], whole[:, :, column], atol=1e-5 * whole.std())


def folded(features):
    """(1, 5, N, H, W) -> (N, H/2, W/2, 20), pixels as rows of matrices."""
    return fold(features)[0].permute(1, 2, 3, 0).contiguous()


def planes(encoded):
    """(N, h, w, C) -> (1, C, N, h, w)"""
    return encoded.permute(3, 0, 1, 2)[None]


def test_streamed_encoding_is_the_encoding(network, source):
    features = source_features(torch.from_numpy(source[None, :, :60, :44].copy()), 0.3)
    condition = torch.tensor([Conditions(1.0, 1.0, 3.0, 0.4, 0.1).of_scan()])
    ticks = []
    with torch.no_grad():
        whole = network.encode(features, condition)
        streamed = planes(encode_streamed(network, folded(features), condition, lambda: ticks.append(1)))
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
    assert len(ticks) == 1 + SMALL.blocks


@pytest.mark.parametrize("rows", [slice(0, 30), slice(0, 1), slice(13, 15), slice(28, 30)])
@pytest.mark.parametrize("columns", [slice(0, 22), slice(10, 11)])
def test_a_window_is_encoded_with_ever_less_around_it(network, source, rows, columns, monkeypatch):
    features = source_features(torch.from_numpy(source[None, :, :60, :44].copy()), 0.3)
    condition = torch.tensor([TOLD.of_scan()])
    sizes: list[int] = []
    real = infer._add_in_place
    monkeypatch.setattr(
        infer, "_add_in_place", lambda block, x, *rest: sizes.append(x[0].numel()) or real(block, x, *rest)
    )
    with torch.no_grad():
        whole = network.encode(features, condition)
        window = planes(encode_streamed(network, folded(features), condition, lambda: None, (rows, columns)))
    torch.testing.assert_close(window, whole[..., rows, columns], rtol=0, atol=1e-5 * float(whole.abs().max()))
    everything = (rows, columns) == (slice(0, 30), slice(0, 22))
    assert (sizes == [30 * 22 * SMALL.channels] * SMALL.blocks) if everything else (sizes[-1] < 0.8 * sizes[0])


def test_inference_computes_what_training_computes(network, source):
    z = 2 + 0.25
    features = source_features(torch.from_numpy(source[None, :, :60, :44].copy()), DETAIL)
    with torch.no_grad():
        codes = network.codes_of(network.encode(features, torch.tensor([TOLD.of_scan()])), features)
        below, above = codes[:, :, 2], codes[:, :, 3]
        query = torch.tensor([TOLD.of_place(0.25, 4.0)])
        keys = keys_of(network, below), keys_of(network, above)
        plain = network.decode(below, above, *keys, torch.tensor([0.25]), query)[0] * DETAIL
    found = _corrections(network, source[:, :60, :44], slice(0, 60), 4.0)[int(z * 4)]
    np.testing.assert_allclose(found, plain.numpy(), atol=1e-5)


def test_attention_that_starts_at_zero_is_plain_interpolation_of_codes(source):
    torch.manual_seed(1)
    fresh = CycleINR(SMALL)
    without = CycleINR(NetworkConfig(**{**SMALL.to_dict(), "attention": False}))
    shared = {name: value for name, value in fresh.state_dict().items() if not name.startswith("attend.")}
    without.load_state_dict(shared)
    with_lam, plain = (_corrections(n.eval(), source, slice(20, 40), 3.0) for n in (fresh, without))
    np.testing.assert_allclose(with_lam, plain, atol=1e-6)


def test_attention_weighs_the_two_central_codes_as_interpolation_does_at_the_start():
    prior = CycleINR(SMALL).attend
    torch.nn.init.zeros_(prior.position[-1].weight)
    torch.nn.init.zeros_(prior.position[-1].bias)
    weights = torch.softmax(prior.prior(torch.tensor([0.25])), 1)[0].detach()
    central = weights[[4, 13]]  # dy = dx = 0 of the slice below and above
    assert float(central[0] / central[1]) == pytest.approx(0.76 / 0.26, rel=1e-3)


def test_gradients_reach_each_parameter(source):
    torch.manual_seed(0)
    network = CycleINR(SMALL)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    features = source_features(torch.from_numpy(source[None, :, :20, :20].copy()), 0.3)
    codes = network.codes_of(
        network.encode(features, torch.tensor([Conditions(1.0, 1.0, 3.0, 0.4, 0.1).of_scan()])), features
    )
    below, above = codes[:, :, 2], codes[:, :, 3]
    query = torch.tensor([Conditions(1.0, 1.0, 3.0, 0.4, 0.1).of_place(0.3, 4.0)])
    out = network.decode(below, above, keys_of(network, below), keys_of(network, above), torch.tensor([0.3]), query)
    out.square().sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_folding_pixels_is_undone_exactly():
    x = torch.randn(2, 3, 4, 6, 8)
    assert torch.equal(unfold(fold(x)), x)


@pytest.mark.parametrize("window", [None, 2])
def test_ticks_are_counted_right(network, source, window):
    ticks = []
    facts = {"z_scale": 2.0, "window": window, "tick": lambda: ticks.append(1), **SCAN}
    list(corrections(network, source, slice(0, 10), np.arange(11) / 2, **facts))
    assert len(ticks) == step_count(network, len(source), window)


@pytest.mark.parametrize("window", [1, 7, 33])
def test_slices_encoded_in_windows_give_what_all_at_once_give(network, window):
    """More slices than a window and all that it depends on, so that each window is a part; positions on its edges."""
    tall = np.random.default_rng(4).normal(0, 0.1, (40, 14, 12)).astype(np.float32)
    positions = np.arange(3 * 39 + 1) / 3

    def made(**how) -> np.ndarray:
        found = corrections(network, tall, slice(0, 14), positions, z_scale=3.0, **SCAN, **how)
        parts = {part.start: values for part, values in found}
        return np.concatenate([parts[start] for start in sorted(parts)])

    whole = made()
    assert len(whole) == len(positions)
    np.testing.assert_allclose(made(window=window), whole, atol=1e-5 * whole.std())


def test_both_bundled_sizes_are_one_definition():
    light, base = (CycleINR(CONFIGS[name]) for name in ("light", "base"))
    assert [name for name, _ in light.blocks[0].named_parameters()] == [
        name for name, _ in base.blocks[0].named_parameters()
    ]
    assert sum(p.numel() for p in light.parameters()) < sum(p.numel() for p in base.parameters())
