"""What an upsampling will do, decided before anything is computed: axis, target, physics, cost (floor 3).

Needs no torch, so that the panel, `cycleinr info` and a machine without torch can ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import RequestError, VolumeError
from ..imaging.consistency import KEEP_RATIO, Grid, resolve_consistency
from ..imaging.geometry import AXES, Geometry, coarsest_axis, isotropic_z_scale
from ..imaging.intensity import IntensityScale, doubtful_values
from ..imaging.profile import SKIP_RATIO, believed_ratio, resolve_profile
from ..imaging.spectrum import band_end
from ..imaging.volume import Volume, check_usable, choose_slice_axis, guess_modality
from ..jobs import MAX_Z_SCALE, TOLERANCE, UpsampleJob
from ..modelcard import ModelCard
from .memory import TORCH_BYTES, WORKING_BYTES

MOST_RATIO = 64  # thickness / spacing beyond which a thickness is a mistake
OVERLAPPING = 1.02  # thickness / spacing from which it is said that slices overlap, or were interpolated
ALREADY = 1.01  # spacing ratio up to which a volume counts as isotropic
PARALLEL_PIXELS = 1e-3  # how far an in-plane grid may be off and still count as the same
GAIN_BLOCK = (48, 128, 128)  # slices, rows and columns at most, from the middle, to which the gain is fitted
CYCLE_BLOCK = (48, 96, 96)  # the same for the cycle of the self-check, which costs four times as much a voxel


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is decided before computing; `source` is the scan with its slices first."""

    axis: str
    z_scale: float
    target: Geometry  # of the result, in the axis order of the input
    grid: Grid  # places along z, in source slices
    reversed: bool  # whether the target runs against the source (a reference may)
    resample_to: Geometry | None  # a reference that is not parallel: filled by resampling afterwards
    modality: str  # "CT" or "MR"
    thickness_mm: float
    ratio: float  # thickness / spacing as far as it is believed (at most 1); 0 for the profile "skip"
    profile: str
    consistency: str
    warnings: tuple[str, ...]
    output_mb: float
    memory_mb: float
    seconds: float | None = None  # known only after a calibration
    interpolated: bool = False  # by the scanner, which cut the band: there is nothing to bring back

    @property
    def gaussian(self) -> bool:
        return self.profile == "gaussian"


def plan(volume: Volume, job: UpsampleJob | None = None, like: Geometry | Volume | None = None) -> Plan:
    """Checks volume and job together and decides the target.

    Parameters
    ----------
    volume : the source, any axis order; the whole scan where the job names a region
    job : None means isotropic with every choice left to the program
    like : the grid to fill; the caller has read it where `job.like` names a file

    Raises
    ------
    RequestError : a target that is not finer than the source, or above z-scale 16
    VolumeError : the volume cannot be upsampled, or is isotropic already and no target is given
    """
    job = job or UpsampleJob()
    scan, volume = volume, volume.part(job.region)
    check_usable(volume, job.axis)
    axis = choose_slice_axis(volume, job.axis)
    warnings = list(volume.warnings)
    geometry = volume.geometry.slices_first(axis)
    reference = like.geometry if isinstance(like, Volume) else like

    offset, backwards, resample_to, slices = 0.0, False, None, None
    if reference is not None:
        shared = _shared_grid(geometry, reference.slices_first(axis))
        if shared is not None:
            offset, z_scale, slices, backwards = shared
        else:
            resample_to = reference
            z_scale = _isotropic(volume, axis, warnings)
            warnings.append("The reference is not parallel to the scan: the isotropic result is resampled to it.")
    else:
        z_scale = _asked(volume, axis, job, warnings)

    modality = guess_modality(scan) if job.modality == "auto" else job.modality.upper()
    if job.modality == "auto" and volume.modality and volume.modality.upper() not in ("CT", "MR"):
        warnings.append(f"Modality {volume.modality} is treated as MR; the model has not seen it.")
    if job.modality == "auto" and not volume.modality:
        warnings.append(f"The modality is not stated: {modality} by its values; --modality says otherwise.")
    warnings += doubtful_values(scan.values, modality)
    thickness, ratio, profile, interpolated = _physics(scan.slices_first(axis), geometry, job, modality, warnings)
    consistency = resolve_consistency(job.consistency, ratio)

    count = geometry.shape[0]
    slices = slices or geometry.resliced(z_scale).shape[0]
    grid = Grid.of(count, z_scale, slices, ratio, offset, extend=consistency in ("project", "exact"))
    shared_target = reference if reference is not None and resample_to is None else None
    target = shared_target or volume.geometry.resliced(z_scale, axis)
    output = slices * geometry.shape[1] * geometry.shape[2] * volume.values.dtype.itemsize
    return Plan(
        axis, z_scale, target, grid, backwards, resample_to, modality, thickness, ratio, profile, consistency,
        tuple(warnings), output / 1e6, (volume.values.nbytes + output + WORKING_BYTES + TORCH_BYTES) / 1e6,
        interpolated=interpolated,
    )  # fmt: skip


