"""Worker processes of a batch: on the loopback device alone, killed without loss, stopped on request, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the network needs torch")
pytest.importorskip("distributed", reason="workers need the extra batch")
psutil = pytest.importorskip("psutil", reason="comes with distributed")
if os.name == "nt":
    pytest.skip("signals of POSIX", allow_module_level=True)

from CycleINRLib.io.files import write  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
PATIENCE_S = 300


class Command:
    """A running `cycleinr batch --workers 2` with all processes and sockets that it was seen to have."""

    def __init__(self, scans: Path, out: Path, temporary: Path, *words: str) -> None:
        asked = ["--z-scale", "2", "--noise", "acquired", "--gain", "1", "--axis", "k", *words]
        command = [sys.executable, "-m", "CycleINRLib", "batch", str(scans), "--output", str(out), "--workers", "2"]
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            [*command, *asked], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.sockets: set[tuple[str, str]] = set()
        self.seen: dict[int, float] = {}  # process and its start

    def watch(self, until: Callable[[], object]) -> None:
        """Looks at processes and sockets until something holds, or the command ended."""
        end = time.monotonic() + PATIENCE_S
        while not until() and self.process.poll() is None:
            assert time.monotonic() < end, "the command hangs"
            for one in self.family():
                try:
                    self.seen[one.pid] = one.create_time()
                    for socket in one.net_connections():
                        self.sockets |= {(socket.laddr.ip, socket.status)} if socket.laddr else set()
                        self.sockets |= {(socket.raddr.ip, socket.status)} if socket.raddr else set()
                except psutil.Error:
                    continue
            time.sleep(0.05)

    def family(self) -> list:
        try:
            me = psutil.Process(self.process.pid)
            return [me, *me.children(recursive=True)]
        except psutil.Error:
            return []

    def workers(self) -> list:
        """The processes that hold the library's worker, in the order of their start."""
        return [one for one in self.family()[1:] if is_worker(one)]

    def end(self) -> tuple[int, str]:
        """Exit status and stderr, after the end."""
        self.watch(lambda: False)
        err = self.process.stderr.read()
        return self.process.returncode, err

    def orphans(self) -> list[int]:
        """Processes seen that live on although the command is gone."""

        def lives(pid: int, start: float) -> bool:
            try:
                one = psutil.Process(pid)
                return one.create_time() == start and one.status() != psutil.STATUS_ZOMBIE
            except psutil.Error:
                return False

        end = time.monotonic() + 60
        while (left := [pid for pid, start in self.seen.items() if lives(pid, start)]) and time.monotonic() < end:
            time.sleep(0.1)
        return left


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return False


@pytest.fixture()
def scans(thick_ct, tmp_path) -> Path:
    """Six scans of different voxels."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for n in range(6):
        shape, first = (7, 24, 24), (0, 4 * n, 8)
        block = tuple(slice(at, at + size) for at, size in zip(first, shape))
        write(
            thick_ct.with_values(thick_ct.values[block], thick_ct.geometry.cropped(first, shape)), folder / f"{n}.nrrd"
        )
    return folder


@pytest.fixture()
def start(scans, tmp_path) -> Iterator[Callable[..., Command]]:
    (tmp_path / "temporary").mkdir()
    begun: list[Command] = []

    def begin(*words: str) -> Command:
        begun.append(Command(scans, tmp_path / "out", tmp_path / "temporary", *words))
        return begun[-1]

    yield begin
    for command in begun:
        for one in command.family():
            one.kill()
        command.process.communicate(timeout=PATIENCE_S)


def states(out: Path) -> list[str]:
    return [one["state"] for one in json.loads((out / "batch.json").read_text())["scans"]]


def reports(out: Path) -> list[Path]:
    return [path for path in out.glob("*.json") if path.name != "batch.json"]


@pytest.mark.slow
def test_a_killed_worker_loses_no_scan_and_no_socket_leaves_the_machine(start, tmp_path):
    out, command = tmp_path / "out", start()
    command.watch(lambda: reports(out))
    command.workers()[0].kill()
    status, err = command.end()
    assert status == 0, err
    assert states(out) == ["done"] * 6
    hosts = {host for host, _ in command.sockets}
    assert any(state == psutil.CONN_LISTEN for _, state in command.sockets) and hosts <= set(LOOPBACK)
    assert command.orphans() == [] and list((tmp_path / "temporary").iterdir()) == []
    assert not any(path.name.startswith(".") for path in out.iterdir())


@pytest.mark.slow
def test_workers_that_are_killed_while_they_start_are_started_again(start, tmp_path):
    out, command = tmp_path / "out", start()
    command.watch(command.workers)
    for one in (first := command.workers()):  # the batch is not begun yet
        one.kill()
    command.watch(lambda: reports(out))
    known = [*first, *command.workers()]
    known[-1].kill()
    command.watch(lambda: [one for one in command.workers() if one not in known])
    for one in command.workers():
        if one not in known:  # its nanny gives up now
            one.kill()
    status, err = command.end()
    assert status == 0, err
    assert states(out) == ["done"] * 6
    assert command.orphans() == [] and list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_a_killed_command_leaves_no_process_and_the_next_one_goes_on(start, tmp_path):
    out, command = tmp_path / "out", start()
    command.watch(lambda: reports(out))
    command.process.kill()
    command.process.wait()
    assert command.orphans() == []
    kept = {path: path.stat().st_mtime_ns for path in reports(out)}
    assert kept
    again = start("--resume")
    status, err = again.end()
    assert status == 0, err
    assert states(out) == ["done"] * 6
    assert all(path.stat().st_mtime_ns == kept[path] for path in kept)
    assert not any(path.name.startswith(".") for path in out.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_once_finishes_what_runs_and_twice_stops(start, tmp_path, times):
    out, command = tmp_path / "out", start()
    command.watch(lambda: reports(out))
    for _ in range(times):
        command.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    status, err = command.end()
    if status == 0:  # on a fast machine everything was done by then
        assert states(out) == ["done"] * 6
    else:
        assert status == 130 and "--resume" in err or times == 2
    assert set(states(out)) <= {"done", "waiting"}
    assert command.orphans() == [] and list((tmp_path / "temporary").iterdir()) == []
    assert not any(path.name.startswith(".") for path in out.iterdir())
    assert len(reports(out)) == states(out).count("done")
