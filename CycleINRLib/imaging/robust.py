"""The median in one pass (floor 1).

`numpy.median` asks for three elements at once and looks for NaN; NumPy finds a single one ten times as fast, with the
vector units of the processor.
"""

from __future__ import annotations

import numpy as np


def median(values: np.ndarray) -> np.floating:
    """As `numpy.median` of all `values`, float and finite, gives it; NaN where there are none."""
    count = values.size
    if not count:
        return np.float64("nan")
    half = np.partition(values, count // 2, axis=None)
    above = half[count // 2]
    return above if count % 2 else np.mean((half[: count // 2].max(), above), dtype=values.dtype)
