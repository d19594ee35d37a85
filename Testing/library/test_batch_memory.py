"""A batch where memory runs out: the scan that takes it is tried again, then listed; the others are done."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the network needs torch")

from CycleINRLib.archive import batch, pool, task  # noqa: E402
from CycleINRLib.archive.order import Order, Outcome  # noqa: E402
from CycleINRLib.cli.main import main  # noqa: E402

ASKED = ["--z-scale", "2", "--noise", "acquired", "--gain", "1", "--axis", "k"]
SUMMARY = {"batch.json", "batch.csv", "batch.html", "batch.sqlite"}


@pytest.fixture()
def scans(small_scans) -> Path:
    return small_scans(3)


def told(out: Path) -> list[dict]:
    return json.loads((out / "batch.json").read_text("utf-8"))["scans"]


def names(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*")}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_scan_for_which_memory_runs_out_is_tried_again_and_listed(scans, tmp_path, monkeypatch, capsys, error):
    from CycleINRLib.upsampling import upsample as module

    out, tried, real = tmp_path / "out", [], module.upsample

    def upsample(source, *args, **kwargs):
        tried.append(source.name)
        if source.name == "1":
            raise error
        return real(source, *args, **kwargs)

    monkeypatch.setattr(module, "upsample", upsample)
    assert main(["batch", str(scans), "--output", str(out), "--workers", "0", "--retries", "1", *ASKED]) == 5
    assert sorted(tried) == ["0", "1", "1", "2"]
    assert [one["state"] for one in told(out)] == ["done", "failed", "done"]
    assert told(out)[1]["error"]["what"] == "There is not enough memory" and told(out)[1]["error"]["next"]
    assert names(out) == SUMMARY | {"0.nrrd", "0.json", "2.nrrd", "2.json"}
    assert "1.nrrd is left out: there is not enough memory" in capsys.readouterr().err


def test_what_fails_after_computing_leaves_nothing_of_the_scan(scans, tmp_path, monkeypatch):
    def thumbnail(*args):
        raise MemoryError

    monkeypatch.setattr(task, "_thumbnail", thumbnail)
    out = tmp_path / "out"
    assert main(["batch", str(scans / "0.nrrd"), "--output", str(out), "--workers", "0", *ASKED]) == 5
    assert names(out) == SUMMARY


class KilledAfterwards(pool.InProcess):
    """A worker that is killed when it has put its first result in place and told nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[int] = []

    def next(self, timeout_s: float) -> tuple[Order, Outcome] | None:
        ended = super().next(timeout_s)
        if ended is None:
            return None
        order, outcome = ended
        self.done.append(order.scan)
        if order.scan == 1:
            order.staging.mkdir()
            (order.staging / "placing").touch()
            return order, Outcome(order.scan, "failed", error={"what": "x", "found": "", "next": ""}, again=True)
        return order, outcome


def test_a_worker_that_is_killed_between_its_result_and_its_answer_loses_nothing(scans, tmp_path, monkeypatch):
    import contextlib

    killed = KilledAfterwards()
    monkeypatch.setattr(batch, "pool_of", lambda *_: contextlib.nullcontext(killed))
    out = tmp_path / "out"
    assert main(["batch", str(scans), "--output", str(out), *ASKED]) == 0
    assert sorted(killed.done) == [1, 2, 3]  # none twice
    assert [one["state"] for one in told(out)] == ["done"] * 3 and told(out)[0]["snli"]
    assert names(out) == SUMMARY | {f"{n}.{kind}" for n in range(3) for kind in ("nrrd", "json")}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_worker_that_takes_more_than_its_share_is_ended_and_the_batch_goes_on(scans, tmp_path, monkeypatch, capsys):
    pytest.importorskip("distributed", reason="workers need the extra batch")
    monkeypatch.setattr(pool, "_share_of_memory", lambda workers: 900_000_000)
    slices = 512  # of 512 x 512 double: more than the share
    header = f"NRRD0004\ntype: double\ndimension: 3\nspace: left-posterior-superior\nsizes: 512 512 {slices}\n"
    header += "space directions: (1,0,0) (0,1,0) (0,0,3)\nkinds: domain domain domain\nendian: little\n"
    header += "encoding: gzip\nspace origin: (0,0,0)\n\n"
    packed = gzip.compress(bytes(512 * 512 * 8 - 1) + b"\1", 1)
    (scans / "a_large.nrrd").write_bytes(header.encode() + packed * slices)  # a gzip member for each slice
    (scans / "0.nrrd").rename(scans / "b.nrrd")
    (scans / "1.nrrd").rename(scans / "c.nrrd")
    (scans / "2.nrrd").unlink()
    out = tmp_path / "out"
    words = [str(scans), "--output", str(out), "--workers", "1", "--retries", "0", "--no-thumbnails"]
    assert main(["batch", *words, *ASKED]) == 5
    said = "a_large.nrrd is left out: the worker ended while it had this scan (killed, as where memory runs out)"
    assert said in capsys.readouterr().err
    assert [one["state"] for one in told(out)] == ["failed", "done", "done"]
    assert names(out) == SUMMARY | {f"{name}.{kind}" for name in "bc" for kind in ("nrrd", "json")}
