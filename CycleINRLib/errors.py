"""The errors a user can meet, each with its exit status (floor 0).

CycleINRError            1  unexpected by us; asks for a report
  RequestError           2  options contradict or are missing
  VolumeError            3  the input is no volume that can be upsampled
  ModelError             4  no such model, or not a model
  ResourceError          5  memory, disk or device
  MissingPackageError    6  names the package, the extra, and what works without it
  Cancelled            130  asked for by the user; nothing left behind
"""

from __future__ import annotations


class CycleINRError(Exception):
    """What went wrong, what was found, and what to do next, each one short clause.

    Parameters
    ----------
    what : str, the fact, without a closing period
    found : str, the evidence in the user's own words (a value, a file, a count)
    next : str, the one action that helps

    ``str(error)`` is the line users see: ``WHAT. Found: FOUND. Next: DO.``
    """

    exit_code = 1
    code = "internal"

    def __init__(self, what: str, found: str = "", next: str = "") -> None:
        self.what, self.found, self.next = (_clause(text) for text in (what, found, next))
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.what}."
        if self.found:
            line += f" Found: {self.found}."
        if self.next:
            line += f" Next: {self.next}."
        return line

    def __reduce__(self):
        return type(self), (self.what, self.found, self.next)


def _clause(text: str) -> str:
    """One line, no closing period: foreign messages may bring both."""
    return " ".join(str(text).split()).rstrip(".")


class RequestError(CycleINRError):
    """Options contradict each other, are missing, or cannot be met."""

    exit_code = 2
    code = "bad_request"


class VolumeError(CycleINRError):
    """The input is missing, unreadable, or no volume that can be upsampled."""

    exit_code = 3
    code = "bad_volume"


class ModelError(CycleINRError):
    """No such model, not a model file, or a model that does not fit."""

    exit_code = 4
    code = "bad_weights"


class ResourceError(CycleINRError):
    """Too little memory or disk, or the asked device is absent."""

    exit_code = 5
    code = "out_of_memory"


class MissingPackageError(CycleINRError):
    """A package is needed that is not installed."""

    exit_code = 6
    code = "missing_package"


class Cancelled(CycleINRError):
    """The user stopped the run; nothing is left behind."""

    exit_code = 130
    code = "cancelled"

    def __init__(self, what: str = "Cancelled", found: str = "", next: str = "") -> None:
        super().__init__(what, found, next)


ALL_ERRORS = (CycleINRError, RequestError, VolumeError, ModelError, ResourceError, MissingPackageError, Cancelled)
ERROR_BY_CODE = {error.code: error for error in ALL_ERRORS}
