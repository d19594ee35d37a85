"""Scans side by side in one worker: read and written while another is computed, never two computed, bounded, safe."""

from __future__ import annotations

import json
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the network needs torch")

from CycleINRLib.archive import batch, pool, task, turns  # noqa: E402
from CycleINRLib.archive.order import Order, Outcome  # noqa: E402
from CycleINRLib.cli.main import main  # noqa: E402
from CycleINRLib.errors import Cancelled  # noqa: E402
from CycleINRLib.imaging.geometry import Geometry  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.io.files import write  # noqa: E402

ASKED = ["--z-scale", "2", "--noise", "acquired", "--gain", "1", "--axis", "k", "--no-thumbnails"]
PATIENCE_S = 120  # of threads that wait for each other: reached only where the test fails


@pytest.fixture()
def scans(small_scans) -> Path:
    return small_scans(4)


def by(beside: int, monkeypatch) -> None:
    """The batch runs in this process, so many scans side by side."""
    monkeypatch.setattr(pool, "side_by_side", lambda *_: beside)


def test_results_are_the_same_bytes_side_by_side_and_one_after_another(scans, tmp_path, monkeypatch):
    made = []
    for beside in (1, 2):
        by(beside, monkeypatch)
        out = tmp_path / f"out_{beside}"
        assert main(["batch", str(scans), "--output", str(out), "--workers", "0", *ASKED]) == 0
        made.append({path.name: path.read_bytes() for path in sorted(out.glob("*.nrrd"))})
    assert len(made[0]) == 4 and made[0] == made[1]


def test_the_next_scan_is_read_while_one_is_computed_and_no_two_are_computed(scans, tmp_path, monkeypatch):
    from CycleINRLib.io import files
    from CycleINRLib.upsampling import upsample as module

    real_upsample, real_read = module.upsample, files.read
    read, computing, most = set(), [], []
    another = threading.Condition()

    def reading(path, **options):
        volume = real_read(path, **options)
        with another:
            read.add(Path(path).stem)
            another.notify_all()
        return volume

    def upsampling(source, *args, **kwargs):
        computing.append(source.name)
        most.append(len(computing))
        with another:  # until a further scan is read: hangs where nobody reads meanwhile
            assert another.wait_for(lambda: len(read) > len(most) or len(read) == 4, PATIENCE_S)
        result = real_upsample(source, *args, **kwargs)
        computing.remove(source.name)
        return result

    by(2, monkeypatch)
    monkeypatch.setattr(files, "read", reading)
    monkeypatch.setattr(module, "upsample", upsampling)
    out = tmp_path / "out"
    assert main(["batch", str(scans), "--output", str(out), "--workers", "0", *ASKED]) == 0
    assert most == [1] * 4
    assert [one["state"] for one in json.loads((out / "batch.json").read_text())["scans"]] == ["done"] * 4


def stays(where: turns.Turns, tmp_path: Path, kinds: str) -> tuple[list[set[str]], list[threading.Thread]]:
    """Threads that stay for a moment each, one a letter, capitals alone; who was there together."""
    seen, inside, lock = [], set(), threading.Lock()

    def stay(letter: str) -> None:
        with where.stay(tmp_path / letter, letter.isupper(), lambda: True):
            with lock:
                inside.add(letter)
                seen.append(set(inside))
            threading.Event().wait(0.01)
            with lock:
                inside.remove(letter)

    threads = [threading.Thread(target=stay, args=(letter,)) for letter in kinds]
    return seen, threads


def test_at_most_two_are_inside_and_who_is_alone_is_alone(tmp_path):
    seen, threads = stays(turns.Turns(), tmp_path, "abAcdBefCghD")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(seen) == 12 and max(map(len, seen)) <= turns.AT_ONCE
    assert all(len(together) == 1 for together in seen if any(letter.isupper() for letter in together))


def test_who_was_together_is_marked_and_who_was_not_is_not(tmp_path):
    where = turns.Turns()
    with where.stay(tmp_path / "a", False, lambda: True):
        assert not (tmp_path / "a" / turns.COMPANION).exists()
        with where.stay(tmp_path / "b", False, lambda: True):
            assert (tmp_path / "a" / turns.COMPANION).exists() and (tmp_path / "b" / turns.COMPANION).exists()
    with where.stay(tmp_path / "c", False, lambda: True):
        assert not (tmp_path / "c" / turns.COMPANION).exists()


def test_who_waits_stops_where_nobody_wants_it_any_more(tmp_path):
    where = turns.Turns()
    with where.stay(tmp_path / "a", True, lambda: True):
        with pytest.raises(Cancelled), where.stay(tmp_path / "b", False, lambda: False):
            pass
        with pytest.raises(Cancelled), where.stay(tmp_path / "c", True, lambda: False):
            pass
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()
    with where.stay(tmp_path / "d", False, lambda: True):  # those that gave up are in nobody's way
        pass


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.nii.gz", "scan.mha"])
def test_a_large_scan_is_told_by_its_header(tmp_path, monkeypatch, name):
    values = np.arange(6 * 8 * 10, dtype=np.int16).reshape(6, 8, 10)
    write(Volume(values, Geometry.from_spacing(values.shape, (3.0, 1.0, 1.0))), tmp_path / name)
    for limit, large in ((values.nbytes, False), (values.nbytes - 1, True)):
        monkeypatch.setattr(turns, "LARGE_BYTES", limit)
        assert turns.is_large(tmp_path / name, 0) is large
    (tmp_path / name).write_bytes(b"no scan")
    assert not turns.is_large(tmp_path / name, 0)


def test_two_that_are_quiet_leave_warnings_as_they_were():
    quiet = turns.Quiet()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        first, second = quiet, quiet
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        warnings.warn("quotes a header", stacklevel=1)
        second.__exit__(None, None, None)
        warnings.warn("our own", stacklevel=1)
    assert [str(one.message) for one in heard] == ["our own"]


class TwoLost:
    """A worker that ends with both scans that it holds, as often as the second is one of them."""

    room, dashboard = 2, None

    def __init__(self) -> None:
        self.orders: list[tuple[int, bool]] = []
        self._held: list[Order] = []

    @property
    def running(self) -> int:
        return len(self._held)

    def submit(self, order: Order) -> None:
        self.orders.append((order.scan, order.alone))
        self._held.append(order)

    def next(self, timeout_s: float) -> tuple[Order, Outcome]:
        order = self._held.pop(0)
        if order.scan == 2 or (order.scan == 1 and not order.alone):
            order.staging.mkdir()
            if not order.alone:
                (order.staging / turns.COMPANION).touch()
            return order, Outcome(
                order.scan, "lost", error={"what": "Ended", "found": "x", "next": "y", "code": "internal"}, again=True
            )
        return order, task.do_scan(order)


def test_of_two_scans_that_end_a_worker_the_one_that_does_it_alone_is_listed(scans, tmp_path, monkeypatch):
    import contextlib

    lost = TwoLost()
    monkeypatch.setattr(batch, "pool_of", lambda *_: contextlib.nullcontext(lost))
    out = tmp_path / "out"
    main(["batch", str(scans), "--output", str(out), "--retries", "1", *ASKED])
    states = [one["state"] for one in json.loads((out / "batch.json").read_text())["scans"]]
    assert states == ["done", "failed", "done", "done"]
    assert lost.orders.count((1, True)) == 1 and lost.orders.count((2, True)) == 2  # once more, since --retries 1
