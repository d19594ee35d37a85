"""What is taken from a scan as noise, alone, is what an upsampling takes from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.child.folder import read_result, result_volume, write_job  # noqa: E402
from CycleINRLib.child.worker import run_folder  # noqa: E402
from CycleINRLib.errors import Cancelled, RequestError  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402
from CycleINRLib.upsampling.difference import noise_taken  # noqa: E402

SAMPLE = Path(__file__).parents[2] / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd"


@pytest.fixture(scope="module")
def scan() -> Volume:
    """12 slices of 5 mm of the bundled CT, 80 x 80 pixels of soft tissue."""
    whole = cycleinr.read(SAMPLE)
    values = np.ascontiguousarray(whole.values[10:22, 64:144, 80:160])
    return whole.with_values(values, whole.geometry.cropped((10, 64, 80), values.shape))


def test_it_is_what_the_result_of_the_same_job_took(scan):
    job = UpsampleJob(z_scale=2, noise="remove", gain=0, device="cpu", region=((2, 10), (8, 72), (0, 80)))
    result = cycleinr.upsample(scan, job)
    taken = noise_taken(scan, UpsampleJob.from_json(result.report["job"]))
    np.testing.assert_array_equal(taken.values, result.taken.values)
    assert taken.geometry.same_place_as(scan.part(job.region).geometry, 1e-9) and taken.values.std() > 2


def test_the_child_gives_it_to_the_panel(scan, tmp_path):
    job = UpsampleJob(z_scale=2, noise="renew", device="cpu")
    write_job(tmp_path, {**job.to_json(), "task": "difference"}, scan)
    run_folder(tmp_path, lambda event: None)
    taken = result_volume(tmp_path, read_result(tmp_path))
    assert taken.values.shape == scan.values.shape and taken.values.dtype == np.float32
    assert taken.geometry.same_place_as(scan.geometry, 1e-9)
    np.testing.assert_array_equal(taken.values, noise_taken(scan, job).values)


def test_nothing_is_taken_where_the_noise_stays_as_acquired(scan):
    with pytest.raises(RequestError, match="Nothing was taken"):
        noise_taken(scan, UpsampleJob(z_scale=2, noise="acquired"))


def test_it_can_be_stopped(scan):
    with pytest.raises(Cancelled):
        noise_taken(scan, UpsampleJob(z_scale=2, noise="remove"), lambda: True)
