"""Natural noise for synthetic slices: what the autoencoder took from acquired slices, drawn anew (floor 3).

A residual is an acquired slice minus its decoded one. It is brought to unit strength place by place, rolled and
flipped at random within the slice, and brought to the strength that residuals have at the synthetic place. Residuals
of the body go to body, those of air to air, and only flat places give: elsewhere residuals are lost edges, which would
be seen as ghosts. Then the noise of the slice is that of its two acquired neighbors, by the
product's own measure (imaging/noise.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..imaging.intensity import body_mask, value_range
from ..imaging.noise import NoiseGauge, gradient_parts, sigma, slice_noise

DONORS = 24  # acquired slices whose residuals are held
DRAWS = 8  # donors that fill one slice; what is left has the residual of the slice next to it
FLAT = 70.0  # percentile of the gradient, in body and in air, below which a place is flat
_REACH = 6.0  # pixels of the Gaussian over which the strength of residuals is told
FAR = 1e-3  # weight of the mean strength, where no flat place is near
_MOST = 4.0  # strengths that a residual may have
_MOST_GAIN = 3.0


@dataclass(frozen=True, eq=False)
class Residual:
    """What decoding took from one acquired slice, in the unit of the scan.

    unit : (J, I) float32, the residual divided by its strength
    strength : (J, I) float32, its RMS at flat places nearby, within body or air
    body : (J, I) bool
    flat : (J, I) bool
    """

    unit: np.ndarray
    strength: np.ndarray
    body: np.ndarray
    flat: np.ndarray

    @classmethod
    def of(cls, acquired: np.ndarray, decoded: np.ndarray, body: np.ndarray) -> Residual:
        residual = np.asarray(acquired, np.float32) - decoded
        flat, strength = np.zeros_like(body), np.zeros_like(residual)
        gradient = np.hypot(*gradient_parts(decoded))
        for part in (body, ~body):
            if part.any():
                flat |= part & (gradient <= np.percentile(gradient[part], FLAT))
                strength[part] = _strength(residual, part & flat)[part]
        least = max(1e-3 * float(strength.max()), 1e-12)  # masked background has none
        return cls(np.clip(residual / np.maximum(strength, least), -_MOST, _MOST), strength, body, flat)


def _strength(residual: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(J, I) local RMS of the residual over the places `where`, their overall RMS far from them."""
    power = np.where(where, residual * residual, np.float32(0))
    near, share = (ndimage.gaussian_filter(part, _REACH) for part in (power, where.astype(np.float32)))
    return np.sqrt((near + FAR * power[where].mean()) / (share + FAR))


class Residuals:
    """Draws residuals for the synthetic slices of one scan.

    Parameters
    ----------
    values : (N, J, I) acquired slices
    decode : slice number k to D(mu_k), (J, I), in the unit of `values`
    modality : "CT" or "MR"
    seed : with the number of the synthetic slice it says what is drawn
    """

    def __init__(self, values: np.ndarray, decode: Callable[[int], np.ndarray], modality: str, seed: int) -> None:
        self.values, self.decode, self.modality, self.seed = values, decode, modality, seed
        self.peak = value_range(values, modality)
        self.gauge = NoiseGauge(values, 1.0, modality, threads=1)
        self.noise = slice_noise(values, modality, threads=1)
        self.near: OrderedDict[int, Residual] = OrderedDict()
        count = min(DONORS, len(values))
        self.donors = [self._residual(k) for k in np.linspace(0, len(values) - 1, count).round().astype(int)]
        self.gain = 1.0

    def draw(self, plain: np.ndarray, place: float, number: int) -> np.ndarray:
        """(J, I) float32 to add to the decoded slice `plain` at `place` in source slices."""
        random = np.random.default_rng([self.seed, number])
        k = min(int(place + 1e-9), len(self.values) - 2)
        t = place - k
        below, above = self._near(k), self._near(k + 1)
        body = body_mask(plain, self.modality, self.peak)
        unit = self._patched(body, above if t > 0.5 else below, random)
        strength = np.sqrt((1 - t) * below.strength**2 + t * above.strength**2)
        return self._gained(plain, unit * strength, place, t, k)

    def _patched(self, body: np.ndarray, nearest: Residual, random: np.random.Generator) -> np.ndarray:
        """Residuals of unit strength: of flat places of random donors, where body lies on body and air on air."""
        unit, open_places = nearest.unit.copy(), np.ones_like(body)
        for n in random.integers(0, len(self.donors), DRAWS):
            rolls = tuple(int(random.integers(size)) for size in body.shape)
            flips = tuple(slice(None, None, -1 if flip else 1) for flip in random.integers(0, 2, 2))
            donor = self.donors[n]
            values, of_body, flat = (np.roll(x[flips], rolls, (0, 1)) for x in (donor.unit, donor.body, donor.flat))
            fits = open_places & flat & (of_body == body)
            unit[fits] = values[fits]
            open_places &= ~fits
        return unit

    def _gained(self, plain: np.ndarray, drawn: np.ndarray, place: float, t: float, k: int) -> np.ndarray:
        """The residual at the strength that gives the slice the noise of its neighbors; else at that of the last one.

        Variances add, but a median does not know it: the second look corrects the first.
        """
        mask = self.gauge.mask(place)
        wanted = float((1 - t) * self.noise[k] + t * self.noise[k + 1]) if t > 0 else float(self.noise[k])
        has, brings = (float("nan") if mask is None else sigma(part, mask) for part in (plain, drawn))
        if mask is not None and np.isfinite([wanted, has]).all() and brings > 0:
            gain = np.sqrt(max(0.0, wanted**2 - has**2)) / brings
            got = sigma(plain + np.float32(gain) * drawn, mask)
            if got > has:
                gain *= np.sqrt(max(0.0, wanted**2 - has**2) / (got**2 - has**2))
            self.gain = float(min(gain, _MOST_GAIN))
        return np.float32(self.gain) * drawn

    def _near(self, k: int) -> Residual:
        """Of slice k; the last two are kept."""
        if k not in self.near:
            self.near[k] = self._residual(k)
            while len(self.near) > 2:
                self.near.popitem(last=False)
        return self.near[k]

    def _residual(self, k: int) -> Residual:
        plain = self.decode(k)
        return Residual.of(self.values[k], plain, body_mask(plain, self.modality, self.peak))
