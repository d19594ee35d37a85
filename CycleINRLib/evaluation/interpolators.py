"""The closed-form interpolators that a network must beat (floor 4).

Each is linear along z, so it is a matrix: rows of weights over the acquired slices for any places asked for. Cubic +
projection gives 13 results, one after each back-projection step, and the truth picks the best: generous to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.interpolation import cubic_weights, histospline_weights, linear_weights, sinc_weights
from ..imaging.noise import AcquiredQuery, positions_to_query

if TYPE_CHECKING:
    from .case import Case

BACK_PROJECTIONS = 12
SINC_LOBES = 3
ABOUT = {
    "linear": "linear interpolation between the acquired slices",
    "cubic": "cubic B-spline through the acquired slices",
    "sinc": f"sinc with a Lanczos window of {SINC_LOBES} lobes; takes thick slices for samples, as linear and cubic "
    "do, so what averaging over the thickness lost stays lost",
    "histospline": "cubic spline whose means over the slices are exact: right for box slices without gap or overlap, "
    "sharpens thin slices that need none",
    "cubic + projection": f"cubic, then {BACK_PROJECTIONS} back-projection steps x + cubic(y - A x) with the true "
    "slice profile; the truth picks the best step",
}


@dataclass(frozen=True, eq=False)
class Attempt:
    """One result of a method on the target slices of a case.

    values : (M, J, I)
    acquired : the result at acquired positions beside the grid, where the generated gap needs it
    readout : noise figures that the method measured itself, as `noise.noise_readout` gives them
    facts : what else is worth keeping, ready for JSON
    """

    values: np.ndarray
    acquired: AcquiredQuery | None = None
    readout: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


Positions = np.ndarray  # (M,) in source slices


def linear(case: Case) -> Iterator[Attempt]:
    """Linear interpolation between the thick slices."""
    yield _attempt(case, lambda at: linear_weights(at, case.count))


def cubic(case: Case) -> Iterator[Attempt]:
    """Cubic B-spline interpolation of the thick slices."""
    yield _attempt(case, lambda at: cubic_weights(at, case.count))


def sinc(case: Case) -> Iterator[Attempt]:
    """Lanczos-windowed sinc interpolation of the thick slices."""
    yield _attempt(case, lambda at: sinc_weights(at, case.count, SINC_LOBES))


def histospline(case: Case) -> Iterator[Attempt]:
    """The spline whose means over the thick slices are exact."""
    yield _attempt(case, lambda at: histospline_weights(at, case.count, 1 / case.protocol.z_scale))


def cubic_projection(case: Case) -> Iterator[Attempt]:
    """Cubic, then after each of 12 back-projection steps: x + cubic(y - A x), A over the whole thin grid."""
    seen = case.weights @ cubic_weights(case.thin_places, case.count)  # A S: (N, N)
    knots = np.eye(case.count)  # x = S knots y
    for step in range(BACK_PROJECTIONS + 1):
        yield _attempt(case, partial(_through_knots, knots=knots), {"step": step})
        knots = knots + np.eye(case.count) - seen @ knots


def _through_knots(at: Positions, knots: np.ndarray) -> np.ndarray:
    return cubic_weights(at, len(knots)) @ knots


def _attempt(case: Case, weights: Callable[[Positions], np.ndarray], facts: dict[str, Any] | None = None) -> Attempt:
    wanted = positions_to_query(case.positions, case.count)
    thick = case.source.values.reshape(case.count, -1).astype(np.float32)

    def at(places: np.ndarray) -> np.ndarray:
        return (weights(places).astype(np.float32) @ thick).reshape(len(places), *case.source.values.shape[1:])

    query = AcquiredQuery(at(wanted.astype(float)), wanted) if len(wanted) else None
    return Attempt(at(case.positions), query, facts=facts or {})


INTERPOLATORS: dict[str, Callable[[Case], Iterator[Attempt]]] = {
    "linear": linear,
    "cubic": cubic,
    "sinc": sinc,
    "histospline": histospline,
    "cubic + projection": cubic_projection,
}
