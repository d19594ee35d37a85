"""The relation kept between output and acquired slices, along z only (floor 1; design section 5).

y are the acquired slices (N), x the output (M) on a uniform grid that reaches half a thickness beyond both ends,
A (M -> N) the slice profile on that grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .interpolation import cubic_weights, weighted
from .profile import profile_weights

KEEP_RATIO = 0.5  # `auto` keeps acquired slices up to this thickness / spacing, projects above
DAMPING = {"project": 0.02, "exact": 0.0}  # mu, in units of the mean diagonal of A A^T
LOOKED_AT = 12  # slices from which the noise level is taken
REMAINDER = 0.25  # of the noise level, that `project` may leave of an acquired pixel
PASSES = 2  # of the projection beyond the first, at most
GATE = 0.125  # distance from an acquired slice, in source slices, from which the correction counts in full


def resolve_consistency(consistency: str, ratio: float) -> str:
    """The mode meant by "auto"."""
    if consistency != "auto":
        return consistency
    return "keep" if ratio <= KEEP_RATIO else "project"


@dataclass(frozen=True, eq=False)
class Grid:
    """Uniform output places along z in source slice units: `positions`, of which `crop` is the target."""

    positions: np.ndarray  # (M,), the first and last ones may lie outside [0, N - 1]
    crop: slice
    count: int  # N, the number of acquired slices
    step: float  # 1 / z-scale

    @classmethod
    def of(
        cls, count: int, z_scale: float, slices: int, ratio: float, offset: float = 0.0, extend: bool = False
    ) -> Grid:
        """Target places offset + j / z_scale, j = 0 .. slices - 1; `extend` covers every profile as well."""
        step = 1 / z_scale
        before = after = 0
        if extend:
            reach = ratio / 2
            before = max(0, int(np.ceil((offset + reach) / step - 1e-6)))
            after = max(0, int(np.ceil((count - 1 + reach - offset) / step - 1e-6)) - (slices - 1))
        j = np.arange(-before, slices + after)
        return cls(offset + j * step, slice(before, before + slices), count, step)

    def profile(self, ratio: float, profile: str) -> np.ndarray:
        """(N, M) the matrix A: how acquired slices average over these places."""
        centers = (np.arange(self.count) - self.positions[0]) / self.step
        return profile_weights(centers, ratio / self.step, len(self.positions), profile)


def projection(A: np.ndarray, consistency: str) -> np.ndarray:
    """(M, N) matrix P of x + P (y - A x): A^T (A A^T + mu I)^-1."""
    gram = A @ A.T
    mu = DAMPING[consistency] * float(np.mean(np.diag(gram)))
    return np.linalg.solve(gram + mu * np.eye(len(gram)), A).T


def noise_level(values: np.ndarray, modality: str, derivatives: dict[int, np.ndarray] | None = None) -> float | None:
    """Mean sigma_k of at most 12 of (N, J, I) slices, evenly spread; None where fewer than 4 can be measured.

    derivatives : takes the `noise.gradient_parts` of these slices, by number
    """
    from .figures import mean_noise  # scipy, which training goes without
    from .noise import slice_noise

    chosen = np.unique(np.linspace(0, len(values) - 1, LOOKED_AT).round().astype(int))
    found: dict[int, np.ndarray] | None = None if derivatives is None else {}
    level = mean_noise(slice_noise(values[chosen], modality, derivatives=found))
    if derivatives is not None and found is not None:
        derivatives.update((int(chosen[n]), parts) for n, parts in found.items())
    return level


def beyond(missing: np.ndarray, noise: float | None) -> np.ndarray:
    """What of y - A x exceeds `REMAINDER` of the noise level, pixel by pixel, so that slabs do not matter; 0 elsewhere.

    The damping leaves a part of what is missing. Beside strong edges of a scan with little noise that is more than
    noise, and is projected again.
    """
    if not noise:
        return np.zeros_like(missing)
    limit = np.float32(REMAINDER * noise)
    return missing - np.clip(missing, -limit, limit)


def gate(positions: np.ndarray) -> np.ndarray:
    """(M,) in [0, 1]: 0 at acquired slices, 1 from an eighth of a slice away, continuous between."""
    near = np.abs(positions - np.round(positions))
    d = np.clip(near / GATE, 0, 1)
    return d * d * (3 - 2 * d)


def kept(x: np.ndarray, y: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """`keep`: the interpolating cubic plus the gated rest of x; exact copies of y at acquired positions.

    x (M, ...), y (N, ...) float32, positions (M,) in source slices; gives (M, ...).
    """
    g = gate(positions).astype(np.float32).reshape(-1, *[1] * (x.ndim - 1))
    base = weighted(cubic_weights(positions, len(y)), y)
    x = base + g * (x - base)
    inside = np.clip(positions, 0, len(y) - 1)
    at = np.flatnonzero(np.abs(inside - np.round(inside)) < 1e-6)
    x[at] = y[np.round(inside[at]).astype(int)]
    return x


class Remainder:
    """What the acquired slices still differ by from the slice profile of the output, summed over slabs."""

    def __init__(self) -> None:
        self.squares, self.count = 0.0, 0

    def add(self, missing: np.ndarray, y: np.ndarray) -> None:
        self.squares += float(np.sum(np.square(missing, dtype=np.float64)))
        self.count += y.size

    def join(self, others: Iterable[Remainder]) -> None:
        """Those of other slices or rows, in this order, so that the sum is the same each time."""
        for one in others:
            self.squares += one.squares
            self.count += one.count

    @property
    def rms(self) -> float | None:
        return float(np.sqrt(self.squares / self.count)) if self.count else None


def along_z(grid: Grid, update: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The projection's update, linear between places of the grid, at acquired positions."""
    at = (wanted - grid.positions[0]) / grid.step
    below = np.clip(np.floor(at).astype(int), 0, len(update) - 2)
    t = (at - below).astype(np.float32)[:, None, None]
    return (1 - t) * update[below] + t * update[below + 1]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How output is brought into agreement with acquired slices: the same for each pixel of a grid.

    wanted : acquired positions at which the output is asked for beside the grid
    profile, back : (N, M) average over the slice profile, (M, N) its damped inverse; None where nothing is projected
    noise : level of the acquired slices, for what is projected again (`beyond`)
    """

    consistency: str
    grid: Grid
    wanted: np.ndarray
    profile: np.ndarray | None
    back: np.ndarray | None
    noise: float | None

    @classmethod
    def of(
        cls, consistency: str, grid: Grid, wanted: np.ndarray, ratio: float, profile: str, noise: float | None
    ) -> Agreement:
        if consistency not in ("project", "exact"):
            return cls(consistency, grid, wanted, None, None, noise)
        A = grid.profile(ratio, profile).astype(np.float32)
        back = projection(A.astype(np.float64), consistency).astype(np.float32)
        return cls(consistency, grid, wanted, A, back, noise)

    def applied(
        self, x: np.ndarray, beside: np.ndarray, y: np.ndarray, errors: Remainder
    ) -> tuple[np.ndarray, np.ndarray]:
        """x (M, ...) on the grid, `beside` (n, ...) at `wanted` and the acquired slices y (N, ...), all float32.

        Gives x on the target part of the grid, and `beside`; what is left over is added to `errors`.
        """
        if self.consistency == "keep":
            return kept(x, y, np.clip(self.grid.positions, 0, self.grid.count - 1))[self.grid.crop], y[self.wanted]
        if self.profile is not None and self.back is not None:
            missing = y - weighted(self.profile, x)
            for _ in range(1 + (PASSES if self.consistency == "project" else 0)):
                update = weighted(self.back, missing)
                x += update
                beside += along_z(self.grid, update, self.wanted)
                left = y - weighted(self.profile, x)
                missing = beyond(left, self.noise)
                if not missing.any():
                    break
            errors.add(left, y)
        return x[self.grid.crop], beside
