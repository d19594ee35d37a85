"""The noise of one volume, slice by slice, with no result to compare it with (floor 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import RequestError
from ..imaging import figures, noise
from ..imaging.geometry import AXES
from ..imaging.intensity import zero_of
from ..imaging.lazy import read_from_zero
from ..imaging.volume import UNITS, Volume, choose_slice_axis, guess_modality
from ..jobs import CHOICES


def measure(volume: Volume, *, axis: str = "auto", modality: str = "auto") -> dict[str, Any]:
    """SNLI and the noise of each slice (design section 6), of any volume, acquired or generated.

    Parameters
    ----------
    volume : Volume, values (K, J, I) in HU or MR stored units
    axis : "auto", "i", "j" or "k", the slice axis
    modality : "auto", "ct" or "mr"

    Returns
    -------
    dict, ready for JSON: snli, snli_detrended, noise_per_slice (list, None for slices left out), slices_measured,
    slices, sigma_mean, sigma_unit, slice_axis, modality, dimensions (I, J, K), spacing_mm (I, J, K), thickness_mm,
    period_slices, warnings. Figures that cannot be measured are None.

    The flat places are those of the volume itself; in a comparison (`noise.noise_readout`) they are those of the
    source, so both figures of one result can differ a little. snli_detrended needs to know how many slices share one
    acquired slice (`period_slices`): slice thickness / spacing, where the thickness is known and at least 1.5 times
    the spacing; else it is None.

    Raises
    ------
    RequestError : axis or modality is not one of the words above
    """
    for name, value in (("axis", axis), ("modality", modality)):
        if value not in CHOICES[name]:
            raise RequestError(f"{name} is unknown", repr(value), f"choose one of {', '.join(CHOICES[name])}")
    axis = choose_slice_axis(volume, axis)
    kind = guess_modality(volume) if modality == "auto" else modality.upper()
    slices = np.moveaxis(volume.values, AXES.index(axis), 0)
    sigmas = noise.slice_noise(read_from_zero(slices, zero_of(volume.values, kind)), kind)
    period = slices_per_thickness(volume, axis)
    measured = int(np.count_nonzero(np.isfinite(sigmas) & (sigmas > 0)))
    return {
        "snli": _rounded(figures.snli(sigmas)),
        "snli_detrended": None if period is None else _rounded(figures.snli_detrended(sigmas, period)),
        "noise_per_slice": figures.per_slice(sigmas),
        "slices_measured": measured,
        "slices": len(sigmas),
        "sigma_mean": figures.mean_noise(sigmas),
        "sigma_unit": volume.unit or UNITS[kind],
        "slice_axis": axis,
        "modality": kind,
        "dimensions": list(volume.values.shape[::-1]),
        "spacing_mm": [round(mm, 6) for mm in volume.spacing_mm[::-1]],
        "thickness_mm": volume.thickness_mm,
        "period_slices": period,
        "warnings": [*volume.warnings, *_doubts(measured, len(sigmas))],
    }


def slices_per_thickness(volume: Volume, axis: str) -> int | None:
    """How many slices lie within one slice thickness, rounded; None where unknown or fewer than 1.5."""
    if volume.thickness_mm is None:
        return None
    ratio = volume.thickness_mm / volume.spacing_mm[AXES.index(axis)]
    return round(ratio) if ratio >= 1.5 else None


def _doubts(measured: int, slices: int) -> list[str]:
    if measured < figures.LEAST_SLICES:
        return [f"Only {measured} of {slices} slices have enough flat tissue to be measured; SNLI needs 4."]
    return []


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
