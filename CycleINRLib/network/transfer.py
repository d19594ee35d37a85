"""Values on their way to a device, and results on their way back, while it computes others (floor 2).

On CUDA, copies between pinned memory and the device run beside its kernels. What makes that safe stands at each step:
memory is read or written again only behind an event that says that its copy has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

PIECE_BYTES = 2**24  # of pinned memory that is filled while as much travels: more costs longer to pin than it saves


# --- there -----------------------------------------------------------------------------------------------------
class Sent:
    """Values that are on their way to a device, from `send`."""

    def __init__(self, values: Tensor, arrived: torch.cuda.Event | None = None) -> None:
        self._values, self._arrived = values, arrived

    def there(self) -> Tensor:
        """The values; what is queued from now on sees them whole. The caller is not held up."""
        if self._arrived is not None:
            torch.cuda.current_stream(self._values.device).wait_event(self._arrived)
        return self._values


def send(values: np.ndarray, device: torch.device) -> Sent:
    """Sends (N, ...) float32 to a device; `values` may be changed as soon as this returns.

    On CUDA by slices, through two pieces of pinned memory in turns, on a stream of its own: beside the kernels that are
    queued after this call.
    """
    if device.type != "cuda":
        return Sent(torch.from_numpy(np.ascontiguousarray(values)).to(device))
    there = torch.empty(values.shape, device=device)
    count = min(len(values), max(1, PIECE_BYTES // (values[0].size * there.element_size())))
    try:
        pieces = [torch.empty((count, *values.shape[1:]), pin_memory=True) for _ in range(1 + (count < len(values)))]
    except RuntimeError:  # the system pins no more memory
        return Sent(there.copy_(torch.from_numpy(np.ascontiguousarray(values))))
    stream, events = _copying(device), [torch.cuda.Event() for _ in pieces]
    stream.wait_stream(torch.cuda.current_stream(device))  # kernels may still use what this memory held before
    there.record_stream(stream)  # dropped on the way, it serves others only once the copies have ended
    with torch.cuda.stream(stream):
        for n, first in enumerate(range(0, len(values), count)):
            part = values[first : first + count]
            piece, copied = pieces[n % 2][: len(part)], events[n % 2]
            copied.synchronize()  # until the last but one has left this memory; at once where there was none
            np.copyto(piece.numpy(), part)
            there[first : first + count].copy_(piece, non_blocking=True)
            copied.record()
        arrived = torch.cuda.Event()
        arrived.record()
    return Sent(there, arrived)  # torch keeps pinned memory until its copies have ended


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device that copies what is sent."""
    return torch.cuda.Stream(device)


# --- back ------------------------------------------------------------------------------------------------------
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
        self.waiting.append((at, *_sent_back(made)))
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


def _sent_back(made: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The tensor where the CPU sees it, and what tells that it is there; None: it is."""
    if made.device.type != "cuda":
        return made.cpu(), None
    try:
        here = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
    except RuntimeError:  # the system pins no more memory
        return made.cpu(), None
    here.copy_(made, non_blocking=True)
    event = torch.cuda.Event()
    event.record()  # behind the kernels that made it, and the copy
    return here, event
