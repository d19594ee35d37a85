"""What the panel says in words and figures."""

from __future__ import annotations

import numpy as np
import pytest

from CycleINRLib.events import Progress
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.jobs import UpsampleJob
from CycleINRLib.panel.readout import duration, information, percent, progress_text, readout, size
from CycleINRLib.upsampling.plan import plan
from CycleINRLib.upsampling.speed import HALO, START_S, Speed

REPORT = {
    "output": {"dimensions": [512, 512, 197], "spacing_mm": [0.7, 0.7, 0.714]},
    "snli": {"input": 0.11, "output": 0.1234, "linear": 0.31},
    "noise_ratio": 0.934,
    "generated_gap": -0.02,
    "self_check": {"psnr_db": 38.21, "psnr_cubic_db": 36.5, "cycle_psnr_db": 50.0},
    "gain": 0.8,
    "consistency": "project",
    "consistency_error": 0.21,
    "noise": "renew",
    "grain": {"input": 1.9, "output": 0.95, "linear": 0.01},
    "model": {"name": "light"},
    "device": "cpu",
    "seconds": 71.4,
}


def test_progress_is_percent_of_the_stage():
    assert [percent(Progress("x", *steps)) for steps in ((0, 4), (1, 4), (4, 4), (5, 4), (1, 0))] == [
        0,
        25,
        100,
        100,
        0,
    ]


def test_texts_of_time_and_size_are_rounded_for_people():
    assert [duration(s) for s in (-1, 0.4, 99, 130, 5399, 9000)] == [
        "0 s",
        "0 s",
        "99 s",
        "about 2 min",
        "about 90 min",
        "about 2.5 h",
    ]
    assert [size(mb) for mb in (0.01, 2.53, 12.4, 999, 1400)] == ["0.1 MB", "2.5 MB", "12 MB", "999 MB", "1.4 GB"]
    assert progress_text(Progress("fetch_model", 1, 2)) == "Fetch model: 1 of 2"
    assert progress_text(Progress("upsample", 2, 2, 0.0)) == "Upsampling: 2 of 2, finishing…"


@pytest.fixture
def a_scan() -> Volume:
    """(20, 8, 10) int16, 4 mm slices, 1 mm pixels."""
    values = np.arange(1600, dtype=np.int16).reshape(20, 8, 10)
    return Volume(values, Geometry.from_spacing((20, 8, 10), (4.0, 1.0, 1.0)), "CT", "HU", 3.0)


def test_the_volume_table_compares_scan_and_result(a_scan):
    rows = {row.label: (row.input, row.output) for row in information(a_scan, plan(a_scan), 130)}
    assert rows["Dimensions"] == ("10 × 8 × 20", "10 × 8 × 77")
    assert rows["Spacing (mm)"] == ("1 × 1 × 4", "1 × 1 × 1")
    assert rows["Slice thickness"] == ("3 mm", "1 mm")
    assert rows["Volume size"] == ("0.1 MB", "0.1 MB")
    assert rows["Working memory"] == ("", "1.7 GB")
    assert rows["Expected time"] == ("", "about 2 min")


def test_an_unknown_time_and_an_assumed_thickness_are_said(a_scan):
    scan = Volume(a_scan.values, a_scan.geometry, "CT")
    rows = {row.label: (row.input, row.output) for row in information(scan, plan(scan, UpsampleJob(z_scale=2)))}
    assert rows["Expected time"] == ("", "not known yet")
    assert rows["Slice thickness"] == ("4 mm (assumed)", "2 mm")


def test_the_expected_time_grows_with_both_volumes_after_the_start(a_scan):
    speed = Speed(encode_s=1e-3, decode_s=1e-4, device="cpu")
    job = UpsampleJob(gain=1.0)  # nothing is fitted
    two, four = (plan(a_scan, UpsampleJob(z_scale=z, consistency="none")) for z in (2.0, 4.0))
    encode, decode = 1.2 * 80 * 20 * 1e-3, 1.2 * 80 * 1e-4
    assert speed.seconds(a_scan, two, job) - START_S == pytest.approx(encode + 39 * decode)
    assert speed.seconds(a_scan, four, job) - START_S == pytest.approx(encode + 77 * decode)
    assert speed.seconds(a_scan, four, job, rows_read=16) - START_S == pytest.approx((1 + HALO) * encode + 77 * decode)


def test_the_expected_time_tells_of_fits_and_checks(a_scan):
    speed = Speed(encode_s=1e-3, decode_s=1e-4, device="cpu")
    two = plan(a_scan, UpsampleJob(z_scale=2.0, consistency="none"))
    encode, plain = 1.2 * 80 * 1e-3, 1.2 * 80 * 1e-4

    def beside(**fields) -> float:
        return speed.seconds(a_scan, two, UpsampleJob(**fields)) - START_S - 20 * encode

    assert beside(gain=1.0) == pytest.approx(39 * plain)
    assert beside() == pytest.approx(39 * plain + 10 * encode + 10 * plain)
    cycle = 39 * encode + 2 * 39 * plain  # slices of 3 mm each 4 mm: measured over the slice profile
    assert beside(self_check=True) - beside() == pytest.approx(cycle)


def test_the_readout_says_what_was_measured_and_no_more():
    assert {row.label: row.text for row in readout(REPORT)} == {
        "Size": "512 × 512 × 197 voxels of 0.7 × 0.7 × 0.714 mm",
        "SNLI": "scan 0.110, result 0.123, linear interpolation 0.310",
        "Noise of the result": "93 % of the acquired slices",
        "Generated gap": "generated slices have 2 % more noise",
        "Self-check": "38.2 dB, cubic interpolation 36.5 dB",
        "Correction used": "80 % of the network's",
        "Consistency": "project, error 0.210 of the noise",
        "Noise": "new in each slice",
        "Grain": "0.95 (0.01)",
        "Computed by": "light on cpu in 71 s",
    }
    assert readout({}) == ()
    (row,) = readout({"snli": {"input": 0.1, "output": None}, "noise_ratio": None, "self_check": None})
    assert (row.label, row.text) == ("SNLI", "scan 0.100")


def test_every_figure_and_fact_has_a_tooltip_in_whole_sentences(a_scan):
    tips = [row.tip for row in (*readout(REPORT), *information(a_scan, plan(a_scan)))]
    assert all(len(tip.split()) > 5 and tip.endswith(".") for tip in tips)
