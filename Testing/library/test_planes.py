"""A plane that is moved: settled once, from the codes at hand, and the same as one that is computed alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.errors import Cancelled, RequestError  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402
from CycleINRLib.network import infer  # noqa: E402
from CycleINRLib.upsampling import preview as previewing  # noqa: E402
from CycleINRLib.upsampling import settings, strips  # noqa: E402
from CycleINRLib.upsampling.plan import plan  # noqa: E402
from CycleINRLib.upsampling.planes import provisional_planes  # noqa: E402
from CycleINRLib.upsampling.preview import Planes  # noqa: E402
from CycleINRLib.upsampling.speed import known_speed  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
JOB = UpsampleJob(z_scale=3, device="cpu", precision="float32", gain=1.0)
PLANES = {"coronal": None, "sagittal": None}
never = lambda: False  # noqa: E731


@pytest.fixture(scope="module")
def scan():
    """Part of the bundled CT: 10 slices of 5 mm, 96 x 90 pixels of soft tissue."""
    whole = cycleinr.read(REPOSITORY / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd")
    values = np.ascontiguousarray(whole.values[10:20, 64:160, 80:170])
    return whole.with_values(values, whole.geometry.cropped((10, 64, 80), values.shape))


@pytest.fixture
def work(monkeypatch) -> list[str]:
    """What is done that a moved plane should not need."""
    done: list[str] = []
    for where, name in ((infer, "encode_streamed"), (strips, "take"), (previewing, "settle"), (previewing, "plan")):
        real = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *rest, _real=real, _name=name: done.append(_name) or _real(*rest))
    return done


@pytest.fixture
def usual_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def places(scan, row: int, column: int) -> dict[str, float]:
    at = scan.geometry.ras_of((0, row, column))
    return {"coronal": float(at[1]), "sagittal": float(at[0])}


def alike(one, other) -> None:
    assert one.values.dtype == other.values.dtype and one.geometry.same_place_as(other.geometry)
    np.testing.assert_allclose(one.values.astype(int), other.values.astype(int), atol=1)
    assert np.mean(one.values != other.values) < 1e-3  # rounded at another place in the last bit


def test_a_plane_among_the_rows_at_hand_settles_encodes_and_splits_nothing_and_is_the_same(scan, work):
    planes = Planes(scan, JOB)
    dict(planes.at(PLANES))
    planes.look_around(never)
    assert work.count("settle") == work.count("plan") == 1 and "encode_streamed" in work
    work.clear()
    for row, column in ((48, 45), (40, 38), (55, 58)):
        moved = dict(planes.at(places(scan, row, column)))
        assert work == []
        for name, plane in moved.items():
            alike(plane, cycleinr.preview(scan, name, places(scan, row, column)[name], **JOB.computing()))
        work.clear()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_settled_and_shown_is_the_same_from_any_number_of_threads(scan, precision, monkeypatch, usual_threads):
    monkeypatch.setenv("CYCLEINR_CACHE", "")
    job = UpsampleJob(z_scale=3, device="cpu", precision=precision)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        monkeypatch.setattr("CycleINRLib.network.device.usable_cores", lambda threads=threads: threads)
        planes = Planes(scan, job)
        made = {name: plane.values.tobytes() for name, plane in planes.at(PLANES)}
        settled = planes._settled
        noise = {name: np.asarray(fact).tobytes() for name, fact in vars(settled.noise.model).items()}
        told = settled.settings, settled.engine.precision, settled.engine.warnings, settled.noise.mode
        found.append((made, noise, told))
    assert found[0] == found[1] == found[2] and found[0][2][3] == "renew"


def test_a_plane_beyond_the_rows_at_hand_is_encoded_and_settles_nothing(scan, work):
    planes = Planes(scan, JOB)
    dict(planes.at({"coronal": None}))
    planes.look_around(never)
    work.clear()
    (moved,) = dict(planes.at({"coronal": places(scan, 5, 0)["coronal"]})).values()
    assert set(work) == {"encode_streamed", "take"}
    alike(moved, cycleinr.preview(scan, "coronal", places(scan, 5, 0)["coronal"], **JOB.computing()))


def test_the_planes_of_a_region_are_moved_within_it(scan):
    job = UpsampleJob(**{**JOB.computing(), "region": ((1, 9), (13, 90), (7, 88))})
    planes = Planes(scan, job)
    for row, column in ((50, 44), (57, 37)):
        for name, plane in planes.at(places(scan, row, column)):
            alike(plane, cycleinr.preview(scan, name, places(scan, row, column)[name], **job.computing()))
        planes.look_around(never)
    with pytest.raises(RequestError, match="outside"):
        dict(planes.at(places(scan, 5, 0)))


def test_looking_around_stops_when_asked_and_the_planes_go_on(scan):
    planes = Planes(scan, JOB)
    before = dict(planes.at(PLANES))
    with pytest.raises(Cancelled):
        planes.look_around(lambda: True)
    for name, plane in planes.at(PLANES):
        np.testing.assert_array_equal(plane.values, before[name].values)


def test_a_plane_that_was_stopped_is_made_when_it_is_asked_for_again(scan):
    planes = Planes(scan, JOB)
    with pytest.raises(Cancelled):
        dict(planes.at(PLANES, lambda: True))
    for name, plane in planes.at(PLANES):
        np.testing.assert_array_equal(plane.values, cycleinr.preview(scan, name, **JOB.computing()).values)


def test_no_more_is_kept_than_there_is_memory_for(scan, work, monkeypatch):
    monkeypatch.setattr(previewing, "AT_HAND_BYTES", 1e4)
    planes = Planes(scan, JOB)
    (made,) = dict(planes.at({"coronal": None})).values()
    work.clear()
    planes.look_around(never)
    assert work == []
    alike(made, cycleinr.preview(scan, "coronal", **JOB.computing()))


def test_planes_make_the_time_of_a_volume_known(scan, tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path))
    planes = Planes(scan, JOB)
    dict(planes.at({"coronal": None}))
    assert known_speed(JOB) is None
    planes.note_speed()
    assert known_speed(JOB) is not None


# --- the provisional picture ------------------------------------------------------------------------------------
@pytest.mark.parametrize("consistency", ["keep", "project"])
def test_a_provisional_plane_lies_where_the_plane_does_and_is_what_a_gain_of_nothing_gives(scan, consistency):
    asked = {**JOB.computing(), "consistency": consistency}
    planned = plan(scan, UpsampleJob(**asked))
    at = places(scan, 30, 60)
    for name, plane in provisional_planes(scan, planned, at):
        final = cycleinr.preview(scan, name, at[name], **{**asked, "gain": 0.0, "noise": "acquired"})
        assert plane.values.dtype == final.values.dtype and plane.values.shape == final.values.shape
        assert plane.geometry.same_place_as(final.geometry) and plane.slice_axis == final.slice_axis
        off = np.abs(plane.values.astype(float) - final.values)
        assert np.median(off) < (0.5 if consistency == "keep" else 10)  # a projection corrects it


def test_provisional_planes_load_no_torch(scan):
    code = "import sys, CycleINRLib.upsampling.planes; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


# --- the precision ----------------------------------------------------------------------------------------------
def test_the_precision_is_judged_once_for_a_scan_and_anew_for_another_scan_or_machine(scan, tmp_path, monkeypatch):
    from CycleINRLib.network import device

    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "usual_precision", lambda _: ("bfloat16", "matrix units"))
    judged: list[float] = []
    real = settings.rounding_error
    monkeypatch.setattr(settings, "rounding_error", lambda *rest: judged.append(real(*rest)) or judged[-1])

    def settled(volume, **fields):
        job = UpsampleJob(z_scale=3, device="cpu", gain=1.0, noise="acquired", **fields)
        return settings.settle(volume, job, plan(volume, job), None, None).engine.precision

    first = settled(scan)
    assert len(judged) == 1 and settled(scan) == first and settled(scan, precision="bfloat16") == "bfloat16"
    assert len(judged) == 1  # of the same rounding
    changed = scan.values.copy()
    changed[3, 17, 23] += 1
    settled(scan.with_values(changed))
    assert len(judged) == 2
    monkeypatch.setattr(settings, "capability", lambda: ("another processor",))
    settled(scan)
    assert len(judged) == 3
    (tmp_path / "precisions.json").write_text('{"x": 1}')
    settled(scan)
    assert len(judged) == 4
