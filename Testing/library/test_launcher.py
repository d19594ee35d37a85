"""The parent's side of a child process, played against a small fake child (fake_child.py)."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

import pytest

from CycleINRLib.child import launcher
from CycleINRLib.errors import Cancelled, CycleINRError, ModelError, ResourceError
from CycleINRLib.events import Event, Failed, Finished, Progress, Warned

FAKE = Path(__file__).with_name("fake_child.py")
posix_only = pytest.mark.skipif(os.name == "nt", reason="process groups and signals are POSIX words")


def play(part: str, folder: Path, **options) -> launcher.Child:
    return launcher.launch(folder, [sys.executable, str(FAKE), part, str(folder)], **options)


def heard(child: launcher.Child, timeout_s: float = 90.0) -> list[Event]:
    assert child.wait(timeout_s), "the child did not end"
    return child.poll()


def wait_for(condition, timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process still runs; a zombie that its adopter has not collected yet is dead."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_success_gives_its_events_in_order_and_the_result(tmp_path):
    child = play("success", tmp_path)
    events = heard(child)
    assert [type(event) for event in events] == [Progress, Warned, Progress, Finished]
    assert events[0] == Progress("upsample", 1, 2, 0.5)
    assert events[1].message.endswith("Übergänge möglich")
    assert child.result()["report"] == {"snli": {"input": 0.1}}
    assert child.failure is None
    assert child.poll() == []


def test_an_error_of_the_child_arrives_with_its_class_and_words(tmp_path):
    child = play("refusal", tmp_path)
    (event,) = heard(child)
    assert isinstance(event, Failed)
    with pytest.raises(ModelError, match="There is no such model. Found: heavy. Next: choose light."):
        child.result()


def test_a_crash_is_told_with_its_exit_status_and_last_words(tmp_path):
    child = play("crash", tmp_path)
    (event,) = heard(child)
    assert event.code == "internal"
    with pytest.raises(CycleINRError, match="exit status 1. Found: ImportError: no module named torch"):
        child.result()
    assert list(child.log) == ["first line", "ImportError: no module named torch"]


@posix_only
@pytest.mark.parametrize("part", ["suicide", "launcher_137"])
def test_a_kill_by_the_system_is_told_as_lack_of_memory(tmp_path, part):
    child = play(part, tmp_path)
    (event,) = heard(child)
    assert "killed by the system, probably for lack of memory" in event.message
    assert "smaller z-scale" in event.hint
    with pytest.raises(ResourceError):
        child.result()


@pytest.mark.parametrize("part", ["silence", "half_a_result"])
def test_a_child_that_ends_well_without_a_whole_result_has_failed(tmp_path, part):
    child = play(part, tmp_path)
    (event,) = heard(child)
    assert isinstance(event, Failed)
    with pytest.raises(CycleINRError, match="no readable result"):
        child.result()


def test_garbage_on_stdout_is_log_and_not_an_event(tmp_path):
    child = play("garbage", tmp_path)
    assert [type(event) for event in heard(child)] == [Progress, Warned, Progress, Finished]
    assert any("not utf-8" in line for line in child.log)
    assert '{"event": "party"}' in child.log


def test_much_talk_on_stderr_does_not_block_the_child(tmp_path):
    child = play("chatter", tmp_path)
    assert isinstance(heard(child)[-1], Finished)
    assert len(child.log) == launcher.LOG_LINES
    assert child.log[-1].endswith("19999")


def test_cancel_asks_by_file_and_an_obedient_child_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "GRACE_S", 1e6)  # nobody is killed here
    child = play("obedient", tmp_path)
    wait_for(lambda: child.poll())
    child.cancel()
    assert [event.code for event in heard(child)] == ["cancelled"]
    assert (tmp_path / "cancel").exists()
    with pytest.raises(Cancelled):
        child.result()


@posix_only
@pytest.mark.parametrize("end", ["cancel", "kill"])
def test_a_stubborn_child_is_ended_with_all_its_children(tmp_path, monkeypatch, end):
    monkeypatch.setattr(launcher, "GRACE_S", 0.3)
    child = play("stubborn", tmp_path)
    wait_for(lambda: child.poll())
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(is_alive(pid) for pid in pids)
    getattr(child, end)()
    assert [event.code for event in heard(child)] == ["cancelled"]
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


@posix_only
def test_the_grace_period_ends_even_where_nobody_polls(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "GRACE_S", 0.3)
    child = play("stubborn", tmp_path)
    wait_for((tmp_path / "pids").exists)
    child.cancel()
    wait_for(lambda: not is_alive(child.pid))
    assert child.wait(90)


@posix_only
def test_a_process_left_behind_with_the_pipes_is_ended_and_the_result_kept(tmp_path):
    child = play("orphan_maker", tmp_path)
    assert isinstance(heard(child)[-1], Finished)
    (pid,) = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_for(lambda: not is_alive(pid))
    assert child.result()["report"]


def test_cancel_and_kill_after_the_end_change_nothing(tmp_path):
    child = play("success", tmp_path)
    heard(child)
    child.cancel()
    child.kill()
    assert not (tmp_path / "cancel").exists()
    assert child.result()["report"]


def test_the_heartbeat_goes_on_where_nobody_polls(tmp_path):
    child = play("obedient", tmp_path)
    alive = tmp_path / "alive"
    assert alive.exists()
    os.utime(alive, (0, 0))
    wait_for(lambda: alive.stat().st_mtime > 0)
    child.cancel()
    assert child.wait(90)


@posix_only
def test_a_child_goes_on_while_its_parent_lives_and_cannot_run_python(tmp_path):
    """A C call that holds the interpreter, as Slicer's C++ does: no thread of the parent touches `alive` meanwhile."""
    child = play("patient", tmp_path)
    told = ctypes.create_string_buffer(1024)
    held = ctypes.PyDLL(None).waitid(os.P_PID, child.pid, told, os.WEXITED | os.WNOWAIT)
    assert held == 0
    heard(child)
    assert child.result()["report"] == {"was_stale": True, "stops": False}


def test_a_result_before_the_end_is_refused(tmp_path):
    child = play("obedient", tmp_path)
    with pytest.raises(CycleINRError, match="still running"):
        child.result()
    child.kill()
    assert child.wait(90)


def test_a_command_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(CycleINRError, match="cannot be started"):
        launcher.launch(tmp_path, [str(tmp_path / "nothing")])


def test_the_child_keeps_the_environment_and_gets_utf8_pipes(tmp_path):
    child = play("environment", tmp_path, environment={"CYCLEINR_TEST": "yes"})
    heard(child)
    facts = child.result()["report"]
    assert facts == {"PYTHONIOENCODING": "utf-8", "CYCLEINR_TEST": "yes", "PATH": os.environ["PATH"]}
    assert "CYCLEINR_TEST" not in os.environ


def test_a_folder_with_spaces_and_foreign_letters_works(tmp_path):
    folder = tmp_path / "Übung mit Leerzeichen 試験"
    folder.mkdir()
    child = play("success", folder)
    heard(child)
    assert child.result()["report"]


def test_the_own_command_starts_the_library_by_file_path(tmp_path):
    command = launcher.own_command(tmp_path)
    assert command[0] == sys.executable
    assert Path(command[1]) == Path(launcher.__file__).parents[1] / "__main__.py"
    assert command[2:] == ["run", str(tmp_path)]
