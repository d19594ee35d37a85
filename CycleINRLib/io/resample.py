"""A volume at the voxels of another grid, by SimpleITK's B-spline (floor 2)."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..imaging.geometry import Geometry
from ..imaging.volume import Volume


def resampled(volume: Volume, geometry: Geometry) -> Volume:
    """`volume` at every voxel of `geometry` by cubic B-spline; the lowest value outside.

    Any orientation and shear: the map from target to source indices is affine, so both images are handed over
    in index coordinates.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.values, np.float32))
    to_source = np.linalg.inv(volume.geometry.ijk_to_ras) @ geometry.ijk_to_ras
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(to_source[:3, :3].ravel().tolist())
    affine.SetTranslation(to_source[:3, 3].tolist())
    grid = sitk.Image([int(n) for n in geometry.shape[::-1]], sitk.sitkUInt8)
    outside = float(volume.values.min())
    values = sitk.GetArrayFromImage(sitk.Resample(image, grid, affine, sitk.sitkBSpline, outside, sitk.sitkFloat32))
    kind = volume.values.dtype
    if kind.kind in "iu":
        values = np.clip(np.rint(values), np.iinfo(kind).min, np.iinfo(kind).max)
    return dataclasses.replace(volume, values=values.astype(kind), geometry=geometry)
