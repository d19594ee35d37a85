"""Two scans of one body: where one lies in the other, and how alike they are without a common contrast or grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from CycleINRLib.imaging.geometry import LPS_TO_RAS, Geometry
from CycleINRLib.imaging.intensity import BODY_MR, MR_PERCENTILE
from CycleINRLib.imaging.profile import profile_weights
from CycleINRLib.imaging.volume import Volume

MOST_SHIFT_MM, MOST_TURN_DEG = 8.0, 8.0  # a registration beyond these has failed: patients lie in a coil
LOCAL_MM = 4.0  # standard deviation of the window of local correlation and local fit
SUB_SLICES_MM = 0.7  # at most this far apart, so that a slice profile of 3 mm is an average of several
BINS = 48
EDGE_SHARE = 0.5  # of the root mean square gradient: below it a gradient counts as noise


@dataclass(frozen=True, eq=False)
class Motion:
    """The rigid movement between two scans: places of the reference in the source, both RAS in mm."""

    matrix: np.ndarray  # (4, 4)
    shift_mm: float  # at the middle of the reference
    turn_deg: float
    accepted: bool  # False: too far to be true; then `matrix` is the identity

    @classmethod
    def between(cls, reference: Volume, source: Volume) -> Motion:
        """By mutual information of the two stacks as they are, before any upsampling: one for every method."""
        matrix = _registered(reference, source)
        middle = reference.geometry.ras_of((np.array(reference.geometry.shape) - 1) / 2)
        shift = float(np.linalg.norm(matrix[:3, :3] @ middle + matrix[:3, 3] - middle))
        turn = _angle_deg(matrix[:3, :3])
        accepted = shift <= MOST_SHIFT_MM and turn <= MOST_TURN_DEG
        return cls(matrix if accepted else np.eye(4), shift, turn, accepted)

    def of(self, geometry: Geometry) -> Geometry:
        """The same voxels where the source shows them."""
        return Geometry(geometry.shape, self.matrix @ geometry.ijk_to_ras)


def _registered(reference: Volume, source: Volume) -> np.ndarray:
    """(4, 4) RAS: places of the reference to places of the source, of most mutual information."""
    import SimpleITK as sitk

    fixed, moving = _image(reference), _image(source)
    middle = reference.geometry.ras_of((np.array(reference.geometry.shape) - 1) / 2) * (-1, -1, 1)
    start = sitk.Euler3DTransform()
    start.SetCenter(middle.tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, True)
    method.SetNumberOfThreads(1)  # the same sums in the same order each time
    method.Execute(fixed, moving)
    points = np.vstack([np.zeros(3), np.eye(3)])
    moved = np.array([start.TransformPoint(point.tolist()) for point in points])
    matrix = np.eye(4)
    matrix[:3, :3] = (moved[1:] - moved[0]).T
    matrix[:3, 3] = moved[0]
    return LPS_TO_RAS @ matrix @ LPS_TO_RAS


def _image(volume: Volume):
    """For registration: in-plane at half the resolution, smoothed by 1 mm in-plane."""
    import SimpleITK as sitk

    k, j, i = volume.spacing_mm
    values = ndimage.gaussian_filter(volume.values.astype(np.float32), (0, 1 / j, 1 / i))[:, ::2, ::2]
    matrix = volume.geometry.to_lps()
    image = sitk.GetImageFromArray(np.ascontiguousarray(values))
    image.SetSpacing((2 * i, 2 * j, k))
    image.SetOrigin(matrix[:3, 3].tolist())
    image.SetDirection((matrix[:3, :3] / (i, j, k)).ravel().tolist())
    return image


def _angle_deg(rotation: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


# --- regions and slice profiles -------------------------------------------------------------------------------
def around(volume: Volume, middle: np.ndarray, half_mm: tuple[float, float, float]) -> Volume:
    """The block of `volume` within `half_mm` (k, j, i) of a place in RAS, cut to what there is."""
    shape, spacing = volume.geometry.shape, volume.spacing_mm
    at = volume.geometry.kji_of(middle)
    first = [int(np.clip(np.ceil(at[n] - half_mm[n] / spacing[n]), 0, shape[n] - 1)) for n in range(3)]
    last = [int(np.clip(np.floor(at[n] + half_mm[n] / spacing[n]), first[n], shape[n] - 1)) for n in range(3)]
    block = volume.values[tuple(slice(low, high + 1) for low, high in zip(first, last))]
    geometry = volume.geometry.cropped((first[0], first[1], first[2]), block.shape)
    return volume.with_values(np.ascontiguousarray(block), geometry)


@dataclass(frozen=True, eq=False)
class SubSlices:
    """A grid of thinner slices than the reference's, and the weights that average it over each slice's profile."""

    geometry: Geometry
    weights: np.ndarray  # (K, sub-slices)

    @classmethod
    def of(cls, reference: Geometry, thickness_mm: float | None) -> SubSlices:
        """Half a thickness beyond both ends; None for thin slices: the reference's own grid, nothing averaged."""
        if thickness_mm is None:
            return cls(reference, np.eye(reference.shape[0]))
        spacing = reference.spacing_mm[0]
        each = int(np.ceil(spacing / SUB_SLICES_MM))
        beyond = int(np.ceil(thickness_mm / 2 / spacing * each))
        count = (reference.shape[0] - 1) * each + 1 + 2 * beyond
        matrix = np.array(reference.ijk_to_ras)
        matrix[:3, 2] /= each
        matrix[:3, 3] -= beyond * matrix[:3, 2]
        centers = beyond + each * np.arange(reference.shape[0])
        weights = profile_weights(centers, thickness_mm / spacing * each, count, "gaussian")
        return cls(Geometry((count, *reference.shape[1:]), matrix), weights)

    def averaged(self, values: np.ndarray) -> np.ndarray:
        """(sub-slices, J, I) to (K, J, I) as the reference's scanner would have shown them."""
        return np.tensordot(self.weights.astype(np.float32), np.asarray(values, np.float32), 1)


