"""What people of this field reported of other programs, made anew as small inputs: none of it is true of CycleINR.

Each test stands for a kind of fault, not for one file; right values come from the standards.
"""

from __future__ import annotations

import copy
import os
import struct
from pathlib import Path

import made_wrong
import numpy as np
import pydicom
import pytest
from dicom_series import make_series, pixels_of, put
from pydicom.dataset import Dataset

from CycleINRLib.errors import RequestError, VolumeError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.intensity import doubtful_values
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.io.discover import find_all
from CycleINRLib.io.files import changes_by, check_output, read, write
from CycleINRLib.jobs import UpsampleJob
from CycleINRLib.upsampling.plan import plan

DATA = Path(__file__).resolve().parents[1] / "data"
PLAIN = np.stack([pixels_of(n) for n in range(5)]).astype(np.int16) - 1024


def with_tags(second: bool, **tags):
    """A change for one of two volumes: the second is brighter by 1000; instance numbers are alike in both."""

    def change(n: int, dataset: Dataset) -> None:
        for name, value in tags.items():
            if isinstance(name, str) and not name.startswith("x"):
                setattr(dataset, name, value(n) if callable(value) else value)
            else:  # x00431039: a maker's own
                group, element = int(name[1:5], 16), int(name[5:], 16)
                dataset.private_block(group, "A MAKER", create=True).add_new(element & 0xFF, "LO", value)
        put(dataset, pixels_of(n) + 1000 * second)

    return change


