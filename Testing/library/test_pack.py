"""`cycleinr pack`: lossless, mapped instead of read, refused where it is broken."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from CycleINRLib.cli.main import main
from CycleINRLib.errors import RequestError, VolumeError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.io.discover import find_scans, read_volume
from CycleINRLib.io.files import write
from CycleINRLib.io.packs import read_pack, smallest, write_pack

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def packed(data: Path, tmp_path: Path) -> Path:
    output = tmp_path / "thin.pack"
    assert pack(data, output) == 0
    return output


def pack(*words: object) -> int:
    return main(["pack", *map(str, words)])


def volume_of(values: np.ndarray) -> Volume:
    return Volume(values, Geometry.from_spacing(values.shape, (2.0, 1.0, 1.0)), "MR", "stored")


def test_a_pack_gives_back_values_geometry_and_facts(data, packed):
    told = dict(find_scans([packed]))
    for (path, facts), (scan, again) in zip(find_scans([data]), told.items()):
        before, after = read_volume(path, facts["modality"]), scan.volume()
        np.testing.assert_array_equal(after.values, before.values)
        np.testing.assert_array_equal(after.geometry.ijk_to_ras, before.geometry.ijk_to_ras)
        assert again == facts
        assert (after.modality, after.unit, after.thickness_mm) == (before.modality, before.unit, before.thickness_mm)


def test_a_pack_takes_two_bytes_a_voxel(packed, ct_thin, mr_thin):
    voxels = ct_thin.values.size + mr_thin.values.size
    assert 0 < packed.stat().st_size - 2 * voxels <= 3 * 4096  # the header
    assert {scan.kind for scan in read_pack(packed)} == {"<i2"}


def test_another_program_reads_a_pack(packed, ct_thin):
    """It is a plain safetensors file."""
    safetensors = pytest.importorskip("safetensors.numpy")
    np.testing.assert_array_equal(safetensors.load_file(packed)["head.nrrd"], ct_thin.values)


@pytest.mark.parametrize(
    "values, kind",
    [
        (np.array([-32768, 32767], np.int32), "<i2"),
        (np.array([0, 65535], np.int64), "<u2"),
        (np.array([-1, 65535], np.int32), "<i4"),
        (np.array([-5.0, 7.0], np.float32), "<i2"),
        (np.array([0.5, 7.0], np.float64), "<f8"),
        (np.array([0, 255], np.uint8), "<i2"),
        (np.array([0.5, 7.0], np.float16), "<f4"),
        (np.array([1.0, 1e9], ">f4"), "<f4"),
    ],
)
def test_values_that_two_bytes_hold_take_two_bytes_and_others_stay_exact(values, kind, tmp_path):
    values = np.resize(values, (3, 2, 5))
    assert smallest(values).dtype == np.dtype(kind)
    facts = {"scan": "a", "held_out": False}
    write_pack([(volume_of(values), facts)], [facts], tmp_path / "a.pack")
    (scan,) = read_pack(tmp_path / "a.pack")
    np.testing.assert_array_equal(scan.values(), values)


def test_a_pack_may_be_packed_again_with_other_facts(packed, tmp_path):
    listed, output = tmp_path / "some.json", tmp_path / "again.pack"
    listed.write_text(json.dumps({"mr_brain.nrrd": {"license": "CC0"}}), "utf-8")
    assert pack(packed, output, "--scans", listed) == 0
    ((scan, facts),) = find_scans([output])
    assert facts["license"] == "CC0" and not facts["held_out"] and facts["modality"] == "MR"
    assert scan.facts["crc32"] == read_pack(packed)[1].facts["crc32"]


def test_compressed_for_travel_it_comes_back_whole(data, tmp_path, capsys):
    output = tmp_path / "thin.pack"
    assert pack(data, output, "--compress", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    travel = tmp_path / "thin.pack.gz"
    assert gzip.decompress(travel.read_bytes()) == output.read_bytes()
    assert report["bytes"] == {path.name: path.stat().st_size for path in (output, travel)}
    assert travel.stat().st_size < output.stat().st_size


def test_what_cannot_be_packed_is_refused_and_nothing_is_left(data, packed, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "twin").mkdir()
    os.link(data / "head.nrrd", tmp_path / "twin" / "head.nrrd")
    before = sorted(tmp_path.iterdir())
    for words, status, said in [
        ((data, packed), 2, "exists"),
        ((data, tmp_path / "thin.nrrd"), 2, "must be .pack"),
        ((packed, packed, "--overwrite"), 2, "output is the input"),
        ((tmp_path / "empty", tmp_path / "n.pack"), 2, "nothing to pack"),
        ((data, tmp_path / "twin", tmp_path / "n.pack"), 2, "same name. Found: head.nrrd"),
        ((tmp_path / "none", tmp_path / "n.pack"), 3, "no such folder or pack"),
    ]:
        assert pack(*words) == status
        assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_scan_with_broken_values_is_refused_by_name_and_nothing_is_left(data, tmp_path, mr_thin, capsys):
    values = np.array(mr_thin.values, np.float32)
    values[3, 4, 5] = np.nan
    write(mr_thin.with_values(values), data / "mr_nan.nrrd")
    assert pack(data, tmp_path / "n.pack") == 3
    assert "mr_nan.nrrd" in (said := capsys.readouterr().err) and "1 of" in said
    assert not list(tmp_path.glob("*n.pack*"))


def test_broken_packs_are_refused(packed, tmp_path):
    whole = packed.read_bytes()
    cut, text, model = (tmp_path / f"{name}.pack" for name in ("cut", "text", "model"))
    cut.write_bytes(whole[:-100])
    text.write_bytes(b"not a pack of anything at all")
    model.write_bytes((REPOSITORY / "Resources" / "Models" / "light.safetensors").read_bytes())
    for path, said in ((cut, "truncated"), (text, "cannot be read"), (model, "no pack of scans")):
        with pytest.raises(VolumeError, match=said):
            read_pack(path)
    newer = tmp_path / "newer.pack"
    newer.write_bytes(whole.replace(rb"{\"version\": 1", rb"{\"version\": 9"))
    with pytest.raises(VolumeError, match="newer version"):
        read_pack(newer)


def test_a_disk_that_changes_what_was_written_is_noticed(tmp_path, monkeypatch):
    facts = {"scan": "a", "held_out": False}
    from CycleINRLib.io import packs

    write_values = packs._write_values
    monkeypatch.setattr(packs, "_write_values", lambda file, values: write_values(file, values + 1))
    with pytest.raises(VolumeError, match="not written as it should be"):
        values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
        write_pack([(volume_of(values), facts)], [facts], tmp_path / "a.pack")


def test_the_checksum_is_that_of_the_stored_bytes(packed, ct_thin):
    scan = read_pack(packed)[0]
    assert scan.facts["crc32"] == zlib.crc32(ct_thin.values.astype("<i2").tobytes())


def test_facts_that_are_no_json_are_refused(packed, tmp_path):
    (tmp_path / "listed.json").write_text("{", "utf-8")
    with pytest.raises(RequestError, match="cannot be read"):
        list(find_scans([packed], str(tmp_path / "listed.json")))


def test_samples_from_a_pack_are_those_from_the_files(data, tmp_path, mr_thin):
    """Of thin scans, and of an anisotropic one that is filled where it is looked at."""
    torch = pytest.importorskip("torch", reason="training needs torch")
    from CycleINRLib.cli.train import read_scan
    from CycleINRLib.training.patches import SampleConfig, draw_batch

    matrix = np.array(mr_thin.geometry.ijk_to_ras)
    matrix[:3, 2] *= 4
    thick = mr_thin.with_values(mr_thin.values[::4], Geometry((15, 64, 64), matrix))
    write(thick, data / "mr_thick.nrrd")
    packed = tmp_path / "three.pack"
    assert pack(data, packed) == 0
    config = SampleConfig(slices=5, crop=24, margin=4, places=4, z_scale=(1.5, 3.5))
    files, mapped = (
        [read_scan(stored, facts["modality"]) for stored, facts in find_scans([one])] for one in (data, packed)
    )
    for step in range(8):
        one, other = (draw_batch(scans, config, 4, 0, step) for scans in (files, mapped))
        for name in ("source", "detail", "condition", "cycle", "truth", "weight", "nodes"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


DRAW = """
import sys
from CycleINRLib.io.discover import find_scans
from CycleINRLib.training.patches import SampleConfig, draw_batch
from CycleINRLib.cli.train import read_scan
scans = [read_scan(one, facts["modality"]) for one, facts in find_scans([__import__("pathlib").Path(sys.argv[1])])]
if sys.argv[2] == "read":
    import dataclasses, numpy
    scans = [dataclasses.replace(scan, held=numpy.array(scan.held.values())) for scan in scans]