def covered(reference: Geometry, source: Geometry, margin: tuple[float, float, float]) -> np.ndarray:
    """(K, J, I) bool: voxels of the reference at least `margin` (k, j, i) source voxels inside the source."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in reference.shape], indexing="ij"), -1)
    at = source.kji_of(reference.ras_of(grid))
    low, high = np.array(margin), np.array(source.shape) - 1 - np.array(margin)
    return ((at >= low) & (at <= high)).all(-1)


def upsampled_axis(reference: Geometry, source: Geometry) -> int:
    """The in-plane axis (1: j, 2: i) of the reference nearest to the source's slice axis."""
    along = source.directions[:, 2]
    return 1 + int(np.argmax([abs(along @ reference.directions[:, 2 - axis]) for axis in (1, 2)]))


def body(reference: np.ndarray) -> np.ndarray:
    """MR above 5 % of the range, the holes of each slice filled."""
    mask = reference > BODY_MR * np.percentile(reference, MR_PERCENTILE)
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])


# --- likeness -------------------------------------------------------------------------------------------------
def same_contrast(
    output: np.ndarray, reference: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], axis: int
) -> dict[str, float]:
    """Figures for scans of one contrast, whose brightness may differ by a line that changes slowly from place to place.

    Parameters
    ----------
    output, reference : (K, J, I) arrays on one grid
    mask : where they count
    spacing : (k, j, i) mm
    axis : 1 or 2, the in-plane axis along which the output was upsampled

    Returns
    -------
    local_ncc : mean correlation within a Gaussian window of 4 mm (standard deviation) in the slice
    psnr_local_fit : dB after the best line within that window; range: 99.9th percentile of the reference
    psnr_line : dB after one line for all
    gradient_correlation, sharpness : of the derivatives along `axis`: correlation; ratio of their root mean squares
        after the one line (1: as sharp as the reference, whose noise counts too)
    """
    x, y = np.asarray(output, np.float64), np.asarray(reference, np.float64)
    peak = float(np.percentile(y, MR_PERCENTILE))
    of_x, of_y, both = _local_moments(x, y, mask, spacing)
    floor = 1e-9 * peak**2
    correlation = both / np.sqrt(np.maximum(of_x, floor) * np.maximum(of_y, floor))
    rest = np.maximum(of_y - both**2 / np.maximum(of_x, floor), 0)
    slope, offset = np.polyfit(x[mask], y[mask], 1)
    line = np.mean((slope * x[mask] + offset - y[mask]) ** 2)
    steps_x, steps_y = (np.gradient(ndimage.gaussian_filter(v, (0, 0.7, 0.7)), axis=axis)[mask] for v in (x, y))
    return {
        "local_ncc": float(correlation[mask].mean()),
        "psnr_local_fit": _decibels(peak, float(rest[mask].mean())),
        "psnr_line": _decibels(peak, float(line)),
        "gradient_correlation": float(np.corrcoef(steps_x, steps_y)[0, 1]),
        "sharpness": float(abs(slope) * _rms(steps_x) / _rms(steps_y)),
    }