# --- several volumes in one series ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ({"EchoTime": 10}, {"EchoTime": 80}, "echo time 10.*echo time 80"),
        ({"EchoNumbers": 1}, {"EchoNumbers": 2}, "echo number"),
        ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}, "temporal position"),
        ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}, "b-value 0.*b-value 1000"),
        ({"x00431039": "0"}, {"x00431039": "1000"}, "b-value"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "image type"),
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, "acquisition 1"),
        ({"TriggerTime": lambda n: 10.0 + n}, {"TriggerTime": lambda n: 400.0 + 3 * n}, "trigger delay"),
        (
            {"AcquisitionTime": lambda n: f"1200{n:02d}"},
            {"AcquisitionTime": lambda n: f"1201{n:02d}.5"},
            "acquisition time",
        ),
        ({"KVP": 80}, {"KVP": 140}, "voltage"),
        ({"SeriesDescription": "arterial"}, {"SeriesDescription": "venous"}, "description arterial"),
        ({"ProtocolName": "a"}, {"ProtocolName": "b"}, "protocol a"),
        ({"SliceThickness": 2.5}, {"SliceThickness": 5}, "thickness 2.5"),
        ({"FrameOfReferenceUID": "1.1"}, {"FrameOfReferenceUID": "1.2"}, "frame of reference 1.1"),
        ({"SeriesTime": "120000"}, {"SeriesTime": "120100"}, "series time"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_volumes_of_a_series_are_told_apart_by_what_distinguishes_them(tmp_path, first, second, name):
    hashed = lambda n: f"{(7919 * n + 13) % 97:02d}{n % 2}"  # noqa: E731
    make_series(tmp_path, change=with_tags(False, **first), name=lambda n: f"{hashed(n)}a")
    make_series(tmp_path, change=with_tags(True, **second), name=lambda n: f"{hashed(4 - n)}b{n}")
    with pytest.raises(VolumeError, match=f"4D, 2 volumes.*{name}.*--frame 0 to 1"):
        read(tmp_path)
    assert np.array_equal(read(tmp_path, frame=0).values, PLAIN)
    assert np.array_equal(read(tmp_path, frame=1).values, PLAIN + 1000)


def test_images_that_nothing_tells_apart_are_refused(tmp_path):
    make_series(tmp_path, change=lambda n, d: setattr(d, "InstanceNumber", n + 1))
    make_series(tmp_path, change=lambda n, d: setattr(d, "InstanceNumber", n + 6), name="b{}".format)
    with pytest.raises(VolumeError, match="nothing in their headers tells them apart"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda content, n, t: setattr(content, "TemporalPositionIndex", t + 1), "temporal position 1"),
        (lambda content, n, t: setattr(content, "DimensionIndexValues", [1, n + 1, t + 1]), "dimension index 3 1"),
        (lambda content, n, t: setattr(content, "FrameLabel", f"phase {t}"), "label phase 0"),
        (
            lambda content, n, t: setattr(content, "FrameAcquisitionDateTime", f"2020010112{t:02d}{n:02d}"),
            "time 20200101120000.*20200101120100",
        ),
    ],
)
def test_volumes_of_a_multi_frame_file_are_told_apart_and_named(tmp_path, change, name):
    """Twice the same frames, the second brighter by 100; no pointers say what the dimensions are."""
    dataset = pydicom.dcmread(DATA / "dicom_ct_enhanced_tiny" / "mf.dcm")
    frames, stored = list(dataset.PerFrameFunctionalGroupsSequence), dataset.pixel_array
    groups = [copy.deepcopy(frame) for _ in range(2) for frame in frames]
    for at, group in enumerate(groups):
        if "FrameContentSequence" not in group:
            group.FrameContentSequence = [Dataset()]
        change(group.FrameContentSequence[0], at % len(frames), at // len(frames))
    dataset.PerFrameFunctionalGroupsSequence, dataset.NumberOfFrames = groups, len(groups)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.PixelData = stored.tobytes() + (stored + 100).astype(stored.dtype).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(VolumeError, match=f"4D, 2 volumes.*{name}.*--frame 0 to 1"):
        read(tmp_path)
    first, second = (read(tmp_path, frame=n).values for n in (0, 1))
    assert np.array_equal(second, first + 100)


def test_echoes_that_lie_between_each_others_slices_are_no_stack(tmp_path):
    def at(mm: float, echo: float):
        def change(n: int, dataset: Dataset) -> None:
            dataset.ImagePositionPatient, dataset.EchoTime = [0, 0, 2.5 * n + mm], echo

        return change

    make_series(tmp_path, change=at(0, 10))
    make_series(tmp_path, change=at(1.25, 80), name="b{}".format)
    with pytest.raises(VolumeError, match="2 volumes.*echo time 10, 5 slices; 1: echo time 80"):
        read(tmp_path)
    assert read(tmp_path, frame=1).spacing_mm[0] == pytest.approx(2.5)


def test_stacks_that_are_turned_differently_are_chosen_by_frame(tmp_path):
    def sagittal(n: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [3 * n, 0, 0]

    make_series(tmp_path)
    make_series(tmp_path, 4, change=sagittal, name="b{}".format)
    with pytest.raises(VolumeError, match="mixed orientations.*0: axial, 5 slices; 1: sagittal, 4 slices.*--frame"):
        read(tmp_path)
    assert read(tmp_path, frame=1).values.shape[0] == 4


# --- bystanders -----------------------------------------------------------------------------------------------
def test_a_bystander_is_named_and_fails_no_scan(tmp_path):
    folder = make_series(tmp_path / "a")
    whole = (folder / "004.dcm").read_bytes()
    other = make_series(tmp_path / "other", 1, uid="9.9") / "000.dcm"
    cut = other.read_bytes()
    (folder / "cut.dcm").write_bytes(cut[: cut.index(b"\x28\x00\x10\x00")])
    (folder / "thumbs.db").write_bytes(b"x" * 200)
    (folder / "empty").touch()
    for volume in (read(folder), read(folder, series="1.2.3.4")):
        told = " ".join(volume.warnings)
        assert np.array_equal(volume.values, PLAIN)
        assert all(name in told for name in ("cut.dcm", "thumbs.db", "empty"))
    assert "cut.dcm" in " ".join(read(folder / "001.dcm").warnings)
    (folder / "004.dcm").write_bytes(whole[: whole.index(b"\x28\x00\x10\x00")])
    with pytest.raises(VolumeError, match="004.dcm"):  # of the series itself: a slice would be missing
        read(folder)


def test_a_damaged_patient_hides_no_other_from_a_batch(tmp_path):
    make_series(tmp_path / "a", uid="1.1")
    make_series(tmp_path / "b", uid="1.2")
    for file in (tmp_path / "b").iterdir():
        file.write_bytes(file.read_bytes()[:300])
    assert [one.path.name for one in find_all([tmp_path])] == ["a", "b"]


def test_a_series_spread_over_folders_is_one_scan_and_copies_are_two(tmp_path):
    folder = make_series(tmp_path / "all" / "x", uid="1.1")
    (tmp_path / "all" / "y").mkdir()
    for name in ("003.dcm", "004.dcm"):
        os.replace(folder / name, tmp_path / "all" / "y" / name)
    assert [(one.path.name, one.problem) for one in find_all([tmp_path / "all"])] == [("all", None)]
    make_series(tmp_path / "copies" / "x", uid="1.1")
    for name in ("y", "z"):
        (tmp_path / "copies" / name).mkdir()
        for file in (tmp_path / "copies" / "x").iterdir():
            (tmp_path / "copies" / name / file.name).write_bytes(file.read_bytes())
    assert [one.path.name for one in find_all([tmp_path / "copies"])] == ["x", "y", "z"]


def test_a_series_for_each_slice_is_refused_without_advice_that_ends_nowhere(tmp_path):
    for n in range(4):
        make_series(tmp_path, 1, uid=f"1.{n}", name=f"{n}".format)
    with pytest.raises(VolumeError, match="4 series of one slice each") as told:
        read(tmp_path)
    assert "--series" not in str(told.value)


def test_links_in_a_circle_pipes_and_documents_fail_no_scan_and_advice_leads_on(tmp_path):
    folder = make_series(tmp_path / "a")
    (folder / "below").mkdir()
    os.symlink("..", folder / "below" / "loop")
    os.symlink("nowhere", folder / "dangling")
    document = pydicom.dcmread(folder / "000.dcm")
    document.Modality, document.EncapsulatedDocument = "DOC", b"%PDF"
    for name in ("PixelData", "Rows", "Columns", "ImagePositionPatient"):
        del document[name]
    document.save_as(folder / "report.dcm")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    told = read(folder)
    assert np.array_equal(told.values, PLAIN) and "report.dcm (an object of modality DOC)" in " ".join(told.warnings)
    with pytest.raises(VolumeError, match="give its folder"):
        read(folder / "DICOMDIR")
    without = make_series(tmp_path / "b", change=lambda n, dataset: delattr(dataset, "PixelSpacing"))
    with pytest.raises(VolumeError, match="000.dcm .an image without PixelSpacing"):
        read(without)


@pytest.mark.parametrize("maker", ["Siemens", "United Imaging"])
def test_mosaics_are_refused_with_what_to_do_whatever_else_they_lack(tmp_path, maker):
    """As those of dcm_qa: one image a moment; United Imaging states no place."""

    def mosaic(n: int, dataset: Dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC" if maker == "Siemens" else "VFRAME"]
        dataset.AcquisitionNumber, dataset.ImagePositionPatient = n, [0, 0, 0]
        if maker != "Siemens":
            del dataset.ImagePositionPatient

    folder = make_series(tmp_path, 4, change=mosaic)
    for path in (folder, folder / "000.dcm"):
        with pytest.raises(VolumeError, match="all slices in one image.*convert the folder by dcm2niix"):
            read(path)


# --- facts that inform and facts that decide ------------------------------------------------------------------
def raw(path: Path, tag: bytes, value: bytes) -> None:
    """Replaces the value of an explicit VR element with a two-byte length, byte by byte: no library would write it."""
    content = path.read_bytes()
    at = content.index(tag)
    (length,) = struct.unpack("<H", content[at + 6 : at + 8])
    value += b" " * (len(value) % 2)
    path.write_bytes(content[: at + 6] + struct.pack("<H", len(value)) + value + content[at + 8 + length :])


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [
        (b"\x18\x00\x50\x00DS", b"5,0", "slice thickness"),
        (b"\x18\x00\x50\x00DS", b"thick", "slice thickness"),
        (b"\x20\x00\x11\x00IS", b"A12", "series number"),
        (b"\x20\x00\x13\x00IS", b"first", ""),
    ],
)
def test_facts_that_nobody_needs_never_stop_a_reading(tmp_path, tag, value, told):
    for number in range(5):
        path = made_wrong.dicom_slice(tmp_path / f"{number}.dcm", "1.2.3", 4.0 * number, number)
        raw(path, tag, value)
    volume = read(tmp_path)
    assert volume.values.shape == (5, 10, 12)
    assert told in " ".join(volume.warnings)
    if value == b"5,0":
        assert volume.thickness_mm == 5


@pytest.mark.parametrize(
    ("tag", "value", "named"),
    [
        (b"\x20\x00\x32\x00DS", b"0\\0\\4,0", "ImagePositionPatient"),
        (b"\x28\x00\x30\x00DS", b"1,0\\1,0", "PixelSpacing"),
        (b"\x28\x00\x53\x10DS", b"one", "RescaleSlope"),
        (b"\x28\x00\x53\x10DS", b"0", "RescaleSlope"),
    ],
)
def test_facts_that_decide_geometry_or_value_stop_it_by_name(tmp_path, tag, value, named):
    path = made_wrong.dicom_slice(tmp_path / "a.dcm", "1.2.3", 0.0, 1)
    raw(path, tag, value)
    with pytest.raises(VolumeError, match=named):
        read(path)


# --- what DICOM says of values --------------------------------------------------------------------------------
def test_a_modality_lut_is_applied(tmp_path):
    def table(n: int, dataset: Dataset) -> None:
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [1024, 0, 16])
        item.add_new("ModalityLUTType", "LO", "US")
        item.add_new("LUTData", "US", [2 * k + 5 for k in range(1024)])
        dataset.ModalityLUTSequence = [item]
        del dataset.RescaleSlope, dataset.RescaleIntercept

    volume = read(make_series(tmp_path, change=table))
    assert np.array_equal(volume.values, 2 * (PLAIN.astype(int) + 1024) + 5)
    assert "Modality LUT" in " ".join(volume.warnings)


def test_a_ct_without_rescale_is_no_hu(tmp_path):
    def lost(n: int, dataset: Dataset) -> None:
        del dataset.RescaleIntercept

    volume = read(make_series(tmp_path, change=lost))
    assert volume.unit == "stored" and "no rescale intercept" in " ".join(volume.warnings)


def test_an_output_that_cannot_be_is_refused_before_computing(tmp_path):
    with pytest.raises(RequestError, match="CT and MR only.*PT"):
        check_output(tmp_path / "out", dicom=True, modality="PT")
    with pytest.raises(RequestError, match="too long"):
        check_output(tmp_path / ("x" * 260 + ".nrrd"))
    name = "x" * 250 + ".nrrd"
    volume = read(DATA / "mr_thin.nrrd")
    assert write(volume, tmp_path / name).name == name
    assert [path.name for path in tmp_path.iterdir()] == [name]


# --- matrices ---------------------------------------------------------------------------------------------------
def rounded(decimals: int) -> np.ndarray:
    """(3, 3) columns of an oblique direction matrix, rounded."""
    a, b = np.deg2rad(17.3), np.deg2rad(-8.7)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return np.round(turn @ [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]], decimals)


