"""Codes of some rows and columns of a scan, kept: a plane among them then costs the decoder alone (floor 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.body import Rectangle, read_for
from .engine import Engine
from .memory import is_out_of_memory
from .plan import conditions_of
from .protocols import Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class HeldCodes:
    """values : (N, rows + 2, columns + 2, D), of the rows and columns `at` and of one more around them."""

    values: Tensor
    at: Rectangle

    def seen_from(self, row: int) -> HeldCodes:
        """The same, its rows counted from another first one."""
        return HeldCodes(self.values, self.at.seen_from(row, 0))

    def of(self, part: Rectangle) -> Tensor:
        """(N, rows + 2, columns + 2, D) of a part, which lies within."""
        rows, columns = part.seen_from(self.at.rows.start, self.at.columns.start)
        return self.values[:, rows.start : rows.stop + 2, columns.start : columns.stop + 2]


def codes_for(engine: Engine, values: Rows, wanted: Rectangle, body: Rectangle | None) -> HeldCodes | None:
    """Codes of (N, J, I) `values`, those of the network's halo among them; None where there is nothing to correct,
    or the device fails.

    body : rows and columns beyond which there is nothing to correct; None: everywhere there is

    Raises
    ------
    Cancelled : where the engine is to stop
    """
    from ..network.infer import codes_of

    near, inside = read_for(wanted, body, values.shape, engine.halo)
    if not all(part.stop > part.start for part in inside):
        return None
    read = np.array(values[:, near.rows], np.float32)[:, :, near.columns] / np.float32(engine.scale.scale)
    seen = inside.seen_from(near.rows.start, near.columns.start)
    told = conditions_of(engine.plan, engine.card, engine.scale, engine.spacing_mm)
    window, detail, tick = (seen.rows, seen.columns), engine.scale.detail, engine.check_cancelled
    try:
        return HeldCodes(codes_of(engine.network, read, *window, detail, told, tick), inside)
    except (MemoryError, RuntimeError) as error:
        if engine.device == "cpu" and not is_out_of_memory(error):
            raise
        return None  # they are encoded by the run, which says so and knows what to do


def bytes_of_codes(engine: Engine, shape: tuple[int, ...], rows: int, columns: int) -> float:
    """What is held while such codes of (N, J, I) are made: the encoded pixels with their halo, and the codes."""
    element = engine.slab_rule.element
    config: Any = engine.network.config
    wide = min(rows + 2 * engine.halo, shape[1]) * min(columns + 2 * engine.halo, shape[2])
    return shape[0] * element * (wide * config.channels / 4 + (rows + 2) * (columns + 2) * config.codes)