def other_contrast(
    output: np.ndarray, reference: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], axis: int
) -> dict[str, float]:
    """Figures for scans of different contrast; arguments as for `same_contrast`.

    Returns
    -------
    mutual_information : normalized, (H(x) + H(y)) / H(x, y), 48 bins between the 0.5th and 99.5th percentile; 1 to 2
    gradient_alignment : mean squared cosine between in-plane gradients where the reference has an edge; 0.5 by chance
    edge_sharpness : root mean square derivative along `axis` on those edges over that along the other in-plane axis,
        the same ratio of the reference divided out; below 1: blurred along the upsampled axis
    """
    x, y = np.asarray(output, np.float64), np.asarray(reference, np.float64)
    table = np.histogram2d(_ranked(x[mask]), _ranked(y[mask]), BINS, ((0, 1), (0, 1)))[0]
    joint, of_x, of_y = _entropy(table), _entropy(table.sum(1)), _entropy(table.sum(0))
    of_output, of_reference = _gradients(x, spacing), _gradients(y, spacing)
    length = np.hypot(*of_reference)
    edges = mask & (length > EDGE_SHARE * _rms(length[mask]) * 2)
    dot = (of_output[0] * of_reference[0] + of_output[1] * of_reference[1])[edges]
    lengths = (np.hypot(*of_output) * length)[edges]
    across = 2 - axis  # place of the other in-plane axis among the two gradients
    anisotropy = [_rms(g[axis - 1][edges]) / max(_rms(g[across][edges]), 1e-12) for g in (of_output, of_reference)]
    return {
        "mutual_information": (of_x + of_y) / joint if joint > 0 else 2.0,
        "gradient_alignment": float(np.mean((dot / np.maximum(lengths, 1e-12)) ** 2)),
        "edge_sharpness": anisotropy[0] / anisotropy[1],
    }


def _local_moments(
    x: np.ndarray, y: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances of x and y and their covariance in the window, over the mask alone."""
    window = (0, LOCAL_MM / spacing[1], LOCAL_MM / spacing[2])
    share = mask.astype(np.float64)
    total = np.maximum(ndimage.gaussian_filter(share, window), 1e-6)

    def local(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values * share, window) / total

    x, y = x - x[mask].mean(), y - y[mask].mean()  # nearer to zero: less is lost in the differences below
    of_x, of_y = local(x), local(y)
    return local(x * x) - of_x**2, local(y * y) - of_y**2, local(x * y) - of_x * of_y


def _gradients(values: np.ndarray, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives along j and i of the values smoothed by one mm in-plane."""
    smooth = ndimage.gaussian_filter(values, (0, 1 / spacing[1], 1 / spacing[2]))
    return np.gradient(smooth, spacing[1], axis=1), np.gradient(smooth, spacing[2], axis=2)


def _ranked(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (0.5, 99.5))
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1)


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _decibels(peak: float, error: float) -> float:
    return float(10 * np.log10(peak**2 / max(error, 1e-12 * peak**2)))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
