"""The rows of one slab after another; on CUDA those of the next one travel while one is computed (floor 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import Slab
from .protocols import Rows

if TYPE_CHECKING:
    from ..network.model import CycleINR
    from ..network.transfer import Sent


class SlabReader:
    """Reads slabs of (N, J, I) `values`.

    columns : those that are computed; scale : see `IntensityScale`
    """

    def __init__(self, values: Rows, columns: slice, scale: float) -> None:
        self._values, self._columns, self._scale = values, columns, np.float32(scale)
        self._coming: tuple[np.ndarray, Sent] | None = None  # the slab that was named as the following one

    def read(self, slab: Slab, following: list[Slab], network: CycleINR | None) -> tuple[np.ndarray, Any]:
        """Its own rows (N, rows, columns) of the scan, and all of them with their halo, (N, R, I) divided by the scale.

        following : the slab that is asked for next, if any: it is read and sent on its way
        network : to whose device the latter are sent, where copies run beside kernels; None: they stay arrays
        """
        if network is None or not (following or self._coming):  # nothing to travel beside: what needs it sends a part
            return self._rows(slab)
        (own, sent), self._coming = self._coming or self._sent(slab, network), None
        if following:
            self._coming = self._sent(following[0], network)
        return own, sent.there()

    def forget(self) -> None:
        """What is on its way: other slabs, or another device, come next."""
        self._coming = None

    def _sent(self, slab: Slab, network: CycleINR) -> tuple[np.ndarray, Sent]:
        from ..network.transfer import send

        own, read = self._rows(slab)
        return own, send(read, network.enter.weight.device)

    def _rows(self, slab: Slab) -> tuple[np.ndarray, np.ndarray]:
        read = np.array(self._values[:, slab.read_first : slab.read_last], np.float32)
        own = read[:, slab.first - slab.read_first : slab.last - slab.read_first, self._columns].copy()
        read /= self._scale
        return own, read
