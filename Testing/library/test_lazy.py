"""Slices that are computed where they are read: the same numbers as a second scan would hold."""

import numpy as np
import pytest

from CycleINRLib.imaging.intensity import from_zero, percentile_of
from CycleINRLib.imaging.lazy import LazySlices, part_of_slices, read_from_zero

FACTORS = np.linspace(0.5, 2, 9).astype(np.float32)
KEYS = [
    3, -1, slice(2, 5), slice(None), (slice(None), slice(1, 4)), (4, slice(None), slice(2, 5)), (..., slice(0, 6, 2)),
    (..., slice(0, 4, 2), slice(0, 6, 2)), (np.array([1, 7]), slice(2, 3), slice(None)), (2, 3, 4),
]  # fmt: skip


def brighter(part: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return part * FACTORS[numbers].reshape(-1, *[1] * (part.ndim - 1))


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(-20, 100, (9, 7, 6)).astype(np.int16)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_any_reading_gives_what_the_array_would(values, key):
    lazy, whole = LazySlices(values, brighter, np.float32), values * FACTORS[:, None, None]
    np.testing.assert_array_equal(lazy[key], whole[key])
    assert lazy[key].dtype == lazy.dtype == whole.dtype
    part = lazy.part(((2, 8), (1, 7), (0, 5)))
    assert isinstance(part, LazySlices) and part.shape == (6, 6, 5)
    np.testing.assert_array_equal(part, whole[2:8, 1:7, :5])
    np.testing.assert_array_equal(part_of_slices(values, ((2, 8), (1, 7), (0, 5))), values[2:8, 1:7, :5])


def test_it_is_measured_as_an_array_is(values):
    lazy, whole = LazySlices(values, brighter, np.float32), values * FACTORS[:, None, None]
    assert (len(lazy), lazy.size, lazy.ndim, lazy.min()) == (len(whole), whole.size, whole.ndim, whole.min())
    np.testing.assert_array_equal(np.stack(list(lazy)), whole)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("zero", [0.0, 20.0, 0.25])
def test_values_from_zero_have_the_type_of_the_whole_scan_in_every_part_of_it(values, kind, zero):
    values = np.abs(values).astype(kind)
    lazy, whole = read_from_zero(values, zero), from_zero(values, zero)
    assert lazy.dtype == whole.dtype
    for key in (2, slice(1, 2), (slice(None), slice(0, 1))):
        np.testing.assert_array_equal(lazy[key], whole[key])
        assert lazy[key].dtype == whole.dtype


@pytest.mark.parametrize("percent", [0.1, 3.0, 99.0, 99.9])
@pytest.mark.parametrize("count", [1, 2, 700, 20_000])
def test_a_percentile_of_parts_is_that_of_the_whole(percent, count):
    values = np.rint(30 * np.random.default_rng(1).standard_normal(count))
    parts = np.array_split(values, 7)
    assert percentile_of(parts, count, percent) == np.percentile(values, percent)
