"""Work of NumPy and of many small calls of torch, shared among as many threads as torch has (floor 2)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np


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


def copied(source: np.ndarray, target: np.ndarray) -> None:
    """(M, rows, ...) into another array of that shape, a part of the rows by each thread."""
    divided(lambda rows: np.copyto(target[:, rows], source[:, rows]), source.shape[1])
