"""The texture that is fitted to a scan: as little as hides the generated slices, the same for the whole and a plane."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch", reason="the network needs torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.errors import Cancelled  # noqa: E402
from CycleINRLib.evaluation.case import Acquisition, Case  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402
from CycleINRLib.upsampling import engine  # noqa: E402
from CycleINRLib.upsampling import preview as tasks_preview  # noqa: E402
from CycleINRLib.upsampling.engine import Engine, Settings  # noqa: E402
from CycleINRLib.upsampling.plan import plan  # noqa: E402
from CycleINRLib.upsampling.texture import ALLOWED, fit_texture  # noqa: E402


@pytest.fixture(scope="module")
def thick(mr_thin):
    return Case.of(mr_thin, Acquisition(3, "skip")).source


@pytest.fixture(scope="module")
def result(thick):
    return cycleinr.upsample(thick, z_scale=3, axis="k")


def test_generated_slices_are_hidden_by_no_more_texture_than_needed(thick, result):
    texture = result.report["texture"]
    assert 0 < texture <= 1
    assert texture == 1 or abs(result.report["generated_gap"]) < ALLOWED + 0.03
    less = cycleinr.upsample(thick, z_scale=3, axis="k", texture=0.8 * texture)
    assert less.report["generated_gap"] > result.report["generated_gap"]
    none = cycleinr.upsample(thick, z_scale=3, axis="k", texture=0)
    assert none.report["generated_gap"] > ALLOWED and none.report["noise_ratio"] < result.report["noise_ratio"]


def test_the_reported_texture_asked_for_gives_the_same_result(thick, result):
    again = cycleinr.upsample(thick, z_scale=3, axis="k", texture=result.report["texture"])
    np.testing.assert_array_equal(again.volume.values, result.volume.values)


def test_a_preview_has_the_texture_of_the_whole(thick, result):
    plane = cycleinr.preview(thick, "coronal", z_scale=3, axis="k")
    across = plane.values.shape.index(1)
    same = result.volume.values.take(result.volume.values.shape[across] // 2, axis=across)
    difference = plane.values.squeeze().astype(int) - same.astype(int)
    assert np.abs(difference).max() <= 1


def test_several_planes_are_those_of_single_previews_and_fitted_once(ct_thin, monkeypatch):
    thick = Case.of(ct_thin, Acquisition(3, "box")).source
    fits: list[str] = []
    real = tasks_preview.fit
    monkeypatch.setattr(tasks_preview, "fit", lambda *rest: fits.append("fit") or real(*rest))
    planes = {"coronal": None, "sagittal": float(thick.geometry.ras_of((0, 0, 20))[0])}
    together = dict(tasks_preview.previews(thick, planes, 3))
    assert fits == ["fit"] and list(together) == ["coronal", "sagittal"]
    for plane, at_mm in planes.items():
        alone = cycleinr.preview(thick, plane, at_mm, 3)
        np.testing.assert_array_equal(together[plane].values, alone.values)
        assert together[plane].geometry.same_place_as(alone.geometry)


def test_planes_stop_when_asked(thick):
    with pytest.raises(Cancelled):
        dict(tasks_preview.previews(thick, {"coronal": None}, 3, cancelled=lambda: True))


def test_a_texture_that_is_asked_for_is_not_fitted(thick):
    report = cycleinr.upsample(thick, z_scale=3, axis="k", texture=0.25).report
    assert report["texture"] == 0.25 and report["texture_seconds"] == 0


def test_too_few_slices_get_least_error(mr_thin):
    source = Case.of(mr_thin, Acquisition(3, "skip")).source
    few = source.with_values(source.values[:5], source.geometry.cropped((0, 0, 0), (5, *source.values.shape[1:])))
    assert cycleinr.upsample(few, z_scale=3, axis="k").report["texture"] == 0


@pytest.mark.parametrize("profile", ["skip", "box"])
def test_one_encoding_gives_the_texture_that_two_runs_give(ct_thin, profile, monkeypatch):
    """Both ends of the dial at once are a saving, not another fit."""

    def twice(engine, values, grid, gain, textures):
        found = []
        for texture in textures:
            output, _, beside = engine.run(values, grid, Settings(gain, texture))
            found.append((output, beside))
        return found

    thick = Case.of(ct_thin, Acquisition(3, profile)).source
    job = UpsampleJob(z_scale=3, axis="k", profile=profile)
    settled = []
    for way in (Engine.at_textures, twice):
        monkeypatch.setattr(Engine, "at_textures", way)
        settled.append(fit_texture(Engine.of(thick, job, plan(thick, job), None, None), thick.values, job, 1.0)[0])
    assert settled[0] == pytest.approx(settled[1], abs=1e-3)
    assert 0 < settled[0] < 1


# --- below 0: scans that have no detail as fine as the network's --------------------------------------------------
@pytest.fixture(scope="module")
def interpolated(mr_thin):
    """A thick scan whose pixels are twice as many as its scanner resolved."""
    fine = ndimage.gaussian_filter(mr_thin.values.astype(np.float32), (0, 0.8, 0.8))
    return Case.of(mr_thin.with_values(np.rint(fine).astype(mr_thin.values.dtype)), Acquisition(4, "skip")).source


def test_detail_finer_than_the_scan_has_is_smoothed_away_by_no_more_than_needed(interpolated):
    asked = {"z_scale": 4, "axis": "k", "profile": "skip"}
    least = cycleinr.upsample(interpolated, texture=0, **asked).report
    fitted = cycleinr.upsample(interpolated, **asked).report
    most = cycleinr.upsample(interpolated, texture=-1, **asked).report
    assert least["generated_gap"] < -ALLOWED and -1 <= fitted["texture"] < 0
    assert abs(fitted["generated_gap"]) < 0.5 * abs(least["generated_gap"])
    assert most["noise_ratio"] <= fitted["noise_ratio"] < least["noise_ratio"]


def test_a_smoothed_preview_is_that_of_the_whole_in_both_directions(interpolated):
    asked = {"z_scale": 4, "axis": "k", "profile": "skip", "texture": -0.7}
    whole = cycleinr.upsample(interpolated, **asked).volume.values
    seen = set()
    for plane in ("coronal", "axial"):
        made = cycleinr.preview(interpolated, plane, **asked).values
        across = made.shape.index(1)
        seen.add(across)
        same = whole.take(whole.shape[across] // 2, axis=across).astype(int)
        assert np.abs(made.squeeze().astype(int) - same).max() <= 1
    assert seen == {1, 2}


def test_smoothed_slabs_are_the_whole(interpolated, monkeypatch):
    asked = {"z_scale": 4, "axis": "k", "profile": "skip", "texture": -0.7}
    whole = cycleinr.upsample(interpolated, **asked).volume.values
    monkeypatch.setattr(engine, "usual_rows", lambda *_: 16)
    assert np.abs(cycleinr.upsample(interpolated, **asked).volume.values.astype(int) - whole).max() <= 1
