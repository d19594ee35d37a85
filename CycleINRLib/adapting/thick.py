"""Scans without a thin-slice truth, made ready for adaptation: protocol, shown and held-out slices (floor 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..errors import RequestError, VolumeError
from ..events import Listener, Warned
from ..imaging.geometry import AXES
from ..imaging.intensity import BODY_CT_HU, BODY_MR, CT_RANGE_HU, IntensityScale, from_zero, zero_of
from ..imaging.profile import SKIP_RATIO, resolve_profile
from ..imaging.thickness import estimate_thickness
from ..imaging.volume import Volume, check_usable, choose_slice_axis, guess_modality
from ..jobs import AdaptJob
from ..training.degradation import ScanProtocol
from ..training.scans import ANISOTROPIC

LEAST_SLICES_OF_SCAN = 12  # of a scan: six to learn from at least, five to examine with
LEAST_HELD, MOST_HELD = 5, 25  # slices that are held out
CERTAIN = 1.1  # how much better an estimated thickness must fit than others
LEAST_ESTIMATE = 0.5  # of the spacing: below it, slices that differ in brightness are likelier than such gaps
ALIKE = 0.05  # relative difference of lengths up to which two scans share a protocol


@dataclass(frozen=True, eq=False)
class ThickScan:
    """One scan to adapt to.

    volume : slices first
    protocol : z-scale to isotropic, thickness / spacing, slice profile
    thickness_mm : told, or estimated from the scan (`estimated`), or the spacing where neither tells
    scale : IntensityScale.scale
    held : the stretch of acquired slices that no training sees
    """

    volume: Volume
    modality: str
    protocol: ScanProtocol
    thickness_mm: float
    estimated: bool
    scale: float
    held: slice

    @property
    def held_out(self) -> np.ndarray:
        """(M, J, I) acquired slices, M odd: every second one is predicted from the others when all is done."""
        return self.volume.values[self.held]

    @property
    def shown(self) -> list[np.ndarray]:
        """The stretches (N, J, I) of acquired slices below and above the held-out ones."""
        values = self.volume.values
        return [part for part in (values[: self.held.start], values[self.held.stop :]) if len(part)]

    @property
    def fine_mm(self) -> tuple[float, float, float]:
        """Spacing (k, j, i) of the isotropic volume that the z-scale gives."""
        k, j, i = self.volume.spacing_mm
        return k / self.protocol.z_scale, j, i

    @property
    def protocols(self) -> tuple[ScanProtocol, ...]:
        """The scan's own, twice, and what is left of it when every second slice is dropped."""
        own = self.protocol
        dropped = replace(own, z_scale=2 * own.z_scale, ratio=own.ratio / 2)
        if dropped.ratio < SKIP_RATIO:
            dropped = replace(dropped, ratio=0.0, profile="skip")
        return own, own, dropped

    def group(self) -> dict[str, Any]:
        """What scans of one protocol share; for the report."""
        return {
            "modality": self.modality,
            "spacing_mm": [round(mm, 3) for mm in self.volume.spacing_mm],
            "thickness_mm": round(self.thickness_mm, 3),
            "profile": self.protocol.profile,
            "estimated": self.estimated,
        }


class Coarse(NamedTuple):
    """A scan, slices first, that lie far enough apart to learn from."""

    volume: Volume
    modality: str
    z_scale: float  # to isotropic


def ready(volumes: Sequence[Volume], job: AdaptJob, progress: Listener | None = None) -> list[ThickScan]:
    """The scans that can be learned from; the others are warned of.

    Raises
    ------
    VolumeError, RequestError : as `usable` does
    """
    return [_thick(scan, job, progress) for scan in usable(volumes, job, progress)]


def usable(volumes: Sequence[Volume], job: AdaptJob, progress: Listener | None = None) -> list[Coarse]:
    """The scans that can be learned from, not yet examined, so that a panel can ask; the others are warned of.

    Raises
    ------
    VolumeError : none is left; says why for the first
    RequestError : scans of CT and MR together
    """
    found, refused = [], []
    for volume in volumes:
        try:
            found.append(_coarse(volume, job))
        except VolumeError as error:
            refused.append((volume.name, error))
    if not found:
        _raise_for(refused)
    for name, why in refused:
        _warn(progress, f"{name} is left out: {why.what[0].lower()}{why.what[1:]} ({why.found}).")
    kinds = sorted({scan.modality for scan in found})
    if len(kinds) > 1:
        count = ", ".join(f"{sum(scan.modality == kind for scan in found)} {kind}" for kind in kinds)
        raise RequestError("The scans are of two modalities", count, "adapt to CT and to MR separately")
    return found


