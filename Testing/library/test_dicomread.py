"""DICOM series become volumes by position, exactly, or are refused with the slice that is to blame."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import SHAPE, make_series, pixels_of, put
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from CycleINRLib.errors import MissingPackageError, RequestError, VolumeError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.io.files import list_series, read

DATA = Path(__file__).resolve().parent.parent / "data"
EXPECTED = np.stack([pixels_of(n) for n in range(5)]).astype(np.int16) - 1024


def seen_by_itk(path: Path) -> tuple[np.ndarray, Geometry]:
    """The same through GDCM, from files in the order of their position."""
    sitk = pytest.importorskip("SimpleITK")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    names = [str(path)] if path.is_file() else list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)))
    image = sitk.ReadImage(names if len(names) > 1 else names[0])
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    values = sitk.GetArrayFromImage(image)
    return values, Geometry.from_lps(values.shape, matrix)


def changed(tag: str, value, at: int | None = None):
    """A change of one tag in slice `at`, or in all."""

    def change(n: int, dataset: Dataset) -> None:
        if at is None or n == at:
            setattr(dataset, tag, value)

    return change


# --- what is right --------------------------------------------------------------------------------------------
def test_slices_are_ordered_by_position_whatever_their_names_and_numbers(tmp_path):
    folder = make_series(tmp_path / "a", name=lambda n: f"IM{(7 * n + 3) % 5}", change=changed("InstanceNumber", 1))
    volume = read(folder)
    assert np.array_equal(volume.values, EXPECTED)
    assert volume.values.dtype == np.int16
    assert (volume.modality, volume.unit, volume.slice_axis, volume.name) == ("CT", "HU", "k", "a")


def test_the_matrix_is_that_of_the_tags(tmp_path):
    def oblique(n: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [0.8, 0.6, 0, 0, 0, -1]
        dataset.ImagePositionPatient = [10 - 0.6 * 3 * n, 20 + 0.8 * 3 * n, 30]
        dataset.PixelSpacing = [0.5, 0.7]  # between rows, between columns

    volume = read(make_series(tmp_path / "a", change=oblique))
    first, second = volume.geometry.ras_of(np.array([[0, 0, 0], [1, 2, 3]]))
    descending = -1 if volume.values[0, 0, 0] != EXPECTED[0, 0, 0] else 1  # normal is (-0.6, 0.8, 0)
    assert descending == 1
    assert np.allclose(first, [-10, -20, 30])
    assert np.allclose(second - first, [-(-1.8 + 3 * 0.7 * 0.8), -(2.4 + 3 * 0.7 * 0.6), -2 * 0.5])
    assert np.allclose(volume.spacing_mm, (3, 0.5, 0.7))
    assert not volume.geometry.is_left_handed


def test_thickness_comes_from_its_tag_and_spacing_from_the_positions(tmp_path):
    def gap(n: int, dataset: Dataset) -> None:
        dataset.SliceThickness = 4
        dataset.SpacingBetweenSlices = 99

    volume = read(make_series(tmp_path / "a", step=(0, 0, 5), change=gap))
    assert (volume.thickness_mm, volume.spacing_mm[0]) == (4.0, 5.0)
    assert read(make_series(tmp_path / "b", change=changed("SliceThickness", None))).thickness_mm is None


def test_gantry_tilt_is_kept_as_exact_shear_and_told_in_degrees(tmp_path):
    tilt = np.deg2rad(17)

    def tilted(n: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, round(np.cos(tilt), 13), round(-np.sin(tilt), 13)]

    volume = read(make_series(tmp_path / "a", step=(0, 0, 5), change=tilted))
    assert volume.geometry.is_sheared
    assert "17.0 degrees" in volume.warnings[0]
    k = np.array([[n, 0, 0] for n in range(5)])
    assert np.allclose(volume.geometry.ras_of(k), [[0, 0, 5 * n] for n in range(5)], atol=1e-9)
    assert np.allclose(volume.geometry.directions[:, 1], [0, -np.cos(tilt), -np.sin(tilt)])


def test_classic_and_legacy_enhanced_hold_the_same_scan():
    classic, enhanced = read(DATA / "dicom_ct_tiny"), read(DATA / "dicom_ct_enhanced_tiny" / "mf.dcm")
    assert np.array_equal(classic.values, enhanced.values)
    assert classic.geometry.same_place_as(enhanced.geometry, 1e-6)
    assert classic.thickness_mm == enhanced.thickness_mm == 2.5


@pytest.mark.parametrize("name", ["dicom_ct_tiny", "dicom_ct_enhanced_tiny/mf.dcm", "dicom_mr_rescale_per_slice"])
def test_gdcm_sees_the_same_values_and_matrix(name):
    volume = read(DATA / name)
    values, seen = seen_by_itk(DATA / name)
    assert volume.geometry.same_place_as(seen, 1e-3)
    assert np.allclose(volume.values, values, rtol=1e-5)


def test_each_slice_is_rescaled_by_its_own_tags(tmp_path):
    def own(n: int, dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = n + 1, -n

    values = read(make_series(tmp_path / "whole", change=own)).values
    assert values.dtype.kind in "iu"
    for n in range(5):
        assert np.array_equal(values[n], pixels_of(n).astype(int) * (n + 1) - n)
    real = read(DATA / "dicom_mr_rescale_per_slice").values
    assert real.dtype == np.float32


def test_a_slice_stands_for_its_series_and_a_multi_frame_file_for_itself(tmp_path):
    folder = make_series(tmp_path / "a")
    make_series(folder, 2, name="other{}".format, uid="9.9")
    assert np.array_equal(read(folder / "003.dcm").values, EXPECTED)
    shutil.copy(DATA / "dicom_ct_enhanced_tiny" / "mf.dcm", folder / "mf")
    assert read(folder / "mf").values.shape == (3, 38, 23)


def test_folders_below_are_searched_and_hidden_ones_are_not(tmp_path):
    make_series(tmp_path / "a" / "DICOM" / "SE1")
    make_series(tmp_path / "a" / ".trash", uid="9.9")
    assert np.array_equal(read(tmp_path / "a").values, EXPECTED)


def test_one_of_several_series_is_chosen_by_its_uid_or_the_start_of_it(tmp_path):
    for uid, count in (("1.2.30", 5), ("1.2.31", 3), ("1.2.3", 4)):
        make_series(tmp_path, count, name=(uid + "-{}").format, uid=uid)
    assert [(facts.uid, facts.slices) for facts in list_series(tmp_path)] == [
        ("1.2.30", 5),
        ("1.2.3", 4),
        ("1.2.31", 3),
    ]
    assert read(tmp_path, series="1.2.31").values.shape[0] == 3
    assert read(tmp_path, series="1.2.3").values.shape[0] == 4  # whole, though others start with it
    with pytest.raises(
        VolumeError, match=r"holds 3 series. Found: 1\.2\.30 \(made 1\.2\.30, CT, 5 slices\); .*--series"
    ):
        read(tmp_path)
    with pytest.raises(VolumeError, match="holds 3 series"):
        read(tmp_path, series="1.2")
    with pytest.raises(VolumeError, match="no series 7.*1.2.31"):
        read(tmp_path, series="7")


def test_localizers_reports_and_other_files_in_the_folder_are_left_out(tmp_path):
    folder = make_series(tmp_path / "a")

    def scout(n: int, dataset: Dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    def report(n: int, dataset: Dataset) -> None:
        dataset.Modality = "SR"
        del dataset.PixelData, dataset.Rows, dataset.Columns

    def capture(n: int, dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        del dataset.ImagePositionPatient

    make_series(folder, 1, name="scout{}".format, change=scout)
    make_series(folder, 1, name="report{}".format, change=report, uid="5.5")
    make_series(folder, 1, name="capture{}".format, change=capture, uid="6.6")
    (folder / "README.txt").write_text("the scan of today")
    (folder / "empty").touch()
    assert np.array_equal(read(folder).values, EXPECTED)
    assert len(list_series(folder)) == 1


def test_two_images_at_each_position_are_two_volumes(tmp_path):
    folder = make_series(tmp_path / "a", change=changed("EchoTime", 10))

    def later(n: int, dataset: Dataset) -> None:
        dataset.EchoTime = 80
        put(dataset, pixels_of(n) + 1000)

    make_series(folder, name="b{}".format, change=later)
    with pytest.raises(
        VolumeError, match="4D, 2 volumes.*0: echo time 10, 5 slices; 1: echo time 80, 5 slices.*--frame 0 to 1"
    ):
        read(folder)
    assert np.array_equal(read(folder, frame=0).values, EXPECTED)
    assert np.array_equal(read(folder, frame=1).values, EXPECTED + 1000)
    with pytest.raises(RequestError, match="no volume 2"):
        read(folder, frame=2)


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        ("ImageType", ["DERIVED", "SECONDARY", "AXIAL"], "derived"),
        ("LossyImageCompression", "01", "compressed with loss"),
        ("PhotometricInterpretation", "MONOCHROME1", "inverted"),
    ],
)
def test_doubtful_but_usable_series_carry_a_warning(tmp_path, tag, value, message):
    volume = read(make_series(tmp_path / "a", change=changed(tag, value)))
    assert len(volume.warnings) == 1
    assert message in volume.warnings[0]
    assert read(make_series(tmp_path / "plain")).warnings == ()


def test_compressed_slices_are_decoded_where_the_decoder_is_installed():
    pytest.importorskip("libjpeg")
    values = read(DATA / "dicom_mr_jpegls").values
    assert values.shape == (4, 256, 256)
    assert values.max() == 254


def test_a_missing_decoder_is_named_with_its_package(monkeypatch):
    class Absent:
        is_available = False

    monkeypatch.setattr(pydicom.pixels, "get_decoder", lambda syntax: Absent())
    with pytest.raises(VolumeError, match="JPEG-LS Lossless.*IM-0001-.*install pylibjpeg and pylibjpeg-libjpeg"):
        read(DATA / "dicom_mr_jpegls")


def test_without_pydicom_the_message_names_it_and_other_formats_are_read(monkeypatch):
    for name in ("dicomread", "dicomplanes"):
        monkeypatch.delitem(sys.modules, f"CycleINRLib.io.{name}", raising=False)
        monkeypatch.delattr(f"CycleINRLib.io.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingPackageError, match="pydicom.*NRRD, NIfTI and MHA.*pip install pydicom"):
        read(DATA / "dicom_ct_tiny")
    assert read(DATA / "mr_thin.nrrd").values.shape == (60, 64, 64)


def test_files_without_a_preamble_are_read(tmp_path):
    folder = make_series(tmp_path / "a")
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        plain = Dataset()
        plain.update({element.tag: element for element in dataset})
        pydicom.dcmwrite(file, plain, implicit_vr=True, little_endian=True)
        assert file.read_bytes()[128:132] != b"DICM"
    assert np.array_equal(read(folder).values, EXPECTED)


# --- refusals -------------------------------------------------------------------------------------------------
def moved(at: int, mm: float, across: float = 0.0):
    def change(n: int, dataset: Dataset) -> None:
        x, y, z = dataset.ImagePositionPatient
        if n >= at:
            dataset.ImagePositionPatient = [x + across, y, z + mm]

    return change


def in_slice(at: int, **tags):
    def change(n: int, dataset: Dataset) -> None:
        if n == at:
            for tag, value in tags.items():
                setattr(dataset, tag, value)

    return change


def turned(n: int, dataset: Dataset) -> None:
    if n == 2:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def smaller(n: int, dataset: Dataset) -> None:
    if n == 2:
        put(dataset, pixels_of(n)[:-1])


def color(n: int, dataset: Dataset) -> None:
    put(dataset, np.zeros((*SHAPE, 3), np.uint8))
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0


def cut(n: int, dataset: Dataset) -> None:
    if n == 3:
        dataset.PixelData = dataset.PixelData[:50]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            moved(3, 2.5),
            r"A slice is missing. Found: 5.00 mm between slices 3 and 4 of 5, at 5.00 and 10.00 mm, where 2.50",
        ),
        (moved(4, 0.7), r"spacing is uneven. Found: 3.20 mm between slices 4 and 5 of 5"),
        (moved(3, 0, 3.0), r"do not lie on one line. Found: slice 3 of 5 lies"),
        (moved(4, -2.5), r"A slice is there twice. Found: slice 4 of 4 at 7.50 mm, 003.dcm and 004.dcm"),
        (turned, r"mixed orientations. Found: normals 90.0 degrees apart in 000.dcm and 002.dcm"),
        (
            smaller,
            r"mixed sizes. Found: \(7, 9\) and \(6, 9\) in 000.dcm and 002.dcm: 0: axial, 4 slices; 1: axial, 1 slice",
        ),
        (in_slice(2, PixelSpacing=[0.7, 0.9]), "mixed pixel spacings"),
        (in_slice(2, ImageOrientationPatient=[0, 0, 0, 0, 1, 0]), "no right angle"),
        (color, "no single numbers. Found: RGB in 000.dcm"),
        (changed("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "a mosaic, which holds all slices"),
        (changed("PixelSpacing", [0, 0.7]), "spacing of an axis is zero"),
        (cut, "truncated or damaged. Found: 003.dcm"),
        (in_slice(1, PixelData=b""), "truncated or damaged. Found: 001.dcm"),
        (changed("Modality", "SR"), "holds no DICOM images"),
        (changed("ImagePositionPatient", None), "holds no DICOM images"),
    ],
)
def test_a_series_with_one_thing_wrong_is_refused_with_the_place(tmp_path, change, message):
    with pytest.raises(VolumeError, match=message):
        read(make_series(tmp_path / "a", change=change))


def test_a_real_series_that_lacks_a_slice_is_refused(tmp_path):
    for n, source in enumerate(sorted((DATA / "dicom_mr_rescale_per_slice").iterdir())):
        if n != 2:
            shutil.copy(source, tmp_path)
    read(DATA / "dicom_mr_rescale_per_slice")
    (tmp_path / "extra.dcm").write_bytes((DATA / "dicom_mr_rescale_per_slice" / "001.dcm").read_bytes())
    with pytest.raises(VolumeError, match="there twice"):
        read(tmp_path)
    (tmp_path / "extra.dcm").unlink()
    with pytest.raises(VolumeError, match="missing|uneven"):
        read(
            make_series(tmp_path / "b", 6, change=lambda n, d: setattr(d, "ImagePositionPatient", [0, 0, n + (n > 2)]))
        )


def test_positions_rounded_to_a_tenth_of_a_millimeter_are_an_even_stack(tmp_path):
    def rounded(n: int, dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [0, 0, round(0.625 * n, 1)]

    volume = read(make_series(tmp_path / "a", 20, change=rounded))
    assert volume.spacing_mm[0] == pytest.approx(0.625, abs=0.01)


@pytest.mark.parametrize("count", [4, 12])
@pytest.mark.parametrize("spacing", [0.3, 8.0])
def test_a_missing_slice_is_found_wherever_it_is(tmp_path, count, spacing):
    for lost in {1, count // 2, count - 2}:
        folder = make_series(tmp_path / str(lost), count, step=(0, 0, spacing))
        (folder / f"{lost:03d}.dcm").unlink()
        with pytest.raises(VolumeError, match=f"between slices {lost} and {lost + 1} of {count - 1}"):
            read(folder)


def test_the_folder_one_stands_in_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(make_series(tmp_path / "scan"))
    assert read(".").name == "scan"


def test_the_same_file_twice_is_a_duplicate_even_when_all_are_doubled(tmp_path):
    folder = make_series(tmp_path / "a")
    shutil.copytree(folder, folder / "copy")
    with pytest.raises(VolumeError, match="there twice. Found: slice 1 of 5"):
        read(folder)


def test_a_file_cut_in_its_header_is_refused_or_told_by_name(tmp_path):
    folder = make_series(tmp_path / "a")
    whole = (folder / "004.dcm").read_bytes()
    for length in (200, whole.index(b"\x20\x00\x0e\x00")):  # before the UID of its series: it may be any file
        (folder / "004.dcm").write_bytes(whole[:length])
        assert any("004.dcm" in warning for warning in read(folder).warnings)
        with pytest.raises(VolumeError, match="004.dcm"):
            read(folder / "004.dcm")
    (folder / "004.dcm").write_bytes(whole[: whole.index(b"\x28\x00\x10\x00")])
    with pytest.raises(VolumeError, match="004.dcm"):
        read(folder)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="holds no DICOM images"):
        read(tmp_path)
    (tmp_path / "scan.nrrd").write_text("NRRD0004")
    with pytest.raises(VolumeError, match="holds no DICOM images"):
        read(tmp_path)


def test_a_file_without_an_image_is_refused(tmp_path):
    folder = make_series(tmp_path / "a", 1, change=changed("Modality", "SR"))
    with pytest.raises(VolumeError, match="no image with a place"):
        read(folder / "000.dcm")


def enhanced(folder: Path, change) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    dataset = pydicom.dcmread(DATA / "dicom_ct_enhanced_tiny" / "mf.dcm")
    change(dataset)
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.save_as(folder / "mf.dcm")
    return folder / "mf.dcm"


def test_frames_of_an_enhanced_file_are_ordered_by_position_too(tmp_path):
    def shuffle(dataset: Dataset) -> None:
        groups = dataset.PerFrameFunctionalGroupsSequence
        positions = [group.PlanePositionSequence for group in groups]
        for group, position in zip(groups, positions[::-1]):
            group.PlanePositionSequence = position

    plain = read(DATA / "dicom_ct_enhanced_tiny" / "mf.dcm")
    turned_round = read(enhanced(tmp_path, shuffle))
    assert np.array_equal(turned_round.values, plain.values[::-1])
    assert turned_round.geometry.same_place_as(plain.geometry)


def test_an_enhanced_file_with_a_gap_is_refused(tmp_path):
    def gap(dataset: Dataset) -> None:
        position = dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
        x, y, z = position.ImagePositionPatient
        position.ImagePositionPatient = [x, y, z + 2.5]

    with pytest.raises(VolumeError, match="spacing is uneven|slice is missing"):
        read(enhanced(tmp_path, gap))


# --- the developers' odd scans --------------------------------------------------------------------------------
REFUSED = {
    "dicom_ct_missingslice_ge": "slice is missing. Found: 10.00 mm between slices 3 and 4 of 4",
    "dicom_mr_missingslice_adi": "slice is missing. Found: 2.00 mm between slices 4 and 5 of 8",
    "dicom_mr_mixedorientation_philips": "mixed orientations",
    "dicom_mr_mixedseries_adi": "holds 3 series",
    "dicom_single_pydicom": "holds 2 series",
}


def test_every_odd_series_is_refused_or_right(shared_data):
    pytest.importorskip("libjpeg")
    folders = sorted((shared_data / "odd").glob("dicom_*"))
    assert len(folders) >= 15
    for folder in folders:
        if folder.name in REFUSED:
            with pytest.raises(VolumeError, match=REFUSED[folder.name]):
                read(folder)
            continue
        volume = read(folder)
        files = sorted(folder.iterdir())
        values, seen = seen_by_itk(files[0] if len(files) == 1 else folder)
        assert np.allclose(volume.values, values, rtol=1e-5), folder.name
        assert seen.same_place_as(volume.geometry, 1e-3) or volume.values.shape[0] == 1 or volume.geometry.is_sheared
        assert volume.geometry.is_sheared == ("gantrytilt" in folder.name)


def test_every_slice_of_the_tilted_scan_lies_where_its_header_says(shared_data):
    folder = shared_data / "odd" / "dicom_ct_gantrytilt_siemens"
    volume = read(folder)
    positions = np.array(
        [pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient for f in folder.iterdir()], float
    )
    positions = positions[np.argsort(positions[:, 2])] * (-1, -1, 1)
    corners = volume.geometry.ras_of(np.array([[k, 0, 0] for k in range(4)]))
    assert np.abs(corners - positions).max() < 1e-9
    assert "14.0 degrees" in volume.warnings[0]


def test_a_series_in_a_mixed_folder_is_read_alone(shared_data):
    folder = shared_data / "odd" / "dicom_mr_mixedseries_adi"
    mosaic, plain, _ = list_series(folder)
    assert (mosaic.slices, plain.slices) == (12, 3)
    for facts in (mosaic, plain):
        assert read(folder, series=facts.uid).values.shape == (facts.slices, facts.rows, facts.columns)


@pytest.mark.parametrize(
    ("tag", "kind"), [((0x0021, 0x105E), "DS"), ((0x0043, 0x1030), "SS"), ("ImageComments", "LT")], ids=str
)
def test_volumes_are_told_apart_by_what_ge_and_canon_write(tmp_path, tag, kind):
    """GE's time in the scan and kind of reconstruction, Canon's comment with the diffusion direction."""

    def change(n, dataset):
        dataset.ImagePositionPatient = [0, 0, n // 2 * 2.5]
        value = n % 2 + (n / 100 if kind == "DS" else 0)
        dataset.add_new(tag, kind, f"b=1500({value})" if kind == "LT" else str(value) if kind == "DS" else int(value))
        dataset.InstanceNumber = 1

    source = make_series(tmp_path / "d", 10, change=change)
    for frame in (0, 1):
        found = read(source, frame=frame).values + 1024
        assert [int(plane[0, 0]) // 100 for plane in found] == [2 * n + frame for n in range(5)]
