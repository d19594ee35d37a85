"""The table of structures: one command gives it, the better method wins, and drawn masks are the reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import CycleINRLib as cycleinr
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import segmentation as sg  # noqa: E402

INTERPOLATORS = ["linear", "cubic", "sinc", "histospline", "cubic + projection"]


@pytest.fixture
def data(tmp_path: Path, ct_thin: Volume) -> Path:
    """A folder like the shared one: a real head, and a made ball whose contours are known."""
    for folder in ("eval", "thick", "odd"):
        (tmp_path / folder).mkdir()
    cycleinr.write(ct_thin, tmp_path / sg.SCANS[1].path)
    places = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in (40, 48, 48)], indexing="ij"))
    ball = (places**2).sum(0) <= 12**2
    noise = np.random.default_rng(1).normal(0, 10, ball.shape)
    geometry = Geometry.from_spacing(ball.shape, (1.0, 1.0, 1.0))
    scan = Volume((ball * 400 + 300 + noise).astype(np.int16), geometry, "MR")
    (masks,) = (dict(one.masks) for one in sg.SCANS if one.path.startswith(sg.CORD))
    cycleinr.write(scan, tmp_path / f"{sg.CORD}.nii.gz")
    cycleinr.write(Volume(ball.astype(np.uint8), geometry), tmp_path / masks["contour"])
    return tmp_path


def test_one_command_gives_table_and_figures(data: Path, capsys: pytest.CaptureFixture):
    record = data / "table.json"
    asked = [str(data), "--interpolators-only", "--quick", "--scans", "ct_head", "nifti_mr_cord", "--json", str(record)]
    sg.main(asked)
    found = json.loads(record.read_text())
    by_hand = [row for row in found if row["reference"] == "drawn mask"]
    assert {row["method"] for row in by_hand} == {*INTERPOLATORS, sg.THIN}
    assert {(row["z_scale"], row["structure"]) for row in found if row["reference"] == sg.THIN} == {
        (z_scale, structure) for z_scale in (3, 5) for structure in ("bone", "air cells")
    }
    bone = {row["method"]: row for row in found if row["structure"] == "bone" and row["z_scale"] == 3}
    assert 0.5 < bone["linear"]["dice_generated"] < bone["cubic + projection"]["dice_generated"] < 1
    assert all(row["dice_all"] > row["dice_generated"] for row in bone.values() if row["profile"] == "skip")
    limit = [row["dice_all"] for row in by_hand if row["method"] == sg.THIN]
    assert min(limit) > 0.95
    shown = capsys.readouterr().out
    assert shown.count("| ct_head_itkwidgets_c3n01192 | bone | thin scan | 3 |") == 6
    assert "rule on the thin scan" in shown and "Rules: bone: HU > 300" in shown


def test_structures_of_the_thin_scan_itself_agree_fully(ct_thin: Volume):
    scan = sg.SCANS[1]
    case = sg.Case.of(ct_thin, sg.Acquisition(3, "box"))
    rules = sg.segmenter(scan, case, {})
    judge = sg.Judge(scan, case, rules(case.wanted), sg.THIN)
    for row in judge("truth", rules(case.wanted)):
        assert row.dice_generated in (1.0, None) and row.surface_mm in (0.0, None)
    worse = judge("shifted", rules(np.roll(case.wanted, 3, axis=1)))
    assert worse[0].dice_generated < 0.9 and worse[0].surface_mm > 0.3


def test_slices_that_count_keep_a_source_slice_of_margin(ct_thin: Volume):
    case = sg.Case.of(ct_thin, sg.Acquisition(4, "skip"))
    inner, generated = sg.counted(case)
    assert inner.sum() == (case.count - 3) * 4 + 1 and not inner[:4].any() and not inner[-4:].any()
    assert (inner & ~generated).sum() == case.count - 2


def test_of_several_results_the_nearest_to_the_truth_counts(ct_thin: Volume):
    case = sg.Case.of(ct_thin, sg.Acquisition(3, "box"))
    near, far = case.wanted + 5, case.wanted + 50
    assert sg.best(case, [far, near]) is near


def test_quick_takes_every_scan_and_z_scale_once():
    asked = sg.options(["folder", "--quick"])
    work = sg.work(asked)
    assert len(work) == sum(len(scan.z_scales) for scan in sg.SCANS)
    assert {protocol.profile for _, protocol in work} == {"skip", "box", "gaussian"}
    everything = sg.work(sg.options(["folder"]))
    assert len(everything) == sum(len(scan.z_scales) * len(scan.profiles) for scan in sg.SCANS)
    with pytest.raises(SystemExit):
        sg.work(sg.options(["folder", "--scans", "nothing"]))


def row(method: str, dice: float, volume: float, structure: str = "bone") -> sg.Agreement:
    return sg.Agreement("scan", structure, sg.THIN, 3, "box", method, dice, dice, dice, volume, 1 - dice, 2.0)


def test_the_winner_is_bold_and_our_lead_is_over_the_best_interpolator():
    found = [row("linear", 0.90, -9), row("cubic", 0.92, 1), row(sg.FIRST, 0.95, -3), row(list(sg.OURS)[1], 0.94, 2)]
    assert "| 0.9000 | 0.9200 | **0.9500** | 0.9400 |" in sg.table(found, "dice_generated", 4)
    assert "| -9.00 | **1.00** | -3.00 | 2.00 |" in sg.table(found, "volume_error_percent", 2)
    text = sg.summary(found)
    assert f"| {sg.FIRST} | +0.0300 | 0.080 / 0.050 |" in text


def test_every_scan_and_mask_is_where_the_table_looks(shared_data: Path):
    named = [path for scan in sg.SCANS for path in (scan.path, *dict(scan.masks).values())]
    assert [path for path in named if not (shared_data / path).is_file()] == []


def test_an_empty_structure_is_no_victory():
    nothing = sg.Agreement("scan", "bone", sg.THIN, 3, "box", "linear", None, None, None, None, None, None)
    assert "| - |" in sg.table([nothing], "dice_generated", 4)
    assert "| bone (scan) | 0 | - | - | - |" in sg.summary([nothing])
