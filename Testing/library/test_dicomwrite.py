"""A result becomes a new series of the same study, and comes back to its place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import make_series
from hypothesis import given, settings
from hypothesis import strategies as st
from test_files import in_place
from test_geometry import geometries

from CycleINRLib.cli.main import main
from CycleINRLib.errors import RequestError, ResourceError, VolumeError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.io import dicomwrite
from CycleINRLib.io.dicomwrite import write_series
from CycleINRLib.io.files import read
from CycleINRLib.jobs import UpsampleJob

DATA = Path(__file__).resolve().parent.parent / "data"
REPORT = {"z_scale": 3.5, "consistency": "keep", "model": {"name": "light", "sha256": "abc"}, "job": {}}


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def test_the_series_joins_the_study_of_its_source(tmp_path):
    source = make_series(tmp_path / "source")
    write_series(read(source), source, tmp_path / "out", REPORT)
    before, after = headers(source)[0], headers(tmp_path / "out")
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "WindowCenter", "WindowWidth"):
        assert {str(one.get(tag)) for one in after} == {str(before.get(tag))}
    assert {one.ImageType[0] + one.ImageType[1] for one in after} == {"DERIVEDSECONDARY"}
    assert len({one.SeriesInstanceUID for one in after}) == 1
    assert after[0].SeriesInstanceUID != before.SeriesInstanceUID
    assert len({one.SOPInstanceUID for one in after}) == 5
    assert [one.InstanceNumber for one in after] == [1, 2, 3, 4, 5]
    for word in ("CycleINR", "z_scale 3.5", "light", "abc"):
        assert word in after[0].DerivationDescription


@pytest.mark.parametrize("name", ["dicom_ct_tiny", "dicom_ct_enhanced_tiny/mf.dcm", "dicom_mr_rescale_per_slice"])
def test_real_series_come_back_in_value_and_matrix(tmp_path, name):
    volume = read(DATA / name)
    back = read(write_series(volume, DATA / name, tmp_path / "out", REPORT))
    assert back.geometry.same_place_as(volume.geometry, 1e-6)
    step = 0 if volume.values.dtype.kind in "iu" else float(np.ptp(volume.values)) / 65535
    assert np.abs(back.values.astype(float) - volume.values).max() <= 0.51 * step
    assert (back.thickness_mm, back.modality) == (volume.thickness_mm, volume.modality)


@settings(max_examples=12)
@given(geometries(), st.integers(0, 2))
def test_voxels_come_back_to_their_own_place(tmp_path_factory, geometry, component):
    geometry = Geometry(tuple(min(n, 6) + 1 for n in geometry.shape), geometry.ijk_to_ras)
    volume = in_place(geometry, component)
    volume = Volume(volume.values, geometry, "MR", slice_axis="k")
    back = read(write_series(volume, None, tmp_path_factory.mktemp("dicom") / "out", {}))
    step = np.ptp(volume.values) / 65535
    assert np.abs(back.values - in_place(back.geometry, component).values).max() <= step + 1e-4
    extent = [
        np.sort(g.ras_of(np.array([[0, 0, 0], [geometry.shape[0] - 1, 0, 0]])), axis=0)
        for g in (geometry, back.geometry)
    ]
    assert np.allclose(*extent, atol=1e-5)


def test_the_stacking_axis_of_the_file_is_the_slice_axis_of_the_volume(tmp_path, thick_mr):
    sideways = thick_mr.slices_back("i")
    back = read(write_series(sideways, None, tmp_path / "out", {}))
    assert back.values.shape == thick_mr.values.shape
    assert np.array_equal(np.sort(back.values, axis=None), np.sort(thick_mr.values, axis=None))
    assert back.spacing_mm == pytest.approx(thick_mr.spacing_mm)
    assert back.thickness_mm == pytest.approx(thick_mr.thickness_mm)


def test_integers_that_fit_are_stored_as_they_are(tmp_path, thick_ct, thick_mr):
    for name, volume in (("ct", thick_ct), ("mr", thick_mr)):
        back = read(write_series(volume, None, tmp_path / name, {}))
        assert np.array_equal(back.values, volume.values)
        assert back.values.dtype == volume.values.dtype
        assert headers(tmp_path / name)[0].get("RescaleSlope", 1) == 1


def test_a_tilted_stack_steps_obliquely_and_in_plane_shear_is_refused(tmp_path):
    tilted = Geometry((4, 5, 6), np.array([[1, 0, 0, 7], [0, 1, 1.5, 8], [0, 0, 5, 9], [0, 0, 0, 1.0]]))
    skewed = Geometry((4, 5, 6), np.array([[1, 0.3, 0, 7], [0, 1, 0, 8], [0, 0, 5, 9], [0, 0, 0, 1.0]]))
    values = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    back = read(write_series(Volume(values, tilted, "CT", slice_axis="k"), None, tmp_path / "out", {}))
    assert back.geometry.is_sheared
    with pytest.raises(RequestError, match="not at right angles.*write .nrrd"):
        write_series(Volume(values, skewed, "CT", slice_axis="k"), None, tmp_path / "no", {})
    assert not (tmp_path / "no").exists()


# --- what it was made from ----------------------------------------------------------------------------------------
SOURCES = ["dicom_ct_tiny", "dicom_ct_enhanced_tiny/mf.dcm", "dicom_mr_jpegls", "dicom_mr_rescale_per_slice"]


def finer(volume: Volume) -> Volume:
    """Each slice twice, at half the spacing."""
    volume = volume.slices_first("k")
    geometry = volume.geometry.resliced(2.0, "k")
    return volume.with_values(np.repeat(volume.values, 2, axis=0)[: geometry.shape[0]], geometry)


def references(dataset: pydicom.Dataset) -> list[tuple[str, int | None]]:
    """(image, frame) of each source; one item may name several frames of a file."""
    found = []
    for item in dataset.SourceImageSequence:
        frames = item.get("ReferencedFrameNumber")
        for frame in [frames] if frames is None or isinstance(frames, int) else frames:
            found.append((str(item.ReferencedSOPInstanceUID), frame))
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_each_slice_names_the_images_that_it_lies_between(tmp_path, name):
    volume = read(DATA / name)
    after = headers(write_series(finer(volume), DATA / name, tmp_path / "out", REPORT))
    on, between = [references(one) for one in after[::2]], [references(one) for one in after[1::2]]
    assert all(len(found) == 1 for found in on) and all(len(found) == 2 for found in between)
    assert len({found[0] for found in on}) == len(volume.values)
    for n, found in enumerate(between):
        assert set(found) == {on[n][0], on[n + 1][0]}
    known = {str(one.SOPInstanceUID) for one in map(pydicom.dcmread, files_of(DATA / name))}
    assert {uid for found in on for uid, _ in found} <= known
    assert after[0].DerivationCodeSequence[0].CodeMeaning == "Spatial resampling"


def files_of(path: Path) -> list[Path]:
    return sorted(path.glob("*.dcm")) if path.is_dir() else [path]


# --- one multi-frame file -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_multi_frame_file_comes_back_in_value_and_matrix(tmp_path, name, compress):
    volume = finer(read(DATA / name))
    folder = write_series(volume, DATA / name, tmp_path / "out", REPORT, enhanced=True, compress=compress)
    (file,) = folder.iterdir()
    back, header = read(file), pydicom.dcmread(file)
    assert back.geometry.same_place_as(volume.geometry, 1e-5)
    step = 0 if volume.values.dtype.kind in "iu" else float(np.ptp(volume.values)) / 65535
    assert np.abs(back.values.astype(float) - volume.values).max() <= 0.51 * step
    thickness = volume.thickness_mm or volume.spacing_mm[0]  # a multi-frame file must tell one
    assert (back.thickness_mm, back.modality) == (pytest.approx(thickness), volume.modality)
    assert header.SOPClassUID.name.startswith("Enhanced") and header.NumberOfFrames == len(volume.values)
    frames = header.PerFrameFunctionalGroupsSequence
    assert [len(references(frame.DerivationImageSequence[0])) for frame in frames][:3] == [1, 2, 1]


def test_compressed_slices_are_smaller_and_the_same(tmp_path, thick_ct):
    plain, packed = (
        write_series(thick_ct, None, tmp_path / name, {}, compress=name == "packed") for name in ("plain", "packed")
    )
    assert np.array_equal(read(packed).values, read(plain).values)
    assert sum(f.stat().st_size for f in packed.iterdir()) < sum(f.stat().st_size for f in plain.iterdir())
    assert headers(packed)[0].file_meta.TransferSyntaxUID.name == "RLE Lossless"


@pytest.mark.parametrize("form", [{}, {"enhanced": True}, {"enhanced": True, "compress": True}], ids=str)
def test_many_slices_are_written_one_by_one(tmp_path, form):
    values = np.zeros((60, 128, 128), np.int16)
    values[:, 12, 12] = np.arange(60)
    volume = Volume(values, Geometry.from_spacing(values.shape, (1, 1, 1)), "CT", slice_axis="k")
    write_series(
        volume.with_values(values[:3], Geometry.from_spacing((3, 128, 128), (1, 1, 1))), None, tmp_path / "a", {}
    )
    tracemalloc.start()
    write_series(volume, None, tmp_path / "out", {}, **form)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * values.nbytes
    assert np.array_equal(read(tmp_path / "out").values, values)


def test_a_form_of_dicom_without_dicom_is_refused():
    for form in ("enhanced", "compress"):
        with pytest.raises(RequestError, match=f"--{form}.*add --dicom"):
            UpsampleJob(**{form: True})


# --- what stays true of the source ------------------------------------------------------------------------------
def changed(folder: Path, **values) -> Path:
    def change(_, dataset):
        for name, value in values.items():
            setattr(dataset, name, value)

    return make_series(folder, change=change)


FORMS = pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])


@FORMS
def test_padding_window_and_loss_are_kept_in_the_new_rescale(tmp_path, enhanced):
    facts = {"PixelPaddingValue": 24, "WindowCenter": 55, "LossyImageCompression": "01", "PatientPosition": "FFS"}
    source = changed(tmp_path / "source", **facts, LossyImageCompressionRatio=12, SeriesDescription="x" * 64)
    report = {**REPORT, "noise": "renew"}
    header = headers(write_series(read(source), source, tmp_path / "out", report, enhanced=enhanced))[0]
    group = header.SharedFunctionalGroupsSequence[0] if enhanced else None
    rescale, window = (
        group[n][0] if group else header for n in ("PixelValueTransformationSequence", "FrameVOILUTSequence")
    )
    assert header.PixelPaddingValue * rescale.RescaleSlope + rescale.RescaleIntercept == 24 - 1024
    assert (window.WindowCenter, header.PatientPosition, header.LossyImageCompression) == (55, "FFS", "01")
    assert header.LossyImageCompressionRatio == 12
    assert header.SeriesDescription.endswith("x CycleINR, noise synthetic") and len(header.SeriesDescription) == 64
    assert header.ContentQualification == "RESEARCH"


def test_a_series_number_that_is_none_does_not_stop_the_writing(tmp_path):
    source = make_series(tmp_path / "source")
    for file in source.iterdir():
        file.write_bytes(file.read_bytes().replace(b"\x20\x00\x11\x00IS", b"\x20\x00\x11\x00LO"))
        header = pydicom.dcmread(file)
        header.add_new("SeriesNumber", "LO", "A12")
        header.save_as(file)
    assert headers(write_series(read(source), source, tmp_path / "out", REPORT))[0].SeriesNumber == 1000


def test_an_inverted_series_stays_inverted_and_one_file_of_it_is_refused(tmp_path, capsys):
    source = changed(tmp_path / "source", PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    for file in source.iterdir():
        header = pydicom.dcmread(file)
        header.RescaleIntercept = 0
        header.save_as(file)
    volume = read(source)
    out = headers(write_series(volume, source, tmp_path / "out", REPORT))
    assert {(one.PhotometricInterpretation, one.BitsStored) for one in out} == {("MONOCHROME1", 12)}
    assert np.array_equal(read(tmp_path / "out").values, volume.values)
    asked = ["upsample", str(source), str(tmp_path / "no"), "--z-scale", "2", "--dicom", "--enhanced"]
    assert main(asked) == 2
    told = capsys.readouterr().err
    assert "cannot be stored inverted. Found: MONOCHROME1. Next: leave out --enhanced" in told and "%" not in told
    assert not (tmp_path / "no").exists()


def test_slices_that_cross_those_of_the_source_name_all_of_them(tmp_path):
    source = make_series(tmp_path / "source")
    sideways = replace(read(source), slice_axis="i")
    for enhanced in (False, True):
        header = headers(write_series(sideways, source, tmp_path / f"{enhanced}", REPORT, enhanced=enhanced))[0]
        holder = header.SharedFunctionalGroupsSequence[0].DerivationImageSequence[0] if enhanced else header
        known = {str(one.SOPInstanceUID) for one in headers(source)}
        assert {uid for uid, _ in references(holder)} == known and len(known) == 5


def test_one_file_of_an_enhanced_source_keeps_what_its_frames_say(tmp_path):
    before = pydicom.dcmread(DATA / "dicom_ct_enhanced_tiny" / "mf.dcm")
    details, anatomy, region = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    details.KVP = 110
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "69536005", "SCT", "Head"
    anatomy.FrameLaterality, anatomy.AnatomicRegionSequence = "U", [region]
    before.SharedFunctionalGroupsSequence[0].CTXRayDetailsSequence = [details]
    before.PerFrameFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    before.save_as(tmp_path / "mf.dcm")
    volume = read(tmp_path / "mf.dcm")
    for enhanced in (True, False):
        folder = write_series(volume, tmp_path / "mf.dcm", tmp_path / f"{enhanced}", REPORT, enhanced=enhanced)
        header = headers(folder)[0]
        if not enhanced:
            assert header.KVP == 110
            continue
        kept = header.SharedFunctionalGroupsSequence[0]
        assert kept.CTXRayDetailsSequence[0].KVP == 110
        assert kept.FrameAnatomySequence[0].AnatomicRegionSequence[0].CodeMeaning == "Head"
        listed = header.SourceImageEvidenceSequence[0].ReferencedSeriesSequence[0]
        assert listed.SeriesInstanceUID == before.SeriesInstanceUID
        assert listed.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID


# --- as others read it --------------------------------------------------------------------------------------------
def errors_of(file: Path) -> set[str]:
    told = subprocess.run(
        ["dciodvfy", "-new", str(file)], capture_output=True, text=True, errors="replace", check=False
    )
    lines = (told.stdout + told.stderr).splitlines()
    return {line.strip() for line in lines if line.startswith("Error")}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (dicom3tools)")
@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("name", SOURCES)
def test_the_validator_finds_no_error_that_the_source_has_not(tmp_path, name, enhanced):
    folder = write_series(finer(read(DATA / name)), DATA / name, tmp_path / "out", REPORT, enhanced=enhanced)
    known = set().union(*map(errors_of, files_of(DATA / name)))
    assert errors_of(sorted(folder.iterdir())[-1]) <= known


def test_an_age_that_breaks_the_rules_is_left_behind(tmp_path):
    source = make_series(tmp_path / "source")
    for file in source.iterdir():
        header = pydicom.dcmread(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header.add_new("PatientAge", "AS", "0Y")
        header.save_as(file)
    assert "PatientAge" not in headers(write_series(read(source), source, tmp_path / "out", REPORT))[0]


def matrix_in_itk(image) -> np.ndarray:
    """(4, 4) voxel to RAS."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1, 1, 1]) @ matrix


