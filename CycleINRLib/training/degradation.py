"""How a scanner makes thick slices, and the ways in which scans differ: physics of the training samples (floor 3).

Blocks are (L, J, I) thin slices, slices first, in HU (CT) or stored units (MR). Only numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..imaging.profile import SKIP_RATIO, profile_weights

WHOLE_Z_SCALES = (2.0, 3.0, 4.0, 5.0, 6.0, 2.5, 3.5)  # the common ones are drawn more often
FORMS = {"skip": 0.0, "box": 0.0, "trapezoid": 0.2, "gaussian": 1.0}  # -> Conditions.gaussian, by their variance


@dataclass(frozen=True)
class ScanProtocol:
    """One scan protocol: z_scale thin slices to a thick one's spacing, thickness ratio times that, by `profile`."""

    z_scale: float
    ratio: float
    profile: str

    @classmethod
    def drawn(cls, z_scales, ratios, skip_share: float, full_share: float, rng: np.random.Generator) -> ScanProtocol:
        """z-scale from the range `z_scales`; no thickness, a thickness equal to the spacing, or one of `ratios`."""
        whole = [z for z in WHOLE_Z_SCALES if z_scales[0] <= z <= z_scales[1]]
        z_scale = float(rng.choice(whole)) if whole and rng.random() < 0.6 else float(rng.uniform(*z_scales))
        kind = rng.random()
        if kind < skip_share:
            return cls(z_scale, 0.0, "skip")
        ratio = 1.0 if kind < skip_share + full_share else float(rng.uniform(*ratios))
        if ratio < SKIP_RATIO:
            return cls(z_scale, 0.0, "skip")
        return cls(z_scale, ratio, str(rng.choice(["box", "gaussian", "trapezoid"], p=[0.4, 0.45, 0.15])))

    @property
    def thickness(self) -> float:
        """In thin slices."""
        return self.ratio * self.z_scale

    @property
    def form(self) -> float:
        return FORMS[self.profile]

    def thicken(self, block: np.ndarray, centers: np.ndarray) -> np.ndarray:
        """Thick slices (N, J, I) at `centers` (thin slices), rounded as stored.

        Noise of the block is averaged as a scanner averages it: white noise falls by the root of the sum of squares
        of the profile's weights.
        """
        weights = profile_weights(centers, self.thickness, len(block), self.profile).astype(np.float32)
        used = np.flatnonzero(weights.max(0) > 1e-7)
        low, high = used[0], used[-1] + 1
        return np.round(np.tensordot(weights[:, low:high], block[low:high].astype(np.float32), 1))

    def window(self, centers: np.ndarray, count: int) -> slice:
        """Which of `count` thin slices are looked at by slices at `centers` (ascending), or lie between them."""
        weights = profile_weights(centers[[0, -1]], self.thickness, count, self.profile)
        used = np.flatnonzero(weights.max(0) > 1e-7)
        return slice(int(used[0]), int(used[-1]) + 1)

    def nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Three offsets in units of the spacing, and weights, that average a function over the profile.

        The Gauss rules of the box and the Gaussian, exact for polynomials up to the fifth degree; the trapezoid's lies
        between. A slice that skips is one place.
        """
        if self.ratio < SKIP_RATIO:
            return np.zeros(3), np.array([1.0, 0.0, 0.0])
        variance = (1 - self.form) / 12 + self.form / (8 * np.log(2))  # of the profile, in units of thickness squared
        outer = (1 - self.form) * 5 / 18 + self.form / 6
        offset = self.ratio * np.sqrt(variance / (2 * outer))
        return np.array([0.0, -offset, offset]), np.array([1 - 2 * outer, outer, outer])


@dataclass(frozen=True)
class Smooth:
    """A scan that was made smoother than its grid, as many are: slices that overlap, soft kernels, zero-filling.

    `through` and `within` are strengths along z and in-plane: the full width of a Gaussian in samples, or the inverse
    of the share of spatial frequencies that a zero-filled scan has kept; 0 leaves an axis alone.
    """

    zero_filled: bool
    through: float
    within: float

    @classmethod
    def drawn(cls, modality: str, rng: np.random.Generator) -> Smooth:
        """CT overlaps and has soft kernels; MR is mostly zero-filled, often twofold and in all axes alike."""
        if modality == "CT" or rng.random() < 0.3:
            through, within = (float(rng.uniform(1.1, 2.5)) for _ in range(2))
            return cls(False, through, within if rng.random() < 0.5 else 0.0)
        through = 2.0 if rng.random() < 0.4 else float(rng.uniform(1.1, 2.2))
        return cls(True, through, through if rng.random() < 0.7 else 0.0)

    def of(self, values: np.ndarray, columns_only: bool = False, kept: slice = slice(None)) -> np.ndarray:
        """(L, J, I) values made smooth along z, and in-plane along columns or both axes; the slices `kept` of them."""
        values = np.tensordot(self._weights(len(values), self.through)[kept], values.astype(np.float32), 1)
        if self.within:
            values = values @ self._weights(values.shape[2], self.within).T
            if not columns_only:
                values = self._weights(values.shape[1], self.within) @ values
        return values

    def _weights(self, count: int, strength: float) -> np.ndarray:
        at = np.arange(count)
        if not self.zero_filled:
            return profile_weights(at, strength, count, "gaussian").astype(np.float32)
        basis = np.cos(np.pi / count * (at[None] + 0.5) * at[:, None])  # cosine transform: no wrap-around at the ends
        basis /= np.linalg.norm(basis, axis=1, keepdims=True)
        kept = np.clip((1 / strength + 0.05 - at / count) / 0.1, 0, 1)  # a tenth of the band fades out
        return ((basis.T * kept) @ basis).astype(np.float32)


@dataclass(frozen=True)
class Contrast:
    """Another calibration (CT: a line in HU) or another contrast and receive field (MR: gamma, a smooth bias)."""

    factor: float
    offset: float  # HU
    gamma: float
    bias: tuple[float, float, float]  # change of log intensity from one end of each axis to the other

    @classmethod
    def drawn(cls, modality: str, rng: np.random.Generator) -> Contrast:
        if modality == "CT":
            return cls(float(rng.uniform(0.95, 1.05)), float(rng.uniform(-20, 20)), 1.0, (0.0, 0.0, 0.0))
        slopes = rng.uniform(-0.5, 0.5, 3)
        gamma = float(np.exp(rng.uniform(-0.35, 0.35)))
        return cls(1.0, 0.0, gamma, (float(slopes[0]), float(slopes[1]), float(slopes[2])))

    def of(self, values: np.ndarray, scale: float, places: tuple[np.ndarray, ...]) -> np.ndarray:
        """(L, J, I) values; `places` are the block's coordinates along each axis as shares of the whole scan."""
        values = values.astype(np.float32)
        if self.gamma != 1.0:
            values = np.sign(values) * scale * np.abs(values / scale) ** self.gamma
        field = sum(
            slope * (at - 0.5).reshape([-1 if n == axis else 1 for n in range(3)])
            for axis, (slope, at) in enumerate(zip(self.bias, places))
        )
        return (values * (self.factor * np.exp(field)) + self.offset).astype(np.float32)


@dataclass(frozen=True)
class Noise:
    """Noise added to the thin slices, before they are averaged; CT noise is correlated in-plane half of the time."""

    sigma: float  # HU or stored units
    rician: bool
    correlated: bool
    seed: int

    @classmethod
    def drawn(cls, modality: str, scale: float, rng: np.random.Generator) -> Noise:
        sigma = rng.uniform(5, 40) if modality == "CT" else scale * rng.uniform(0.005, 0.04)
        return cls(float(sigma), modality != "CT", modality == "CT" and rng.random() < 0.5, int(rng.integers(2**31)))

    def of(self, values: np.ndarray) -> np.ndarray:
        """(L, J, I) values with noise; MR magnitude noise is Rician."""
        rng = np.random.default_rng(self.seed)
        real = values + self._field(values.shape, rng)
        if not self.rician:
            return real
        return np.sign(real) * np.hypot(real, self._field(values.shape, rng))

    def _field(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        field = rng.standard_normal(shape, np.float32)
        if self.correlated:
            for axis in (1, 2):
                field = (np.roll(field, 1, axis) + 2 * field + np.roll(field, -1, axis)) / np.float32(np.sqrt(6))
        return field * np.float32(self.sigma)
