"""Whether the numbers of a run stayed within the range of its precision (floor 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .model import CycleINR


class Finite:
    """Whether all that was looked at is finite, without waiting for the device. On CPUs only float16 is looked at.

    What leaves the range of float16 within the encoder stays infinite, or not a number, in what its blocks add to, and
    so in the codes; within the decoder a ReLU may hide it below zero alone, where it is right.
    """

    def __init__(self, network: CycleINR) -> None:
        weight = network.enter.weight
        self._asked = weight.device.type != "cpu" or weight.dtype == torch.float16
        self._found: list[Tensor] = []  # by any thread

    def looked_at(self, values: Tensor) -> Tensor:
        """The values themselves."""
        if self._asked:
            self._found.append(values.isfinite().all())
        return values

    def codes(self, codes_at: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
        """The same, each looked at."""
        return (lambda k: self.looked_at(codes_at(k))) if self._asked else codes_at

    def check(self) -> None:
        """Raises FloatingPointError where something was not."""
        if self._found and not bool(torch.stack(self._found).all()):
            raise FloatingPointError("numbers are not finite")
