"""Reduced precision is taken where it does not show beside the scan's own noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("torch", reason="the network needs torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.imaging.consistency import noise_level  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402
from CycleINRLib.machine import remember  # noqa: E402
from CycleINRLib.modelcard import read_card  # noqa: E402
from CycleINRLib.network import device  # noqa: E402
from CycleINRLib.network.weights import find_model  # noqa: E402
from CycleINRLib.upsampling import settings  # noqa: E402
from CycleINRLib.upsampling.plan import plan  # noqa: E402
from CycleINRLib.upsampling.speed import Speed, _key, expected_seconds, known_speed  # noqa: E402

ASKED = {"z_scale": 2, "profile": "skip", "gain": 1.0, "noise": "acquired", "device": "cpu"}


@pytest.fixture(autouse=True)
def a_machine_with_matrix_units(monkeypatch):
    """Elsewhere bfloat16 is emulated: the same arithmetic, slowly."""
    monkeypatch.setattr(device, "usual_precision", lambda _: ("bfloat16", "matrix units"))


@pytest.fixture(scope="module")
def noisy(thick_ct: Volume) -> Volume:
    values = thick_ct.values[2:10, 8:56, 8:56].astype(np.float32)
    return thick_ct.with_values(values, thick_ct.geometry.cropped((2, 8, 8), values.shape))


@pytest.fixture(scope="module")
def quiet(noisy: Volume) -> Volume:
    """The same body with hardly any noise within slices, and all that changes from slice to slice."""
    return noisy.with_values(ndimage.gaussian_filter(noisy.values, (0, 1.5, 1.5)))


def test_auto_takes_float32_where_rounding_would_show_beside_the_noise_and_the_job_repeats_it(noisy, quiet):
    assert cycleinr.upsample(noisy, **ASKED).report["precision"] == "bfloat16"
    found = cycleinr.upsample(quiet, **ASKED)
    assert found.report["precision"] == "float32" and found.report["warnings"] == []
    job = UpsampleJob.from_json(found.report["job"])
    assert job.precision == "float32"
    np.testing.assert_array_equal(cycleinr.upsample(quiet, job).volume.values, found.volume.values)


def test_a_preview_takes_the_precision_of_the_volume(quiet):
    whole = cycleinr.upsample(quiet, **ASKED).volume.values
    row = cycleinr.preview(quiet, "coronal", **ASKED).values[:, 0]
    np.testing.assert_allclose(row, whole[:, whole.shape[1] // 2], atol=1e-3)


@pytest.mark.parametrize("scan", ["noisy", "quiet"])
def test_the_estimate_is_what_bfloat16_changes(scan, request):
    scan = request.getfixturevalue(scan)
    job = UpsampleJob(precision="bfloat16", consistency="none", **ASKED)
    settled = settings.settle(scan, job, plan(scan, job), None, None)
    estimate = settings.rounding_error(settled.engine, settled.source.values)
    one, other = (
        cycleinr.upsample(scan, job, precision=name).volume.values.astype(float) for name in ("bfloat16", "float32")
    )
    between = np.arange(len(one)) % 2 == 1
    assert 0.6 < estimate / np.sqrt(np.mean((one - other)[between] ** 2)) < 1.6


def test_what_auto_takes_is_within_a_twentieth_of_the_noise_whatever_the_noise(noisy):
    still = ndimage.gaussian_filter(noisy.values, (0, 1.5, 1.5))
    taken = []
    for share in (0.0, 0.2, 0.5, 1.0, 2.0):
        scan = noisy.with_values(still + np.float32(share) * (noisy.values - still))
        auto, exact = (cycleinr.upsample(scan, precision=name, **ASKED) for name in ("auto", "float32"))
        off = auto.volume.values.astype(float) - exact.volume.values
        assert np.sqrt(np.mean(off**2)) <= 0.05 * noise_level(scan.values, "CT")
        taken.append(auto.report["precision"])
    assert taken == sorted(taken, reverse=True) and set(taken) == {"float32", "bfloat16"}


def test_a_precision_that_is_asked_for_is_kept_and_said_to_show(quiet, noisy):
    report = cycleinr.upsample(quiet, precision="bfloat16", **ASKED).report
    assert report["precision"] == "bfloat16" and any("float32 would be more exact" in one for one in report["warnings"])
    assert cycleinr.upsample(noisy, precision="bfloat16", **ASKED).report["warnings"] == []


def test_whole_numbers_bear_a_tenth_of_one(quiet):
    """Rounding itself adds 0.29 of one."""
    whole = quiet.with_values(np.rint(quiet.values / 40).astype(np.int16))
    assert cycleinr.upsample(whole, modality="mr", **ASKED).report["precision"] == "bfloat16"


def test_a_scan_that_does_not_change_along_z_is_computed(noisy):
    same = noisy.with_values(np.repeat(noisy.values[:1], len(noisy.values), 0))
    result = cycleinr.upsample(same, **ASKED)
    assert np.isfinite(result.volume.values).all()


def test_the_time_that_is_kept_for_auto_is_that_of_the_machine_not_of_a_quiet_scan(quiet, noisy, tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path))
    auto = UpsampleJob(device="cpu")
    cycleinr.upsample(quiet, **ASKED)
    assert known_speed(auto) is None and known_speed(dataclasses.replace(auto, precision="float32")) is not None
    cycleinr.upsample(noisy, **ASKED)
    assert known_speed(auto) is not None


def test_the_time_that_is_told_of_a_scan_is_that_of_the_precision_that_it_gets(quiet, noisy, tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path))
    auto, exact = (UpsampleJob(z_scale=2, device="cpu", precision=name) for name in ("auto", "float32"))
    sizes = read_card(find_model("auto")).network
    for job, slow in ((auto, 1e-6), (exact, 1e-3)):
        remember("speed", _key(sizes, job), Speed(slow, slow, "cpu", (64, 4, 28, 1.2e9)).to_json())

    def told(scan: Volume, job: UpsampleJob = auto) -> float | None:
        return expected_seconds(scan, plan(scan, job), job)

    assert told(quiet) == told(noisy) < told(quiet, exact)
    for scan in (quiet, noisy):
        cycleinr.upsample(scan, **ASKED)
    assert told(quiet) == told(quiet, exact) > told(noisy)
    part = quiet.with_values(quiet.values + np.float32(1))  # another scan of that grid
    assert told(part) == told(noisy)
