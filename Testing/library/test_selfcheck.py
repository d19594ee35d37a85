"""The scan as its own examiner: the gain on the correction, and the self-check."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.errors import RequestError  # noqa: E402
from CycleINRLib.imaging.interpolation import cubic_weights  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402
from CycleINRLib.upsampling import gain as selfcheck  # noqa: E402
from CycleINRLib.upsampling.engine import Engine, Settings  # noqa: E402
from CycleINRLib.upsampling.gain import Dropped  # noqa: E402
from CycleINRLib.upsampling.plan import plan  # noqa: E402


@pytest.fixture(autouse=True)
def no_fits_of_earlier_runs(monkeypatch):
    monkeypatch.setattr("CycleINRLib.upsampling.gain.recall", lambda *_: None)


@pytest.fixture(scope="module")
def small_mr(mr_thin) -> Volume:
    """(12, 40, 36): every fourth slice of a corner of the thin MR."""
    values = np.ascontiguousarray(mr_thin.values[:48:4, 10:50, 14:50])
    return dataclasses.replace(
        mr_thin, values=values, geometry=_every(mr_thin.geometry, 4, values.shape), thickness_mm=None
    )


def _every(geometry, step: int, shape):
    matrix = np.array(geometry.ijk_to_ras)
    matrix[:3, 2] *= step
    return type(geometry)(shape, matrix)


def engine_of(volume: Volume, **fields: Any) -> Engine:
    job = UpsampleJob(**{"z_scale": 2, "profile": "skip", **fields})
    return Engine.of(volume, job, plan(volume, job), None, None)


def made(gain: float, *, noise: float = 0.0, shape=(6, 30, 30)) -> Dropped:
    """Dropped slices of which the correction, `gain` times as large, is the truth."""
    rng = np.random.default_rng(1)
    base, correction = rng.normal(100, 1, shape), rng.normal(0, 1, shape)
    truth = base + gain * correction + noise * rng.normal(0, 1, shape)
    body = np.zeros(shape, bool)
    body[:, 5:25, 5:25] = True
    correction[~body] = 1e6  # counts nowhere
    return Dropped(truth, base, correction, base, body)


# --- the fit --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("true", "fitted"), [(0.0, 0.0), (0.37, 0.37), (1.0, 1.0), (1.3, 1.3), (-0.5, 0.0), (1.8, 1.5)]
)
def test_the_gain_is_the_least_squares_fit_clipped_to_0_and_one_and_a_half(true, fitted):
    assert made(true).gain() == pytest.approx(fitted, abs=1e-9)


def test_noise_of_the_dropped_slices_does_not_bias_the_gain():
    assert made(0.5, noise=2.0, shape=(40, 30, 30)).gain() == pytest.approx(0.5, abs=0.05)


def test_without_body_or_correction_the_network_is_left_as_it_is():
    dropped = made(0.3)
    assert dataclasses.replace(dropped, body=np.zeros_like(dropped.body)).gain() == 1.0
    assert dataclasses.replace(dropped, correction=np.zeros_like(dropped.correction)).gain() == 1.0


@pytest.mark.parametrize(("gain", "noise"), [(1.0, 0.0), (0.8, 2.0), (0.2, 1.0)])
def test_no_correction_that_is_a_little_off_has_less_than_the_least_gain(gain, noise):
    dropped, off, rng = made(gain, noise=noise), 0.02, np.random.default_rng(3)
    least, size = dropped.gain(off), np.linalg.norm(dropped.correction[dropped.body])
    missing = dropped.truth - dropped.base
    for way in (-missing, missing, dropped.correction, *rng.normal(size=(3, *missing.shape))):
        step = way * off * size / np.linalg.norm(way[dropped.body])
        assert least <= dataclasses.replace(dropped, correction=dropped.correction + step).gain() + 1e-9
    worst = -missing * off * size / np.linalg.norm(missing[dropped.body])
    found = dataclasses.replace(dropped, correction=dropped.correction + worst).gain()
    assert found - 0.1 < least < dropped.gain()


def test_reduced_precision_fits_thick_ct_where_float32_is_sure_to_give_the_same(thick_ct, monkeypatch):
    told = {"z_scale": 4, "profile": "box", "modality": "ct"}
    exact, reduced = (engine_of(thick_ct, precision=one, **told) for one in ("float32", "bfloat16"))
    made_in: list[str] = []
    real = Dropped.of.__func__
    monkeypatch.setattr(Dropped, "of", classmethod(lambda cls, e, b: made_in.append(e.precision) or real(cls, e, b)))
    expected = selfcheck.fit_gain(exact, thick_ct.values).gain
    least = real(Dropped, reduced, selfcheck.middle_block(thick_ct.values)).gain(selfcheck.REDUCED_OFF)
    for sure in (0.5 * least, 1.1 * least):
        monkeypatch.setattr(selfcheck, "SURE", sure)
        made_in.clear()
        found = selfcheck.fit_gain(reduced, thick_ct.values).gain
        assert made_in == (["bfloat16"] if sure < least else ["bfloat16", "float32"])
        assert found == selfcheck.fit_gain(exact, thick_ct.values).gain
    monkeypatch.undo()
    assert selfcheck.fit_gain(reduced, thick_ct.values).gain == expected


def test_dropped_slices_are_predicted_from_the_others_alone(small_mr):
    engine = engine_of(small_mr)
    block = small_mr.values.astype(np.float32)
    changed = block.copy()
    changed[1::2] = 0
    seen, blind = Dropped.of(engine, block), Dropped.of(engine, changed)
    np.testing.assert_array_equal(seen.truth, block[1:10:2])
    for part in ("base", "correction", "cubic"):
        np.testing.assert_array_equal(getattr(seen, part), getattr(blind, part))
    np.testing.assert_allclose(seen.base, np.tensordot(cubic_weights(np.arange(5) + 0.5, 6), block[::2], 1), rtol=1e-4)


def test_a_scan_of_four_slices_keeps_gain_one_and_has_no_self_check(small_mr):
    few = small_mr.with_values(small_mr.values[:3], small_mr.geometry.cropped((0, 0, 0), (3, 40, 36)))
    report = cycleinr.upsample(few, z_scale=2, self_check=True).report
    assert report["gain"] == 1.0
    assert report["self_check"] == {"psnr_db": None, "psnr_cubic_db": None, "cycle_psnr_db": None}


# --- a band that ends at the slices' Nyquist frequency ------------------------------------------------------------
def test_where_no_detail_lies_between_slices_less_of_the_correction_is_right(mr_thin, monkeypatch):
    """Without the half of its band that dropping folds, the scan is what interpolation is made for."""
    block = np.ascontiguousarray(mr_thin.values[::2], np.float32)
    volume = dataclasses.replace(mr_thin, values=block, geometry=_every(mr_thin.geometry, 2, block.shape))
    engine = engine_of(volume)
    gains = {}
    for probability in (1.0, 0.0, 0.25):
        monkeypatch.setattr(selfcheck, "probability_of_detail", lambda power, p=probability: p)
        gains[probability] = selfcheck.fit_gain(engine, block).gain
    assert gains[1.0] > 0.9 and gains[0.0] < 0.6
    assert gains[0.25] == pytest.approx(0.25 * gains[1.0] + 0.75 * gains[0.0], abs=2e-4)


def test_thick_slices_are_judged_by_one_experiment(small_mr, monkeypatch):
    """Their profile lets the spectrum fall, whatever lies beyond it."""
    monkeypatch.setattr(selfcheck, "probability_of_detail", lambda power: 0.0)
    made_of: list[np.ndarray] = []
    real = Dropped.of.__func__
    monkeypatch.setattr(Dropped, "of", classmethod(lambda cls, e, block: made_of.append(block) or real(cls, e, block)))
    for profile, experiments in (("box", 1), ("skip", 2)):
        made_of.clear()
        selfcheck.fit_gain(engine_of(small_mr, profile=profile), small_mr.values)
        assert len(made_of) == experiments


@pytest.mark.parametrize(
    ("z_scale", "profile", "told", "most", "low"),
    [
        (2, "skip", {}, 1.5, 0.35),
        (2.5, "skip", {"modality": "ct"}, 1.25, 0.35),
        (2.5, "skip", {"modality": "mr"}, 1.0, 0.35),
        (4, "skip", {}, 1.0, 0.35),
        (2, "box", {"modality": "mr"}, 1.0, 0.35),
        (2, "box", {"modality": "ct"}, 1.2, 0.6),  # half of what is used where the network is right
        (4, "box", {"modality": "ct"}, 1.05, 0.525),
        (2, "box", {"modality": "ct", "thickness_mm": 7.5}, 1.0, 0.35),  # two spacings: the scanner interpolated
    ],
)
def test_more_than_the_network_says_is_used_where_that_is_borne_out(
    small_mr, monkeypatch, z_scale, profile, told, most, low
):
    monkeypatch.setattr(selfcheck, "probability_of_detail", lambda power: 1.0)
    engine = engine_of(small_mr, z_scale=z_scale, profile=profile, **told)
    for fitted, used in ((1.5, most), (0.35, low)):
        monkeypatch.setattr(Dropped, "gain", lambda self, fitted=fitted: fitted)
        assert selfcheck.fit_gain(engine, small_mr.values).gain == pytest.approx(used)


# --- what the gain does -------------------------------------------------------------------------------------------
def test_the_correction_is_multiplied_by_the_gain(small_mr):
    floats = small_mr.with_values(small_mr.values.astype(np.float32))
    none, half, full = (
        cycleinr.upsample(
            floats, z_scale=2, consistency="none", profile="skip", gain=gain, noise="acquired"
        ).volume.values
        for gain in (0, 0.5, 1)
    )
    cubic = np.tensordot(cubic_weights(np.arange(23) / 2, 12), floats.values, 1)
    np.testing.assert_allclose(none, cubic, atol=0.02 * np.abs(full - cubic).max())
    np.testing.assert_allclose(half - none, (full - none) / 2, atol=0.01 * np.abs(full - none).max())


def test_gain_zero_is_cubic_interpolation_where_slices_are_kept(small_mr):
    result = cycleinr.upsample(small_mr, z_scale=2, profile="skip", gain=0, noise="acquired").volume.values
    cubic = np.tensordot(cubic_weights(np.arange(23) / 2, 12), small_mr.values.astype(float), 1)
    np.testing.assert_allclose(result, np.clip(np.rint(cubic), 0, None), atol=1)


def test_less_memory_means_smaller_slabs_and_the_same_gain(small_mr, tight_memory):
    engine, values = engine_of(small_mr), small_mr.values
    whole = selfcheck.Dropped.of(engine, values.astype(np.float32)).correction
    refused = tight_memory()
    tightened = selfcheck.Dropped.of(engine, values.astype(np.float32)).correction
    assert refused == [40, 20]
    np.testing.assert_allclose(tightened, whole, atol=0.02 * np.abs(whole).max())


def test_a_fitted_gain_given_again_gives_the_same_bytes(small_mr):
    fitted = cycleinr.upsample(small_mr, z_scale=2)
    again = cycleinr.upsample(small_mr, z_scale=2, gain=fitted.report["gain"])
    assert again.report["gain_seconds"] == 0
    assert again.volume.values.tobytes() == fitted.volume.values.tobytes()


def test_a_plane_alone_has_the_gain_of_the_whole(small_mr, monkeypatch):
    monkeypatch.setattr(selfcheck, "_fitted", lambda *_: 0.3)
    whole = cycleinr.upsample(small_mr, z_scale=2)
    alone = cycleinr.preview(small_mr, "coronal", z_scale=2)
    first = np.rint(whole.volume.geometry.kji_of(alone.geometry.ras_of((0, 0, 0)))).astype(int)
    block = tuple(slice(f, f + n) for f, n in zip(first, alone.values.shape))
    np.testing.assert_allclose(alone.values.astype(int), whole.volume.values[block].astype(int), atol=1)
    assert whole.report["gain"] == 0.3


def test_a_low_gain_is_said_and_an_asked_one_is_not(small_mr, monkeypatch):
    monkeypatch.setattr(selfcheck, "_fitted", lambda *_: 0.3)
    fitted = cycleinr.upsample(small_mr, z_scale=2).report["warnings"]
    asked = cycleinr.upsample(small_mr, z_scale=2, gain=0.3).report["warnings"]
    assert any("Only 30% of the network's correction" in warning for warning in fitted)
    assert not any("correction" in warning for warning in asked)


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        *((gain, r"gain must lie between 0 and 1\.5") for gain in (-0.1, 1.6)),
        *((gain, "gain must be a finite number") for gain in (float("nan"), True, "1")),
    ],
)
def test_a_gain_outside_0_to_one_and_a_half_is_refused(gain, told):
    with pytest.raises(RequestError, match=told):
        UpsampleJob(gain=gain)


def test_the_shell_asks_for_a_gain(capsys, tmp_path):
    from CycleINRLib.cli.main import build_parser, main

    assert build_parser("upsample").parse_args(["upsample", "a.nrrd", "b.nrrd", "--gain", "0.5"]).gain == 0.5
    assert build_parser("upsample").parse_args(["upsample", "a.nrrd", "b.nrrd"]).gain is None
    assert main(["upsample", "a.nrrd", str(tmp_path / "b.nrrd"), "--gain", "2"]) == 2
    assert "gain must lie between 0 and 1.5" in capsys.readouterr().err


# --- the self-check -----------------------------------------------------------------------------------------------
def test_the_experiment_of_the_gain_serves_the_self_check_too(small_mr, monkeypatch):
    count: list[int] = []
    real = Dropped.of.__func__
    monkeypatch.setattr(Dropped, "of", classmethod(lambda cls, *args: count.append(1) or real(cls, *args)))
    check = cycleinr.upsample(small_mr, z_scale=2, profile="box", self_check=True).report["self_check"]
    assert len(count) == 1
    assert 10 < check["psnr_cubic_db"] < check["psnr_db"] < 60


def test_the_cycle_goes_half_a_slice_forth_and_back(small_mr):
    """With gain 0 and thin slices both passes are cubic, which is known in closed form."""
    engine, block = engine_of(small_mr), small_mr.values.astype(np.float32)
    forth, back = (cubic_weights(np.arange(count - 1) + 0.5, count) for count in (12, 11))
    expected = np.tensordot(back @ forth, block, 1)
    np.testing.assert_allclose(selfcheck.cycled(engine, block, Settings(gain=0.0)), expected, atol=0.005 * block.max())


@pytest.mark.parametrize(("profile", "consistency"), [("skip", "keep"), ("box", "project"), ("box", "keep")])
def test_a_ramp_comes_back_from_the_cycle(small_mr, profile, consistency):
    """Thick slices are averaged again between the passes, so nothing moves and nothing is averaged twice."""
    ramp = np.broadcast_to(100 + 10 * np.arange(12.0, dtype=np.float32)[:, None, None], (12, 16, 16))
    engine = engine_of(small_mr, profile=profile, consistency=consistency)
    np.testing.assert_allclose(selfcheck.cycled(engine, ramp, Settings(gain=0.0))[1:-1], ramp[2:-2], atol=0.5)


def test_the_cycle_is_told_for_kept_slices_too(small_mr):
    """There the remainder of one pass is zero, which would say nothing."""
    report = cycleinr.upsample(small_mr, z_scale=2, profile="skip", self_check=True).report
    assert report["consistency"] == "keep" and 10 < report["self_check"]["cycle_psnr_db"] < 60


def test_the_block_is_the_middle_and_never_larger_than_said():
    values = np.zeros((60, 200, 100))
    values[30, 100, 50] = 1
    block = selfcheck.middle_block(values)
    assert block.shape == (48, 128, 100) and block[24, 64, 50] == 1
