"""Training samples: what is drawn shows one place of one scan, and is drawn again alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training samples need torch")

from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.interpolation import base_weights  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.training import patches  # noqa: E402
from CycleINRLib.training.degradation import ScanProtocol  # noqa: E402
from CycleINRLib.training.patches import Places, SampleConfig, Scan, draw_batch  # noqa: E402

SAMPLES = SampleConfig(slices=6, crop=24, margin=4, places=4, z_scale=(1.5, 3.5))
PLAIN = dataclasses.replace(SAMPLES, in_plane_share=0.0, smooth_share=0.0, contrast_share=0.0, noise_share=0.0)


@pytest.fixture(scope="module")
def scans(ct_thin, mr_thin) -> list[Scan]:
    return [Scan.of(ct_thin), Scan.of(mr_thin)]


def _tensors(batch):
    for name, value in vars(batch).items():
        if isinstance(value, Places):
            yield from ((f"{name}.{part}", tensor) for part, tensor in vars(value).items())
        elif name != "margin":
            yield name, value


def test_a_batch_is_the_same_for_the_same_step_and_another_for_the_next(scans):
    one, again, other = (draw_batch(scans, SAMPLES, 3, 7, step) for step in (1, 1, 2))
    for (name, a), (_, b) in zip(_tensors(one), _tensors(again)):
        assert torch.equal(a, b), name
    assert not torch.equal(one.truth, other.truth)


def test_places_stay_between_their_bracketing_slices(scans):
    for step in range(20):
        batch = draw_batch(scans, SAMPLES, 4, 0, step)
        counts = ((batch.places, SAMPLES.slices), (batch.first, SAMPLES.slices), (batch.second, SAMPLES.slices - 1))
        for places, count in counts:
            assert (places.t >= 0).all() and (places.t <= 1).all()
            assert (places.below >= 0).all() and (places.below <= count - 2).all()
            torch.testing.assert_close(places.query[..., 0], places.t)
            torch.testing.assert_close(places.query[..., 1], 1 - places.t)
            torch.testing.assert_close(places.weights.sum(-1), torch.ones_like(places.t), atol=1e-4, rtol=0)


def test_source_base_and_truth_show_the_same_place(ct_thin):
    """Where the scan is its own position along z, base and truth agree and the source is k * z-scale apart."""
    k = np.arange(60, dtype=np.float32)[:, None, None] + np.zeros((60, 64, 64), np.float32)
    ramp = dataclasses.replace(ct_thin, values=k * 10 + 100, modality="MR")
    for step in range(10):
        batch = draw_batch([Scan.of(ramp)], PLAIN, 2, 0, step)
        inner = (batch.places.below >= 1) & (batch.places.below <= SAMPLES.slices - 3)
        error = (batch.base - batch.truth).abs().amax((2, 3))
        assert float(error[inner].max() if inner.any() else 0) < 4e-3  # a thin slice is 0.0145: rounding, cut profiles


def test_the_cycle_comes_back_to_the_acquired_slices_on_a_ramp(ct_thin):
    """There and back with the base alone: the second pass lands on the slices k + 1 of the source."""
    k = np.arange(60, dtype=np.float32)[:, None, None] + np.zeros((60, 64, 64), np.float32)
    ramp = Scan.of(dataclasses.replace(ct_thin, values=k * 10 + 100, modality="MR"))
    for step in range(10):
        batch = draw_batch([ramp], PLAIN, 2, 0, step)

        def slices(source, places, batch=batch):
            line = torch.einsum("bpn,bn->bp", places.weights, source).unflatten(1, (-1, 3))
            return torch.einsum("bn,bkn->bk", batch.nodes, line)

        source = batch.source[:, :, 0, 0]
        again = slices(slices(source, batch.first), batch.second)
        step_of_source = (source[:, 1:] - source[:, :-1]).abs().mean()
        assert float((again - source[:, 2:-2]).abs().max() / step_of_source) < 0.12  # cut profiles at both ends


def test_a_truth_at_an_acquired_slice_that_skips_is_that_slice(scans):
    config = dataclasses.replace(PLAIN, skip_share=1.0, z_scale=(2.0, 2.0))
    batch = draw_batch(scans, config, 4, 0, 3)
    rim = slice(SAMPLES.margin, -SAMPLES.margin)
    found = 0
    for b, p in zip(*torch.nonzero(batch.places.t == 0, as_tuple=True)):
        below = batch.places.below[b, p]
        torch.testing.assert_close(batch.truth[b, p], batch.source[b, below, rim, rim], atol=2e-3, rtol=0)
        found += 1
    assert found


def test_the_base_of_a_batch_is_that_of_inference(scans):
    batch = draw_batch(scans, SAMPLES, 4, 0, 5)
    rim = slice(SAMPLES.margin, -SAMPLES.margin)
    for b in range(4):
        z = (batch.places.below[b] + batch.places.t[b]).numpy()
        z_scale = 1 / float(batch.places.query[b, 0, 2])
        ratio = float(batch.condition[b, 0])
        weights = base_weights(z, SAMPLES.slices, ratio, 1 / z_scale).astype(np.float32)
        expected = np.tensordot(weights, batch.source[b, :, rim, rim].numpy(), 1)
        np.testing.assert_allclose(batch.base[b].numpy(), expected, atol=2e-3)


def test_a_share_of_a_batch_is_those_samples_of_the_whole(scans):
    whole, share = draw_batch(scans, SAMPLES, 4, 5, 9), draw_batch(scans, SAMPLES, 4, 5, 9, share=range(2, 4))
    for name in ("source", "truth", "detail", "condition", "cycle"):
        assert torch.equal(getattr(whole, name)[2:], getattr(share, name)), name


def test_an_anisotropic_scan_gives_pairs_along_its_pixels_only(mr_thin):
    values = mr_thin.values[::4]
    matrix = np.array(mr_thin.geometry.ijk_to_ras)
    matrix[:3, 2] *= 4
    scan = Scan.of(dataclasses.replace(mr_thin, values=values, geometry=Geometry(values.shape, matrix)))
    assert scan.axes == (1, 2)
    assert max(scan.spacing_mm) < 1.5 * min(scan.spacing_mm)
    filled = scan.along(0)
    assert filled.shape == (int(14 * scan.finer[0]) + 1, 64, 64) and filled.shape[0] > 57
    np.testing.assert_array_equal(filled[:1, :, :], values[:1])
    np.testing.assert_array_equal(scan.along(2)[3:9, 2:, 5:20], np.moveaxis(filled[:, :, :], 2, 0)[3:9, 2:, 5:20])
    draw_batch([scan], SAMPLES, 2, 0, 0)


def test_what_a_thick_scan_is_as_a_whole_is_found_once_for_each_way_to_make_it(scans, monkeypatch):
    again = [Scan.of(dataclasses.replace(_volume(scan), name=scan.name)) for scan in scans]
    found = []
    real = patches.IntensityScale.of.__func__
    monkeypatch.setattr(patches.IntensityScale, "of", classmethod(lambda cls, *of: found.append(cls) or real(cls, *of)))
    monkeypatch.setattr(patches, "SETTINGS", 2)
    batches = [draw_batch(again, SAMPLES, 4, 3, step) for step in range(20)]
    assert len(found) <= 2 * 2 * 3  # settings, scans, axes
    anew = [Scan.of(dataclasses.replace(_volume(scan), name=scan.name)) for scan in scans]
    last = draw_batch(anew, SAMPLES, 4, 3, 19)
    for (name, a), (_, b) in zip(_tensors(batches[19]), _tensors(last)):
        assert torch.equal(a, b), name


def _volume(scan: Scan) -> Volume:
    matrix = np.diag([*scan.spacing_mm[::-1], 1.0])
    return Volume(scan.held, Geometry(scan.held.shape, matrix), modality=scan.modality)


def test_a_scan_is_drawn_as_often_as_its_share_says(mr_thin):
    bright = dataclasses.replace(mr_thin, values=mr_thin.values + np.uint16(5000), name="bright")
    plain = dataclasses.replace(PLAIN, contrast_share=0.0)
    rare, common = (dataclasses.replace(Scan.of(one), share=share) for one, share in ((bright, 0.25), (mr_thin, 0.75)))
    drawn = [
        float(sample.min()) > 0.5
        for step in range(25)
        for sample in draw_batch([rare, common], plain, 4, 0, step).source
    ]
    assert 0.12 < np.mean(drawn) < 0.4


@pytest.mark.parametrize(
    ("protocol", "share"), [(ScanProtocol(2.0, 0.0, "skip"), 1 / 6), (ScanProtocol(2.0, 1.0, "box"), 1 / 2)]
)
def test_slices_that_consistency_keeps_are_seldom_asked_for(protocol, share):
    inside, rng = np.arange(10, 410), np.random.default_rng(0)  # every second one is acquired
    asked = [patches._asked(inside, (inside - 10) / 2, protocol, 4, rng) for _ in range(500)]
    assert np.mean(np.array(asked) % 2 == 0) == pytest.approx(share, abs=0.05)
