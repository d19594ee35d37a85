"""What makers store otherwise than the standard has it is read at its place, or refused where that is not stated."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import make_series, pixels_of, put
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from CycleINRLib.errors import VolumeError
from CycleINRLib.io.dicommakers import csa_of, tiles_of
from CycleINRLib.io.dicomwrite import write_series
from CycleINRLib.io.files import list_series, read

DATA = Path(__file__).resolve().parent.parent / "data" / "dicom_mr_mosaic"
MOSAIC = DATA / "mosaic.dcm"


def at(volume, i, j, k) -> np.ndarray:
    """(3,) RAS of a voxel."""
    return (volume.geometry.ijk_to_ras @ [i, j, k, 1])[:3]


def changed_mosaic(folder: Path, change) -> Path:
    dataset = pydicom.dcmread(MOSAIC)
    change(dataset)
    dataset.save_as(folder / "mosaic.dcm")
    return folder / "mosaic.dcm"


def test_a_mosaic_of_siemens_has_the_values_and_places_of_the_published_volume():
    volume, answer = read(MOSAIC), read(DATA / "answer.nii.gz")
    assert volume.values.shape == answer.values.shape == (35, 16, 16)
    for i, j, k in ((0, 0, 0), (15, 0, 34), (7, 9, 20)):
        assert at(volume, i, 15 - j, k) == pytest.approx(at(answer, i, j, k), abs=1e-4)
    assert np.array_equal(volume.values[:, ::-1], answer.values)


def test_a_mosaic_whose_slices_run_the_other_way_starts_at_the_same_slice(tmp_path):
    def turn(dataset):
        content = dataset[0x0029, 0x1010].value
        for text in csa_of(dataset)["SliceNormalVector"]:
            other = ("-" + text)[:-1] if text.strip("0.") else text
            content = content.replace(text.encode() + b"\0", other.encode() + b"\0")
        dataset[0x0029, 0x1010].value = content

    one, other = read(MOSAIC), read(changed_mosaic(tmp_path, turn))
    assert np.array_equal(one.values, other.values[::-1])  # slices are put in order along the normal
    first, second = at(one, 0, 0, 0), at(one, 0, 0, 1)
    assert at(other, 0, 0, 34) == pytest.approx(first, abs=1e-4)
    assert at(other, 0, 0, 33) == pytest.approx(2 * first - second, abs=1e-4)


def test_mosaics_of_a_series_are_its_volumes(tmp_path):
    for n in range(3):

        def set_time(dataset, n=n):
            dataset.AcquisitionNumber, dataset.SOPInstanceUID = n + 1, f"1.2.{n + 1}"

        (tmp_path / f"{n}").mkdir()
        changed_mosaic(tmp_path / f"{n}", set_time)
    assert [one.slices for one in list_series(tmp_path)] == [105]
    with pytest.raises(VolumeError, match="4D, 3 volumes.*acquisition 2, 35 slices"):
        read(tmp_path)
    assert read(tmp_path, frame=1).values.shape == (35, 16, 16)


def test_a_series_derived_from_a_mosaic_is_no_mosaic(tmp_path):
    volume = read(MOSAIC)
    again = read(write_series(volume, MOSAIC, tmp_path / "out", {}))
    assert again.values.shape == (35, 16, 16)
    assert at(again, 15, 15, 34) == pytest.approx(at(volume, 15, 15, 34), abs=1e-3)


@pytest.mark.parametrize(
    "tags",
    [[(0x0029, 0x1010), (0x0019, 0x100A)], [(0x0029, 0x1010)], [(0x0018, 0x0088)]],
    ids=["all", "csa", "spacing"],
)
def test_a_mosaic_that_does_not_say_where_its_slices_lie_is_refused(tmp_path, tags):
    def strip(dataset):
        for tag in tags:
            del dataset[tag]

    with pytest.raises(
        VolumeError, match="a mosaic, which holds all slices in one image, and does not say where they lie"
    ):
        read(changed_mosaic(tmp_path, strip))


@pytest.mark.parametrize("count", [0, -1, 35.5, 36.5, 1e300, 10**9, float("nan")])
def test_a_mosaic_of_a_wrong_count_of_slices_is_refused_at_once(count):
    header = Dataset()
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    header.ImagePositionPatient, header.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    header.PixelSpacing, header.SpacingBetweenSlices = [1, 1], 2
    header.add_new((0x0029, 0x1010), "OB", csa(NumberOfImagesInMosaic=[str(count)], SliceNormalVector=["0", "0", "1"]))
    try:
        assert len(tiles_of(header, 65535, 65535)) in (0, 36)
    except ValueError as error:
        assert "side by side" in str(error)


def csa(**fields: list[str]) -> bytes:
    """A CSA image header in its second layout."""
    content = b"SV10\4\3\2\1" + struct.pack("<2I", len(fields), 77)
    for name, values in fields.items():
        content += struct.pack("<64si4s3i", name.encode(), len(values), b"DS", 3, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            content += struct.pack("<4i", 0, len(text), 77, 0) + text.ljust((len(text) + 3) // 4 * 4, b"\0")
    return content


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_private_header_says_nothing_or_what_it_holds(seed):
    rng = np.random.default_rng(seed)
    content = bytearray(csa(NumberOfImagesInMosaic=["35"], SliceNormalVector=["0", "0", "1"]))
    for _ in range(4):
        content[int(rng.integers(len(content)))] = int(rng.integers(256))
    header = Dataset()
    header.add_new((0x0029, 0x1010), "OB", bytes(content[: int(rng.integers(1, len(content) + 1))]))
    assert all(isinstance(text, str) for texts in csa_of(header).values() for text in texts)


# --- United Imaging -------------------------------------------------------------------------------------------
def grid(n: int, dataset: Dataset) -> None:
    """Five slices of 7 x 9 pixels, three beside each other, each with a position of its own."""
    dataset.ImageType, dataset.Modality = ["ORIGINAL", "PRIMARY", "M", "VFRAME"], "MR"
    image = np.zeros((14, 27), np.uint16)
    for k in range(5):
        image[k // 3 * 7 :, k % 3 * 9 :][:7, :9] = pixels_of(k)
    put(dataset, image)
    items = []
    for k in range(5):
        item = Dataset()
        item.ImagePositionPatient = [1, 2, 3 + 2.5 * k]
        items.append(item)
    dataset.add_new((0x0065, 0x0010), "LO", "Image Private Header")
    dataset.add_new((0x0065, 0x1050), "DS", "5")
    dataset.add_new((0x0065, 0x1051), "SQ", Sequence(items))
    del dataset.ImagePositionPatient
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def test_a_grid_of_united_imaging_is_read_at_the_positions_of_its_slices(tmp_path):
    volume = read(make_series(tmp_path, 1, change=grid))
    assert volume.values.shape == (5, 7, 9)
    for k in range(5):
        assert at(volume, 0, 0, k) == pytest.approx([-1, -2, 3 + 2.5 * k])
    assert volume.values[3, 2, 4] - volume.values[0, 0, 0] == 300 + 2 * 9 + 4


def test_a_grid_that_states_more_slices_than_positions_is_left_out_or_refused(tmp_path):
    def spoil(n, dataset):
        grid(n, dataset)
        dataset[0x0065, 0x1050].value = "6"

    with pytest.raises(VolumeError, match="6 slices side by side and the places of 5"):
        read(make_series(tmp_path, 1, change=spoil))


# --- GE -------------------------------------------------------------------------------------------------------
def polar(mode: int, time: int | None = None):
    def change(n, dataset):
        dataset.Modality = "MR"
        dataset.add_new((0x0019, 0x0010), "LO", "GEMS_ACQU_01")
        dataset.add_new((0x0019, 0x109C), "LO", "research/epi_pepolar")
        dataset.add_new((0x0019, 0x10B3), "DS", f"{mode}.000000")
        if time is not None:
            dataset.TemporalPositionIdentifier = time

    return change


@pytest.mark.parametrize("mode, time, turned", [(0, 1, False), (1, 2, True), (2, 1, True), (2, 2, False), (3, 2, True)])
def test_rows_that_epi_pepolar_turns_round_are_put_in_their_places(tmp_path, mode, time, turned):
    plain = read(make_series(tmp_path / "plain"))
    volume = read(make_series(tmp_path / "polar", change=polar(mode, time)))
    for i, k in ((3, 2), (0, 0)):
        value = plain.values[k, 1, i]
        found = np.argwhere(volume.values == value)
        assert len(found) == 1
        place = at(volume, *found[0][::-1])
        assert place == pytest.approx(at(plain, i, 5 if turned else 1, k), abs=1e-4)
    assert any("epi_pepolar" in warning for warning in volume.warnings) == turned


def test_an_epi_pepolar_that_does_not_say_which_images_are_turned_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="epi_pepolar turns some images round, and it is not stated which"):
        read(make_series(tmp_path, change=polar(2)))


# --- Philips --------------------------------------------------------------------------------------------------
def test_control_and_label_images_of_philips_are_volumes(tmp_path):
    for n, word in enumerate(("CONTROL", "LABEL")):

        def label(_, dataset, word=word):
            dataset.Modality = "MR"
            dataset.add_new((0x2005, 0x0014), "LO", "Philips MR Imaging DD 005")
            dataset.add_new((0x2005, 0x1429), "CS", word)

        make_series(tmp_path / str(n), change=label)
    with pytest.raises(VolumeError, match="labeling CONTROL, 5 slices; 1: labeling LABEL, 5 slices"):
        read(tmp_path)
