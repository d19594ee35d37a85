"""The main job: target, consistency, fallbacks, report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import make_interp_spline

torch = pytest.importorskip("torch", reason="the network needs torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.errors import Cancelled, MissingPackageError, RequestError, ResourceError, VolumeError  # noqa: E402
from CycleINRLib.events import Progress  # noqa: E402
from CycleINRLib.imaging.accuracy import psnr  # noqa: E402
from CycleINRLib.imaging.figures import mean_noise  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.intensity import from_zero, zero_of  # noqa: E402
from CycleINRLib.imaging.noise import slice_noise  # noqa: E402
from CycleINRLib.imaging.profile import profile_weights  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402
from CycleINRLib.upsampling import engine as task  # noqa: E402
from CycleINRLib.upsampling import memory  # noqa: E402
from CycleINRLib.upsampling.plan import plan  # noqa: E402

SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd"


@pytest.fixture(scope="module")
def small_mr(thick_mr) -> Volume:
    """(9, 40, 36): a corner of the thick MR, so that runs take a second."""
    values = thick_mr.values[3:12, 10:50, 14:50]
    return thick_mr.with_values(values, thick_mr.geometry.cropped((3, 10, 14), values.shape))


@pytest.fixture(scope="module")
def result(small_mr):
    return cycleinr.upsample(small_mr, z_scale=4)


# --- target ---------------------------------------------------------------------------------------------------
def test_isotropic_is_the_default_and_keeps_first_slice_and_plane(small_mr):
    result = cycleinr.upsample(small_mr)
    k, j, i = result.volume.spacing_mm
    assert k == pytest.approx(min(j, i)) and result.volume.values.dtype == small_mr.values.dtype
    np.testing.assert_allclose(result.volume.geometry.ras_of((0, 0, 0)), small_mr.geometry.ras_of((0, 0, 0)))
    np.testing.assert_allclose(result.volume.geometry.directions, small_mr.geometry.directions, atol=1e-12)


@pytest.mark.parametrize("z_scale", [1.5, 2, 3.5, 7.3])
def test_any_z_scale_has_the_promised_number_of_slices(small_mr, z_scale):
    volume = cycleinr.upsample(small_mr, z_scale=z_scale).volume
    assert volume.values.shape[0] == int(np.floor(8 * z_scale + 1e-6)) + 1
    assert volume.spacing_mm[0] == pytest.approx(small_mr.spacing_mm[0] / z_scale)


@pytest.mark.parametrize("axis", ["j", "i"])
def test_a_slice_axis_that_is_not_k_gives_the_same_values(small_mr, result, axis):
    turned = small_mr.slices_back(axis)
    got = cycleinr.upsample(turned, z_scale=4)
    back = got.volume.slices_first(axis)
    np.testing.assert_array_equal(back.values, result.volume.values)
    assert back.geometry.same_place_as(result.volume.geometry)
    assert got.report["output"]["slice_axis"] == axis


def test_a_left_handed_sheared_volume_keeps_its_matrix(small_mr):
    matrix = np.array(small_mr.geometry.ijk_to_ras)
    matrix[:3, 0] *= -1
    matrix[:3, 2] += 0.3 * matrix[:3, 1]
    volume = dataclasses.replace(small_mr, geometry=Geometry(small_mr.geometry.shape, matrix))
    out = cycleinr.upsample(volume, z_scale=2).volume.geometry.ijk_to_ras
    np.testing.assert_allclose(out[:, [0, 1, 3]], matrix[:, [0, 1, 3]], atol=1e-12)
    np.testing.assert_allclose(out[:, 2], matrix[:, 2] / 2, atol=1e-12)


def test_a_parallel_reference_is_filled_at_its_own_places(small_mr, result):
    geometry = result.volume.geometry.cropped((5, 0, 0), (20, 40, 36))
    like = cycleinr.upsample(small_mr, like=geometry)
    assert like.volume.geometry.same_place_as(geometry)
    np.testing.assert_allclose(like.volume.values.astype(int), result.volume.values[5:25].astype(int), atol=1)


def test_a_reference_that_runs_backwards_is_filled_backwards(small_mr, result):
    matrix = np.array(result.volume.geometry.ijk_to_ras)
    matrix[:3, 3] = result.volume.geometry.ras_of((32, 0, 0))
    matrix[:3, 2] *= -1
    like = cycleinr.upsample(small_mr, like=Geometry(result.volume.geometry.shape, matrix))
    np.testing.assert_allclose(like.volume.values[::-1].astype(int), result.volume.values.astype(int), atol=1)


def test_slices_of_a_reference_beyond_the_scan_are_empty_and_counted(small_mr):
    geometry = small_mr.geometry.resliced(2)
    first = tuple(geometry.kji_of(geometry.ras_of((-6, 0, 0))).round().astype(int))
    like = cycleinr.upsample(small_mr, like=geometry.cropped(first, (12, *geometry.shape[1:])))
    assert (like.volume.values[:5] == small_mr.values.min()).all()
    assert like.volume.values[6:].std() > 10
    assert any("5 slices of the reference lie outside" in warning for warning in like.report["warnings"])


def test_a_tilted_reference_is_filled_by_resampling_and_says_so(small_mr):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    geometry = small_mr.geometry.resliced(2).cropped((2, 10, 10), (8, 16, 16))
    tilted = Geometry(geometry.shape, turn @ geometry.ijk_to_ras)
    like = cycleinr.upsample(small_mr, like=tilted)
    assert like.volume.geometry.same_place_as(tilted)
    assert any("not parallel" in warning for warning in like.report["warnings"])


def test_resampling_to_the_own_grid_changes_nothing(small_mr):
    from CycleINRLib.io.resample import resampled

    again = resampled(small_mr, small_mr.geometry)
    np.testing.assert_allclose(again.values.astype(int), small_mr.values.astype(int), atol=1)


def test_requests_that_cannot_be_met_are_refused(small_mr, thick_mr):
    for fields in ({"spacing_mm": 5.0}, {"spacing_mm": 0.01}):
        with pytest.raises(RequestError):
            cycleinr.upsample(small_mr, **fields)
    coarse = thick_mr.geometry.resliced(1.0)
    with pytest.raises(RequestError, match="not finer"):
        cycleinr.upsample(thick_mr, like=coarse)


def test_an_isotropic_volume_needs_a_z_scale(ct_thin):
    cube = dataclasses.replace(ct_thin, geometry=Geometry.from_spacing(ct_thin.values.shape, (1, 1, 1)))
    with pytest.raises(VolumeError, match="already isotropic"):
        plan(cube)
    assert plan(cube, UpsampleJob(z_scale=2)).target.shape[0] == 119


def test_isotropic_is_capped_at_sixteen_with_a_warning(small_mr):
    flat = dataclasses.replace(small_mr, geometry=Geometry.from_spacing(small_mr.values.shape, (20, 0.5, 0.5)))
    found = plan(flat)
    assert found.z_scale == 16 and any("capped" in warning for warning in found.warnings)


# --- consistency ----------------------------------------------------------------------------------------------
def test_keep_returns_acquired_slices_bit_for_bit(small_mr):
    result = cycleinr.upsample(small_mr, z_scale=4, profile="skip")
    assert result.report["consistency"] == "keep"
    np.testing.assert_array_equal(result.volume.values[::4], small_mr.values)


def test_exact_gives_the_acquired_slices_when_averaged_again(small_mr):
    floats = small_mr.with_values(small_mr.values.astype(np.float32))
    result = cycleinr.upsample(floats, z_scale=4, profile="box", consistency="exact")
    assert result.report["consistency_error"] <= 0.01
    inner = np.arange(1, 8)
    A = profile_weights(inner * 4.0, 4.0, 33, "box").astype(np.float32)
    again = np.tensordot(A, result.volume.values, 1)
    np.testing.assert_allclose(again, floats.values[inner], atol=0.5)


def test_project_leaves_a_third_of_the_noise_level_at_most(small_mr):
    assert 0 < cycleinr.upsample(small_mr, z_scale=4, consistency="project").report["consistency_error"] <= 0.35


def test_none_leaves_the_output_of_the_network_alone(small_mr):
    """What the network adds at gain 1 it adds ten times as little at gain 0.1, to a spline that nothing came after."""
    volume = small_mr.with_values(small_mr.values.astype(np.float32))
    asked = {"z_scale": 2, "profile": "skip", "consistency": "none", "noise": "acquired", "precision": "float32"}
    none, tenth, full = (
        cycleinr.upsample(volume, gain=gain, **asked).volume.values.astype(np.float64) for gain in (0, 0.1, 1)
    )
    spline = make_interp_spline(np.arange(9), volume.values.astype(np.float64), k=3)
    np.testing.assert_allclose(none, spline(np.arange(17) / 2), atol=0.1)  # a gain of 0 is a thousandth
    added = full - none
    assert np.sqrt(np.mean(added[1::2] ** 2)) > 0.5
    np.testing.assert_allclose(tenth - none, 0.1 * added, atol=0.1)


# --- values ---------------------------------------------------------------------------------------------------
def test_the_same_input_and_job_give_the_same_bytes(small_mr, result):
    again = cycleinr.upsample(small_mr, z_scale=4)
    assert again.volume.values.tobytes() == result.volume.values.tobytes()


def test_slabs_change_nothing_where_an_inner_one_reads_half_of_the_rows(monkeypatch):
    scan = cycleinr.read(SAMPLE)
    block = scan.values[12:18, 20:180, 120:136].astype(np.float32)
    tall = scan.with_values(block, scan.geometry.cropped((12, 20, 120), block.shape))
    read, asked = [], {"z_scale": 2, "gain": 1, "noise": "acquired", "precision": "float32"}
    real = task.cut

    def noted(*facts):
        made = real(*facts)
        read.extend(slab.read_last - slab.read_first for slab in made.slabs)
        return made

    whole = cycleinr.upsample(tall, **asked).volume.values
    monkeypatch.setattr(task, "cut", noted)
    monkeypatch.setattr(memory, "usual_size", lambda *_: memory.SlabSize(16, 2))
    sliced = cycleinr.upsample(tall, **asked).volume.values
    assert len(read) == 10 and max(read) <= 80
    np.testing.assert_allclose(sliced, whole, atol=2e-3 * block.std())


@pytest.mark.parametrize("profile", ["skip", "box"])
def test_bfloat16_differs_from_float32_by_a_twentieth_of_the_noise_at_most(thick_ct, profile):
    """On any processor, emulated or not: a small block, unrounded."""
    middle = [(n - m) // 2 for n, m in zip(thick_ct.values.shape, (8, 64, 64))]
    block = thick_ct.values[tuple(slice(a, a + m) for a, m in zip(middle, (8, 64, 64)))].astype(np.float32)
    volume = thick_ct.with_values(block, thick_ct.geometry.cropped((0, 0, 0), block.shape))
    asked = {"z_scale": 3, "profile": profile, "gain": 1, "noise": "acquired", "axis": "k"}
    full, reduced = (
        cycleinr.upsample(volume, precision=name, **asked).volume.values for name in ("float32", "bfloat16")
    )
    noise = mean_noise(slice_noise(block, "CT"))
    assert 0 < np.sqrt(np.mean((reduced - full) ** 2)) <= 0.05 * noise


def test_floats_stay_floats_and_hounsfield_units_stay_what_they_are(thick_ct):
    block = thick_ct.with_values(thick_ct.values[:6, :32, :32], thick_ct.geometry.cropped((0, 0, 0), (6, 32, 32)))
    whole = cycleinr.upsample(block, z_scale=2)
    floats = cycleinr.upsample(block.with_values(block.values.astype(np.float32)), z_scale=2)
    assert whole.volume.values.dtype == np.int16 and floats.volume.values.dtype == np.float32
    np.testing.assert_allclose(floats.volume.values, whole.volume.values, atol=0.51)
    assert abs(whole.volume.values.mean() - block.values.mean()) < 0.02 * block.values.std()


def test_integers_are_clipped_not_wrapped(small_mr):
    dark = small_mr.with_values(np.clip(small_mr.values.astype(int) - 150, 0, 200).astype(np.uint8))
    values = cycleinr.upsample(dark, z_scale=3).volume.values
    high = dark.values.repeat(3, axis=0)[1:-1]
    wrapped = np.abs(values.astype(int)[: len(high)] - high.astype(int)) > 200
    assert values.dtype == np.uint8 and wrapped.mean() < 1e-3


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0, 150, False), (20, 170, False), (0, 235, True)], ids=["air at 0", "no air", "bright"]
)
def test_clipping_is_said_but_at_the_lowest_value_of_the_scan(low, high, said):
    """Two slices bright, two dark, and so on: interpolation swings below the dark and above the bright."""
    k, j, i = np.indices((9, 24, 24))
    values = np.where(k % 4 < 2, high, low) + (3 * j + i) % 20
    bars = cycleinr.Volume(values.astype(np.uint8), Geometry.from_spacing((9, 24, 24), (3, 1, 1)), "MR", slice_axis="k")
    result = cycleinr.upsample(bars, z_scale=3, profile="box", gain=0, noise="acquired")
    assert any("clipped" in warning for warning in result.report["warnings"]) == said
    assert result.volume.values.min() >= low


@pytest.mark.parametrize("plane", ["coronal", "axial"])
def test_one_plane_equals_the_plane_of_the_whole(small_mr, result, plane):
    """The slices of the scan are sagittal."""
    alone = cycleinr.preview(small_mr, plane, z_scale=4)
    first = np.rint(result.volume.geometry.kji_of(alone.geometry.ras_of((0, 0, 0)))).astype(int)
    block = tuple(slice(f, f + n) for f, n in zip(first, alone.values.shape))
    np.testing.assert_allclose(alone.values.astype(int), result.volume.values[block].astype(int), atol=1)
    assert alone.values.shape[0] == result.volume.values.shape[0] and 1 in alone.values.shape[1:]


def test_a_plane_along_the_slices_is_refused(small_mr):
    with pytest.raises(RequestError, match="slices themselves are sagittal"):
        cycleinr.preview(small_mr, "sagittal", z_scale=2)


def test_a_plane_outside_the_volume_is_refused(small_mr):
    with pytest.raises(RequestError):
        cycleinr.preview(small_mr, "coronal", at_mm=1e4, z_scale=2)


# --- running --------------------------------------------------------------------------------------------------
def test_progress_runs_to_its_end(small_mr):
    events = []
    cycleinr.upsample(small_mr, z_scale=2, progress=events.append)
    for stage in ("upsample", "measure"):
        steps = [event for event in events if isinstance(event, Progress) and event.stage == stage]
        assert steps[-1].done == steps[-1].of and steps[-1].remaining_s == 0
        assert all(a.done <= b.done for a, b in zip(steps, steps[1:]))


def test_cancel_stops_within_one_slab(small_mr):
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        cycleinr.upsample(small_mr, z_scale=2, cancelled=cancelled)
    assert len(asked) == 4


def test_less_memory_means_smaller_slabs_and_the_same_values(small_mr, result, tight_memory):
    """The ladder: memory runs out with large slabs, is halved until it fits, and says each step."""
    refused = tight_memory()
    settled = {name: result.report[name] for name in ("gain", "noise", "precision")}
    tightened = cycleinr.upsample(small_mr, z_scale=4, **settled)
    assert refused[-2:] == [40, 20]  # in reduced precision also where its error was asked for
    np.testing.assert_allclose(tightened.volume.values.astype(int), result.volume.values.astype(int), atol=1)
    assert sum("Memory ran out" in warning for warning in tightened.report["warnings"]) == 2


def test_slabs_come_from_scan_and_model_alone_and_little_free_memory_is_said(small_mr, result, monkeypatch):
    engine = task.Engine.of(small_mr, UpsampleJob(z_scale=4), plan(small_mr, UpsampleJob(z_scale=4)), None, None)
    shape, grid = small_mr.slices_first(engine.plan.axis).values.shape, engine.plan.grid
    plenty, rule = engine.cut(shape, grid), engine.slab_rule
    cost = memory.slab_cost(rule.channels, shape[0], shape[2], len(grid.positions), rule.element, rule.halo)
    for rows in (2 * shape[1], shape[1]):
        monkeypatch.setattr(memory, "available_memory_bytes", lambda rows=rows: cost.of(rows + 2 * engine.halo) / 0.8)
        assert engine.cut(shape, grid) == plenty and not engine.warnings
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: cost.of(shape[1] // 2 + 2 * engine.halo) / 0.9)
    assert len(engine.cut(shape, grid).slabs) > len(plenty.slabs)
    assert any("Little memory is free" in warning for warning in engine.warnings)


def test_no_memory_even_for_the_smallest_slab_says_how_much_is_needed(small_mr, monkeypatch):
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 1e5)
    with pytest.raises(ResourceError, match="GB for the smallest slab"):
        cycleinr.upsample(small_mr, z_scale=2)


def test_without_torch_the_message_names_package_and_extra(small_mr, monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "torch" or name.startswith("torch."):
            raise ImportError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    import sys

    for name in [n for n in sys.modules if n.startswith("CycleINRLib.network.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingPackageError, match="torch"):
        cycleinr.upsample(small_mr, z_scale=2)


# --- report ---------------------------------------------------------------------------------------------------
def test_the_report_has_every_promised_key_and_is_json(result):
    promised = (
        "version model input output z_scale profile noise noise_taken gain gain_seconds consistency "
        "consistency_error device precision seconds "
        "peak_memory_mb snli snli_detrended grain noise_ratio generated_gap noise_per_slice self_check warnings job"
    ).split()
    assert set(promised) <= set(result.report)
    assert {"name", "file", "sha256", "trained_on"} <= set(result.report["model"])
    assert json.loads(json.dumps(result.report, allow_nan=False)) == result.report


def test_the_job_of_a_report_repeats_it(small_mr, result):
    job = UpsampleJob.from_json(result.report["job"])
    assert "auto" not in (job.model, job.device, job.precision)
    np.testing.assert_array_equal(cycleinr.upsample(small_mr, job).volume.values, result.volume.values)


def test_self_check_compares_with_cubic_on_hidden_slices(thick_mr):
    check = cycleinr.upsample(thick_mr, z_scale=2, self_check=True).report["self_check"]
    values = from_zero(thick_mr.values, zero_of(thick_mr.values, "MR"))
    known, hidden = values[::2].astype(np.float64), values[1::2]
    cubic = make_interp_spline(np.arange(8), known, k=3)(np.arange(7) + 0.5)
    assert check["psnr_cubic_db"] == pytest.approx(psnr(cubic, hidden, "MR"), abs=0.01)
    assert check["psnr_db"] > check["psnr_cubic_db"]


@pytest.mark.parametrize("slices", [4, 6])
def test_slices_of_little_noise_are_agreed_with_to_a_third_of_it(ct_thin, slices):
    """A soft reconstruction kernel: what the damping of the projection leaves beside bone is far above its noise."""
    soft = ndimage.gaussian_filter(ct_thin.values[:, 8:56, 8:56].astype(float), (0, 1.5, 1.5))
    count = len(soft) // slices
    values = np.rint(soft[: count * slices].reshape(count, slices, *soft.shape[1:]).mean(1)).astype(np.int16)
    thick = dataclasses.replace(
        ct_thin, values=values, geometry=Geometry.from_spacing(values.shape, (slices, 0.5, 0.5))
    )
    scan = dataclasses.replace(thick, thickness_mm=float(slices))
    report = cycleinr.upsample(scan, z_scale=2, noise="acquired", precision="float32").report
    assert report["consistency"] == "project" and 0 < report["consistency_error"] <= 0.35


def test_unknown_thickness_is_said(small_mr):
    report = cycleinr.upsample(dataclasses.replace(small_mr, thickness_mm=None), z_scale=2).report
    assert any("thickness is unknown" in warning for warning in report["warnings"])
    assert report["input"]["thickness_mm"] == pytest.approx(small_mr.spacing_mm[0])


def test_a_z_scale_beyond_training_is_said(small_mr):
    report = cycleinr.upsample(small_mr, z_scale=9).report
    assert any("outside what the model was trained for" in warning for warning in report["warnings"])