def _raise_for(refused: list[tuple[str, VolumeError]]) -> None:
    if not refused:
        raise VolumeError("There is no scan to adapt to", "0 scans", "name files or a folder of scans")
    name, error = refused[0]
    if len(refused) == 1:
        raise VolumeError(error.what, f"{error.found} in {name}", error.next) from error
    found = f"{len(refused)} scans, the first, {name}: {error.what} ({error.found})"
    raise VolumeError("No scan can be adapted to", found, error.next) from error


def _coarse(volume: Volume, job: AdaptJob) -> Coarse:
    check_usable(volume, job.axis)
    axis = choose_slice_axis(volume, job.axis)
    modality = guess_modality(volume) if job.modality == "auto" else job.modality.upper()
    first = volume.slices_first(axis)
    count, spacing = len(first.values), first.spacing_mm
    z_scale = spacing[0] / float(np.mean(spacing[1:]))
    if z_scale < ANISOTROPIC:
        size = " x ".join(f"{volume.spacing_mm[AXES.index(name)]:.3g}" for name in "ijk")
        raise VolumeError("The volume is isotropic, or nearly so", f"{size} mm", "give scans with coarse slices")
    if count < LEAST_SLICES_OF_SCAN:
        raise VolumeError("There are too few slices to learn from", f"{count}", f"give at least {LEAST_SLICES_OF_SCAN}")
    values = from_zero(first.values, zero_of(first.values, modality))
    return Coarse(replace(first, values=values), modality, z_scale)


def _thick(scan: Coarse, job: AdaptJob, progress: Listener | None) -> ThickScan:
    first, modality = scan.volume, scan.modality
    scale = IntensityScale.of(first.values, modality).scale
    thickness, estimated = _thickness(first, modality, scale, job, progress)
    ratio = thickness / first.spacing_mm[0]
    profile = resolve_profile(job.profile, modality, ratio)
    protocol = ScanProtocol(scan.z_scale, 0.0 if profile == "skip" else ratio, profile)
    return ThickScan(first, modality, protocol, thickness, estimated, scale, _held(len(first.values)))


def _held(count: int) -> slice:
    """A third of the slices, an odd number, just above the middle: there is most to see there."""
    held = min(max(count // 3, LEAST_HELD), MOST_HELD)
    held -= 1 - held % 2
    return slice(count // 2, count // 2 + held)


def _thickness(
    volume: Volume, modality: str, scale: float, job: AdaptJob, progress: Listener | None
) -> tuple[float, bool]:
    """Slice thickness in mm, and whether it was estimated from the scan."""
    told = job.thickness_mm or volume.thickness_mm
    spacing = volume.spacing_mm[0]
    if told is not None or job.profile == "skip":
        return told or spacing, False
    values = np.clip(volume.values, *CT_RANGE_HU) if modality == "CT" else volume.values
    body = values > (BODY_CT_HU if modality == "CT" else BODY_MR * scale)
    estimate = estimate_thickness(values, volume.spacing_mm, body, resolve_profile(job.profile, modality, 1.0))
    if estimate is None or estimate.certain < CERTAIN or estimate.thickness_mm < LEAST_ESTIMATE * spacing:
        _warn(progress, f"{volume.name}: slice thickness is unknown and taken as the spacing, {spacing:.4g} mm.")
        return spacing, False
    text = f"{volume.name}: slice thickness is not told; its spectra give {estimate.thickness_mm:.3g} mm"
    _warn(progress, f"{text} of {spacing:.3g} mm spacing.")
    return estimate.thickness_mm, True


def groups(scans: Sequence[ThickScan]) -> list[dict[str, Any]]:
    """The protocols among the scans, each with the names of its scans."""
    found: list[dict[str, Any]] = []
    for scan in scans:
        own = scan.group()
        same = next((group for group in found if _alike(group, own)), None)
        if same is None:
            found.append({**own, "scans": [scan.volume.name]})
        else:
            same["scans"].append(scan.volume.name)
    return found


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    lengths = [([*one["spacing_mm"], one["thickness_mm"] or 0]) for one in (a, b)]
    near = np.allclose(lengths[0], lengths[1], rtol=ALIKE, atol=0.02)
    return near and all(a[name] == b[name] for name in ("modality", "profile"))


def _warn(progress: Listener | None, message: str) -> None:
    if progress is not None:
        progress(Warned(message))
