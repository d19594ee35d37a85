"""Results on their way from a device to the CPU while the device computes the next ones (floor 2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class Fetch:
    """Hands results out in order; on CUDA each one only when the next one has been asked for.

    A copy into pinned memory runs beside the kernels. Where there is none to be had, and elsewhere, results are copied
    at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.ahead = 1 if device.type == "cuda" else 0  # results that may be on their way
        self.waiting: deque[tuple[slice, Tensor, torch.cuda.Event | None]] = deque()

    def put(self, at: slice, made: Tensor) -> Iterator[tuple[slice, np.ndarray]]:
        """Sends a result on its way, and gives those that are there."""
        self.waiting.append((at, *_sent(made)))
        while len(self.waiting) > self.ahead:
            yield self._arrived()

    def rest(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Those that are still on their way."""
        while self.waiting:
            yield self._arrived()

    def _arrived(self) -> tuple[slice, np.ndarray]:
        at, here, event = self.waiting.popleft()
        if event is not None:
            event.synchronize()
        return at, here.numpy()


def _sent(made: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The tensor where the CPU sees it, and what tells that it is there; None: it is."""
    if made.device.type != "cuda":
        return made.cpu(), None
    try:
        here = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
    except RuntimeError:  # the system pins no more memory
        return made.cpu(), None
    here.copy_(made, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return here, event
