"""What the spectrum along z tells: whether a scan has detail between its slices at all (floor 1).

Slices sample the body along z. Detail finer than their Nyquist frequency folds back, mirrored there, so the power
spectrum of slices that skip detail is even about that frequency: its slope vanishes. Where it still falls, nothing was
folded: the scanner ended the band there and interpolated (zero-filled) it, and there is no detail to bring back.
"""

from __future__ import annotations

import numpy as np  # scipy within `half_band` alone: panel and `cycleinr info` answer without loading it

ENDING_AT_NYQUIST = (
    1e-3  # share of scans whose band ends just there; a careful guess, so that only clear evidence tells
)
LEAST_CUT = 20  # slices from which it can be told that a band is cut
CUT = 1.5  # log10 of the fall of power that tells it
COLUMNS_USED = 4000  # columns of pixels, at most
LEAST_BINS = 4  # of the upper half of the spectrum


def spectrum_along_z(values: np.ndarray, body: np.ndarray) -> np.ndarray:
    """(N,) mean power of each frequency m / (2 N) cycles a slice, m = 0 .. N - 1, over the columns in the body.

    values : (N, J, I) slices
    body : (J, I) bool, the columns that count

    A cosine transform: the ends of a scan differ, and a Fourier transform would take that for detail.
    """
    columns = np.asarray(values[:, body], np.float64)
    return np.mean(_cosines(columns - columns.mean(0)) ** 2, axis=1)


def _cosines(columns: np.ndarray) -> np.ndarray:
    """The orthonormal cosine transform (DCT-II) along the first axis: Fourier's, of the columns and their mirror."""
    count = len(columns)
    m = np.arange(count)[:, None]
    waves = np.fft.rfft(np.concatenate([columns, columns[::-1]]), axis=0)[:count]
    found = (waves * np.exp(-0.5j * np.pi * m / count)).real / np.sqrt(2 * count)
    found[0] /= np.sqrt(2)
    return found


def probability_of_detail(power: np.ndarray) -> float:
    """Probability that there is detail beyond the slices' Nyquist frequency, from the `spectrum_along_z`.

    Two descriptions of the logarithm of the upper half of the spectrum, u below Nyquist, are compared by their
    residuals R: a + c u^2 (even: folded) and a + b u (falls on: not folded). Both have two numbers to fit, so with
    n frequencies and residuals of unknown, equal variance the likelihood ratio is (R_even / R_falling)^(n / 2).
    Only slices that are thin beside their spacing can be judged: a slice profile itself makes the spectrum fall.

    Returns
    -------
    [0, 1]; 1 where there are too few slices, or no signal, to tell
    """
    count = len(power)
    m = np.arange(count // 2, count)
    if len(m) < LEAST_BINS or not power[m].min() > 0:
        return 1.0
    below, level = (count - m) / count, np.log(power[m])
    even, falling = _residual(level, below**2), _residual(level, below)
    if not min(even, falling) > 0:
        return 1.0
    odds = np.log(ENDING_AT_NYQUIST) + len(m) / 2 * np.log(even / falling)
    return float(1 / (1 + np.exp(min(odds, 700.0))))


def _residual(level: np.ndarray, shape: np.ndarray) -> float:
    """What a + b shape leaves of `level`, as a sum of squares."""
    terms = np.stack([np.ones_like(shape), shape], 1)
    return float(np.sum((level - terms @ np.linalg.lstsq(terms, level, rcond=None)[0]) ** 2))


def band_end(values: np.ndarray) -> float | None:
    """Where the band of (N, J, I) slices ends as if cut, as a part of their Nyquist frequency; None where it does not.

    A scanner that fills k-space with zeros gives slices whose spectrum stops at the resolution that was acquired:
    nothing lies between such slices that they do not hold. Profiles of overlapping slices let the spectrum fall, but
    never by a factor of 30 from one tenth of the band to the next, with nothing left above. Cosines see it where the
    ends of a scan differ, Fourier's waves where it goes round, as the scanner's transform does; the clearer one counts.
    Measured: real scans fall by at most 10^0.9, overlapping ones by 10^1.2, those filled with zeros by 10^1.5 and more.
    """
    if len(values) < LEAST_CUT:
        return None
    step = max(1, int(np.sqrt(values[0].size / COLUMNS_USED)))
    columns = np.asarray(values[:, ::step, ::step], np.float64).reshape(len(values), -1)
    columns = columns[:, (spans := np.ptp(columns, axis=0)) >= np.median(spans)]
    columns = columns - columns.mean(0)
    cosines = np.mean(_cosines(columns) ** 2, axis=1)
    waves = np.mean(np.abs(np.fft.rfft(columns, axis=0)) ** 2, axis=1)
    fall, at = max(_cut(cosines), _cut(waves))
    return at if fall > CUT else None


def _cut(power: np.ndarray) -> tuple[float, float]:
    """The largest fall of log10 of the power from one tenth of the band to all that lies above, and where."""
    count, level = len(power), np.log10(power + 1e-9 * power.max() + 1e-30)
    tenth, gap = max(2, round(0.1 * count)), max(1, round(0.03 * count))
    best = (0.0, 1.0)
    for end in range(round(0.3 * count), round(0.86 * count) + 1):
        above = level[end + gap :]
        if len(above) >= 2:
            fall = np.median(level[end - tenth : end]) - max(np.median(above[:tenth]), np.quantile(above, 0.9))
            best = max(best, (float(fall), end / count))
    return best


def half_band(values: np.ndarray) -> np.ndarray:
    """(N, J, I) slices without the upper half of their band along z: every second one holds all that is left."""
    from scipy.fft import dct, idct

    coefficients = dct(np.asarray(values, np.float64), axis=0, norm="ortho")
    coefficients[len(values) // 2 :] = 0
    return idct(coefficients, axis=0, norm="ortho").astype(np.float32)