def _asked(volume: Volume, axis: str, job: UpsampleJob, warnings: list[str]) -> float:
    """The z-scale of a job without reference."""
    if job.z_scale is not None:
        return float(job.z_scale)
    if job.spacing_mm is None:
        return _isotropic(volume, axis, warnings)
    spacing = volume.geometry.slices_first(axis).spacing_mm[0]
    z_scale = spacing / job.spacing_mm
    if z_scale <= 1 + TOLERANCE:
        found = f"{job.spacing_mm:g} mm asked, {spacing:g} mm in the scan"
        raise RequestError("The spacing is not finer than the source", found, "ask for a smaller spacing")
    if z_scale > MAX_Z_SCALE * (1 + TOLERANCE):
        smallest = np.ceil(spacing / MAX_Z_SCALE * 1000) / 1000  # rounded up, so that it is not refused in turn
        raise RequestError("The spacing is too fine", f"z-scale {z_scale:.3g}", f"ask for at least {smallest:g} mm")
    return z_scale


def _isotropic(volume: Volume, axis: str, warnings: list[str]) -> float:
    """The z-scale that makes the volume isotropic, capped at 16 with a warning."""
    z_scale = isotropic_z_scale(volume.geometry, axis)
    spacing = " x ".join(f"{mm:.3g}" for mm in volume.spacing_mm[::-1])
    if z_scale <= ALREADY:
        finer = "isotropic" if z_scale > 1 / ALREADY else "finer between slices than within them"
        raise VolumeError(f"The volume is already {finer}", f"{spacing} mm", "ask for a z-scale such as --z-scale 2")
    coarsest = coarsest_axis(volume.geometry)
    spacing_of = dict(zip(AXES, volume.spacing_mm))
    if spacing_of[axis] < 0.99 * spacing_of[coarsest]:
        found = f"{spacing} mm along i, j, k; slices along {axis}"
        raise VolumeError("The slice axis is not the coarsest one", found, "ask for a z-scale, or choose --axis")
    if z_scale > MAX_Z_SCALE * (1 + TOLERANCE):
        warnings.append(f"Isotropic needs z-scale {z_scale:.3g}; it is capped at {MAX_Z_SCALE:g}.")
        return MAX_Z_SCALE
    return z_scale


