"""Public questions inside installed packages are answered right, and the benchmark would see a wrong answer."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from CycleINRLib.errors import VolumeError
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.io.files import read, write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import question_sets

PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture
def scan() -> Volume:
    values = np.random.default_rng(0).integers(0, 1000, (4, 5, 6)).astype(np.int16)
    matrix = np.array([[0, 0, 3.0, 7], [-0.5, 0, 0, 8], [0, -0.7, 0, 9], [0, 0, 0, 1]])
    return Volume(values, Geometry(values.shape, matrix), "MR")


def answer_of(volume: Volume) -> question_sets.Answer:
    """The same scan with its axes in another order and one of them turned."""
    values = np.flip(volume.values.T.transpose(2, 0, 1), 0)
    matrix = volume.geometry.ijk_to_ras[:, [2, 0, 1, 3]].copy()
    matrix[:, 3] += matrix[:, 0] * (values.shape[0] - 1)
    matrix[:, 0] *= -1
    return question_sets.Answer("other", values, matrix)


def test_the_same_voxels_at_the_same_positions_are_right_whatever_the_order_of_axes(scan):
    assert question_sets.difference(scan, answer_of(scan)) == ""


def test_a_shift_another_value_or_a_mirrored_scan_is_wrong(scan):
    answer = answer_of(scan)
    for shift in (0.4, 3.0):
        moved = replace(answer, matrix=answer.matrix + np.pad([[shift], [0], [0]], ((0, 1), (3, 0))))
        assert question_sets.difference(scan, moved).startswith("positions differ")
    values = answer.values.copy()
    values[1, 2, 3] += 9
    assert question_sets.difference(scan, replace(answer, values=values)).startswith("values differ")
    mirrored = replace(answer, values=np.flip(answer.values, 1))
    assert "mirrored along its axis j" in question_sets.difference(scan, mirrored)


def test_values_in_another_unit_are_right_and_said_to_be_so(scan):
    answer = answer_of(scan)
    told = question_sets.difference(scan, replace(answer, values=answer.values * 2.5))
    assert told.startswith("~right") and "times 2.5" in told


@pytest.mark.skipif(not PYDICOM.is_dir(), reason="this pydicom comes without its test files")
def test_pydicoms_own_files_are_right_or_refused_with_a_sentence():
    pytest.importorskip("SimpleITK")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what it remarks on its own files
    cases = list(question_sets.file_cases(PYDICOM))
    count = Counter(result for _, result, _ in cases)
    assert count[question_sets.RIGHT] >= 4, cases
    assert [case for case in cases if case[1] == question_sets.WRONG] == []
    assert all("Next: " in remark for _, result, remark in cases if result == question_sets.REFUSED)


def test_the_table_has_a_row_for_each_sentence_and_counts_every_case():
    one = ("x.dcm", "refused", "It is bad. Found: x.dcm. Next: choose another.")
    two = ("y.dcm", "refused", "It is bad. Found: y.dcm. Next: choose another.")
    beside = ("3 file(s)", "refused", f"{question_sets.BYSTANDER}no DICOM")
    wrong = ("z.dcm", "wrong", "values differ")
    told = question_sets.table_of({"set": [("a", "right", ""), one, two, beside, wrong]})
    assert "| set | 1 | 2 | 1 | 0 | 1 |" in told
    assert "| refused | It is bad. ... Next: choose another. | 2 | set 2 | x.dcm |" in told
    assert "| left out | no DICOM | 1 | set 1 | 3 file(s) |" in told
    assert "| wrong | values differ | 1 | set | z.dcm |" in told


@pytest.mark.parametrize("line", ["byte skip: -1\n", "byte skip: 352\n"])
def test_a_nrrd_header_of_a_packed_nifti_says_where_its_voxels_start(tmp_path, scan, line):
    header = nrrd_of_nifti(tmp_path, scan, line)
    assert np.array_equal(read(header).values, scan.values)


def test_a_nrrd_header_that_takes_another_header_for_voxels_is_refused(tmp_path, scan):
    with pytest.raises(VolumeError, match="more voxels than the header says"):
        read(nrrd_of_nifti(tmp_path, scan, ""))


def nrrd_of_nifti(folder: Path, scan: Volume, line: str) -> Path:
    """As pynrrd's test files do: the voxels of a .nii.gz, described by a detached NRRD header."""
    write(scan, folder / "scan.nii.gz")
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nendian: little\nencoding: gzip\n"
    (folder / "scan.nhdr").write_text(f"{text}{line}data file: scan.nii.gz\n")
    return folder / "scan.nhdr"
