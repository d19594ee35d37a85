"""One case of an evaluation: a thin scan, how it is thickened, and what is asked of a method (floor 4)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import RequestError, VolumeError
from ..imaging.accuracy import SSIM_VARIANT
from ..imaging.geometry import Geometry
from ..imaging.profile import profile_weights
from ..imaging.volume import Volume, guess_modality

LEAST_SOURCE = 6  # thick slices: fewer leave nothing inside the margin


ON_GRID = 1e-6  # thin slices: a center so near to one lies on it


PROTOCOL = {
    "thick slices": "slice n is centered at thin slice ceil(z-scale) + phase + n z-scale and averages thin slices by "
    "its profile; whole numbers are rounded. skip: the thin slice itself, at a center between two of them their mean "
    "by distance",
    "target": "the thin slices between the first and the last center; nothing is extrapolated",
    "margin": "one source slice at each end counts for noise alone, not for PSNR, SSIM and gradient",
    "generated": "target slices more than 0.001 source slices from each acquired one",
    "body": "CT above -900 HU, MR above 5 % of the range, in the truth",
    "range": "CT 2000 HU after clipping to [-1000, 1000], MR the 99.9th percentile of the truth",
    "psnr": "dB over the range, in the body",
    "ssim": SSIM_VARIANT + ", all inner slices: 3D, and in planes (ji are the slices)",
    "gradient_error": "RMS over the body of | |gradient of result| - |gradient of truth| |, central differences over "
    "mm, all inner slices, % of the range a mm (CT: 1 % is 20 HU/mm)",
    "noise": "design section 6, flat half of the body of the linear interpolation (CT -250 to 300 HU, MR above 5 %): "
    "SNLI, snli_detrended, generated_gap, noise_ratio; the truth on inner slices",
    "ceiling": "-10 log10(sigma^2 / range^2), sigma the RMS of the truth's own sigma_k on generated slices: what a "
    "result without any error but the noise that the truth itself holds would reach. It assumes white noise as strong "
    "all over the body. Correlated noise (soft kernels, interpolated pixels) makes sigma too small and this ceiling "
    "too high. averages: the same where the part of white noise that thick slices still carry is known. through: "
    "sigma from second differences along z at the same places, which in-plane correlation does not lower; change of "
    "anatomy from slice to slice raises it, correlation along z lowers it",
    "cubic + projection": "the truth picks the best of 12 back-projection steps, for PSNR of generated and of all "
    "slices each its own",
}


@dataclass(frozen=True)
class Acquisition:
    """How thick slices are made: spacing z_scale thin slices, thickness ratio times that, by `profile`.

    profile : "box", "gaussian", or "skip" (each thick slice is one thin slice; ratio does not matter)
    phase : offset of the first thick slice in thin slices, 0 <= phase < z_scale; skip takes whole ones alone
    """

    z_scale: float
    profile: str = "box"
    ratio: float = 1.0
    phase: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.z_scale) and self.z_scale > 1):
            raise RequestError("The z-scale must be above 1", repr(self.z_scale), "give a number such as 4 or 3.5")
        if self.profile not in ("box", "gaussian", "skip"):
            raise RequestError("The profile is unknown", repr(self.profile), "choose one of box, gaussian, skip")
        if not (math.isfinite(self.ratio) and 0 <= self.ratio <= 3):
            raise RequestError("thickness / spacing must lie between 0 and 3", repr(self.ratio), "give 1 or 0.5")
        if not 0 <= self.phase < self.z_scale:
            raise RequestError("The phase must be below the z-scale", f"{self.phase:g}", "give 0, 0.5, 1, ...")
        if self.profile == "skip" and self.phase % 1:
            raise RequestError(
                "A skipped slice cannot lie between two thin ones", f"phase {self.phase:g}", "give a whole phase"
            )

    @property
    def thickness(self) -> float:
        """Slice thickness / spacing; 0 for skip."""
        return 0.0 if self.profile == "skip" else self.ratio

    def __str__(self) -> str:
        ratio = "" if self.profile == "skip" or self.ratio == 1 else f" ratio {self.ratio:g}"
        return f"x{self.z_scale:g} {self.profile}{ratio}" + (f" phase {self.phase:g}" if self.phase else "")


@dataclass(frozen=True, eq=False)
class Case:
    """One thin scan, slices first, and the thick one made of it.

    weights : (N, K) the slice profile of each thick slice over the thin ones
    center : place of the first thick slice, in thin slices
    first : the first target slice: the first thin one at or above `center`
    """

    truth: Volume
    source: Volume
    protocol: Acquisition
    modality: str
    weights: np.ndarray
    center: float
    first: int

    @classmethod
    def of(cls, truth: Volume, protocol: Acquisition) -> Case:
        """Thick slice n is centered at thin slice ceil(z) + phase + n z; whole numbers stay whole (rounded).

        Raises
        ------
        VolumeError : too few thin slices for six thick ones
        """
        z, thin = protocol.z_scale, truth.values
        center = math.ceil(z) + protocol.phase
        centers = center + z * np.arange(max(0, int((len(thin) - 1 - center + ON_GRID) // z) + 1))
        if len(centers) < LEAST_SOURCE:
            raise VolumeError(
                f"Too few thin slices to evaluate z-scale {z:g}",
                f"{len(thin)}",
                f"take a scan of at least {math.ceil(center + (LEAST_SOURCE - 1) * z) + 1} slices or a smaller z-scale",
            )
        weights = profile_weights(centers, protocol.ratio * z, len(thin), protocol.profile)
        thick = np.tensordot(weights, thin.astype(np.float32), 1)
        if np.issubdtype(thin.dtype, np.integer):
            thick = np.rint(thick)
        matrix = np.array(truth.geometry.ijk_to_ras)
        matrix[:3, 3] = truth.geometry.ras_of(np.array([center, 0, 0]))
        matrix[:3, 2] *= z
        source = replace(
            truth,
            values=thick.astype(thin.dtype),
            geometry=Geometry((len(thick), *thin.shape[1:]), matrix),
            thickness_mm=protocol.ratio * z * truth.spacing_mm[0] if protocol.thickness else None,
            slice_axis="k",
        )
        return cls(truth, source, protocol, guess_modality(truth), weights, center, math.ceil(center - ON_GRID))

    @property
    def name(self) -> str:
        """What files of this case are called: scan, z-scale, profile, and what is unusual of ratio and phase."""
        return f"{self.truth.name}_{self.protocol}".replace(" ", "_")

    @property
    def count(self) -> int:
        """Thick slices."""
        return len(self.source.values)

    @cached_property
    def thin_places(self) -> np.ndarray:
        """(K,) places of all thin slices, in source slices."""
        return (np.arange(len(self.truth.values)) - self.center) / self.protocol.z_scale

    @cached_property
    def positions(self) -> np.ndarray:
        """(M,) target slices in source slices; slice j of them is thin slice first + j."""
        places = self.thin_places[self.first :]
        return places[places <= self.count - 1 + ON_GRID]

    @property
    def target(self) -> Geometry:
        """Place of the target slices: thin slices first ... first + M - 1."""
        return self.truth.geometry.cropped((self.first, 0, 0), (len(self.positions), *self.truth.values.shape[1:]))

    @property
    def wanted(self) -> np.ndarray:
        """(M, J, I) the truth on the target slices."""
        return self.truth.values[self.first : self.first + len(self.positions)]

    def facts(self) -> dict[str, Any]:
        """What the case is, ready for JSON; thickness and spacing in mm, of the source."""
        return {
            "case": self.name,
            "scan": self.truth.name,
            "modality": self.modality,
            **asdict(self.protocol),
            "ratio": self.protocol.thickness,
            "source": {"dimensions": list(self.source.values.shape[::-1]), "spacing_mm": list(self.source.spacing_mm)},
            "thickness_mm": self.source.thickness_mm,
            "target_slices": len(self.positions),
        }


def central_block(volume: Volume, size: int) -> Volume:
    """The central `size` x `size` rows and columns of every slice, or the whole slice where it is smaller."""
    count, rows, columns = volume.values.shape
    j, i = max(0, (rows - size) // 2), max(0, (columns - size) // 2)
    values = volume.values[:, j : j + size, i : i + size]
    return volume.with_values(values, volume.geometry.cropped((0, j, i), (count, values.shape[1], values.shape[2])))