@pytest.mark.parametrize("form", [{}, {"enhanced": True}, {"enhanced": True, "compress": True}], ids=str)
def test_itk_reads_the_same_values_at_the_same_positions(tmp_path, thick_ct, form):
    sitk = pytest.importorskip("SimpleITK")
    folder = write_series(thick_ct, None, tmp_path / "out", {}, **form)
    names = sorted(map(str, folder.iterdir()))
    image = sitk.ReadImage(names if len(names) > 1 else names[0])
    back = read(folder)
    assert np.array_equal(sitk.GetArrayFromImage(image), back.values)
    assert np.array_equal(np.sort(back.values, axis=None), np.sort(thick_ct.values, axis=None))
    assert np.allclose(matrix_in_itk(image), back.geometry.ijk_to_ras, atol=1e-4)


def test_itk_places_each_slice_of_a_tilted_series_alike(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    tilted = Geometry((4, 5, 6), np.array([[1, 0, 0, 7], [0, 1, 1.5, 8], [0, 0, 5, 9], [0, 0, 0, 1.0]]))
    values = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    folder = write_series(Volume(values, tilted, "CT", slice_axis="k"), None, tmp_path / "out", {})
    found = read(folder)
    for k, file in enumerate(sorted(folder.iterdir())):
        image = sitk.ReadImage(str(file))
        assert np.allclose(matrix_in_itk(image)[:3, 3], found.geometry.ras_of(np.array([[k, 0, 0]]))[0], atol=1e-4)
        assert np.array_equal(sitk.GetArrayFromImage(image)[0], found.values[k])


def test_a_source_that_is_no_dicom_gives_a_study_of_its_own(tmp_path, thick_mr):
    after = headers(write_series(thick_mr, DATA / "mr_thin.nrrd", tmp_path / "out", REPORT))
    assert after[0].StudyInstanceUID
    assert str(after[0].PatientName) == ""
    assert json.loads(after[0].to_json())["00080060"]["Value"] == ["MR"]


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, thick_mr, monkeypatch):
    source = make_series(tmp_path / "source")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").touch()
    pet = Volume(thick_mr.values, thick_mr.geometry, "PT")
    broken = thick_mr.with_values(np.full(thick_mr.values.shape, np.nan))
    for volume, folder, error, message in (
        (thick_mr, "source", RequestError, "lie in each other"),
        (thick_mr, "source/out", RequestError, "lie in each other"),
        (thick_mr, "full", RequestError, "not empty"),
        (thick_mr, "gone/out", RequestError, "does not exist"),
        (pet, "out", RequestError, "CT and MR only. Found: modality PT"),
        (broken, "out", VolumeError, "NaN"),
    ):
        with pytest.raises(error, match=message):
            write_series(volume, source, tmp_path / folder, {})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dicomwrite, "_put_pixels", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_series(thick_mr, source, tmp_path / "out", {})
    assert sorted(os.listdir(tmp_path)) == ["full", "source"]