config = SampleConfig(slices=5, crop=24, margin=4, places=4, z_scale=(1.5, 3.5))
for step in range(50):
    draw_batch(scans, config, 4, 0, step)
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of resident memory is read from /proc")
def test_a_hundred_mapped_volumes_need_no_more_memory_than_five(tmp_path, ct_thin, mr_thin):
    pytest.importorskip("torch", reason="training needs torch")

    def peak_mb(count: int, way: str) -> float:
        """Of a process that draws 200 samples from `count` volumes of 2 MB each."""
        path = tmp_path / f"{count}.pack"
        if not path.exists():
            told = [{"scan": f"{n}", "held_out": False, "license": None, "source": None} for n in range(count)]
            wide = [v.with_values(np.tile(v.values, (1, 2, 2)), _wide(v.geometry)) for v in (ct_thin, mr_thin)]
            write_pack(((wide[n % 2], facts) for n, facts in enumerate(told)), told, path)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", DRAW, str(path), way]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    few, many = peak_mb(5, "map"), peak_mb(100, "map")
    assert many - few < 15
    assert peak_mb(100, "read") - few > 120  # 95 volumes of 2 MB: the measure sees what is held


def _wide(geometry: Geometry) -> Geometry:
    K, J, width = geometry.shape
    return Geometry((K, 2 * J, 2 * width), geometry.ijk_to_ras)
