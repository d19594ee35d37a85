"""Work of NumPy and of many small calls of torch, shared among as many threads as torch has (floor 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import numpy as np

Made = TypeVar("Made")


def divided(task: Callable[[slice], None], count: int, least: int = 1) -> None:
    """task(some) for slices of 0 to `count`, of `least` at least: one for each of torch's threads, at the same time.

    Within them torch computes on the one thread alone. What is made must not hang on how it is divided.
    """
    import torch

    threads = torch.get_num_threads()
    parts = max(1, min(threads, count // least))
    edges = [n * count // parts for n in range(parts + 1)]
    some = [slice(first, last) for first, last in zip(edges[:-1], edges[1:])]
    if parts == 1:
        task(some[0])
        return
    started = Barrier(parts + 1)

    def begin() -> None:
        torch.get_num_threads()  # or else this thread would ask for the number later
        torch.set_num_threads(1)  # of this thread, and of those that begin after it, hence the restoring below
        started.wait()

    with ThreadPoolExecutor(parts, initializer=begin) as pool:
        found = [pool.submit(task, one) for one in some]
        started.wait()
        torch.set_num_threads(threads)
        for one in found:
            one.result()


@contextmanager
def meanwhile(task: Callable[[], Made]) -> Iterator[Callable[[], Made]]:
    """task() by a thread of its own on one core, while the body goes on and its torch has the others; gives the
    function that waits for what was made, or raises what went wrong.

    Where torch has one thread, the task is done when that function is called. What either makes must not hang on it.
    """
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        yield cache(task)
        return
    started = Barrier(2)

    def begin() -> None:
        torch.get_num_threads()  # both as in `divided`
        torch.set_num_threads(1)
        started.wait()

    with ThreadPoolExecutor(1, initializer=begin) as pool:
        found = pool.submit(task)
        started.wait()
        torch.set_num_threads(threads - 1)
        try:
            yield found.result
        finally:
            torch.set_num_threads(threads)


def copied(source: np.ndarray, target: np.ndarray) -> None:
    """(M, rows, ...) into another array of that shape, a part of the rows by each thread."""
    divided(lambda rows: np.copyto(target[:, rows], source[:, rows]), source.shape[1])