def test_an_older_series_is_replaced_whole_where_that_is_asked_for(tmp_path, thick_mr, monkeypatch):
    folder = write_series(thick_mr, None, tmp_path / "out", {})
    uid = headers(folder)[0].SeriesInstanceUID
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dicomwrite, "_put_pixels", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        write_series(thick_mr, None, folder, {}, overwrite=True)
    assert headers(folder)[0].SeriesInstanceUID == uid
    write_series(thick_mr, None, folder, {}, overwrite=True)
    assert headers(folder)[0].SeriesInstanceUID != uid
    assert os.listdir(tmp_path) == ["out"]


def test_a_modality_and_a_character_set_that_are_not_stated_are_made_up_for(tmp_path):
    def spoil(n: int, dataset: pydicom.Dataset) -> None:
        del dataset.Modality
        if "SpecificCharacterSet" in dataset:
            del dataset.SpecificCharacterSet
        dataset.SeriesDescription, dataset.PatientName = "Sch\u00e4del", "M\u00fcller"

    source = make_series(tmp_path / "source", change=spoil)
    volume = read(source)
    assert (volume.modality, volume.unit) == ("CT", "HU")
    found = headers(write_series(volume, source, tmp_path / "out", REPORT))[0]
    assert (found.Modality, found.SpecificCharacterSet) == ("CT", "ISO_IR 100")
    assert found.SeriesDescription == "Sch\u00e4del CycleINR" and str(found.PatientName) == "M\u00fcller"


