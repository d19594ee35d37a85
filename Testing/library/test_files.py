"""Volumes to files and back: exact values, exact matrix, and one clear sentence for each file that is none."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_geometry import geometries

from CycleINRLib.errors import CycleINRError, RequestError, ResourceError, VolumeError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume, check_usable, guess_modality
from CycleINRLib.io import files
from CycleINRLib.io.files import check_output, list_series, read, write
from CycleINRLib.io.names import EXTENSIONS

sitk = pytest.importorskip("SimpleITK")
sitk.ProcessObject.SetGlobalWarningDisplay(False)
DATA = Path(__file__).resolve().parent.parent / "data"
EXACT = (".nrrd", ".mha")  # 64-bit matrices; NIfTI has 32
KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


def in_place(geometry: Geometry, component: int = 0) -> Volume:
    """Voxels that hold one coordinate of their own place in mm: any slip becomes a number."""
    kji = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1)
    return Volume(geometry.ras_of(kji)[..., component], geometry)


def seen_by_itk(path: Path) -> tuple[np.ndarray, Geometry]:
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    values = sitk.GetArrayFromImage(image)
    return values, Geometry.from_lps(values.shape, matrix)


def random_volume(kind: str = "int16", shape=(4, 5, 6)) -> Volume:
    values = np.random.default_rng(3).integers(0, 120, shape).astype(kind)
    return Volume(values, Geometry.from_spacing(shape, (5.0, 0.7, 0.7)))


# --- there and back -------------------------------------------------------------------------------------------
@settings(max_examples=40)
@given(geometries(), st.integers(0, 2))
def test_voxels_come_back_to_their_own_place(tmp_path_factory, geometry, component):
    geometry = Geometry(tuple(min(n, 7) for n in geometry.shape), geometry.ijk_to_ras)
    volume = in_place(geometry, component)
    folder = tmp_path_factory.mktemp("there")
    for extension in (*EXACT, ".nii", ".nii.gz"):
        if geometry.is_sheared and extension not in EXACT:
            continue
        back = read(write(volume, folder / f"a{extension}"))
        assert back.geometry.same_place_as(geometry, 1e-9 if extension in EXACT else 1e-3)
        assert np.abs(back.values - in_place(back.geometry, component).values).max() < 1e-3


@settings(max_examples=12)
@given(geometries(), st.sampled_from(KINDS))
def test_itk_sees_what_was_written_and_what_itk_writes_is_read(tmp_path_factory, geometry, kind):
    volume = random_volume(kind)
    volume = volume.with_values(volume.values, Geometry((4, 5, 6), geometry.ijk_to_ras))
    folder = tmp_path_factory.mktemp("itk")
    for extension in (*EXACT, ".nii", ".nii.gz", ".mhd", ".nhdr", ".hdr"):
        if geometry.is_sheared and extension not in (*EXACT, ".mhd", ".nhdr"):
            continue
        if extension in EXTENSIONS:
            values, seen = seen_by_itk(write(volume, folder / f"ours{extension}", overwrite=True))
            assert seen.same_place_as(volume.geometry, 1e-3)
            assert np.array_equal(values, volume.values)
            assert values.dtype == volume.values.dtype
        for packed in (True, False):
            image = sitk.ReadImage(str(write(volume, folder / "ours.mha", overwrite=True)))
            sitk.WriteImage(image, str(folder / f"itk{extension}"), packed)
            back = read(folder / f"itk{extension}")
            assert back.geometry.same_place_as(volume.geometry, 1e-3)
            assert np.array_equal(back.values, volume.values)


def test_the_same_volume_gives_the_same_bytes(tmp_path, thick_mr):
    for extension in EXTENSIONS:
        one, two = (write(thick_mr, tmp_path / f"{name}{extension}").read_bytes() for name in "ab")
        assert one == two


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("bool", "uint8"), ("float16", "float32"), ("int64", "int16"), ("uint64", "int16"), (">i2", "int16")],
)
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_types_that_formats_lack_are_written_as_the_nearest_that_holds_them(tmp_path, kind, expected, extension):
    volume = random_volume(kind)
    back = read(write(volume, tmp_path / f"a{extension}"))
    assert back.values.dtype == expected
    assert np.array_equal(back.values, volume.values)


def test_wide_integers_are_not_clipped(tmp_path):
    values = np.array([0, 2**40, -(2**40)] * 8).reshape(2, 3, 4)
    back = read(write(Volume(values, Geometry.from_spacing((2, 3, 4), (1, 1, 1))), tmp_path / "a.nrrd"))
    assert np.array_equal(back.values, values)


def test_a_view_with_another_slice_axis_is_written_as_it_is_seen(tmp_path, thick_mr):
    view = thick_mr.slices_first("i")
    back = read(write(view, tmp_path / "a.nrrd"))
    assert np.array_equal(back.values, view.values)
    assert back.geometry.same_place_as(view.geometry, 1e-9)


def test_nrrd_carries_the_slice_thickness_of_the_slice_axis(tmp_path, thick_mr):
    for axis in "kji":
        moved = thick_mr.slices_first("k").slices_back(axis)
        path = write(moved, tmp_path / f"{axis}.nrrd")
        assert read(path).thickness_mm == thick_mr.thickness_mm
        assert np.array_equal(seen_by_itk(path)[0], moved.values)
    assert read(write(thick_mr, tmp_path / "a.mha")).thickness_mm is None


# --- reading what others write --------------------------------------------------------------------------------
def nrrd(path: Path, data: bytes, **fields: str) -> Path:
    """A NRRD written by hand, so that any field can be wrong; a field of None is left out."""
    lines = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "4 3 2",
        "space directions": "(1,0,0) (0,1,0) (0,0,5)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(0,0,0)",
    }
    lines.update({name.replace("_", " "): value for name, value in fields.items()})
    header = "NRRD0005\n" + "".join(f"{name}: {value}\n" for name, value in lines.items() if value is not None)
    path.write_bytes(header.encode() + b"\n" + data)
    return path


STORED = np.arange(24, dtype="<i2").reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("raw", STORED.tobytes()),
        ("gzip", gzip.compress(STORED.tobytes())),
        ("gz", gzip.compress(STORED.tobytes()[:20]) + gzip.compress(STORED.tobytes()[20:])),
        ("bzip2", bz2.compress(STORED.tobytes())),
        ("ascii", " ".join(map(str, STORED.ravel())).encode()),
        ("hex", STORED.tobytes().hex("\n").encode()),
    ],
)
def test_every_encoding_of_nrrd_is_read(tmp_path, encoding, data):
    assert np.array_equal(read(nrrd(tmp_path / "a.nrrd", data, encoding=encoding)).values, STORED)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1)),
        ("LAS", (-1, 1)),
        ("left-posterior-superior", (-1, -1)),
        ("scanner-xyz", (-1, -1)),
    ],
)
def test_every_space_of_nrrd_becomes_ras(tmp_path, space, signs):
    volume = read(nrrd(tmp_path / "a.nrrd", STORED.tobytes(), space=space, space_origin="(10,20,30)"))
    assert np.allclose(volume.geometry.ras_of(np.zeros(3)), [10 * signs[0], 20 * signs[1], 30])
    assert bool(volume.warnings) == (space == "scanner-xyz")


def test_big_endian_voxels_come_in_the_machines_order(tmp_path):
    values = read(nrrd(tmp_path / "a.nrrd", STORED.astype(">i2").tobytes(), endian="big")).values
    assert np.array_equal(values, STORED)
    assert values.dtype.isnative


def test_skipped_lines_and_bytes_are_no_voxels(tmp_path):
    data = b"a line\nanother\nxyz" + STORED.tobytes()
    assert np.array_equal(read(nrrd(tmp_path / "a.nrrd", data, line_skip="2", byte_skip="3")).values, STORED)
    assert np.array_equal(read(nrrd(tmp_path / "b.nrrd", data, byte_skip="-1")).values, STORED)


def test_detached_data_in_one_file_a_list_or_a_pattern_are_read(tmp_path):
    for n, plane in enumerate(STORED):
        (tmp_path / f"p{n}.raw").write_bytes(plane.tobytes())
    (tmp_path / "all.raw").write_bytes(STORED.tobytes())
    for data_file in ("all.raw", "p%d.raw 0 1 1", "LIST\np0.raw\np1.raw"):
        assert np.array_equal(read(nrrd(tmp_path / "a.nhdr", b"", data_file=data_file)).values, STORED)


@pytest.mark.parametrize(
    ("sizes", "directions", "kinds"),
    [
        ("4 3 2 2", "(1,0,0) (0,1,0) (0,0,5) none", "domain domain domain list"),
        ("2 4 3 2", "none (1,0,0) (0,1,0) (0,0,5)", "list domain domain domain"),
    ],
)
def test_a_volume_of_a_4d_nrrd_is_chosen_by_its_frame(tmp_path, sizes, directions, kinds):
    last = sizes.startswith("4")
    stored = np.stack([STORED, STORED + 100], axis=0 if last else -1)
    path = nrrd(
        tmp_path / "a.nrrd", stored.tobytes(), dimension="4", sizes=sizes, space_directions=directions, kinds=kinds
    )
    assert np.array_equal(read(path, frame=1).values, STORED + 100)
    with pytest.raises(VolumeError, match="4D, 2 volumes.*--frame 0 to 1"):
        read(path)
    with pytest.raises(RequestError, match="no volume 2"):
        read(path, frame=2)


def test_a_missing_spacing_is_said(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", STORED.tobytes(), space_directions=None, space_origin=None, space=None)
    volume = read(path)
    assert volume.spacing_mm == (1, 1, 1)
    assert "no spacing" in volume.warnings[0]


def nifti(path: Path, values: np.ndarray, **fields) -> Path:
    """A NIfTI written by `write`, then changed byte by byte: {offset: (format, values...)}."""
    volume = Volume(values, Geometry.from_spacing(values.shape, (5.0, 0.7, 0.7)))
    raw = bytearray(write(volume, path.with_name("whole.nii"), overwrite=True).read_bytes())
    for at, (kind, *numbers) in fields.items():
        struct.pack_into(kind, raw, int(at[2:]), *numbers)
    path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))
    return path


def test_a_nifti_scale_is_applied_whole_or_as_float(tmp_path):
    stored = STORED.astype(np.int16)
    whole = read(nifti(tmp_path / "a.nii", stored, at112=("<2f", 2, -1024))).values
    assert whole.dtype == np.int16
    assert np.array_equal(whole, stored * 2 - 1024)
    half = nifti(tmp_path / "b.nii", stored, at112=("<2f", 0.5, 3))
    assert read(half).values.dtype == np.float32
    assert np.array_equal(read(half).values, seen_by_itk(half)[0])
    unset = read(nifti(tmp_path / "c.nii", stored, at112=("<2f", 0, 7)))
    assert np.array_equal(unset.values, stored)


def test_a_sheared_nifti_keeps_its_sform_which_itk_straightens(tmp_path):
    rows = (0.7, 0, 0, -9, 0, 0.7, 1.5, 8, 0, 0, 5, 7)
    path = nifti(tmp_path / "a.nii", STORED.astype(np.int16), at252=("<2h", 1, 1), at280=("<12f", *rows))
    volume = read(path)
    assert volume.geometry.is_sheared
    assert np.allclose(volume.geometry.ijk_to_ras[:3].ravel(), rows, atol=1e-6)
    assert not seen_by_itk(path)[1].same_place_as(volume.geometry, 0.1)


def test_a_nifti_in_meters_or_without_orientation_is_read_as_itk_does(tmp_path):
    stored = STORED.astype(np.int16)
    meters = nifti(tmp_path / "m.nii", stored, at123=("<b", 1), at80=("<3f", 7e-4, 7e-4, 5e-3), at252=("<2h", 1, 0))
    plain = nifti(tmp_path / "p.nii", stored, at252=("<2h", 0, 0))
    assert np.allclose(read(meters).spacing_mm, (5, 0.7, 0.7))
    assert read(plain).geometry.same_place_as(seen_by_itk(plain)[1])
    assert "no orientation" in read(plain).warnings[0]


def test_two_matrices_in_one_nifti_are_told(tmp_path):
    moved = nifti(tmp_path / "a.nii", STORED.astype(np.int16), at268=("<3f", 40, 0, 0))
    assert "sform and qform, 40.0 mm apart" in read(moved).warnings[0]


def test_nifti_2_is_read(tmp_path):
    old = nifti(tmp_path / "a.nii", STORED.astype(np.int16)).read_bytes()
    head = bytearray(544)
    struct.pack_into("<i8sh", head, 0, 540, b"n+2\0\r\n\032\n", 4)
    struct.pack_into("<8q", head, 16, 3, 4, 3, 2, 1, 1, 1, 1)
    struct.pack_into("<8d", head, 104, 1, 0.7, 0.7, 5, 0, 0, 0, 0)
    struct.pack_into("<q2d", head, 168, 544, 1, 0)
    struct.pack_into("<2i", head, 344, 0, 1)
    struct.pack_into("<12d", head, 400, 0.7, 0, 0, 1, 0, 0.7, 0, 2, 0, 0, 5, 3)
    (tmp_path / "b.nii").write_bytes(bytes(head) + old[352:])
    volume = read(tmp_path / "b.nii")
    assert np.array_equal(volume.values, STORED)
    assert np.allclose(volume.geometry.ijk_to_ras[:3, 3], (1, 2, 3))


# --- refusals -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": "4 3 3"}, r"truncated. Found: a.nrrd holds 48 of 72 bytes"),
        ({"sizes": "4 3 1"}, "holds more voxels than the header says"),
        ({"sizes": "100000 100000 100000"}, "cannot hold the voxels that the header claims.*100000 x 100000 x 100000"),
        ({"sizes": "100000 100000 100000", "encoding": "gzip"}, "cannot hold the voxels that the header claims"),
        ({"sizes": "4 3 0"}, "impossible size"),
        ({"sizes": "four 3 2"}, "impossible size. Found: four"),
        ({"sizes": None}, "header of the file cannot be read"),
        ({"type": "block"}, "voxel type.*block"),
        ({"encoding": "lzma"}, "encoding.*lzma"),
        ({"encoding": "gzip"}, "data of the file are damaged"),
        ({"encoding": "hex"}, "data of the file are damaged"),
        ({"space_directions": "(1,0,0) (0,1,0) (nan,0,5)"}, "not a finite 4 x 4 matrix"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,0)"}, "spacing of an axis is zero"),
        ({"space_directions": "(1,0,0) (0,1,0) (1,1,0)"}, "singular"),
        ({"space_directions": "(1,0,0) (0,1,0) none"}, "three axes in space"),
        ({"dimension": "2", "sizes": "6 4", "kinds": None}, "NRRD is no volume"),
        ({"data_file": "gone.raw"}, "not there. Found: gone.raw"),
    ],
)
def test_a_damaged_nrrd_is_refused_with_what_is_wrong(tmp_path, fields, message):
    with pytest.raises(VolumeError, match=message):
        read(nrrd(tmp_path / "a.nrrd", STORED.tobytes(), **fields))


@pytest.mark.parametrize(
    ("kind", "size"), [("RGB-color", 3), ("complex", 2), ("vector", 3), ("3D-symmetric-matrix", 6)]
)
def test_voxels_that_are_no_single_numbers_are_refused(tmp_path, kind, size):
    directions = "none (1,0,0) (0,1,0) (0,0,5)"
    path = nrrd(
        tmp_path / "a.nrrd",
        STORED.tobytes() * size,
        dimension="4",
        sizes=f"{size} 4 3 2",
        kinds=f"{kind} domain domain domain",
        space_directions=directions,
    )
    with pytest.raises(VolumeError, match=f"(?i)no single numbers.*{kind} with {size} components"):
        read(path)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_file_cut_anywhere_is_refused(tmp_path, thick_mr, extension):
    whole = write(thick_mr, tmp_path / f"a{extension}").read_bytes()
    for part in (0.0, 0.001, 0.3, 0.7, 1 - 4 / len(whole)):
        (tmp_path / f"b{extension}").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(VolumeError):
            read(tmp_path / f"b{extension}")


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".mha"])
def test_flipped_bits_in_compressed_data_are_noticed(tmp_path, thick_mr, extension):
    whole = bytearray(write(thick_mr, tmp_path / f"a{extension}").read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / f"b{extension}").write_bytes(whole)
    with pytest.raises(VolumeError, match="damaged|truncated"):
        read(tmp_path / f"b{extension}")


@pytest.mark.parametrize(
    ("field", "numbers", "message"),
    [
        ("at70", ("<2h", 128, 24), "no single numbers.*RGB"),
        ("at70", ("<2h", 32, 64), "no single numbers.*complex64"),
        ("at70", ("<2h", 999, 16), "voxel type of the NIfTI"),
        ("at40", ("<8h", 5, 4, 3, 1, 1, 2, 1, 1), "no single numbers.*vectors of 2"),
        ("at40", ("<8h", 3, 4, 3, -2, 1, 1, 1, 1), "impossible size"),
        ("at40", ("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1), "cannot hold the voxels"),
        ("at40", ("<8h", 4, 4, 3, 1, 2, 1, 1, 1), "4D, 2 volumes"),
    ],
)
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_a_damaged_nifti_is_refused_with_what_is_wrong(tmp_path, field, numbers, message, extension):
    path = nifti(tmp_path / f"a{extension}", STORED.astype(np.int16), **{field: numbers})
    with pytest.raises(VolumeError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"MET_SHORT", b"MET_BLOCK", "voxel type of the MetaImage"),
        (b"DimSize = 4 3 2", b"DimSize = 4 3 9", "truncated"),
        (b"DimSize = 4 3 2", b"DimSize = 90000 90000 90000", "cannot hold the voxels"),
        (b"NDims = 3", b"NDims = 3\nElementNumberOfChannels = 3", "no single numbers.*3 channels"),
        (b"ElementSpacing = 0.7 0.7 5.0", b"ElementSpacing = 0.7 0.7 0", "spacing of an axis is zero"),
        (b"ElementDataFile", b"ElementDateFile", "header of the file cannot be read"),
    ],
)
def test_a_damaged_metaimage_is_refused_with_what_is_wrong(tmp_path, old, new, message):
    volume = Volume(STORED.astype(np.int16), Geometry.from_spacing((2, 3, 4), (5.0, 0.7, 0.7)))
    whole = write(volume, tmp_path / "a.mha").read_bytes()
    assert old in whole
    (tmp_path / "b.mha").write_bytes(whole.replace(old, new))
    with pytest.raises(VolumeError, match=message):
        read(tmp_path / "b.mha")


def test_paths_that_hold_no_volume_are_refused(tmp_path):
    (tmp_path / "empty.nrrd").touch()
    (tmp_path / "text.nii").write_text("this is no volume, though its name says so " * 20)
    (tmp_path / "photo.gz").write_bytes(gzip.compress(b"a photo" * 200))
    for name, message in (
        ("gone.nrrd", "no such file"),
        ("empty.nrrd", "file is empty"),
        ("text.nii", "no volume that CycleINR can read"),
        ("photo.gz", "no volume that CycleINR can read"),
    ):
        with pytest.raises(VolumeError, match=message):
            read(tmp_path / name)
    with pytest.raises(RequestError, match="Only DICOM holds series"):
        read(write(random_volume(), tmp_path / "a.nrrd"), series="1.2")
    assert list_series(tmp_path / "a.nrrd") == []


def mutated(raw: bytes, rng: np.random.Generator, head: int) -> bytes:
    """Up to three bytes of the header replaced, dropped or added."""
    data = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, min(head, len(data))))
        how = rng.integers(0, 3)
        if how == 0:
            data[at] = rng.integers(0, 256)
        elif how == 1:
            del data[at : at + int(rng.integers(1, 9))]
        else:
            data[at:at] = rng.integers(32, 127, int(rng.integers(1, 5)), dtype=np.uint8).tobytes()
    return bytes(data)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.nii", "a.nii.gz", "IMG0001.dcm", "mf.dcm"])
def test_a_header_damaged_anywhere_is_read_or_refused_but_never_breaks(tmp_path, name):
    dicom = {path.name: path for path in DATA.glob("dicom_ct*/*.dcm")}
    raw = (dicom.get(name) or write(random_volume(), tmp_path / name)).read_bytes()
    rng = np.random.default_rng(len(name))
    packed = name.endswith(".gz")
    whole = gzip.decompress(raw) if packed else raw
    refused = 0
    (tmp_path / "damaged").mkdir()
    for _ in range(60):
        damaged = mutated(whole, rng, 352 if ".nii" in name else 600 if name[0] == "a" else len(whole))
        (tmp_path / "damaged" / name).write_bytes(gzip.compress(damaged) if packed else damaged)
        try:
            read(tmp_path / "damaged" / name)
        except CycleINRError as error:
            assert type(error) in (VolumeError, ResourceError)
            refused += 1
    assert refused > 10


def test_reading_and_writing_say_nothing_on_their_own(tmp_path, capfd):
    for source in [*DATA.glob("*.nrrd"), DATA / "dicom_ct_tiny", DATA / "dicom_mr_rescale_per_slice"]:
        for extension in EXTENSIONS:
            write(read(source), tmp_path / f"{source.stem}{extension}")
    assert capfd.readouterr() == ("", "")


def test_a_message_is_one_line(tmp_path):
    with pytest.raises(VolumeError) as caught:
        read(nrrd(tmp_path / "a.nrrd", STORED.tobytes(), sizes="4 3 3"))
    assert re.fullmatch(r"[^\n]+\. Found: [^\n]+\. Next: [^\n]+\.", str(caught.value))


# --- the bundled scans ----------------------------------------------------------------------------------------
def test_the_bundled_scans_are_anisotropic_usable_and_told_in_their_readme():
    folder = DATA.parent.parent / "Resources" / "SampleData"
    scans = {path.name: read(path) for path in folder.glob("*.nrrd")}
    assert len(scans) == 2
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6
    for name, volume in scans.items():
        check_usable(volume)
        assert volume.spacing_mm[0] > 4 * max(volume.spacing_mm[1:])
        assert volume.thickness_mm is not None
        assert f"`{name}`" in (folder / "README.md").read_text()
        assert name in (folder / "LICENSES.txt").read_text()
    assert {guess_modality(volume) for volume in scans.values()} == {"CT", "MR"}


def test_every_scan_of_the_tests_states_its_source_and_license():
    told = (DATA / "README.md").read_text()
    texts = (DATA / "LICENSES.txt").read_text()
    for path in DATA.iterdir():
        if path.suffix not in (".md", ".txt"):
            assert f"`{path.name}" in told
            assert path.name in texts


# --- writing, refused -----------------------------------------------------------------------------------------
def test_an_output_that_cannot_be_is_refused_before_any_computing(tmp_path):
    source = write(random_volume(), tmp_path / "a.nrrd")
    (tmp_path / "soft.nrrd").symlink_to(source)
    os.link(source, tmp_path / "hard.nrrd")
    sheared = Geometry((2, 3, 4), np.array([[1, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 5, 0], [0, 0, 0, 1]]))
    for path, options, message in (
        ("b.png", {}, r"extension.*must be .nrrd, .nii.gz, .nii or .mha. Found: b.png. Next: name it b.nrrd"),
        ("b", {}, "extension.*must be"),
        (".nrrd", {}, "extension.*must be"),
        ("gone/b.nrrd", {}, "folder of the output does not exist"),
        ("a.nrrd", {}, "output exists"),
        ("a.nrrd", {"overwrite": True, "inputs": [source]}, "output is the input"),
        ("soft.nrrd", {"overwrite": True, "inputs": [source]}, "output is the input"),
        ("hard.nrrd", {"overwrite": True, "inputs": [source]}, "output is the input"),
        (".", {}, "output is a folder"),
        ("b.nii.gz", {"geometry": sheared}, "sheared.*write .nrrd"),
        ("a.nrrd", {"dicom": True}, "must be a folder"),
        (".", {"dicom": True}, "not empty"),
        (".", {"dicom": True, "overwrite": True}, "holds more than DICOM"),
        ("new", {"dicom": True, "inputs": [tmp_path]}, "lie in each other"),
    ):
        with pytest.raises(RequestError, match=message):
            check_output(tmp_path / path, **options)
    check_output(tmp_path / "a.nrrd", overwrite=True)
    check_output(tmp_path / "new", dicom=True)
    check_output(tmp_path / "b.nrrd", geometry=sheared)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write(random_volume(), tmp_path / "a.nrrd")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    for failure, error in (
        (full, ResourceError),
        (lambda *_: (_ for _ in ()).throw(KeyboardInterrupt), KeyboardInterrupt),
    ):
        monkeypatch.setitem(files.ENCODERS, ".nrrd", failure)
        with pytest.raises(error):
            write(random_volume("uint8"), path, overwrite=True)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["a.nrrd"]


def test_a_disk_that_takes_no_more_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for extension in EXTENSIONS:
            with pytest.raises(ResourceError, match="cannot be written"):
                write(random_volume("float64", (20, 30, 40)), tmp_path / f"a{extension}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_read_only_is_told_before_any_computing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as a user who may write everywhere
    with pytest.raises(ResourceError, match="read-only"):
        check_output(tmp_path / "a.nrrd")


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    path = write(random_volume(), tmp_path / "a.mha")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_zlib_stream_without_its_end_is_noticed():
    assert zlib.decompressobj(47).decompress(zlib.compress(b"abc")[:-2]) == b"abc"  # why `_inflated` looks for the end


# --- the developers' odd scans --------------------------------------------------------------------------------
def test_every_odd_file_is_refused_or_right(shared_data):
    expected = {"nifti_4d_nibabel": "4D, 2 volumes"}
    for path in sorted((shared_data / "odd").glob("*.*")):
        reason = next((text for name, text in expected.items() if path.name.startswith(name)), None)
        if reason:
            with pytest.raises(VolumeError, match=reason):
                read(path)
            continue
        volume = read(path)
        values, seen = seen_by_itk(path)
        assert np.array_equal(volume.values, values)
        assert volume.values.dtype == values.dtype
        assert seen.same_place_as(volume.geometry) != ("sheared" in path.name)


def test_a_nifti_matrix_is_the_sform_of_its_raw_header(shared_data):
    paths = [p for p in sorted((shared_data / "odd").glob("nifti*.nii.gz")) if "4d" not in p.name]
    assert len(paths) >= 6
    for path in paths:
        raw = gzip.decompress(path.read_bytes())[:348]
        code = struct.unpack_from("<h", raw, 254)[0]
        matrix = np.reshape(struct.unpack_from("<12f", raw, 280), (3, 4))
        assert code > 0
        assert np.array_equal(read(path).geometry.ijk_to_ras[:3], matrix)


def test_one_image_in_four_axis_orders_is_one_image(shared_data):
    volumes = [read(path) for path in sorted((shared_data / "odd").glob("nifti_mr_orient_*"))]
    assert len(volumes) == 4
    assert len({volume.values.shape for volume in volumes}) > 1
    assert {volume.geometry.is_left_handed for volume in volumes} == {True, False}
    first = volumes[0]
    inside = (
        np.array(np.meshgrid(*[np.arange(2, n - 2, 9) for n in first.values.shape], indexing="ij")).reshape(3, -1).T
    )
    ras = first.geometry.ras_of(inside)
    for other in volumes[1:]:
        there = other.geometry.kji_of(ras)
        assert np.abs(there - np.rint(there)).max() < 1e-2
        assert np.array_equal(other.values[tuple(np.rint(there).astype(int).T)], first.values[tuple(inside.T)])
