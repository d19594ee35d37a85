"""Values out of DICOM headers: strict where they decide geometry or value, lenient where they only inform (floor 2).

A thickness of "5,0" or a series number "A12" is no reason to refuse a scan; a position of "5,0" is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue

DAMAGED = (  # what pydicom raises where bytes make no sense
    InvalidDicomError, BytesLengthException, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    NotImplementedError, OverflowError, RuntimeError, RecursionError, struct.error, AssertionError,
)  # fmt: skip

Get = Callable[..., Any]  # (attribute, functional groups ...) -> value, None where it is absent


def value_of(dataset: Dataset, name: str) -> Any:
    """The value of an attribute; its bytes as text where they do not fit its type; None where it is absent."""
    try:
        return dataset.get(name)
    except DAMAGED:
        value = getattr(dataset.get_item(name), "value", None)
        return value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else str(value or "").strip()


def getter(header: Dataset) -> Get:
    """Values of a classic header, which has no functional groups."""
    return lambda name, *groups: value_of(header, name)


def deciding(get: Get, name: str, count: int, *groups: str) -> list[float] | None:
    """Exactly `count` finite numbers; None where the attribute is absent or empty.

    Raises
    ------
    ValueError : it is there and is something else; the attribute is named
    """
    try:
        value = get(name, *groups)
        if value is None or str(value).strip() in ("", "[]"):
            return None
        numbers = [float(one) for one in (value if isinstance(value, (MultiValue, list, tuple)) else [value])]
    except DAMAGED as error:
        raise ValueError(f"{name} is no number, {error}") from None
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{name} is {numbers}, not {count} finite numbers")
    return numbers


def counting(header: Dataset, name: str, default: int) -> int:
    """A whole number that decides the size of something; ValueError names the attribute."""
    found = deciding(getter(header), name, 1)
    if found is None:
        return default
    if found[0] != int(found[0]) or found[0] < 0:
        raise ValueError(f"{name} is {found[0]:g}")
    return int(found[0])


def informing(get: Get, name: str, *groups: str) -> tuple[float | None, str]:
    """(number, "") of an attribute that only informs; what stands there beside it where that is no plain number.

    A decimal comma is read as one; (None, text) is what is no finite number at all.
    """
    value = get(name, *groups)
    if isinstance(value, (MultiValue, list, tuple)):
        value = value[0] if value else None
    text = "" if value is None else str(value).strip("\0 ")
    if not text:
        return None, ""
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return None, text
    return (number, text if "," in text else "") if math.isfinite(number) else (None, text)


def words(header: Dataset, name: str) -> str:
    """A text in one line; "" where it is absent."""
    return " ".join(str(value_of(header, name) or "").replace("\0", " ").split())
