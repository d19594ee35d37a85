"""Slab arithmetic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from CycleINRLib.upsampling.memory import MIN_ROWS, plan_slabs, rows_within, slab_for_rows


@given(st.integers(1, 700), st.integers(0, 20).map(lambda n: 2 * n), st.integers(1, 800))
def test_slabs_cover_every_row_once_and_start_on_even_rows(rows, halo, size):
    slabs = plan_slabs(rows, halo, size)
    assert [row for slab in slabs for row in range(slab.first, slab.last)] == list(range(rows))
    assert all(slab.first % 2 == 0 and slab.read_first % 2 == 0 for slab in slabs)
    assert all(slab.last - slab.first <= max(MIN_ROWS, size) for slab in slabs)


@given(st.integers(1, 700), st.integers(0, 20).map(lambda n: 2 * n), st.integers(1, 800))
def test_each_slab_reads_its_halo_or_the_end_of_the_volume(rows, halo, size):
    for slab in plan_slabs(rows, halo, size):
        assert slab.read_first == max(0, slab.first - halo)
        assert slab.read_last >= min(rows, slab.last + halo)


@given(st.integers(1, 700), st.integers(0, 20).map(lambda n: 2 * n), st.integers(1, 800))
def test_slabs_have_one_shape_but_where_the_image_ends(rows, halo, size):
    """So that a device sees few shapes."""
    slabs = plan_slabs(rows, halo, size)
    assert len({slab.last - slab.first for slab in slabs[:-1]}) <= 1
    inner = [slab for slab in slabs if slab.read_first > 0 and slab.read_last < rows]
    assert len({slab.read_last - slab.read_first for slab in inner}) <= 1


@given(st.integers(0, 99))
def test_one_row_has_a_slab_of_its_own(row):
    slab = slab_for_rows(row, row + 1, 100, 28)
    assert slab.first <= row < slab.last == row + 1
    assert slab.read_first % 2 == 0 and slab.read_first == max(0, slab.first - 28)


def test_rows_follow_the_memory_there_is():
    assert rows_within(1e9, 512, 1e6, 0, 28) == 512
    assert rows_within(2e8, 512, 1e6, 0, 28) == 144
    assert rows_within(1e6, 512, 1e6, 0, 28) == MIN_ROWS
