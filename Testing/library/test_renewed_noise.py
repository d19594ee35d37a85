"""Noise that is new in each slice: what the user gets, with each consistency, in a volume and in a preview."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.cli.main import main  # noqa: E402
from CycleINRLib.errors import Cancelled, RequestError  # noqa: E402
from CycleINRLib.imaging.consistency import Grid  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402
from CycleINRLib.upsampling import preview as previewing  # noqa: E402
from CycleINRLib.upsampling.noisefield import NoiseField  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
OLD = REPOSITORY / "Testing" / "data" / "revision_8443a11"
ASKED = {"gain": 1.0, "device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def scan() -> Volume:
    """Part of the bundled CT: 16 slices of 5 mm, 96 x 96 pixels of soft tissue."""
    whole = cycleinr.read(REPOSITORY / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd")
    return cut(whole, (10, 26), (64, 160), (80, 176))


def cut(volume: Volume, *limits: tuple[int, int]) -> Volume:
    values = np.ascontiguousarray(volume.values[tuple(slice(*pair) for pair in limits)])
    first = tuple(pair[0] for pair in limits)
    return volume.with_values(values, volume.geometry.cropped(first, values.shape))


@pytest.fixture(scope="module")
def results(scan) -> dict[str, cycleinr.Result]:
    return {
        (mode, consistency): cycleinr.upsample(scan, z_scale=4, noise=mode, consistency=consistency, **ASKED)
        for mode in ("renew", "acquired", "remove")
        for consistency in ("keep", "project")
    }


@pytest.mark.parametrize("consistency", ["keep", "project"])
def test_streaks_become_grain_at_the_strength_of_the_scan(results, consistency):
    new, old = (results[mode, consistency].report for mode in ("renew", "acquired"))
    assert new["grain"]["output"] > 0.6 and new["grain"]["output"] > 2.5 * old["grain"]["output"]
    assert new["noise_ratio"] == pytest.approx(1, abs=0.15)
    assert abs(new["generated_gap"]) < 0.2 and new["snli_detrended"]["output"] < old["snli_detrended"]["output"]
    assert new["noise"] == new["job"]["noise"] == "renew" and 0.2 < new["noise_taken_ratio"] < 1.1


@pytest.mark.parametrize("mode", ["renew", "acquired"])
def test_acquired_slices_are_kept_bit_for_bit(scan, results, mode):
    np.testing.assert_array_equal(results[mode, "keep"].volume.values[::4], scan.values)
    assert results[mode, "keep"].report["consistency_error"] == 0


def test_removing_takes_the_noise_of_acquired_slices_too_and_says_so(scan, results):
    result = results["remove", "keep"]
    signal = scan.values - result.taken.values
    np.testing.assert_allclose(result.volume.values[::4], signal, atol=0.51)
    assert result.report["consistency_error"] > 0.2
    assert any("not copied bit for bit" in warning for warning in result.report["warnings"])


def test_new_noise_averages_to_nothing_over_the_slice_profile(results):
    """Box slices of one spacing: the difference to the signal, averaged, is far below the noise itself."""
    new = results["renew", "project"].volume.values.astype(float) - results["remove", "project"].volume.values
    A = Grid.of(16, 4.0, 61, 1.0, extend=False).profile(1.0, "box")[1:-1]
    tissue = new.std(axis=0) > 5
    assert np.tensordot(A, new, 1)[:, tissue].std() < 0.1 * new[:, tissue].std()


def test_the_first_and_the_last_slices_have_as_much_new_noise_as_the_others(results):
    """Half of their profile lies outside the scan, where the field goes on."""
    new = results["renew", "project"].volume.values.astype(float) - results["remove", "project"].volume.values
    strength = new.std(axis=(1, 2))
    assert strength[[0, -1]].min() > 0.85 * np.median(strength)
    assert strength.min() > 0.75 * np.median(strength)


def test_new_noise_is_none_of_the_acquired_noise(scan, results):
    new = results["renew", "project"].volume.values.astype(float) - results["remove", "project"].volume.values
    taken = results["renew", "project"].taken.values
    tissue = np.abs(taken) > 0
    assert abs(np.corrcoef(new[::4][tissue], taken[tissue])[0, 1]) < 0.02


@pytest.mark.parametrize("consistency", ["none", "exact"])
def test_new_noise_needs_kept_or_projected_slices(scan, consistency):
    with pytest.raises(RequestError, match="kept or projected"):
        UpsampleJob(noise="renew", consistency=consistency)
    assert cycleinr.upsample(scan, z_scale=2, consistency=consistency, **ASKED).report["noise"] == "acquired"


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
@pytest.mark.parametrize("mode", ["renew", "remove"])
def test_a_preview_is_the_same_plane_of_the_volume(scan, results, plane, mode):
    made = cycleinr.preview(scan, plane, z_scale=4, noise=mode, consistency="project", **ASKED)
    whole = results[mode, "project"].volume.values
    expected = whole[:, 48:49] if plane == "coronal" else whole[:, :, 48:49]
    np.testing.assert_allclose(made.values.astype(int), expected.astype(int), atol=1)


def test_several_planes_are_those_of_single_previews_and_settled_once(scan, monkeypatch):
    settled: list[str] = []
    real = previewing.settle
    monkeypatch.setattr(previewing, "settle", lambda *rest: settled.append("scan") or real(*rest))
    planes = {"coronal": None, "sagittal": float(scan.geometry.ras_of((0, 0, 20))[0])}
    together = dict(previewing.previews(scan, planes, 3, **ASKED))
    assert settled == ["scan"] and list(together) == ["coronal", "sagittal"]
    for plane, at_mm in planes.items():
        alone = cycleinr.preview(scan, plane, at_mm, 3, **ASKED)
        np.testing.assert_array_equal(together[plane].values, alone.values)
        assert together[plane].geometry.same_place_as(alone.geometry)


def test_planes_stop_when_asked(scan):
    with pytest.raises(Cancelled):
        dict(previewing.previews(scan, {"coronal": None}, 3, cancelled=lambda: True))


def test_shift_and_scale_of_the_values_do_not_change_the_noise(scan):
    fields = {"z_scale": 2, "noise": "renew", "modality": "mr", "consistency": "keep", **ASKED}
    floats = scan.with_values(np.clip(scan.values, 0, None).astype(np.float32))
    one = cycleinr.upsample(floats, **fields).volume.values
    twice = cycleinr.upsample(floats.with_values(2 * floats.values), **fields).volume.values
    np.testing.assert_allclose(twice, 2 * one, atol=0.02 * floats.values.std())


def test_too_little_tissue_leaves_the_noise_as_acquired_and_says_why(scan):
    air = scan.with_values((np.arange(scan.values.size) % 30 - 1000).astype(np.int16).reshape(scan.values.shape))
    report = cycleinr.upsample(air, z_scale=2, **ASKED).report
    assert report["noise"] == "acquired" and any("stays as acquired" in text for text in report["warnings"])


# --- what revision 8443a11 wrote ------------------------------------------------------------------------------
@pytest.mark.parametrize("name, noise, warned", [("least", "acquired", 0), ("half", "renew", 1), ("fitted", None, 0)])
def test_jobs_of_the_time_of_texture_still_run(tmp_path, mr_thin, name, noise, warned):
    report = json.loads((OLD / f"report_{name}.json").read_text("utf-8"))
    paths = {key: str(tmp_path / file) for key, file in (("input", "in.nrrd"), ("output", "out.nrrd"))}
    job = {**report["job"], **paths, "report": str(tmp_path / "report.json"), "z_scale": 2, "gain": 1}
    assert job["texture"] == {"least": 0, "half": 0.5, "fitted": None}[name]
    thick = cut(mr_thin, (0, 60), (4, 60), (4, 60))
    cycleinr.write(thick.with_values(thick.values), tmp_path / "in.nrrd")
    (tmp_path / "job.json").write_text(json.dumps({**job, "axis": "k"}), "utf-8")
    assert main(["run", str(tmp_path / "job.json")]) == 0
    found = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert found["noise"] == noise or (noise is None and found["noise"] in ("renew", "acquired"))
    assert sum("no texture any more" in text for text in found["warnings"]) == warned
    assert "texture" not in found["job"] and found["job"]["noise"] == found["noise"]


def test_the_difference_can_be_written(tmp_path, scan):
    cycleinr.write(scan, tmp_path / "in.nrrd")
    asked = ["--z-scale", "2", "--gain", "1", "--noise", "remove", "--difference", str(tmp_path / "noise.nrrd")]
    assert main(["upsample", str(tmp_path / "in.nrrd"), str(tmp_path / "out.nrrd"), *asked, "--quiet"]) == 0
    taken = cycleinr.read(tmp_path / "noise.nrrd")
    assert taken.values.shape == scan.values.shape and np.allclose(taken.geometry.ijk_to_ras, scan.geometry.ijk_to_ras)
    assert 2 < taken.values[np.abs(taken.values) > 0].std() < 40


def test_noise_of_interpolated_pixels_stays_as_acquired_and_says_why(scan):
    slices, rows, columns = scan.values.shape
    waves = np.fft.rfft2(scan.values.astype(np.float64))
    padded = np.zeros((slices, 2 * rows, columns + 1), complex)  # as a scanner fills what it did not measure
    padded[:, : rows // 2, : columns // 2] = waves[:, : rows // 2, : columns // 2]
    padded[:, -(rows // 2) :, : columns // 2] = waves[:, -(rows // 2) :, : columns // 2]
    fine = np.fft.irfft2(padded, (2 * rows, 2 * columns)) * 4
    geometry = cycleinr.Geometry.from_spacing(fine.shape, (scan.spacing_mm[0], *(mm / 2 for mm in scan.spacing_mm[1:])))
    made = cycleinr.upsample(scan.with_values(np.rint(fine).astype(np.int16), geometry), z_scale=1.5, **ASKED)
    assert made.report["noise"] == "acquired"
    assert any("interpolated" in warning for warning in made.report["warnings"])


# --- a region of the scan ------------------------------------------------------------------------------------
REGION = ((4, 12), (20, 76), (10, 90))


@pytest.fixture(scope="module")
def regional(scan) -> cycleinr.Result:
    return cycleinr.upsample(scan, z_scale=4, noise="renew", consistency="project", region=REGION, **ASKED)


def test_a_region_has_the_noise_and_the_settings_of_the_whole_scan(scan, results, regional):
    """Its outer slices and pixels see less of the scan; within, the new noise is that of the whole, place by place."""
    whole = results["renew", "project"]
    assert regional.volume.values.shape == (29, 56, 80) and regional.report["job"]["region"] == REGION
    assert regional.volume.geometry.ijk_to_ras[:3, 3] == pytest.approx(scan.geometry.ras_of((4, 20, 10)))
    inner = np.s_[8:-8, 12:-12, 12:-12]
    same = whole.volume.values[16:45, 20:76, 10:90][inner].astype(float)
    apart = regional.volume.values[inner] - same
    noise = same - results["remove", "project"].volume.values[16:45, 20:76, 10:90][inner]
    assert apart.std() < 0.25 * noise.std()
    np.testing.assert_array_equal(regional.taken.values, whole.taken.values[4:12, 20:76, 10:90])


def test_a_preview_of_a_region_is_a_plane_of_it(scan, regional):
    made = cycleinr.preview(scan, "coronal", z_scale=4, noise="renew", consistency="project", region=REGION, **ASKED)
    np.testing.assert_allclose(made.values.astype(int), regional.volume.values[:, 28:29].astype(int), atol=1)


def test_the_field_does_not_know_where_a_region_begins(scan):
    """The same bytes for a region, whole slices, and slabs: position in the whole scan and its seed decide."""
    found = {}
    for name, region in (("whole", None), ("part", REGION)):
        seen = []
        real = NoiseField.at

        def at(self, positions, rows, columns, real=real, seen=seen):
            seen.append((self, positions, rows, columns))
            return real(self, positions, rows, columns)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NoiseField, "at", at)
            cycleinr.upsample(scan, z_scale=2, noise="renew", consistency="keep", region=region, **ASKED)
        field, positions, rows, columns = seen[0]
        found[name] = field, positions, rows, columns
    (whole, *_), (part, positions, rows, columns) = found["whole"], found["part"]
    assert positions[0] == 4 and rows[0] == 20 and columns == (10, 90)
    one, other = (field.at(positions[:3], rows, columns).tobytes() for field in (whole, part))
    assert one == other


@pytest.mark.parametrize("region", [((0, 9), (0, 10)), ((4, 4), (0, 9), (0, 9)), "all", ((0, 99), (0, 9), (0, 9))])
def test_a_region_that_is_none_is_refused(scan, region):
    with pytest.raises(RequestError):
        cycleinr.upsample(scan, z_scale=2, region=region, **ASKED)