# --- what Slicer exports --------------------------------------------------------------------------------------
def slicer_export(folder: Path, volume: Volume) -> Path:
    """As Slicer's CreateDICOMSeries writes it through ITK and GDCM: one dictionary for all slices, numbers of six
    digits, no word about the acquisition."""
    sitk = pytest.importorskip("SimpleITK")
    folder.mkdir()
    lps = volume.geometry.to_lps()
    directions, spacing = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0), np.linalg.norm(lps[:3, :3], axis=0)
    words = {
        "0008|0005": "ISO_IR 192",
        "0008|0016": {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}[volume.modality],
        "0008|0008": {"CT": "ORIGINAL\\PRIMARY\\AXIAL", "MR": "ORIGINAL\\PRIMARY\\MPR"}[volume.modality],
        "0028|1054": "HU" if volume.modality == "CT" else "",
        "0010|0010": "M\u00fcller^J\u00f6rg", "0010|0020": "ABCDEF", "0010|0040": "", "0010|0030": "",
        "0020|0010": "WXYZ", "0008|0050": "", "0008|0020": "20260101", "0008|0030": "120000", "0008|0090": "",
        "0018|5100": "HFS", "0020|1040": "", "0008|0060": volume.modality, "0020|0011": "1",
        "0008|103e": "No series description",
        "0020|000d": "1.2.826.0.1.3680043.8.1", "0020|000e": "1.2.826.0.1.3680043.8.2",
        "0020|0052": "1.2.826.0.1.3680043.8.3", "0018|0050": f"{spacing[2]:.6g}",
        "0028|1050": "40", "0028|1051": "400",
    }  # fmt: skip
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for n, plane in enumerate(volume.values):
        image = sitk.GetImageFromArray(plane)
        image.SetSpacing(spacing[:2].tolist())
        own = {
            "0020|0013": str(n + 1),
            "0020|0032": "\\".join(f"{mm:.6g}" for mm in (lps @ [0, 0, n, 1])[:3]),
            "0020|0037": "\\".join(f"{one:.6g}" for one in directions[:, :2].T.ravel()),
        }
        for tag, word in {**words, **own}.items():
            image.SetMetaData(tag, word)
        writer.SetFileName(str(folder / f"IMG{n + 1:04d}.dcm"))
        writer.Execute(image)
    return folder


