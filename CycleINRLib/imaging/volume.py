"""Values and their geometry, never one without the other (floor 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import RequestError, VolumeError
from .geometry import AXES, Geometry, coarsest_axis

UNITS = {"CT": "HU", "MR": "stored"}


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan: values (K, J, I) in `unit`, at `geometry`.

    Parameters
    ----------
    values : (K, J, I) array, integers or floats as stored, after the rescale to HU for CT
    geometry : Geometry of the same shape
    modality : "CT", "MR", another DICOM modality as written there, or None where unknown
    unit : "HU" for CT, "stored" else; None where unknown
    thickness_mm : slice thickness (full width at half maximum), None where unknown
    slice_axis : "k", "j", "i" where the source says so (DICOM: the stacking axis), else None
    warnings : sentences of the reader about doubtful but usable input
    name : what to call the scan in messages and file names
    """

    values: np.ndarray
    geometry: Geometry
    modality: str | None = None
    unit: str | None = None
    thickness_mm: float | None = None
    slice_axis: str | None = None
    warnings: tuple[str, ...] = ()
    name: str = "volume"

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape != self.geometry.shape:
            raise VolumeError(
                "Values and geometry disagree",
                f"values {self.values.shape}, geometry {self.geometry.shape}",
                "export the scan again",
            )

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(k, j, i) in mm."""
        return self.geometry.spacing_mm

    def with_values(self, values: np.ndarray, geometry: Geometry | None = None) -> Volume:
        """The same scan with other values, at `geometry`, else where it is."""
        return replace(self, values=values, geometry=geometry or self.geometry)

    def part(self, region: tuple[tuple[int, int], ...] | None) -> Volume:
        """The voxels from the first to before the last of each pair, along (k, j, i); a view, at their place.

        Raises
        ------
        RequestError : the region does not lie within the volume
        """
        if region is None:
            return self
        if any(last > n for (_, last), n in zip(region, self.values.shape)):
            found = f"{region} in {self.values.shape} voxels along k, j, i"
            raise RequestError("The region does not lie within the scan", found, "choose a smaller one")
        values = self.values[tuple(slice(*pair) for pair in region)]
        first = (region[0][0], region[1][0], region[2][0])
        return replace(self, values=values, geometry=self.geometry.cropped(first, values.shape))

    def slices_first(self, axis: str) -> Volume:
        """The same scan with `axis` moved to k (a view, not a copy)."""
        return replace(
            self,
            values=np.moveaxis(self.values, AXES.index(axis), 0),
            geometry=self.geometry.slices_first(axis),
            slice_axis="k",
        )

    def slices_back(self, axis: str) -> Volume:
        """Undoes `slices_first` (a view, not a copy)."""
        return replace(
            self,
            values=np.moveaxis(self.values, 0, AXES.index(axis)),
            geometry=self.geometry.slices_back(axis),
            slice_axis=axis,
        )


def choose_slice_axis(volume: Volume, axis: str = "auto") -> str:
    """`axis` if it names one; else the stacking axis of the source; else the coarsest one (design section 1)."""
    if axis != "auto":
        return axis
    return volume.slice_axis or coarsest_axis(volume.geometry)


def guess_modality(volume: Volume) -> str:
    """ "CT" or "MR": the volume's own word, else what its values look like.

    CT are whole numbers with a 1st percentile below -500 (air; design section 3), or, in a block from inside the body,
    with fat below water: a 1st percentile below -50 and a median of soft tissue, -150 to 150.
    """
    if volume.modality:
        return "CT" if volume.modality.upper() == "CT" else "MR"
    sample = volume.values[:: max(1, volume.values.shape[0] // 40), ::3, ::3]
    whole = np.issubdtype(sample.dtype, np.integer) or bool(np.equal(np.mod(sample, 1), 0).all())
    low, middle = np.percentile(sample, [1, 50])
    return "CT" if whole and (low < -500 or (low < -50 and abs(middle) < 150)) else "MR"


def rescaled(values: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """values * slope + intercept: integers where both are whole, in the stored type if it holds them; else float32."""
    if slope == 1 and intercept == 0:
        return values
    if values.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        ends = [int(end) * int(slope) + int(intercept) for end in (values.min(), values.max())]
        for kind in (values.dtype, np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)):
            if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
                result = np.empty(values.shape, kind)
                for n, plane in enumerate(values):  # 64 bits for one plane only
                    result[n] = plane.astype(np.int64) * int(slope) + int(intercept)
                return result
    result = np.empty(values.shape, np.float64 if values.dtype == np.float64 else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is counted and refused by check_usable
        for n, plane in enumerate(values):
            result[n] = plane * np.float64(slope) + intercept
    return result


def storable(values: np.ndarray) -> np.ndarray:
    """The same numbers in a type that readers of the file formats know, and MRML; the array itself where it is one.

    bool becomes uint8, float16 float32; 64-bit integers become the first of int16, uint16, int32, uint32 that holds
    them, else float64.

    Raises
    ------
    VolumeError : the values are no single numbers
    """
    kind = values.dtype
    if kind.kind == "b":
        return values.astype(np.uint8)
    if kind.kind == "f":
        return values.astype(np.float32 if kind.itemsize <= 4 else np.float64, copy=False)
    if kind.kind not in "iu":
        raise VolumeError("The voxels are no single numbers", str(kind), "give integers or floats")
    if kind.itemsize < 8:
        return values
    low, high = int(values.min()), int(values.max())
    fits = [t for t in (np.int16, np.uint16, np.int32, np.uint32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max]
    return values.astype(fits[0] if fits else np.float64)


MOST_LABELS = 16
FEWEST_SLICES = 3


def check_usable(volume: Volume, axis: str = "auto") -> None:
    """Refuses what can be read but not upsampled along its slice axis (design section 7).

    Raises
    ------
    VolumeError : NaN or infinity (how many), fewer than 3 slices, all voxels equal, a label map
    """
    values = volume.values
    if values.dtype.kind == "f":
        broken = sum(int(plane.size - np.count_nonzero(np.isfinite(plane))) for plane in values)
        if broken:
            raise VolumeError(
                "The volume holds NaN or infinity",
                f"{broken} of {values.size} voxels",
                "replace them by the background",
            )
    axis = choose_slice_axis(volume, axis)
    slices = values.shape[AXES.index(axis)]
    if slices < FEWEST_SLICES:
        raise VolumeError("There are too few slices", f"{slices} along {axis}", f"give at least {FEWEST_SLICES}")
    if values.min() == values.max():
        raise VolumeError("All voxels are equal", f"{values.flat[0]}", "check that the export holds the scan")
    labels = _few_labels(values)
    if labels is not None:
        raise VolumeError(
            "The volume is a label map", f"{len(labels)} distinct whole numbers", "give the scan that it belongs to"
        )


def _few_labels(values: np.ndarray) -> set[float] | None:
    """The distinct values where they are whole and at most 16, else None; stops at the first slice that shows more."""
    found: set[float] = set()
    for plane in values:
        found.update(np.unique(plane).tolist())
        if len(found) > MOST_LABELS or any(value != int(value) for value in found):
            return None
    return found