@pytest.mark.parametrize("decimals", [3, 4])
def test_rounded_direction_cosines_are_no_shear(tmp_path, decimals):
    matrix = np.eye(4)
    matrix[:3, :3] = rounded(decimals) * [0.8, 0.8, 5]
    geometry = Geometry((6, 40, 40), matrix)
    assert np.abs(geometry.directions.T @ geometry.directions - np.eye(3)).max() > 1e-5
    assert not geometry.is_sheared
    volume = Volume(made_wrong.noise((6, 40, 40)), geometry)
    back = read(write(volume, tmp_path / "a.nii.gz"))
    assert np.abs(back.geometry.directions.T @ back.geometry.directions - np.eye(3)).max() < 1e-6
    assert back.geometry.same_place_as(geometry, 0.03)
    assert ("straightened" in " ".join(changes_by("a.nii.gz", geometry))) == (decimals == 3)
    assert read(write(volume, tmp_path / "a.nrrd")).geometry.same_place_as(geometry, 1e-9)


@pytest.mark.parametrize("decimals", [2, 3])
def test_a_dicom_stack_with_rounded_cosines_is_not_tilted(tmp_path, decimals):
    axes, exact = rounded(decimals), rounded(12)

    def oblique(n: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [*axes[:, 0], *axes[:, 1]]
        dataset.ImagePositionPatient = [round(float(mm), 6) for mm in 5 * n * exact[:, 2]]

    volume = read(make_series(tmp_path, change=oblique))
    d = volume.geometry.directions
    assert np.abs(d.T @ d - np.eye(3)).max() < 1e-9
    assert "tilt" not in " ".join(volume.warnings)
    assert np.allclose(volume.geometry.ras_of(np.array([4, 0, 0])), [-1, -1, 1] * (20 * exact[:, 2]), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "origin", "spacing"),
    [
        ({"centers": "cell cell cell"}, [10.4, 20.4, 32.5], [5, 0.8, 0.8]),
        ({"centerings": "node node node"}, [10, 20, 30], [5, 0.8, 0.8]),
        ({}, [10.4, 20.4, 32.5], [5, 0.8, 0.8]),
        ({"units": '"cm" "cm" "cm"'}, [104, 204, 325], [50, 8, 8]),
        ({"spacings": None, "axis maxs": "19.6 28 60", "centers": "cell cell cell"}, [10.4, 20.4, 32.5], [5, 0.8, 0.8]),
    ],
)
def test_axis_mins_of_a_nrrd_mean_what_its_centers_say(tmp_path, fields, origin, spacing):
    old = {
        "space": None,
        "space directions": None,
        "space origin": None,
        "spacings": "0.8 0.8 5",
        "axis mins": "10 20 30",
    }
    volume = read(made_wrong.nrrd(tmp_path / "a.nrrd", **{**old, **fields}))
    assert np.allclose(volume.geometry.to_lps()[:3, 3], origin)
    assert np.allclose(volume.spacing_mm, spacing)


