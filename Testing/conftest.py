"""Fixtures that several tests share: two small real scans, thin and thick, and the developers' shared data."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow]  # a busy machine is no defect
settings.register_profile("any machine", deadline=None, suppress_health_check=SLOW)
settings.load_profile("any machine")
REMEMBERED = tempfile.TemporaryDirectory(prefix="cycleinr-cache-")
os.environ["CYCLEINR_CACHE"] = REMEMBERED.name  # never what the user's own runs remember
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # in the background of a script; commands that are started hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:  # tests run from a bare checkout too
    sys.path.insert(0, str(REPOSITORY))

from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.volume import UNITS, Volume  # noqa: E402
from CycleINRLib.machine import keep_waits_short  # noqa: E402

keep_waits_short()  # as the command does: before torch is loaded

DATA = Path(__file__).resolve().parent / "data"


def load_block(name: str, modality: str) -> Volume:
    """A scan of Testing/data through SimpleITK alone, so that reader tests have a second opinion."""
    import SimpleITK as sitk

    image = sitk.ReadImage(str(DATA / f"{name}.nrrd"))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    values = sitk.GetArrayFromImage(image)
    geometry = Geometry.from_lps(values.shape, matrix)
    return Volume(values, geometry, modality, UNITS[modality], geometry.spacing_mm[0], "k", name=name)


def thickened(thin: Volume, slices: int = 4) -> Volume:
    """The scan with each `slices` neighbors averaged along k: spacing and thickness `slices` times as large."""
    count = thin.values.shape[0] // slices
    blocks = thin.values[: count * slices].reshape(count, slices, *thin.values.shape[1:])
    matrix = np.array(thin.geometry.ijk_to_ras)
    matrix[:3, 3] = thin.geometry.ras_of(np.array([(slices - 1) / 2, 0, 0]))  # center of the first thick slice
    matrix[:3, 2] *= slices
    geometry = Geometry((count, *thin.values.shape[1:]), matrix)
    values = np.rint(blocks.mean(axis=1)).astype(thin.values.dtype)
    return Volume(values, geometry, thin.modality, thin.unit, geometry.spacing_mm[0], "k", name=f"{thin.name}_thick")


@pytest.fixture(scope="session")
def ct_thin() -> Volume:
    """(60, 64, 64) int16 HU of a head with bone, 0.625 x 0.488 x 0.488 mm."""
    return load_block("ct_thin", "CT")


@pytest.fixture(scope="session")
def mr_thin() -> Volume:
    """(60, 64, 64) uint16 T1 of a brain, oblique sagittal, 0.9 x 0.859 x 0.859 mm."""
    return load_block("mr_thin", "MR")


@pytest.fixture(scope="session")
def thick_ct(ct_thin: Volume) -> Volume:
    """(15, 64, 64): four slices of `ct_thin` averaged, 2.5 mm spacing and thickness."""
    return thickened(ct_thin)


@pytest.fixture()
def small_scans(thick_ct: Volume, tmp_path: Path):
    """Makes a folder of so many scans, each another (7, 24, 24) part of `thick_ct`."""

    from CycleINRLib.io.files import write

    def made(count: int) -> Path:
        folder = tmp_path / "scans"
        folder.mkdir()
        for n in range(count):
            block, first = (slice(0, 7), slice(4 * n, 4 * n + 24), slice(8, 32)), (0, 4 * n, 8)
            geometry = thick_ct.geometry.cropped(first, (7, 24, 24))
            write(thick_ct.with_values(thick_ct.values[block], geometry), folder / f"{n}.nrrd")
        return folder

    return made


@pytest.fixture
def fake_program() -> Path:
    """Plays the child of the panel."""
    return DATA.parent / "module" / "fake_job.py"


@pytest.fixture
def fake_child(fake_program, monkeypatch):
    """The child is fake_job.py; returns a function that chooses its part."""
    from CycleINRLib.child import launcher

    monkeypatch.setattr(launcher, "own_command", lambda folder: [sys.executable, str(fake_program), str(folder)])
    return lambda part: monkeypatch.setenv("CYCLEINR_TEST_PART", part)


@pytest.fixture(scope="session")
def thick_mr(mr_thin: Volume) -> Volume:
    """(15, 64, 64): four slices of `mr_thin` averaged, 3.6 mm spacing and thickness."""
    return thickened(mr_thin)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The developers' folder of scans beside the checkout; tests that need it skip without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the scans shared among developers are not here: {folder}")
    return folder