def _physics(volume: Volume, geometry: Geometry, job: UpsampleJob, modality: str, warnings: list[str]):
    """Thickness in mm, thickness / spacing as believed and profile of the slices, which come first; and whether the
    scanner interpolated them, so that there is no profile to undo."""
    spacing = geometry.spacing_mm[0]
    thickness = job.thickness_mm or volume.thickness_mm
    if job.thickness_mm and job.thickness_mm > MOST_RATIO * spacing:
        found = f"{job.thickness_mm:g} mm asked, slices every {spacing:.4g} mm"
        raise RequestError("The slice thickness cannot be that of this scan", found, "give it in mm, or leave it out")
    if thickness is not None and not 0 < thickness <= MOST_RATIO * spacing:
        warnings.append(f"The file states a slice thickness of {thickness:.4g} mm, which no such scan has.")
        thickness = None
    if thickness is None:
        thickness = spacing
        if job.profile != "skip":
            warnings.append(f"Slice thickness is unknown: taken as the spacing, {spacing:.4g} mm.")
    ratio = round(thickness / spacing, 4)  # what 32-bit floats do to a spacing decides nothing
    profile = resolve_profile(job.profile, modality, ratio)
    if profile == "skip" or ratio < SKIP_RATIO:
        return thickness, 0.0, "skip", False
    if ratio > KEEP_RATIO and (end := band_end(volume.values)) is not None:
        warnings.append(
            f"The scanner interpolated the slices: they hold nothing finer than {spacing / end:.3g} mm along the slice "
            "axis, so new ones are interpolated too."
        )
        return thickness, KEEP_RATIO, profile, True
    if ratio > OVERLAPPING:
        warnings.append(
            f"Slices of {thickness:.3g} mm every {spacing:.3g} mm: perhaps the scanner interpolated them, so no more "
            "than the spacing of their thickness is undone."
        )
    return thickness, believed_ratio(ratio), profile, False


def _shared_grid(geometry: Geometry, reference: Geometry) -> tuple[float, float, int, bool] | None:
    """(offset, z-scale, slices, reversed) where the reference differs from the source along z alone, else None.

    Raises
    ------
    RequestError : parallel, but not finer than the source
    """
    if geometry.shape[1:] != reference.shape[1:]:
        return None
    corners = np.array(
        [(0, 0), (0, geometry.shape[2] - 1), (geometry.shape[1] - 1, 0), (geometry.shape[1] - 1, geometry.shape[2] - 1)]
    )
    ends = [np.column_stack([np.full(4, k), corners]) for k in (0, max(1, reference.shape[0] - 1))]
    first, last = (geometry.kji_of(reference.ras_of(end)) for end in ends)
    for seen in (first, last):
        if np.abs(seen[:, 1:] - corners).max() > PARALLEL_PIXELS or np.ptp(seen[:, 0]) > PARALLEL_PIXELS:
            return None
    step = (last[0, 0] - first[0, 0]) / max(1, reference.shape[0] - 1)
    z_scale = 1 / max(abs(step), 1e-9)
    if not 1 + TOLERANCE < z_scale <= MAX_Z_SCALE * (1 + TOLERANCE):
        found = f"z-scale {z_scale:.3g}"
        raise RequestError(
            "The reference's slices are not finer than the source, or finer than 16 times",
            found,
            "choose another reference",
        )
    return float(min(first[0, 0], last[0, 0])), float(z_scale), reference.shape[0], bool(step < 0)


def _within(value: float, low: float, high: float) -> bool:
    return low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE)


def conditions_of(planned: Plan, card: ModelCard, scale: IntensityScale, spacing_mm: tuple[float, ...]) -> Any:
    """What the network is told of a scan with `spacing_mm` (slices, rows, columns): network.model.Conditions."""
    from ..network.model import Conditions

    ratio, (through, *within) = min(planned.ratio, card.ratio_range[1]), spacing_mm
    return Conditions(ratio, float(planned.gaussian), through / min(within), scale.through, scale.within)


def doubts(card: ModelCard, planned: Plan, volume: Volume) -> list[str]:
    """Where the scan leaves what the model has seen."""
    found = []
    low, high = card.z_scale_range
    if not _within(planned.z_scale, low, high):
        found.append(f"z-scale {planned.z_scale:.3g} is outside what the model was trained for ({low:g} to {high:g}).")
    spacing = volume.geometry.slices_first(planned.axis).spacing_mm[0]
    low, high = card.spacing_range_mm
    if not _within(spacing, low, high):
        found.append(
            f"Slice spacing {spacing:.3g} mm is outside what the model was trained for ({low:g} to {high:g} mm)."
        )
    high = card.ratio_range[1]
    if not _within(planned.ratio, 0, high):
        thickness = f"Slice thickness {planned.thickness_mm:.3g} mm is {planned.ratio:.2g} times the spacing"
        found.append(f"{thickness}; the model has seen {high:g}.")
    if planned.modality not in card.modalities:
        found.append(f"The model was not trained for {planned.modality}.")
    return found
