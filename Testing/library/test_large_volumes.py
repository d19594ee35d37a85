"""Volumes that do not fit into memory: mapped on the way in and out, and a disk that would fill is told at once."""

import os
import shutil
import tracemalloc
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest

import CycleINRLib as cycleinr
from CycleINRLib.cli.main import main
from CycleINRLib.errors import ResourceError, VolumeError
from CycleINRLib.imaging import brightness, intensity
from CycleINRLib.imaging.brightness import SliceBrightness
from CycleINRLib.imaging.intensity import IntensityScale, doubtful_values
from CycleINRLib.io import decode, files
from CycleINRLib.upsampling import memory
from CycleINRLib.upsampling.noisefield import seed_of

Usage = namedtuple("Usage", "total used free")


def uncompressed(volume: cycleinr.Volume, path) -> None:
    """NRRD, NIfTI or MHA as other programs write it without compression."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(volume.values)
    image.SetSpacing([float(mm) for mm in volume.spacing_mm[::-1]])
    sitk.WriteImage(image, str(path), useCompression=False)


def is_mapped(values: np.ndarray) -> bool:
    base = values
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    return base is not None


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.nii", "scan.mha", "scan.mhd"])
def test_a_large_uncompressed_file_is_mapped_and_its_voxels_are_the_same(name, tmp_path, thick_ct, monkeypatch):
    uncompressed(thick_ct, tmp_path / name)
    plain = cycleinr.read(tmp_path / name)
    monkeypatch.setattr(decode, "MAPPED_BYTES", 1000)
    mapped = cycleinr.read(tmp_path / name)
    assert is_mapped(mapped.values) and not is_mapped(plain.values)
    np.testing.assert_array_equal(mapped.values, plain.values)
    before = (tmp_path / name).read_bytes()
    mapped.values[0, 0, 0] += 1  # a copy: the file of the scan stays
    assert (tmp_path / name).read_bytes() == before


def test_a_large_file_cut_short_is_refused_as_a_small_one_is(tmp_path, thick_ct, monkeypatch):
    uncompressed(thick_ct, tmp_path / "scan.nrrd")
    os.truncate(tmp_path / "scan.nrrd", (tmp_path / "scan.nrrd").stat().st_size - 100)
    monkeypatch.setattr(decode, "MAPPED_BYTES", 1000)
    with pytest.raises(VolumeError):
        cycleinr.read(tmp_path / "scan.nrrd")


def test_a_result_that_memory_does_not_hold_is_made_in_a_file_and_is_the_same(tmp_path, thick_ct, monkeypatch):
    pytest.importorskip("torch")
    held = cycleinr.upsample(thick_ct, z_scale=2, gain=1.0)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 1e5)
    monkeypatch.setenv("CYCLEINR_SCRATCH", str(tmp_path))
    mapped = cycleinr.upsample(thick_ct, z_scale=2, gain=1.0)
    assert is_mapped(mapped.volume.values) and not is_mapped(held.volume.values)
    np.testing.assert_array_equal(mapped.volume.values, held.volume.values)
    cycleinr.write(mapped.volume, tmp_path / "iso.nrrd")
    np.testing.assert_array_equal(cycleinr.read(tmp_path / "iso.nrrd").values, held.volume.values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iso.nrrd"]


def test_scratch_without_room_is_told_before_computing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "memory_bytes", lambda: 1e5)
    monkeypatch.setenv("CYCLEINR_SCRATCH", str(tmp_path))
    monkeypatch.setattr(memory, "shutil", SimpleNamespace(disk_usage=lambda folder: Usage(10**9, 10**9 - 1000, 1000)))
    with pytest.raises(ResourceError, match="CYCLEINR_SCRATCH"):
        memory.empty_volume((100, 100, 100), np.int16)
    assert list(tmp_path.iterdir()) == []


def test_scratch_without_room_is_told_before_anything_is_fitted(tmp_path, thick_ct, monkeypatch):
    monkeypatch.setattr(memory, "memory_bytes", lambda: 1e5)
    monkeypatch.setenv("CYCLEINR_SCRATCH", str(tmp_path))
    monkeypatch.setattr(memory, "shutil", SimpleNamespace(disk_usage=lambda folder: Usage(10**9, 10**9 - 1000, 1000)))
    monkeypatch.setattr("CycleINRLib.upsampling.upsample.settle", lambda *_: pytest.fail("fitted"))
    with pytest.raises(ResourceError, match="CYCLEINR_SCRATCH"):
        cycleinr.upsample(thick_ct, z_scale=2)


def test_a_disk_has_to_hold_the_scratch_beside_the_output(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: Usage(10**9, 10**9 - 1200, 1200))
    files.check_room(tmp_path / "iso.nrrd", 1000)
    with pytest.raises(ResourceError, match="no room for the output"):
        files.check_room(tmp_path / "iso.nrrd", 1000, str(tmp_path))


LOOKS = {
    "values that are no HU": lambda values: doubtful_values(values, "CT"),
    "scale of CT": lambda values: IntensityScale.of(values, "CT"),
    "scale of MR": lambda values: IntensityScale.of(values, "MR"),
    "seed of the noise": seed_of,
    "brightness of slices": lambda values: SliceBrightness.of(values, "MR"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_what_looks_at_a_whole_scan_holds_a_part_of_it(look, monkeypatch):
    monkeypatch.setattr(intensity, "VALUES_AT_ONCE", 60_000)
    monkeypatch.setattr(brightness, "_AT_ONCE", 8)
    values = np.random.default_rng(0).integers(-1000, 1000, (120, 512, 128)).astype(np.int16)
    look(values[:12])  # what is loaded and kept once
    tracemalloc.start()
    try:
        look(values)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 0.4 * values.nbytes


def test_a_disk_that_would_fill_is_told_before_computing(tmp_path, thick_ct, monkeypatch, capsys):
    cycleinr.write(thick_ct, tmp_path / "scan.nrrd")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9 - 1000, 1000))
    monkeypatch.setattr("CycleINRLib.upsampling.upsample.upsample", lambda *_, **__: pytest.fail("computed"))
    assert main(["upsample", str(tmp_path / "scan.nrrd"), str(tmp_path / "iso.nrrd")]) == ResourceError.exit_code
    assert "no room for the output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nrrd"]
