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

from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume

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
    told = question_sets.table_of({"set": [("a", "right", ""), one, two]})
    assert "| set | 1 | 2 | 0 | 0 |" in told
    assert "| set | x.dcm, y.dcm | refused | It is bad. Found: x.dcm. Next: choose another. |" in told
