"""A child that stays: asked again without a new process, ended with all that it had; by fake_job.py, and real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from CycleINRLib.child import folder as protocol
from CycleINRLib.child import launcher, resident, staying
from CycleINRLib.child.folder import StopSign, ask, hand_over, result_planes
from CycleINRLib.child.resident import Resident
from CycleINRLib.child.run import Run
from CycleINRLib.errors import Cancelled, CycleINRError, ResourceError
from CycleINRLib.events import Failed, Finished, Progress
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.jobs import UpsampleJob

JOB = {**UpsampleJob(z_scale=2.0, device="cpu", precision="float32", gain=1.0).to_json(), "task": "preview"}
ROW, COLUMN = {"planes": {"coronal": None}}, {"planes": {"sagittal": None}}


@pytest.fixture
def a_volume() -> Volume:
    values = np.arange(5 * 8 * 6, dtype=np.int16).reshape(5, 8, 6)
    return Volume(values, Geometry.from_spacing(values.shape, (4.0, 1.0, 1.0)), "CT", "HU", 3.0, "k", ("Tilted.",))


@pytest.fixture
def staying_one(fake_child, a_volume, tmp_path):
    made = Resident(a_volume, tmp_path)
    yield made
    made.end()
    assert list(tmp_path.iterdir()) == []


def asked(one: Resident, beside=ROW) -> Run:
    return Run(JOB, None, result_planes, beside=beside, resident=one)


def gone(pid: int) -> bool:
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


def test_one_process_answers_again_and_again_and_leaves_no_question(staying_one, a_volume):
    pid = staying_one.child.pid
    for beside, expected in ((ROW, a_volume.values[:, 4:5]), (COLUMN, a_volume.values[:, :, 3:4]), (ROW, None)):
        heard: list = []
        (plane,) = asked(staying_one, beside).wait(heard.append).values()
        assert expected is None or np.array_equal(plane.values, expected)
        assert [type(event) for event in heard] == [Progress, Finished]
        assert staying_one.child.pid == pid and not staying_one.busy
    assert sorted(path.name for path in staying_one._claim.folder.iterdir()) == [
        "alive", "input.npy", "job.json", "lock",
    ]  # fmt: skip


def test_it_holds_that_very_scan(staying_one, a_volume):
    assert staying_one.holds(a_volume) and staying_one.holds(a_volume.with_values(a_volume.values.copy()))
    changed = a_volume.values.copy()
    changed[2, 3, 4] += 1
    moved = Geometry.from_spacing(a_volume.values.shape, (4.0, 1.0, 1.1))
    for other in (
        a_volume.with_values(changed),
        a_volume.with_values(a_volume.values.astype(np.int32)),
        a_volume.with_values(a_volume.values, moved),
        Volume(a_volume.values, a_volume.geometry, "MR"),
    ):
        assert not staying_one.holds(other)


def test_an_error_is_that_of_one_question(staying_one):
    pid = staying_one.child.pid
    part = staying_one._claim.folder / "part"
    part.write_text("failure")
    with pytest.raises(ResourceError, match="needs 9 GB"):
        asked(staying_one).wait()
    part.write_text("success")
    assert list(asked(staying_one).wait()) == ["coronal"] and staying_one.child.pid == pid


def test_a_cancelled_question_leaves_the_process_for_the_next_one(staying_one):
    pid = staying_one.child.pid
    part = staying_one._claim.folder / "part"
    part.write_text("slow")
    run = asked(staying_one)
    with pytest.raises(CycleINRError, match="busy"):
        asked(staying_one)
    with pytest.raises(CycleINRError, match="still running"):
        run.result()
    while not run.poll():  # it has begun, and can hear
        time.sleep(0.02)
    run.cancel()
    with pytest.raises(Cancelled):
        run.wait()
    part.write_text("success")
    assert list(asked(staying_one).wait()) == ["coronal"] and staying_one.child.pid == pid


def test_one_that_does_not_hear_is_ended_with_its_children_and_the_next_question_starts_another(staying_one):
    pid, part = staying_one.child.pid, staying_one._claim.folder / "part"
    part.write_text("deaf")
    run = asked(staying_one)
    while not (run.folder / "grandchild").exists() or not (run.folder / "grandchild").read_text():
        time.sleep(0.02)
    grandchild = int((run.folder / "grandchild").read_text())
    run.cancel()
    with pytest.raises(Cancelled):
        run.wait()
    assert gone(pid) and gone(grandchild)
    part.write_text("success")
    assert list(asked(staying_one).wait()) == ["coronal"] and staying_one.child.pid != pid


def test_a_discarded_question_ends_the_process_at_once(staying_one):
    pid, part = staying_one.child.pid, staying_one._claim.folder / "part"
    part.write_text("slow")
    run = asked(staying_one)
    run.discard("The scene was closed")
    with pytest.raises(Cancelled, match="The scene was closed"):
        run.result()
    assert gone(pid) and staying_one.idle


@pytest.mark.parametrize("part, error", [("killed", ResourceError), ("crashed", CycleINRError)])
def test_the_death_of_the_process_is_told_and_the_next_question_starts_another(staying_one, part, error):
    told = staying_one._claim.folder / "part"
    told.write_text(part)
    with pytest.raises(error, match="computing process"):
        asked(staying_one).wait()
    told.write_text("success")
    assert list(asked(staying_one).wait()) == ["coronal"]


def test_one_that_ended_by_itself_is_started_again_by_a_question_also_in_that_moment(staying_one, monkeypatch):
    part = staying_one._claim.folder / "part"
    part.write_text("idle")
    assert list(asked(staying_one).wait()) == ["coronal"]
    assert staying_one.child.wait(60) and staying_one.idle
    assert list(asked(staying_one).wait()) == ["coronal"]  # it was seen to have ended
    assert staying_one.child.wait(60)
    monkeypatch.setattr(type(staying_one.child), "done", property(lambda self: self._done and False), raising=True)
    run = asked(staying_one)  # it was not
    monkeypatch.undo()
    assert list(run.wait()) == ["coronal"]


def test_where_none_can_be_started_nothing_stays(fake_child, a_volume, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "own_command", lambda folder: [str(tmp_path / "nothing")])
    with pytest.raises(CycleINRError, match="cannot be started"):
        Resident(a_volume, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_prepared_for_is_no_question_that_waits_and_leaves_no_folder(staying_one):
    pid, home = staying_one.child.pid, staying_one._claim.folder
    staying_one.prepare(JOB, ROW)
    assert not staying_one.busy and not staying_one.idle
    heard: list = []
    assert list(asked(staying_one).wait(heard.append)) == ["coronal"]
    assert [type(event) for event in heard] == [Progress, Finished] and staying_one.child.pid == pid
    assert json.loads((home / "prepared").read_text())["planes"] == ROW["planes"]
    assert not list(home.glob("asked_*"))


def test_one_without_a_scan_takes_the_one_that_is_chosen_later(fake_child, a_volume, tmp_path):
    one = Resident(None, tmp_path)
    pid = one.child.pid
    assert not one.has_scan and not one.busy and not one.holds(a_volume)
    one.take(a_volume)
    assert one.has_scan and one.holds(a_volume)
    (plane,) = asked(one).wait().values()
    assert np.array_equal(plane.values, a_volume.values[:, 4:5]) and one.child.pid == pid
    one.end()
    assert gone(pid) and list(tmp_path.iterdir()) == []


def test_a_scan_that_cannot_be_handed_over_is_told_and_another_one_can(fake_child, a_volume, tmp_path, monkeypatch):
    one = Resident(None, tmp_path)
    with monkeypatch.context() as full:
        full.setattr(protocol.np, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(ResourceError, match="no space left"):
            one.take(a_volume)
    assert not one.has_scan and not one.idle
    one.take(a_volume)
    assert list(asked(one).wait()) == ["coronal"]
    one.end()


def test_nothing_is_prepared_while_a_question_waits_and_a_child_that_ended_is_started_for_it(staying_one):
    pid, home = staying_one.child.pid, staying_one._claim.folder
    (home / "part").write_text("slow")
    run = asked(staying_one)
    staying_one.prepare(JOB, COLUMN)
    run.discard()
    assert gone(pid) and staying_one.idle and not (home / "prepared").exists() and not list(home.glob("asked_*"))
    staying_one.prepare(JOB, COLUMN)
    end = time.monotonic() + 60
    while not (home / "prepared").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert (home / "prepared").exists() and staying_one.child.pid != pid


@pytest.mark.parametrize(
    "facts, may",
    [
        ({}, True),
        ({"usable_cores": 1}, False),
        ({"memory_bytes": 4e9}, False),
        ({"MOST_SCAN_BYTES": 100}, False),
        ({"told": "0"}, False),
        ({"told": "1"}, True),
    ],
)
def test_previews_are_prepared_by_what_machine_and_scan_are_unless_the_user_says_no(a_volume, monkeypatch, facts, may):
    facts = {"usable_cores": 2, "memory_bytes": 8e9, **facts}
    monkeypatch.delenv(resident.PREPARE, raising=False)
    if "told" in facts:
        monkeypatch.setenv(resident.PREPARE, facts.pop("told"))
    for name, fact in facts.items():
        monkeypatch.setattr(resident, name, fact if name.isupper() else lambda fact=fact: fact)
    assert resident.may_prepare(a_volume) == may
    assert resident.may_prepare() == (may or "MOST_SCAN_BYTES" in facts)  # a child that waits has no scan


# --- the other side -----------------------------------------------------------------------------------------------
@pytest.fixture
def a_claim(tmp_path, thick_ct):
    values = np.ascontiguousarray(thick_ct.values[:8, 30:62, 30:62])
    volume = thick_ct.with_values(values, thick_ct.geometry.cropped((0, 30, 30), values.shape))
    claim = hand_over({"task": "stay"}, volume, tmp_path)
    yield claim, volume
    claim.remove()


def stay_until(claim, volume, stops, monkeypatch) -> list:
    """What the child says, in this process, until `stops` says so; it looks without pause."""
    monkeypatch.setattr(staying, "QUESTION_S", 0.0)
    heard: list = []
    staying.stay(claim.folder, volume, stops(heard), heard.append)
    return heard


class Until(StopSign):
    def __init__(self, folder, heard, count) -> None:
        super().__init__(folder)
        self._heard, self._count = heard, count

    def __call__(self) -> bool:
        return sum(isinstance(event, (Finished, Failed)) for event in self._heard) >= self._count


def test_planes_are_those_of_the_library_settled_once_and_a_bad_question_is_told(a_claim, monkeypatch):
    preview = pytest.importorskip("CycleINRLib.upsampling.preview", reason="needs torch")
    claim, volume = a_claim
    settled: list = []
    real = preview.settle
    monkeypatch.setattr(preview, "settle", lambda *rest: settled.append(1) or real(*rest))
    places = [{"coronal": None}, {"coronal": 1e5}, {"coronal": None}, {"sagittal": None}]
    folders = [ask(claim.folder, n + 1, JOB, {"planes": planes}) for n, planes in enumerate(places)]
    ask(claim.folder, 5, {"task": "upsample"})
    heard = stay_until(claim, volume, lambda heard: Until(claim.folder, heard, 5), monkeypatch)
    ends = [event for event in heard if not isinstance(event, Progress)]
    assert [type(event) for event in ends] == [Finished, Failed, Finished, Finished, Failed]
    assert "outside" in ends[1].message and "previews alone" in ends[4].message and len(settled) == 1
    expected = preview.preview(volume, "coronal", **UpsampleJob.from_json(JOB).computing())
    for n in (0, 2):
        found = result_planes(folders[n], protocol.read_result(folders[n]))["coronal"]
        np.testing.assert_array_equal(found.values, expected.values)
        assert found.geometry.same_place_as(expected.geometry)
    assert not (folders[1] / "result.json").exists()


def test_another_job_is_settled_anew(a_claim, monkeypatch):
    preview = pytest.importorskip("CycleINRLib.upsampling.preview", reason="needs torch")
    claim, volume = a_claim
    scales: list = []
    real = preview.settle
    monkeypatch.setattr(preview, "settle", lambda *rest: scales.append(rest[1].z_scale) or real(*rest))
    for n, z_scale in enumerate((2.0, 3.0, 3.0)):
        ask(claim.folder, n + 1, {**JOB, "z_scale": z_scale}, ROW)
    stay_until(claim, volume, lambda heard: Until(claim.folder, heard, 3), monkeypatch)
    assert scales == [2.0, 3.0]


def test_what_is_prepared_for_costs_the_decoder_alone_and_is_the_plane_of_the_library(a_claim, monkeypatch):
    preview = pytest.importorskip("CycleINRLib.upsampling.preview", reason="needs torch")
    claim, volume = a_claim
    done: list = []
    for name in ("settle", "codes_for", "part_of"):
        real = getattr(preview, name)
        monkeypatch.setattr(preview, name, lambda *rest, n=name, real=real: done.append(n) or real(*rest))
    monkeypatch.setattr(
        preview.Planes, "note_speed", lambda self: done.append("ready") or ask(claim.folder, 99, JOB, ROW)
    )
    ask(claim.folder, 1, {**JOB, "task": "prepare"}, ROW)
    heard = stay_until(claim, volume, lambda heard: Until(claim.folder, heard, 1), monkeypatch)
    assert [type(event) for event in heard if not isinstance(event, Progress)] == [Finished]
    assert done.index("ready") == len(done) - 1 and done.count("settle") == 1 and "codes_for" in done
    expected = preview.preview(volume, "coronal", **UpsampleJob.from_json(JOB).computing())
    found = result_planes(folder := claim.folder / "asked_99", protocol.read_result(folder))["coronal"]
    np.testing.assert_allclose(found.values.astype(int), expected.values.astype(int), atol=1)
    assert not (claim.folder / "asked_1").exists()


@pytest.mark.parametrize("z_scale, planes, goes_before", [(2.0, ROW, False), (2.0, COLUMN, True), (3.0, ROW, True)])
def test_any_other_question_goes_before_what_is_prepared(a_claim, monkeypatch, z_scale, planes, goes_before):
    preview = pytest.importorskip("CycleINRLib.upsampling.preview", reason="needs torch")
    claim, volume = a_claim
    told: list = []
    real = preview.Planes.make_ready

    def make_ready(self, wanted, cancelled):
        if not told:
            assert not cancelled()
            ask(claim.folder, 2, {**JOB, "z_scale": z_scale}, planes)
            told.append(cancelled())
        real(self, wanted, cancelled)

    monkeypatch.setattr(preview.Planes, "make_ready", make_ready)
    ask(claim.folder, 1, {**JOB, "task": "prepare"}, ROW)
    heard = stay_until(claim, volume, lambda heard: Until(claim.folder, heard, 1), monkeypatch)
    assert told == [goes_before] and isinstance(heard[-1], Finished)


@pytest.mark.parametrize(
    "question", [(JOB, {"planes": {"coronal": 1e5}}), ({"z_scale": -1}, ROW), (JOB, {"planes": 3})]
)
def test_what_cannot_be_prepared_is_told_when_it_is_asked(a_claim, monkeypatch, question):
    pytest.importorskip("CycleINRLib.upsampling.preview", reason="needs torch")
    claim, volume = a_claim
    job, beside = question
    ask(claim.folder, 1, {**job, "task": "prepare"}, beside)
    ask(claim.folder, 2, {**job, "task": "preview"}, beside)
    heard = stay_until(claim, volume, lambda heard: Until(claim.folder, heard, 1), monkeypatch)
    assert [type(event) for event in heard if not isinstance(event, Progress)] == [Failed]


def test_what_is_prepared_leaves_a_core_to_others_and_answers_take_them_all(a_claim, monkeypatch):
    preview = pytest.importorskip("CycleINRLib.upsampling.preview", reason="needs torch")
    torch, device = pytest.importorskip("torch"), pytest.importorskip("CycleINRLib.network.device")
    claim, volume = a_claim
    usual, seen = torch.get_num_threads(), {}
    for name in ("make_ready", "at"):
        real = getattr(preview.Planes, name)

        def watched(self, *rest, name=name, real=real):
            seen[name] = torch.get_num_threads()
            return real(self, *rest)

        monkeypatch.setattr(preview.Planes, name, watched)

    def note_speed(self) -> None:
        seen["note_speed"] = torch.get_num_threads()
        ask(claim.folder, 2, JOB, ROW)

    for where in (staying, device):
        monkeypatch.setattr(where, "usable_cores", lambda: 3)
    monkeypatch.setattr(preview.Planes, "note_speed", note_speed)
    ask(claim.folder, 1, {**JOB, "task": "prepare"}, ROW)
    try:
        torch.set_num_threads(4)
        stay_until(claim, volume, lambda heard: Until(claim.folder, heard, 1), monkeypatch)
    finally:
        torch.set_num_threads(usual)
    assert seen == {"make_ready": 2, "note_speed": 3, "at": 3}  # a speed is that of a run, which takes all


def test_it_ends_when_nobody_asks_or_the_parent_is_gone(a_claim, monkeypatch):
    claim, volume = a_claim
    monkeypatch.setattr(staying, "IDLE_S", 0.0)
    assert stay_until(claim, volume, lambda heard: StopSign(claim.folder), monkeypatch) == []
    monkeypatch.setattr(staying, "IDLE_S", 1e9)
    (claim.folder / "alive").touch()
    os.utime(claim.folder / "alive", (0, 0))
    assert stay_until(claim, volume, lambda heard: StopSign(claim.folder), monkeypatch) == []


def test_one_that_waits_takes_the_scan_that_is_given_and_ends_when_nobody_gives_one(a_claim, monkeypatch):
    claim, volume = a_claim
    protocol.write_job(claim.folder, {"task": "stay"})
    facts = protocol.read_facts(claim.folder)
    looks: list[bool] = []

    class Sign(StopSign):
        def __call__(self) -> bool:
            looks.append(True)
            if len(looks) == 3:
                protocol.give_scan(self.folder, volume)
            return False

    monkeypatch.setattr(staying, "QUESTION_S", 0.0)
    found = staying.scan_of(claim.folder, facts, Sign(claim.folder))
    np.testing.assert_array_equal(found.values, volume.values)
    assert len(looks) == 3 and found.geometry.same_place_as(volume.geometry)
    protocol.write_job(claim.folder, {"task": "stay"})
    (claim.folder / "cancel").touch()
    assert staying.scan_of(claim.folder, facts, StopSign(claim.folder)) is None
    (claim.folder / "cancel").unlink()
    monkeypatch.setattr(staying, "IDLE_S", 0.0)
    assert staying.scan_of(claim.folder, facts, StopSign(claim.folder)) is None


@pytest.mark.parametrize("waits", [False, True])
def test_the_real_child_answers_twice_and_is_ended(a_claim, tmp_path, waits):
    preview = pytest.importorskip("CycleINRLib.upsampling.preview", reason="needs torch")
    _, volume = a_claim
    home = tmp_path / "home"
    home.mkdir()
    one = Resident(None if waits else volume, home)
    pid = one.child.pid
    if waits:
        end, maps = time.monotonic() + 120, Path(f"/proc/{pid}/maps")
        while "libtorch" not in maps.read_text("utf-8", "replace") and time.monotonic() < end:
            time.sleep(0.05)  # it loads torch before there is a scan
        assert "libtorch" in maps.read_text("utf-8", "replace")
        one.take(volume)
    expected = preview.preview(volume, "coronal", **UpsampleJob.from_json(JOB).computing())
    for _ in range(2):
        found = asked(one).wait()["coronal"]
        np.testing.assert_allclose(found.values.astype(int), expected.values.astype(int), atol=1)
    assert one.child.pid == pid
    one.end()
    assert gone(pid) and list(home.iterdir()) == []


OWNER = """
import sys, os, signal
sys.path.insert(0, {root!r})
import numpy as np
from CycleINRLib.child.resident import Resident
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
values = np.arange(5 * 8 * 6, dtype=np.int16).reshape(5, 8, 6)
one = Resident(Volume(values, Geometry.from_spacing(values.shape, (4.0, 1.0, 1.0)), "CT"), {home!r})
while not one.child.poll():
    pass
print(one.child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_where_the_parent_is_killed_the_child_ends_and_removes_what_they_had(tmp_path, monkeypatch):
    """The child sees a stale sign of life, made stale by the test, of a process that is gone."""
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", OWNER.format(root=root, home=str(tmp_path))], capture_output=True, text=True, timeout=120
    )
    pid = int(done.stdout.split()[0])
    (folder,) = tmp_path.iterdir()
    os.utime(folder / "alive", (0, 0))
    assert gone(pid) and list(tmp_path.iterdir()) == []
