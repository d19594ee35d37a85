"""The median that everything about noise rests on."""

import numpy as np
import pytest

from CycleINRLib.imaging.figures import median


@pytest.mark.parametrize("count", [1, 2, 7, 300, 1001])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_median_is_that_of_numpy_to_the_bit_for_odd_and_even_counts_and_ties(count: int, kind: type):
    values = np.random.default_rng(count).normal(0, 30, count).astype(kind)
    for one in (values, np.rint(values), np.zeros_like(values)):
        found, before = median(one), one.copy()
        assert found == np.median(one) and found.dtype == np.median(one).dtype
        np.testing.assert_array_equal(one, before)


def test_the_median_of_nothing_is_not_a_number():
    assert np.isnan(median(np.zeros(0, np.float32)))