def test_space_units_of_a_nrrd_and_distance_units_of_a_metaimage_become_mm(tmp_path):
    micron = made_wrong.nrrd(
        tmp_path / "a.nrrd", space_units='"um" "um" "um"', space_directions="(380,0,0) (0,380,0) (0,0,2000)",
        space_origin="(1000,0,0)",
    )  # fmt: skip
    volume = read(micron)
    assert np.allclose(volume.spacing_mm, [2, 0.38, 0.38]) and np.isclose(volume.geometry.to_lps()[0, 3], 1)
    assert "um" in " ".join(volume.warnings)
    volume = read(made_wrong.metaimage(tmp_path / "a.mha", DistanceUnits="cm"))
    assert np.allclose(volume.spacing_mm, [40, 10, 10]) and "cm" in " ".join(volume.warnings)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"space_origin": None}, "no origin"),
        ({"space": None}, "no space"),
        ({"space": None, "space_directions": None, "space_origin": None, "spacings": "1 1 4"}, "no space"),
        ({"spacings": "2 2 8"}, "spacings beside"),
        ({"axis_mins": "10 20 30"}, "axis mins beside"),
        ({"units": '"cm" "cm" "cm"'}, "units beside"),
        ({"endian": None}, "endian"),
        ({"centerings": "cell cell cell", "measurement_frame": "(0,1,0) (1,0,0) (0,0,1)"}, ""),
        ({"spacings": "nan nan nan", "units": '"mm" "mm" "mm"'}, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_a_nrrd_does_not_state_or_states_twice_is_told(tmp_path, fields, told):
    volume = read(made_wrong.nrrd(tmp_path / "a.nrrd", **fields))
    assert np.array_equal(volume.values, made_wrong.noise()) and np.allclose(volume.spacing_mm, [4, 1, 1])
    assert told in " ".join(volume.warnings) and len(volume.warnings) == bool(told)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"Position": "4 5 6"}, "Offset and Position"),
        ({"Origin": "0 0 0"}, ""),
        ({"Rotation": "0 1 0 1 0 0 0 0 1"}, "TransformMatrix and Rotation"),
        ({"ElementByteOrderMSB": "True"}, "ElementByteOrderMSB"),
    ],
)
def test_names_of_one_meaning_that_differ_in_a_metaimage_are_told(tmp_path, fields, told):
    volume = read(made_wrong.metaimage(tmp_path / "a.mha", **fields))
    assert np.array_equal(volume.values, made_wrong.noise())
    assert told in " ".join(volume.warnings) and len(volume.warnings) == bool(told)


