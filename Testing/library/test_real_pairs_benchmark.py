"""The table of real pairs: made pairs whose answer is known come out as they must."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import CycleINRLib as cycleinr
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import real_pairs as rp  # noqa: E402

INTERPOLATORS = {"linear", "cubic", "sinc", "histospline", "cubic + projection"}


def stack(body: Volume, axis: str, each: int) -> Volume:
    """Slices across `axis`, each the mean of `each` neighbors weighted as a Gaussian of that width."""
    thin = body.slices_first(axis)
    smooth = ndimage.gaussian_filter1d(np.asarray(thin.values, np.float32), each / 2.3548, axis=0)
    values = np.rint(smooth[each // 2 :: each]).astype(np.uint16)
    matrix = np.array(thin.geometry.ijk_to_ras)
    matrix[:3, 3] = thin.geometry.ras_of(np.array([each // 2, 0, 0]))
    matrix[:3, 2] *= each
    return replace(thin, values=values, geometry=Geometry(values.shape, matrix), slice_axis="k")


@pytest.fixture
def folder(tmp_path: Path, ct_thin: Volume, mr_thin: Volume) -> Path:
    """A thick and a thin scan of one frame, and two orthogonal stacks of one head."""
    count = len(ct_thin.values) // 5
    means = ct_thin.values[: count * 5].reshape(count, 5, *ct_thin.values.shape[1:]).mean(1)
    matrix = np.array(ct_thin.geometry.ijk_to_ras)
    matrix[:3, 3] = ct_thin.geometry.ras_of(np.array([2, 0, 0]))
    matrix[:3, 2] *= 5
    thick = replace(ct_thin, values=np.rint(means).astype(np.int16), geometry=Geometry(means.shape, matrix))
    cycleinr.write(ct_thin, tmp_path / rp.THIN)
    cycleinr.write(thick, tmp_path / rp.THICK)
    cycleinr.write(stack(mr_thin, "k", 4), tmp_path / rp.KNEE["sag"][0])
    cycleinr.write(stack(mr_thin, "j", 4), tmp_path / rp.KNEE["cor"][0])
    return tmp_path


def test_thick_slices_that_are_means_of_thin_ones_are_seen_as_such(folder: Path):
    asked = rp.options([str(folder), "--interpolators-only"])
    pair = replace(rp.PAIRS[0], source_mm=5 * 0.625)
    outcome = rp.one_pair(pair, asked)
    assert outcome.facts["thick_minus_mean_of_thin_rms_hu"] < 0.5  # rounding alone
    figures = {row.method: row.figures for row in outcome.rows}
    assert set(figures) == INTERPOLATORS and len(outcome.rows) == len(INTERPOLATORS)
    assert figures["cubic + projection"]["psnr"] > figures["linear"]["psnr"] + 0.1
    assert all(one["psnr_line"] >= one["psnr"] - 0.02 for one in figures.values())  # a line can only help
    gaussian = rp.one_pair(replace(pair, profile="gaussian"), asked)
    assert gaussian.facts["thick_minus_mean_of_thin_rms_hu"] > 3


def test_the_pair_is_scored_where_the_thick_slices_lie(folder: Path):
    thick, thin = (rp._read(folder / file, "CT") for file in (rp.THICK, rp.THIN))
    case = rp.pair_case(thick, thin, 5 * 0.625, "box")
    assert (case.center, case.first, case.protocol.z_scale) == (2.0, 2, 5.0)
    assert len(case.positions) == (len(thick.values) - 1) * 5 + 1
    perfect = rp.ThinScorer(case)(case.wanted + 1e-3)
    assert perfect["psnr"] > 100 and perfect["sharpness"] == pytest.approx(1, abs=1e-4)
    assert perfect["ssim"] == pytest.approx(1, abs=1e-4)


def test_orthogonal_stacks_are_compared_in_place(folder: Path):
    asked = rp.options([str(folder), "--interpolators-only", "--half-mm", "16"])
    pair = replace(rp.PAIRS[2], source_mm=3.6, reference_mm=3.4)
    outcome = rp.one_pair(pair, asked)
    assert outcome.facts["shift_mm"] < 1.0 and outcome.facts["turn_deg"] < 1.5
    figures = {row.method: row.figures for row in outcome.rows}
    assert set(figures) == INTERPOLATORS
    assert figures["linear"]["local_ncc"] > 0.8  # half a voxel off would lose it
    assert figures["cubic + projection"]["local_ncc"] > figures["linear"]["local_ncc"]
    assert figures["linear"]["sharpness"] < figures["cubic + projection"]["sharpness"] < 1.2


def test_a_reference_elsewhere_scores_worse_than_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked = rp.options([str(folder), "--interpolators-only", "--half-mm", "16"])
    pair = replace(rp.PAIRS[2], source_mm=3.6, reference_mm=3.4)
    still = rp.pairing.Motion(np.eye(4), 0.0, 0.0, True)
    away = np.eye(4)
    away[1, 3] = 3.0
    scores = []
    for motion in (still, replace(still, matrix=away)):
        monkeypatch.setattr(rp.pairing.Motion, "between", lambda *_, motion=motion: motion)
        rows = rp.one_pair(pair, asked).rows
        scores.append({row.method: row.figures["local_ncc"] for row in rows})
    assert all(scores[1][name] < scores[0][name] - 0.1 for name in INTERPOLATORS)


def test_our_columns_go_through_the_public_door(folder: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def upsample(volume: Volume, like: Geometry, **asked):
        seen.append(asked)
        return type("Result", (), {"volume": volume.with_values(np.zeros(like.shape, np.int16), like)})

    monkeypatch.setattr(rp.cycleinr, "upsample", upsample, raising=False)
    thick, thin = (rp._read(folder / file, "CT") for file in (rp.THICK, rp.THIN))
    values = rp.ours(thick, thin.geometry, rp.PAIRS[1], "remove", rp.options([str(folder)]))
    assert values.shape == thin.values.shape
    assert seen[0]["profile"] == "gaussian" and seen[0]["thickness_mm"] == 5.0 and seen[0]["noise"] == "remove"


def test_one_command_gives_tables_and_figures(folder: Path, capsys: pytest.CaptureFixture):
    record = folder / "pairs.json"
    rp.main([str(folder), "--interpolators-only", "--pairs", "phantom", "--json", str(record)])
    assert [one["facts"]["kind"] for one in json.loads(record.read_text())] == ["thick and thin"] * 2
    shown = capsys.readouterr().out
    assert shown.count("\n| headphantom_dcmqact_s2010_5mm onto headphantom_dcmqact_s2020_1mm |") == 5
    assert "### PSNR after one line of intensities, dB" in shown


def test_every_pair_is_where_the_table_looks(shared_data: Path):
    named = [file for pair in rp.PAIRS for file in (pair.source, pair.reference)]
    assert [file for file in named if not (shared_data / "pairs" / file).is_file()] == []


def test_cubic_projection_shows_its_best_step_and_each_method_once():
    rows = [
        rp.Row("p", "one contrast", name, {"local_ncc": value}) for name, value in (("a", 0.2), ("b", 0.5), ("b", 0.4))
    ]
    assert [(row.method, row.figures["local_ncc"]) for row in rp.best(rows)] == [("a", 0.2), ("b", 0.5)]


def test_the_winner_is_bold_and_nearer_to_one_is_sharper():
    figures = {"linear": (0.5, 0.4), "sinc": (0.7, 1.5), rp.FIRST: (0.8, 0.9)}
    rows = [rp.Row("p", "one contrast", name, {"local_ncc": a, "sharpness": b}) for name, (a, b) in figures.items()]
    outcome = rp.Outcome({}, rows)
    assert "| p | 0.5000 | 0.7000 | **0.8000** | +0.1000 |" in rp.table([outcome], "local_ncc")
    assert "| p | 0.400 | 1.500 | **0.900** | +0.400 |" in rp.table([outcome], "sharpness")
