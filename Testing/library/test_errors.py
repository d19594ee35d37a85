"""The error tree: exit statuses, the one line, and what foreign exceptions amount to."""

from __future__ import annotations

import errno
import pickle

import pytest

from CycleINRLib.cli.main import as_error
from CycleINRLib.errors import (
    ALL_ERRORS,
    ERROR_BY_CODE,
    Cancelled,
    CycleINRError,
    MissingPackageError,
    ModelError,
    RequestError,
    ResourceError,
    VolumeError,
)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (CycleINRError, 1),
        (RequestError, 2),
        (VolumeError, 3),
        (ModelError, 4),
        (ResourceError, 5),
        (MissingPackageError, 6),
        (Cancelled, 130),
    ],
)
def test_each_error_class_has_the_exit_status_of_the_contract(kind, status):
    assert kind.exit_code == status
    assert ERROR_BY_CODE[kind.code] is kind


def test_no_two_error_classes_share_a_code_or_a_status():
    assert len(ERROR_BY_CODE) == len(ALL_ERRORS) == len({kind.exit_code for kind in ALL_ERRORS})


def test_an_error_reads_what_found_next():
    error = VolumeError("Slice spacing is uneven", "10 mm after slice 41", "export the scan again")
    assert str(error) == "Slice spacing is uneven. Found: 10 mm after slice 41. Next: export the scan again."


def test_foreign_line_breaks_and_periods_do_not_break_the_one_line():
    assert str(VolumeError("Bad.", "two\nlines .\n", "go  on.")) == "Bad. Found: two lines . Next: go on."


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_an_error_survives_pickling_with_its_three_parts(kind):
    back = pickle.loads(pickle.dumps(kind("what", "found", "next")))
    assert type(back) is kind
    assert (back.what, back.found, back.next) == ("what", "found", "next")


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (RequestError("a"), RequestError),
        (KeyboardInterrupt(), Cancelled),
        (MemoryError(), ResourceError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), ResourceError),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), ResourceError),
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError),
        (OSError(errno.EROFS, "Read-only file system"), ResourceError),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), MissingPackageError),
        (ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.pyplot"), MissingPackageError),
        (ModuleNotFoundError("No module named 'CycleINRLib.nothing'", name="CycleINRLib.nothing"), CycleINRError),
        (ZeroDivisionError("division by zero"), CycleINRError),
    ],
)
def test_any_exception_becomes_the_error_that_tells_the_user_what_to_do(problem, kind):
    error = as_error(problem)
    assert type(error) is kind


def test_an_error_of_ours_asks_for_a_report_with_debug():
    error = as_error(ZeroDivisionError("division by zero"))
    assert "--debug" in error.next and "issues" in error.next
    assert "ZeroDivisionError" in error.found


def test_a_missing_package_names_its_extra_and_what_works_without_it():
    error = as_error(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert "torch" in error.what and "CycleINR[torch]" in error.next and "info" in error.next
