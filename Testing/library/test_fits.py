"""What was fitted to a scan is fitted once: preview, volume and a second run share it."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.upsampling import gain  # noqa: E402


@pytest.fixture
def fitted(tmp_path, monkeypatch) -> list[bool]:
    """One entry for each time that the gain was fitted, from an empty cache."""
    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path / "cache"))
    calls: list[bool] = []
    real = gain.fit_gain
    monkeypatch.setattr(gain, "fit_gain", lambda *rest: calls.append(True) or real(*rest))
    return calls


def test_a_preview_fits_and_the_volume_after_it_does_not_and_is_the_same(thick_ct, fitted, monkeypatch):
    plane = cycleinr.preview(thick_ct, "coronal", z_scale=2)
    kept = cycleinr.upsample(thick_ct, z_scale=2)
    assert len(fitted) == 1 and kept.report["gain_seconds"] == 0
    monkeypatch.setenv("CYCLEINR_CACHE", "")
    alone = cycleinr.upsample(thick_ct, z_scale=2)
    assert len(fitted) == 2 and alone.report["gain"] == kept.report["gain"]
    np.testing.assert_array_equal(alone.volume.values, kept.volume.values)
    row = kept.volume.values.shape[1] // 2
    assert np.abs(plane.values[:, 0].astype(int) - kept.volume.values[:, row]).max() <= 1


def test_another_scan_target_or_wish_is_fitted_anew_and_precision_is_not(thick_ct, fitted):
    def run(volume=thick_ct, **fields):
        before = len(fitted)
        cycleinr.upsample(volume, **{"z_scale": 2, "precision": "float32", **fields})
        return len(fitted) - before

    changed = thick_ct.values.copy()
    changed[7, 30, 30] += 1
    assert run() == 1 and run() == 0
    assert run(precision="bfloat16") == 0  # fits run in float32
    assert run(dataclasses.replace(thick_ct, values=changed)) == 1
    assert run(profile="gaussian") == 1
    assert run(z_scale=3) == 1
    assert run(self_check=True) == 1  # needs the dropped slices themselves
    assert run() == 0


@pytest.mark.parametrize(
    "damaged", [{}, {"gain": "much", "warnings": []}, {"gain": 1.0}, {"gain": 1.0, "warnings": [1]}]
)
def test_what_is_damaged_in_the_cache_is_fitted_anew(thick_ct, fitted, damaged, tmp_path):
    first = cycleinr.upsample(thick_ct, z_scale=2)
    path = tmp_path / "cache" / "fits.json"
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), damaged)))
    second = cycleinr.upsample(thick_ct, z_scale=2)
    assert len(fitted) == 2 and second.report["gain"] == first.report["gain"]


def test_a_warning_about_the_gain_is_repeated_where_it_is_kept(thick_ct, fitted, monkeypatch):
    monkeypatch.setattr("CycleINRLib.upsampling.gain.LOW", 2.0)
    first, second = (cycleinr.upsample(thick_ct, z_scale=2).report["warnings"] for _ in range(2))
    assert len(fitted) == 1 and first == second and any("of the network's correction is used" in one for one in first)
