"""The autoencoder of slices: shapes, and what it does before it has learned anything."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the autoencoder needs torch")

from CycleINRLib.network.vae import VAE, VAEConfig  # noqa: E402

SMALL = VAEConfig(codes=6, channels=16, blocks=1)


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(SMALL).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (5, 3)])
def test_slices_of_any_size_come_back_in_their_size(vae, size):
    mean, log_variance = vae.encode(torch.rand(2, *size))
    assert mean.shape == log_variance.shape == (2, 6, -(-size[0] // 4), -(-size[1] // 4))
    assert vae.decode(mean, size).shape == (2, *size)


def test_padding_at_the_far_ends_leaves_a_slice_where_it_is(vae):
    slices = torch.rand(1, 32, 32)
    whole = vae.decode(vae.encode(slices)[0], (32, 32))
    cut = vae.decode(vae.encode(slices[:, :30, :29])[0], (30, 29))
    torch.testing.assert_close(cut[:, :12, :12], whole[:, :12, :12], atol=1e-5, rtol=0)


def test_an_untrained_code_keeps_the_lowest_cosines_of_a_real_slice(vae, mr_thin):
    plane = torch.from_numpy(mr_thin.values[30].astype(np.float32) / mr_thin.values.max())[None]
    error = (vae.decode(vae.encode(plane)[0], (64, 64)) - plane).square().mean().sqrt()
    assert error < 0.3 * plane.std()
    full = VAE(VAEConfig(codes=16, channels=8, blocks=1))
    for network in (full.encoder, full.decoder):
        torch.nn.init.zeros_(network[-1].weight)
    torch.testing.assert_close(full.decode(full.encode(plane)[0], (64, 64)), plane, atol=1e-5, rtol=0)


def test_the_code_of_a_place_knows_nothing_of_far_places(vae):
    near = torch.rand(1, 64, 64)
    far = near.clone()
    far[:, 48:] += 1
    torch.testing.assert_close(vae.encode(near)[0][:, :, :6], vae.encode(far)[0][:, :, :6])
    assert not torch.allclose(vae.encode(near)[0][:, :, 12:], vae.encode(far)[0][:, :, 12:])


def test_log_variances_are_bounded(vae):
    _, log_variance = vae.encode(torch.full((1, 16, 16), 1e6))
    assert log_variance.abs().max() <= 12


def test_weights_lie_with_channels_last(vae):
    assert vae.encoder[0].weight.is_contiguous(memory_format=torch.channels_last)