@pytest.mark.parametrize(("modality", "kind"), [("CT", np.int16), ("MR", np.int16), ("MR", np.uint16)])
@pytest.mark.parametrize("turn_deg", [0.0, 17.3])
def test_a_series_that_slicer_exported_is_read_and_goes_back(tmp_path, modality, kind, turn_deg):
    a = np.deg2rad(turn_deg)
    axes = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = axes @ axes[[0, 2, 1]] * [0.703125, 0.703125, 4.3]
    matrix[:3, 3] = [-123.456789, -98.7654321, 1017.13579]
    values = (np.random.default_rng(3).integers(-1024 if kind == np.int16 else 0, 3000, (6, 20, 24))).astype(kind)
    volume = Volume(values, Geometry(values.shape, matrix), modality, slice_axis="k")
    folder = slicer_export(tmp_path / "export", volume)
    found = read(folder)
    backwards = found.geometry.to_lps()[:3, 2] @ volume.geometry.to_lps()[:3, 2] < 0  # a left-handed scan
    assert np.array_equal(found.values, volume.values[::-1] if backwards else volume.values)
    corners = np.array([(k, j, i) for k in (0, 5) for j in (0, 19) for i in (0, 23)])
    own = corners if not backwards else [5, 0, 0] - corners * [1, -1, -1]
    assert (
        np.abs(found.geometry.ras_of(own) - volume.geometry.ras_of(corners)).max() < 6e-3
    )  # of six digits, at 1017 mm
    assert (found.modality, found.unit) == (modality, "HU" if modality == "CT" else "stored")
    assert found.thickness_mm == pytest.approx(4.3) and found.warnings == ()
    back = read(write_series(found, folder, tmp_path / "out", REPORT))
    assert np.array_equal(back.values, found.values) and back.geometry.same_place_as(found.geometry, 1e-6)
    before, after = headers(folder)[0], headers(tmp_path / "out")[0]
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID"):
        assert str(after[tag].value) == str(before[tag].value)
