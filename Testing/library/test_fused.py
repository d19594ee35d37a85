"""The decoder and the fused products compute what the network's own definition computes."""

import pytest

torch = pytest.importorskip("torch")

from keys import keys_of  # noqa: E402

from CycleINRLib.network import decode, products  # noqa: E402
from CycleINRLib.network.decode import Decoder  # noqa: E402
from CycleINRLib.network.model import Conditions, CycleINR, NetworkConfig  # noqa: E402

SMALL = {"channels": 16, "blocks": 2, "codes": 8, "hidden": 12, "key": 4}
TOLD = Conditions(1.0, 1.0, 3.0, 0.4, 0.1)
H, W, TS = 9, 13, (0.0, 0.3, 1.0)


def random_network(attention: bool = True) -> CycleINR:
    torch.manual_seed(3)
    network = CycleINR(NetworkConfig(**SMALL, attention=attention)).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    return network


def both(network: CycleINR, strength: float = 1.0, piece: int | None = None, unit: float = 1.0):
    """(by the decoder, by `CycleINR.decode`) for the inner pixels of random codes with one more pixel around."""
    torch.manual_seed(4)
    codes = strength * torch.randn(2, SMALL["codes"], H + 2, W + 2)
    query = [TOLD.of_place(t, 4.0) for t in TS]
    decoder = Decoder(network, H, W, unit)
    decoder.piece = piece or decoder.piece
    below, above = (decoder.of_slice(one.permute(1, 2, 0).contiguous()) for one in codes)
    found = decoder.between(below, above, TS, [decoder.place(*told) for told in zip(TS, query)])
    sides = [one[None].expand(len(TS), -1, -1, -1) for one in codes]
    keys = [keys_of(network, one) for one in sides]
    plain = network.decode(*sides, *keys, torch.tensor(TS), torch.tensor(query))
    return found, plain[:, 1:-1, 1:-1]


def close(found, plain) -> None:
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("piece", [7, 40, 10_000])
@torch.inference_mode()
def test_pieces_of_any_size_give_what_the_network_gives(attention, piece):
    found, plain = both(random_network(attention), piece=piece)
    close(found, plain)


@torch.inference_mode()
def test_logits_beyond_the_range_of_exp_are_weighed_as_softmax_does():
    network = random_network()
    network.attend.query.weight *= 30
    found, plain = both(network, strength=10.0)
    assert torch.isfinite(found).all()
    close(found, plain)


@torch.inference_mode()
def test_a_torch_without_fused_operators_computes_the_same(monkeypatch):
    torch.manual_seed(5)
    x, inner = torch.randn(2, 4, 6, 7, 16)
    plane, through, bias = torch.randn(16, 16, 3, 3), torch.randn(16, 16, 3, 1), torch.randn(16)

    def all_three():
        into = x.clone()
        products.add_along(into, inner, through, bias)
        return products.relu_convolution(x, plane, bias), into

    fused = all_three()
    for name in ("_LINEAR", "_CONVOLVE", "_CONVOLVE_INTO"):
        monkeypatch.setattr(products, name, None)
    for found, plain in zip(fused, all_three()):
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-4)
    reduced = inner.flatten(0, 2).bfloat16()
    plain = products.relu_linear(reduced, plane[:, :, 0, 0].bfloat16(), bias.bfloat16())
    exact = (reduced.float() @ plane[:, :, 0, 0].bfloat16().float().T + bias.bfloat16().float()).relu()
    torch.testing.assert_close(plain.float(), exact, rtol=2e-2, atol=2e-2)


@torch.inference_mode()
def test_fused_products_in_bfloat16_are_those_of_float32_but_for_rounding():
    torch.manual_seed(6)
    x, weight, bias = (part.bfloat16() for part in (torch.randn(50, 24), torch.randn(12, 24), torch.randn(12)))
    exact = (x.float() @ weight.float().T + bias.float()).relu()
    torch.testing.assert_close(products.relu_linear(x, weight, bias).float(), exact, rtol=1e-2, atol=1e-2)


def central_network() -> CycleINR:
    """One whose prior leaves little to neighbors beside a pixel, as that of the bundled weights does."""
    network = random_network()
    assert network.attend is not None
    torch.nn.init.zeros_(network.attend.position[-1].weight)
    network.attend.gain.fill_(2.2)
    return network


@torch.inference_mode()
def test_neighbors_without_weight_are_not_asked_and_hardly_change_the_correction(monkeypatch):
    network = central_network()
    monkeypatch.setattr(decode, "STEEP", float("inf"))
    assert Decoder(network, H, W).layers.narrow and not Decoder(random_network(), H, W).layers.narrow
    found, plain = both(network, strength=0.1, piece=40)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-3 * float(plain.abs().max()))


@pytest.mark.parametrize("piece", [40, 10_000])
@torch.inference_mode()
def test_neighbors_are_asked_where_their_keys_differ(piece, monkeypatch):
    network = central_network()
    found, plain = both(network, strength=4.0, piece=piece)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
    monkeypatch.setattr(decode, "STEEP", float("inf"))
    without, _ = both(network, strength=4.0, piece=piece)
    assert float((without - plain).abs().max()) > 0.01 * float(plain.abs().max())


@pytest.mark.parametrize("network", [random_network(), central_network()], ids=["all neighbors", "the pixel itself"])
@torch.inference_mode()
def test_threads_change_nothing_and_the_unit_the_size_alone(network):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(both(network, piece=16)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    close(both(network, unit=2.5)[0], 2.5 * found[0])
