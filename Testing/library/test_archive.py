"""The parts of a batch: threads and devices shared out, the manifest, names, and thumbnails that show the scan."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from CycleINRLib.archive import pool
from CycleINRLib.archive.batch import BatchRequest
from CycleINRLib.archive.manifest import Manifest
from CycleINRLib.archive.naming import named
from CycleINRLib.archive.thumbnail import thumbnail
from CycleINRLib.errors import MissingPackageError, RequestError, ResourceError
from CycleINRLib.io.discover import Found
from CycleINRLib.jobs import UpsampleJob

SETTINGS = {"z_scale": 2.0}


@pytest.fixture()
def manifest(tmp_path):
    made = Manifest.create(tmp_path, SETTINGS)
    made.add([(f"/in/{n}.nrrd", f"{n}") for n in range(5)])
    yield made
    made.close()


@given(st.integers(1, 300), st.integers(1, 64))
def test_threads_of_all_workers_fit_the_cores_and_use_them(cores, workers):
    shares = [pool.threads_of(n, workers, cores) for n in range(workers)]
    assert sum(shares) == max(cores, workers) and max(shares) - min(shares) <= 1


def test_each_worker_sees_one_gpu_and_all_gpus_are_used():
    seen = [pool.environment_of(n, 4, 16, ["0", "3"]) for n in range(4)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["0", "3", "0", "3"]
    assert all(one["OMP_NUM_THREADS"] == "4" for one in seen)
    assert "CUDA_VISIBLE_DEVICES" not in pool.environment_of(0, 1, 16, [])


@pytest.mark.parametrize(
    ("told", "gpus"), [("2,5", ["2", "5"]), ("", []), ("-1", []), ("GPU-8a, MIG-1", ["GPU-8a", "MIG-1"])]
)
def test_the_devices_that_the_user_allows_are_the_ones_shared_out(monkeypatch, told, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    assert pool.visible_gpus() == gpus


def test_without_dask_one_process_does_it_and_workers_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(pool, "has_dask", lambda: False)
    said: list[str] = []
    with pool.pool_of(None, None, Path("unused"), said.append) as one:
        assert isinstance(one, pool.InProcess)
    assert "CycleINR[batch]" in said[0]
    for asked in ((2, None), (None, "tcp://127.0.0.1:1")):
        with pytest.raises(MissingPackageError, match="distributed"), pool.pool_of(*asked, Path("unused"), said.append):
            pass


def test_an_address_that_is_none_is_refused():
    pytest.importorskip("distributed", reason="workers need the extra batch")
    with pytest.raises(RequestError, match="address"), pool.pool_of(None, "http://example.org", Path("unused"), print):
        pass


def test_workers_that_end_at_once_are_started_so_often_and_no_more():
    class Cluster:
        worker_spec, workers, started = {0: {}}, {}, 0

        def sync(self, ask):
            return asyncio.run(ask())

        def scale(self, count):
            self.started += count
            self.workers[0] = SimpleNamespace(status=SimpleNamespace(name="closed"))

    cluster = Cluster()
    cluster.scale(1)
    keeper = pool._Keeper(cluster)
    with pytest.raises(ResourceError, match="end while they start"):
        for _ in range(100):
            keeper.look()
    assert cluster.started == 1 + pool.MOST_STARTS
    keeper.failures = 0
    cluster.workers[0] = SimpleNamespace(status=SimpleNamespace(name="running"))
    keeper.look()
    assert cluster.started == 1 + pool.MOST_STARTS


@pytest.mark.parametrize("fields", [{"workers": 1, "scheduler": "tcp://a:1"}, {"workers": -1}, {"retries": -1}])
def test_a_request_that_contradicts_itself_is_refused(fields):
    with pytest.raises(RequestError):
        BatchRequest((Path("a"),), Path("out"), UpsampleJob(), **fields)


def test_scans_that_were_begun_before_come_last(manifest):
    first = manifest.next_waiting()
    manifest.begin(first.id)
    manifest.put_back(first.id)
    order = []
    while (row := manifest.next_waiting()) is not None:
        order.append(row.id)
        manifest.begin(row.id)
    assert order == [2, 3, 4, 5, 1]
    assert manifest.count() == {"running": 5}


def test_what_was_committed_is_there_after_a_kill_and_what_was_not_is_not(manifest, tmp_path):
    manifest.finish(1, {"figures": {"snli": {"input": 0.1}}, "output": "0.nrrd"})
    manifest.commit()
    manifest.begin(2)  # never committed
    with sqlite3.connect(tmp_path / "batch.sqlite") as other:
        states = dict(other.execute("SELECT id, state FROM scans"))
    other.close()
    assert states[1] == "done" and states[2] == "waiting"


def test_a_scan_is_known_by_its_path_and_added_once(manifest):
    assert manifest.add([("/in/0.nrrd", "0"), ("/in/new.nrrd", "new")]) == 1
    assert sum(manifest.count().values()) == 6


def test_a_manifest_whose_folder_was_removed_says_so(manifest, tmp_path):
    (tmp_path / "batch.sqlite").unlink()
    with pytest.raises(ResourceError, match="removed"):
        manifest.begin(1)
        manifest.commit()


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\x00" + bytes(200)])
def test_a_damaged_manifest_is_refused_and_kept(tmp_path, content):
    (tmp_path / "batch.sqlite").write_bytes(content)
    with pytest.raises(RequestError, match="manifest"):
        Manifest.open(tmp_path, SETTINGS)
    assert (tmp_path / "batch.sqlite").read_bytes() == content


@given(
    st.lists(st.sampled_from(["a", "A", "a/b", "a/b/c", "batch", "a_2", "b"]), max_size=7), st.booleans(), st.booleans()
)
def test_each_scan_has_a_name_of_its_own_whatever_the_file_system_thinks_of_case(names, dicom, anonymous):
    found = [Found(Path(f"/in/{n}.nrrd"), name) for n, name in enumerate(names)]
    given_names = [name.lower() for _, name in named(found, {}, dicom, anonymous)]
    assert len(set(given_names)) == len(names) and "batch" not in given_names
    if dicom:  # a folder of slices holds nothing else
        assert not any(one.startswith(f"{other}/") for one in given_names for other in given_names)


def test_a_thumbnail_shows_the_scan_before_and_after_at_its_true_proportions(thick_ct):
    Image = pytest.importorskip("PIL.Image", reason="thumbnails need Pillow")
    finer = np.repeat(thick_ct.values, 2, axis=0)
    matrix = np.array(thick_ct.geometry.ijk_to_ras)
    matrix[:3, 2] /= 2
    from CycleINRLib.imaging.geometry import Geometry

    after = thick_ct.with_values(finer, Geometry(finer.shape, matrix))
    picture = Image.open(io.BytesIO(thumbnail(thick_ct, after, "k", "CT")))
    assert picture.mode == "L" and max(picture.size) <= 260 and np.asarray(picture).std() > 20
    half = (picture.width - 4) // 2
    gray = np.asarray(picture).astype(float)
    left, right = gray[:, :half], gray[:, -half:]
    assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.9
