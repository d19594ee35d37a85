"""Scans that samples are drawn from: in memory, or in a pack and mapped while a sample is drawn (floor 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..imaging.intensity import BODY_CT_HU, BODY_MR, IntensityScale
from ..imaging.interpolation import cubic_weights
from ..imaging.volume import Volume, guess_modality
from ..io.packs import PackedScan
from .degradation import ScanProtocol

ANISOTROPIC = 1.5  # coarsest / finest spacing; beyond it the coarse axis is no truth


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan ready for drawing: values (K, J, I), spacing (k, j, i) in mm, intensity scale.

    An anisotropic scan offers pairs along its fine axes only: there its pixels are the truth. Along its coarse axis
    it is filled by cubic interpolation, where it is looked at.

    Parameters
    ----------
    held : the stored values, or a scan of a pack, whose values are mapped anew for each sample
    spacing_mm : (k, j, i) once it is filled
    scale : `IntensityScale.scale` of the whole scan
    finer : slices along each axis for each stored one; 1 along the axes where the scan is a truth
    protocols : those that thick slices of this scan are made by; empty: any
    acquired : (N, J, I) the thick slices that a scanner acquired, N along k, by the first of `protocols`; None: none
    share : how often it is drawn, relative to the other scans of its modality
    """

    name: str
    held: np.ndarray | PackedScan
    spacing_mm: tuple[float, float, float]
    modality: str
    scale: float
    finer: tuple[float, float, float] = (1.0, 1.0, 1.0)
    protocols: tuple[ScanProtocol, ...] = ()
    acquired: np.ndarray | None = None
    share: float = 1.0

    @classmethod
    def of(cls, source: Volume | PackedScan) -> Scan:
        """Of a volume, which stays in memory, or of a scan of a pack, which does not."""
        if isinstance(source, PackedScan):
            return cls._filled(source.name, source, source.geometry.spacing_mm, source.modality, source.scale)
        values, modality = np.ascontiguousarray(source.values), guess_modality(source)
        scale = IntensityScale.of(values, modality).scale
        return cls._filled(source.name, values, source.spacing_mm, modality, scale)

    @classmethod
    def _filled(cls, name: str, held: np.ndarray | PackedScan, stored_mm, modality: str, scale: float) -> Scan:
        finest = min(stored_mm)
        k, j, i = (mm / finest if mm > ANISOTROPIC * finest else 1.0 for mm in stored_mm)
        spacing = (stored_mm[0] / k, stored_mm[1] / j, stored_mm[2] / i)
        return cls(name, held, spacing, modality, scale, (k, j, i))

    @property
    def axes(self) -> tuple[int, ...]:
        """Along which it is a truth."""
        return tuple(axis for axis in range(3) if self.finer[axis] == 1)

    @property
    def body_floor(self) -> float:
        return BODY_CT_HU if self.modality == "CT" else BODY_MR * self.scale

    def along(self, axis: int) -> LazyValues:
        """The values with that axis first."""
        values = self.held.values() if isinstance(self.held, PackedScan) else self.held
        finer = [self.finer[axis], *(z for n, z in enumerate(self.finer) if n != axis)]
        return LazyValues(np.moveaxis(values, axis, 0), (finer[0], finer[1], finer[2]))


@dataclass(frozen=True, eq=False)
class LazyValues:
    """Values (L, J, I) that are filled where they are looked at: `view[:, 10:50, ::2]`."""

    stored: np.ndarray
    finer: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Once it is filled."""
        L, J, width = (int((n - 1) * z + 1e-6) + 1 for n, z in zip(self.stored.shape, self.finer))
        return L, J, width

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """(l, j, i): the stored values themselves, or float32, whole where they are, once an axis is filled."""
        index = (*index, slice(None))[:3]
        block = self.stored[tuple(one if z == 1 else slice(None) for one, z in zip(index, self.finer))]
        for axis, (one, z) in enumerate(zip(index, self.finer)):
            if z != 1:
                block = _interpolated(block, axis, np.arange(self.shape[axis])[one] / z)
        whole = self.stored.dtype.kind in "iu" and block.dtype.kind == "f"
        return np.rint(block) if whole else block


def _interpolated(values: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    """Cubic interpolation at positions in slices along one axis."""
    weights = cubic_weights(positions, values.shape[axis]).astype(np.float32)
    return np.moveaxis(np.tensordot(weights, np.moveaxis(values, axis, 0).astype(np.float32), 1), 0, axis)
