"""The benchmark of the gain: its algebra against whole runs."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.evaluation.case import Acquisition, Case  # noqa: E402
from CycleINRLib.imaging import accuracy, intensity  # noqa: E402


@pytest.fixture(scope="module")
def bench(benchmark_module):
    return benchmark_module("gain_table")


def test_psnr_at_the_fitted_gain_is_that_of_a_run_with_it(bench, mr_thin):
    block = mr_thin.values[:30, 10:42, 10:42]
    truth = mr_thin.with_values(block, mr_thin.geometry.cropped((0, 10, 10), block.shape))
    row = bench.row_of(truth, Acquisition(2, "skip"), "light")
    case = Case.of(truth, Acquisition(2, "skip"))
    floats = case.source.with_values(case.source.values.astype(np.float32))
    result = cycleinr.upsample(
        floats, z_scale=2, profile="skip", modality="mr", noise="acquired", precision="float32"
    ).volume.values
    generated = slice(3, len(result) - 3, 2)
    peak = intensity.value_range(truth.values, "MR")
    at = case.first + np.arange(len(result))[generated]
    assert row.fitted == pytest.approx(accuracy.psnr(result[generated], truth.values[at], "MR", peak=peak), abs=0.01)
    assert row.best >= max(row.base, row.network, row.fitted) - 1e-9


def test_the_table_counts_what_was_lost_and_won(bench):
    right = bench.Row("a", "x2 skip", 30.0, 30.0, 32.0, 31.9, 32.0, 0.95, 1.1, 0.02)
    wrong = bench.Row("b", "x2 skip", 30.0, 30.0, 29.0, 30.5, 30.6, 0.4, 0.5, 0.02)
    text = bench.table([right, wrong])
    assert "1 cases where the network is right or too careful (best gain >= 1): mean -0.100 dB" in text
    assert "too bold (best gain < 1): mean +1.500 dB" in text and "below cubic: none" in text
