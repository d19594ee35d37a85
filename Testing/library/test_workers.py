"""Work that is divided among torch's threads is done once, and leaves torch as it was."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from CycleINRLib.network.workers import divided, meanwhile  # noqa: E402


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_everything_is_done_once_in_no_more_parts_than_threads(threads, count):
    done: list[list[int]] = []
    divided(lambda some: done.append(list(range(count)[some])), count)
    assert sorted(sum(done, [])) == list(range(count)) and len(done) <= threads


def test_parts_are_not_smaller_than_asked(threads):
    done: list[slice] = []
    divided(done.append, 40, 15)
    assert len(done) == min(threads, 2) and all(some.stop - some.start >= 15 for some in done)


def test_torch_has_one_thread_within_and_as_many_as_before_afterwards(threads):
    within: list[int] = []
    divided(lambda some: within.append(torch.get_num_threads()), 10)
    assert set(within) == {1} and torch.get_num_threads() == threads


def test_what_goes_wrong_is_raised(threads):
    def fail(some: slice) -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        divided(fail, 10)
    assert torch.get_num_threads() == threads


def test_a_task_is_done_once_on_one_core_and_what_goes_on_meanwhile_has_the_others(threads):
    within: list[int] = []
    with meanwhile(lambda: within.append(torch.get_num_threads()) or "made") as found:
        assert torch.get_num_threads() == max(1, threads - 1)
        assert found() == found() == "made"
    assert within == [1] and torch.get_num_threads() == threads


def test_what_goes_wrong_meanwhile_is_raised_where_it_is_asked_for(threads):
    def fail() -> None:
        raise MemoryError("no room")

    with meanwhile(fail) as found, pytest.raises(MemoryError, match="no room"):
        found()
    with pytest.raises(KeyError), meanwhile(fail):
        raise KeyError
    assert torch.get_num_threads() == threads