@pytest.mark.parametrize(
    ("fields", "spacing", "told"),
    [
        ({"unit": ("b", 123, (1,))}, 4000, "meter"),
        ({"unit": ("b", 123, (3,))}, 0.004, "micron"),
        ({"unit": ("b", 123, (10,))}, 4, ""),  # mm and seconds
        ({"sizes": ("3f", 80, (2, 2, 8))}, 4, "two sizes of a voxel, pixdim 2 x 2 x 8 and sform 1 x 1 x 4"),
        ({"sizes": ("3f", 80, (-1, 1, 4))}, 4, ""),
        ({"intent": ("h", 68, (1002,))}, 4, "labels"),
        ({"qform": ("h", 252, (1,)), "factor": ("f", 76, (-1,))}, 4, "sform and qform, 40.0 mm apart"),
        ({"qform": ("h", 252, (1,)), "factor": ("f", 76, (0,))}, 4, ""),
        ({"scale": ("2f", 112, (0, 5))}, 4, ""),
        ({"scale": ("2f", 112, (np.nan, 5))}, 4, ""),
    ],
)
def test_what_a_nifti_states_of_lengths_and_places_is_followed_or_told(tmp_path, fields, spacing, told):
    volume = read(made_wrong.nifti(tmp_path / "a.nii", **fields))
    assert np.array_equal(volume.values, made_wrong.noise()) and volume.spacing_mm[0] == pytest.approx(spacing)
    assert told in " ".join(volume.warnings) and len(volume.warnings) == bool(told)


