"""Where voxels are: shape and IJK-to-RAS matrix in mm, never one without the other (floor 1).

Arrays are (K, J, I); a place is RAS in mm. LPS (ITK, DICOM) enters by `Geometry.from_lps` and leaves by `to_lps`.
Axes are named "k", "j", "i" and have array positions 0, 1, 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ..errors import VolumeError

AXES = ("k", "j", "i")  # array position of each axis name
PLANES = ("sagittal", "coronal", "axial")  # across R, A, S
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SQUARE = 1.75e-3  # off the right angle by less (0.1 degrees) is what three decimals do to direction cosines, no tilt


@dataclass(frozen=True, eq=False)
class Geometry:
    """Shape (K, J, I) and the (4, 4) matrix from (i, j, k, 1) to RAS in mm.

    Raises
    ------
    VolumeError : the matrix is singular or not finite, or a spacing is zero
    """

    shape: tuple[int, ...]
    ijk_to_ras: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.array(self.ijk_to_ras, dtype=float)
        if matrix.shape != (4, 4) or not (np.abs(matrix) < 1e9).all():  # NaN compares false; 1e9 mm is no place
            raise VolumeError(
                "The matrix of the volume is not a finite 4 x 4 matrix", f"{matrix.tolist()}", "export the scan again"
            )
        columns = np.linalg.norm(matrix[:3, :3], axis=0)
        if (columns < 1e-9).any():
            raise VolumeError(
                "The spacing of an axis is zero",
                f"{columns.round(9).tolist()} mm along i, j, k",
                "export the scan again",
            )
        if abs(np.linalg.det(matrix[:3, :3] / columns)) < 1e-6:
            raise VolumeError(
                "The direction matrix is singular", f"{matrix[:3, :3].round(6).tolist()}", "export the scan again"
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "ijk_to_ras", matrix)

    # --- frames -----------------------------------------------------------------------------------------------
    @classmethod
    def from_lps(cls, shape: tuple[int, int, int], ijk_to_lps: np.ndarray) -> Geometry:
        """From an (4, 4) index-to-LPS matrix, as ITK and DICOM give it."""
        return cls(shape, LPS_TO_RAS @ np.asarray(ijk_to_lps, float))

    @classmethod
    def from_spacing(cls, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Geometry:
        """Axis-aligned in RAS, first voxel at the origin; spacing (k, j, i) in mm."""
        return cls(shape, np.diag([*spacing_mm[::-1], 1.0]))

    def to_lps(self) -> np.ndarray:
        """The (4, 4) index-to-LPS matrix."""
        return LPS_TO_RAS @ self.ijk_to_ras

    # --- facts ------------------------------------------------------------------------------------------------
    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighboring voxel centers along (k, j, i)."""
        k, j, i = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)[::-1]
        return float(k), float(j), float(i)

    @property
    def directions(self) -> np.ndarray:
        """(3, 3): unit columns along i, j, k in RAS; orthogonal unless the stack is sheared."""
        columns = self.ijk_to_ras[:3, :3]
        return columns / np.linalg.norm(columns, axis=0)

    @property
    def is_sheared(self) -> bool:
        """Whether the axes leave the right angle by more than rounded direction cosines do (gantry tilt)."""
        d = self.directions
        return bool(np.abs(d.T @ d - np.eye(3)).max() > SQUARE)

    @property
    def is_left_handed(self) -> bool:
        return bool(np.linalg.det(self.ijk_to_ras[:3, :3]) < 0)

    def ras_of(self, kji: np.ndarray) -> np.ndarray:
        """(..., 3) array indices (k, j, i), fractions allowed, to (..., 3) RAS in mm."""
        ijk = np.asarray(kji, float)[..., ::-1]
        return ijk @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3]

    def kji_of(self, ras: np.ndarray) -> np.ndarray:
        """(..., 3) RAS in mm to (..., 3) fractional array indices (k, j, i)."""
        inverse = np.linalg.inv(self.ijk_to_ras[:3, :3])
        return ((np.asarray(ras, float) - self.ijk_to_ras[:3, 3]) @ inverse.T)[..., ::-1]

    def same_place_as(self, other: Geometry, tol_mm: float = 1e-3) -> bool:
        """Whether both have the same shape and no corner differs by more than `tol_mm`."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        return bool(np.abs(self.ras_of(corners) - other.ras_of(corners)).max() <= tol_mm)

    def squared(self) -> tuple[Geometry, float]:
        """The geometry with the nearest axes at right angles, its center kept; and how far its corners moved in mm."""
        d = self.directions
        if np.abs(d.T @ d - np.eye(3)).max() < 1e-7:
            return self, 0.0
        left, _, right = np.linalg.svd(d)
        matrix = np.array(self.ijk_to_ras)
        matrix[:3, :3] = left @ right * np.linalg.norm(matrix[:3, :3], axis=0)
        center = (np.array(self.shape) - 1) / 2
        matrix[:3, 3] += self.ras_of(center) - Geometry(self.shape, matrix).ras_of(center)
        result = Geometry(self.shape, matrix)
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        return result, float(np.linalg.norm(result.ras_of(corners) - self.ras_of(corners), axis=1).max())

    # --- planes -----------------------------------------------------------------------------------------------
    @property
    def ras_axes(self) -> dict[str, int]:
        """Which RAS axis (0 R, 1 A, 2 S) each axis "k", "j", "i" runs along, up or down; each is used once.

        Of all ways to pair them, the one with the largest sum of direction cosines, so that any rotation has an answer.
        """
        cosines = np.abs(self.directions[:, ::-1])  # (RAS, kji)
        pairs = max(permutations(range(3)), key=lambda order: sum(cosines[ras, n] for n, ras in enumerate(order)))
        return dict(zip(AXES, pairs))

    def plane_across(self, axis: str) -> str:
        """The plane that an axis cuts: "sagittal", "coronal" or "axial"."""
        return PLANES[self.ras_axes[axis]]

    def axis_across(self, plane: str) -> str:
        """The axis that cuts a plane of `PLANES`."""
        return next(axis for axis in AXES if self.plane_across(axis) == plane)

    def on_center_line(self, plane: str, at_mm: float | None = None) -> np.ndarray:
        """(3,) RAS in mm: where the line through the center along `axis_across(plane)` meets R, A or S = `at_mm`.

        None is the center itself. So a single coordinate tells which row of an oblique volume is meant.
        """
        center = self.ras_of((np.array(self.shape) - 1) / 2)
        if at_mm is None:
            return center
        fixed = PLANES.index(plane)
        along = self.directions[:, 2 - AXES.index(self.axis_across(plane))]
        return center + along * (at_mm - center[fixed]) / along[fixed]

    def coordinate_of(self, plane: str, row: int) -> float:
        """R, A or S in mm of a row along `axis_across(plane)` on the center line; `on_center_line` leads back."""
        kji = (np.array(self.shape) - 1) / 2
        kji[AXES.index(self.axis_across(plane))] = row
        return float(self.ras_of(kji)[PLANES.index(plane)])

    # --- other geometries -----------------------------------------------------------------------------------------
    def slices_first(self, axis: str) -> Geometry:
        """The same geometry with `axis` moved to k; `np.moveaxis(values, AXES.index(axis), 0)` goes with it."""
        order = list(range(3))  # of (k, j, i)
        order.insert(0, order.pop(AXES.index(axis)))
        return self._reordered(order)

    def slices_back(self, axis: str) -> Geometry:
        """Undoes `slices_first`."""
        order = list(range(3))
        order.insert(AXES.index(axis), order.pop(0))
        return self._reordered(order)

    def _reordered(self, order: list[int]) -> Geometry:
        columns = self.ijk_to_ras[:, [2, 1, 0]][:, order]  # columns of (k, j, i), new order
        matrix = np.column_stack([columns[:, ::-1], self.ijk_to_ras[:, 3]])
        return Geometry(tuple(self.shape[n] for n in order), matrix)

    def resliced(self, z_scale: float, axis: str = "k") -> Geometry:
        """The target grid: first slice center kept, spacing along `axis` divided by `z_scale`, nothing extrapolated.

        Slices: floor((N - 1) * z_scale + 1e-6) + 1. In-plane grid, direction, shear and handedness stay exactly.
        """
        at = AXES.index(axis)
        matrix = np.array(self.ijk_to_ras)
        matrix[:3, 2 - at] /= z_scale
        shape = list(self.shape)
        shape[at] = int(np.floor((shape[at] - 1) * z_scale + 1e-6)) + 1
        return Geometry(tuple(shape), matrix)

    def cropped(self, first_kji: tuple[int, int, int], shape: tuple[int, int, int]) -> Geometry:
        """The block of `shape` whose first voxel is `first_kji`."""
        matrix = np.array(self.ijk_to_ras)
        matrix[:3, 3] = self.ras_of(np.array(first_kji))
        return Geometry(shape, matrix)


def coarsest_axis(geometry: Geometry) -> str:
    """The axis of the coarsest spacing; ties within 1 % go to k, then j."""
    spacing = geometry.spacing_mm
    return next(name for name, mm in zip(AXES, spacing) if mm >= 0.99 * max(spacing))


def isotropic_z_scale(geometry: Geometry, axis: str) -> float:
    """The z-scale that makes the spacing along `axis` equal to the finer in-plane spacing (design section 3)."""
    spacing = dict(zip(AXES, geometry.spacing_mm))
    return spacing[axis] / min(mm for name, mm in spacing.items() if name != axis)
