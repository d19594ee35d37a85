"""A result as a new DICOM series of the same study: a classic file a slice, or one enhanced file (floor 2, pydicom).

Source: DICOM PS3.3, C.7.6.1 (derived images), C.7.6.2 (image plane), A.3 (CT), A.4 (MR)
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, RLELossless, generate_uid

from ..errors import RequestError
from ..imaging.volume import Volume, choose_slice_axis, guess_modality
from ..wholefile import whole_folder
from . import dicomenhanced
from .dicomderived import Origin, Sources, decimal, facts_of_classic, facts_of_series, rescale_type
from .dicompixels import StoredSlices, bits_of_inverted, keep_padding
from .files import check_output, refuse_in_plane_shear, reporting

STORAGE = {"CT": CTImageStorage, "MR": MRImageStorage}


def write_series(
    volume: Volume,
    source: str | os.PathLike | None,
    output_folder: str | os.PathLike,
    report: dict[str, Any],
    *,
    enhanced: bool = False,
    compress: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes the volume as a folder of DICOM files, whole or not at all, slice by slice, and gives the folder.

    Parameters
    ----------
    source : file or folder that the volume was made from; where it is DICOM, the new series joins its study, patient
        and frame of reference, and each slice names the source slices that it lies between
    report : of the upsampling (design section 4.5), for the derivation description; may be empty
    enhanced : one multi-frame file (enhanced CT or MR) instead of a file a slice
    compress : RLE, without loss

    Raises
    ------
    RequestError : as `check_output` for a folder; neither CT nor MR; in-plane shear, which DICOM cannot say;
        enhanced of a source that is stored inverted or holds text in its pixels
    ResourceError : disk full or read-only; nothing is left behind
    """
    folder = Path(output_folder)
    inputs = [source] if source else []
    check_output(folder, overwrite=overwrite, inputs=inputs, dicom=True, modality=volume.modality)
    volume = volume.slices_first(choose_slice_axis(volume))
    refuse_in_plane_shear(volume.geometry)
    modality = volume.modality or guess_modality(volume)
    if modality not in STORAGE:
        raise RequestError("DICOM is written for CT and MR only", f"modality {modality}", "write .nrrd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values of the source are its own
        job = report.get("job", {})
        origin = Origin.of(Path(source), job.get("series"), job.get("frame")) if source else None
        if enhanced:
            dicomenhanced.check_size(volume.values.shape, compress)
            dicomenhanced.check_origin(origin)
        facts = facts_of_series(volume, modality, origin, report)
        slices = StoredSlices(volume.values, compress, bits_of_inverted(origin))
        slices.describe(facts)
        keep_padding(facts, origin, slices, volume)
        rescale = Dataset()
        rescale.RescaleIntercept, rescale.RescaleSlope = slices.intercept, slices.slope
        rescale.RescaleType = rescale_type(volume, origin)
        series = _Series(facts, rescale, modality, origin, _Stack(volume, origin), slices, compress)
        with reporting(folder), whole_folder(folder.resolve()) as part:
            if enhanced:
                _write_enhanced(part / "0001.dcm", series)
            else:
                _write_classic(part, series)
    return folder


def check_enhanced(
    source: str | os.PathLike, shape: tuple[int, ...], *, series: str | None, frame: int | None, compress: bool
) -> None:
    """Refuses before anything is computed an output of `shape` that cannot be one enhanced file.

    Raises
    ------
    RequestError : the source is stored inverted or holds text in its pixels, or the pixels do not fit into one file
    """
    dicomenhanced.check_size(shape, compress)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dicomenhanced.check_origin(Origin.of(Path(source), series, frame))


class _Stack:
    """Where each slice lies, numbered along the normal, as readers will order them."""

    def __init__(self, volume: Volume, origin: Origin | None) -> None:
        geometry = volume.geometry
        spacing, self._lps = geometry.spacing_mm, geometry.to_lps()
        rows, columns = self._lps[:3, :2].T
        left, _, right = np.linalg.svd(np.stack([rows / spacing[2], columns / spacing[1]]), full_matrices=False)
        rows, columns = left @ right  # rounded axes at right angles
        self.normal = np.cross(rows, columns)
        step = float(self._lps[:3, 2] @ self.normal)
        count = len(volume.values)
        self.order = range(count) if step > 0 else range(count - 1, -1, -1)
        self.sources = Sources(origin, self.normal)
        self.is_tilted = geometry.is_sheared
        self.layout = Dataset()
        self.layout.ImageOrientationPatient = [decimal(n) for n in (*rows, *columns)]
        self.layout.PixelSpacing = [decimal(spacing[1]), decimal(spacing[2])]
        self.layout.SpacingBetweenSlices = decimal(abs(step))
        self.layout.SliceThickness = None if volume.thickness_mm is None else decimal(volume.thickness_mm)

    def __len__(self) -> int:
        return len(self.order)

    def position(self, k: int) -> np.ndarray:
        """(3,) LPS in mm of the first pixel of slice k of the volume."""
        return self._lps[:3, 3] + k * self._lps[:3, 2]


@dataclass(frozen=True, eq=False)
class _Series:
    """All that the files of the new series are written from."""

    facts: Dataset  # alike in every slice
    rescale: Dataset
    modality: str
    origin: Origin | None
    stack: _Stack
    slices: StoredSlices
    compress: bool


def _write_classic(folder: Path, series: _Series) -> None:
    facts, stack = series.facts, series.stack
    facts_of_classic(facts, series.modality, series.origin)
    facts.SOPClassUID = STORAGE[series.modality]
    facts.update(stack.layout)
    facts.update(series.rescale)  # said for MR too, though its module has none: there are readers that count on it
    for number, k in enumerate(stack.order, 1):
        position = stack.position(k)
        dataset = Dataset()
        dataset.update(facts)
        dataset.SOPInstanceUID = generate_uid(prefix=None)
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [decimal(n) for n in position]
        dataset.SliceLocation = decimal(float(position @ stack.normal))
        if stack.sources.planes:
            dataset.SourceImageSequence = stack.sources.of(position)
        _put_pixels(dataset, series.slices.encoded(k), series.compress)
        dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def _write_enhanced(file: Path, series: _Series) -> None:
    facts, stack, sources = series.facts, series.stack, series.stack.sources
    dicomenhanced.facts_of_enhanced(facts, series.modality, series.origin, len(stack), stack.is_tilted)
    shared = dicomenhanced.shared_groups(facts, stack.layout, series.rescale, series.modality, series.origin)
    if sources.planes:
        sources.list_all(facts)
        if not sources.are_parallel:
            shared.DerivationImageSequence = [dicomenhanced.derivation(sources, stack.position(0))]
    facts.SharedFunctionalGroupsSequence = [shared]
    _put_meta(facts, series.compress)
    groups = (
        dicomenhanced.groups_of_frame(n, [decimal(mm) for mm in stack.position(k)], sources, stack.position(k))
        for n, k in enumerate(stack.order, 1)
    )
    dicomenhanced.write_frames(file, facts, groups, series.slices, stack.order, series.compress)


def _put_pixels(dataset: Dataset, data: bytes, compress: bool) -> None:
    dataset.PixelData = encapsulate([data]) if compress else data
    dataset["PixelData"].VR = "OB" if compress else "OW"
    dataset["PixelData"].is_undefined_length = compress
    _put_meta(dataset, compress)


def _put_meta(dataset: Dataset, compress: bool) -> None:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = RLELossless if compress else ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