def test_orientations_of_a_metaimage_that_disagree_are_told(tmp_path):
    assert read(made_wrong.metaimage(tmp_path / "a.mha", AnatomicalOrientation="RAI")).warnings == ()
    told = read(made_wrong.metaimage(tmp_path / "b.mha", AnatomicalOrientation="LPI")).warnings
    assert "AnatomicalOrientation LPI" in told[0]


@pytest.mark.parametrize("rows", [np.zeros((3, 4)), np.full((3, 4), np.nan)])
def test_a_sform_code_without_a_matrix_falls_to_the_qform_or_is_refused(tmp_path, rows):
    qform = {"code": ("h", 252, (1,)), "sizes": ("3f", 80, (0.8, 0.8, 5)), "place": ("3f", 268, (14, 13, -20))}
    volume = read(made_wrong.nifti(tmp_path / "a.nii", rows=rows, **qform))
    assert np.allclose(volume.spacing_mm, [5, 0.8, 0.8]) and np.allclose(
        volume.geometry.ijk_to_ras[:3, 3], [14, 13, -20]
    )
    assert "sform" in volume.warnings[0]
    with pytest.raises(VolumeError, match="sform"):
        read(made_wrong.nifti(tmp_path / "b.nii", rows=rows))


def test_a_pair_is_read_by_either_name_and_analyze_says_what_to_do(tmp_path):
    whole = made_wrong.nifti(tmp_path / "a.nii", magic=("4s", 344, (b"ni1",)), at=("f", 108, (0,))).read_bytes()
    (tmp_path / "p.hdr").write_bytes(whole[:352])
    with pytest.raises(VolumeError, match="second file that is not there.*p.img"):
        read(tmp_path / "p.hdr")
    (tmp_path / "p.img").write_bytes(whole[352:])
    for name in ("p.hdr", "p.img"):
        assert np.array_equal(read(tmp_path / name).values, made_wrong.noise())
    (tmp_path / "p.hdr").write_bytes(whole[:344] + bytes(8))
    with pytest.raises(VolumeError, match="Analyze 7.5.*convert it to NIfTI"):
        read(tmp_path / "p.img")


# --- limits and values ----------------------------------------------------------------------------------------
def scan(spacing_mm: float, values: np.ndarray | None = None, **facts) -> Volume:
    values = made_wrong.noise((6, 30, 30)) if values is None else values
    return Volume(values, Geometry.from_spacing(values.shape, (spacing_mm, 0.5, 0.5)), slice_axis="k", **facts)


def test_limits_have_tolerances_and_a_message_names_no_value_that_is_refused():
    off = float(np.float32(8)) * (1 + 1e-6)
    assert plan(scan(off, modality="CT"), UpsampleJob(spacing_mm=0.5)).z_scale == pytest.approx(16, rel=1e-5)
    with pytest.raises(RequestError, match="ask for at least") as told:
        plan(scan(5.0, modality="CT"), UpsampleJob(spacing_mm=0.1))
    least = float(str(told.value).split("at least ")[1].split(" ")[0])
    plan(scan(5.0, modality="CT"), UpsampleJob(spacing_mm=least))
    half = scan(5.0000002, modality="MR", thickness_mm=2.5000004)
    assert plan(half, UpsampleJob()).consistency == plan(scan(5.0, modality="MR", thickness_mm=2.5)).consistency


def test_a_thickness_that_no_scan_has_is_left_out_or_refused(tmp_path):
    for stated in ("inf", "1e12", "5000"):
        volume = read(made_wrong.nrrd(tmp_path / f"{stated}.nrrd", thicknesses=f"nan nan {stated}"))
        assert plan(volume, UpsampleJob(z_scale=2)).ratio == 1
    with pytest.raises(RequestError, match="cannot be that of this scan"):
        plan(scan(5.0, modality="CT"), UpsampleJob(thickness_mm=900))


@pytest.mark.parametrize(
    "fields", [{"line_skip": "99999999999"}, {"byte_skip": "99999999999"}, {"sizes": "9" * 400 + " 1 1"}]
)
def test_numbers_of_a_header_are_bounded_by_the_file(tmp_path, fields):
    with pytest.raises(VolumeError):
        read(made_wrong.nrrd(tmp_path / "a.nrrd", **fields))


@pytest.mark.parametrize("offset", [np.inf, np.nan, -7.5, 1e18])
def test_a_vox_offset_that_no_file_has_is_refused(tmp_path, offset):
    with pytest.raises(VolumeError):
        read(made_wrong.nifti(tmp_path / "a.nii", offset=("f", 108, (offset,))))


def test_frames_and_their_places_must_be_as_many(tmp_path):
    dataset = pydicom.dcmread(DATA / "dicom_ct_enhanced_tiny" / "mf.dcm")
    dataset.PerFrameFunctionalGroupsSequence.append(dataset.PerFrameFunctionalGroupsSequence[-1])
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(VolumeError, match="frames and the places of"):
        read(tmp_path / "a.dcm")


def test_values_that_are_no_hu_are_told():
    air = np.concatenate([np.full((6, 15, 30), -1000), np.full((6, 15, 30), 40)], axis=1)
    ct = air + np.random.default_rng(1).normal(0, 10, air.shape)
    assert doubtful_values(ct, "CT") == []
    for wrong in (ct + 1024, ct - 1024, ct / 1000, ct * 1000):
        assert len(doubtful_values(wrong, "CT")) == 1


def test_a_guessed_modality_is_said_of_the_plan():
    assert any("modality is not stated" in told for told in plan(scan(5.0)).warnings)
    assert not any("modality" in told for told in plan(scan(5.0, modality="CT")).warnings)
