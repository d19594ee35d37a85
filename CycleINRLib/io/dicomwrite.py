"""A result as a new DICOM series of the same study: a classic file a slice, or one multi-frame file (floor 2, pydicom).

Slices are made and written one after another: no second copy of the volume is held.

Source: DICOM PS3.3, C.7.6.2 (image plane), A.3 (CT), A.4 (MR); the multi-frame objects stand in `dicomenhanced`
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from ..imaging.volume import Volume, choose_slice_axis
from ..wholefile import beside
from .dicomderived import Frames, Origin, StoredPixels, decimal, shared_by_slices
from .dicomenhanced import enhanced_object
from .dicomread import planes_of_volume
from .files import check_output, refuse_in_plane_shear, reporting


def write_series(
    volume: Volume,
    source: str | os.PathLike | None,
    output_folder: str | os.PathLike,
    report: dict[str, Any],
    *,
    overwrite: bool = False,
    enhanced: bool = False,
    compress: bool = False,
) -> Path:
    """Writes the volume as a folder of DICOM slices, whole or not at all, and gives the folder.

    Parameters
    ----------
    source : file or folder that the volume was made from; where it is DICOM, the new series joins its study, patient
        and frame of reference, and each slice names the images that it lies between
    report : of the upsampling (design section 4.5), for the derivation description; may be empty
    enhanced : one multi-frame file (Enhanced CT or MR) instead of a classic file a slice
    compress : RLE lossless, which every DICOM toolkit reads and pydicom writes without a further package

    Raises
    ------
    RequestError : as `check_output` for a folder; neither CT nor MR; in-plane shear, which DICOM cannot say
    ResourceError : disk full or read-only; nothing is left behind
    """
    folder = Path(output_folder)
    check_output(folder, overwrite=overwrite, inputs=[source] if source else [], dicom=True, modality=volume.modality)
    volume = volume.slices_first(choose_slice_axis(volume))
    refuse_in_plane_shear(volume.geometry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values of the source are its own
        job = report.get("job", {})
        origin = _origin(Path(source), job.get("series"), job.get("frame")) if source else None
        shared = shared_by_slices(volume, origin, report)
        frames, pixels = Frames.of(volume), StoredPixels.of(volume.values)
        with reporting(folder), _folder_or_nothing(folder.resolve()) as part:
            if enhanced:
                _write_enhanced(part, volume, shared, frames, pixels, origin, compress)
            else:
                for number, dataset in enumerate(_slices(volume, shared, frames, pixels, origin), 1):
                    _save(dataset, part / f"{number:04d}.dcm", compress)
    return folder


def _origin(path: Path, series: str | None, frame: int | None) -> Origin | None:
    """The images that the volume was read from; None where the path is no DICOM."""
    planes = planes_of_volume(path, series, frame)
    if not planes:
        return None
    return Origin(pydicom.dcmread(planes[0].file, stop_before_pixels=True, force=True), planes)


@contextlib.contextmanager
def _folder_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder beside the target whose name starts with a dot; it takes the target's place only when complete."""
    part, old = (beside(folder, ending) for ending in (".part", ".old"))
    part.mkdir()
    try:
        yield part
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(part, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _slices(
    volume: Volume, shared: Dataset, frames: Frames, pixels: StoredPixels, origin: Origin | None
) -> Iterator[Dataset]:
    """Each slice with its place; numbered along the normal, as readers will order them."""
    for number, (k, position) in enumerate(frames.in_order(), 1):
        dataset = Dataset()
        dataset.update(shared)
        dataset.SOPInstanceUID = generate_uid(prefix=None)
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [decimal(n) for n in position]
        dataset.ImageOrientationPatient = [decimal(n) for n in frames.orientation]
        dataset.PixelSpacing = [decimal(mm) for mm in frames.pixel_spacing]
        dataset.SpacingBetweenSlices = decimal(frames.spacing_mm)
        dataset.SliceThickness = None if volume.thickness_mm is None else decimal(volume.thickness_mm)
        dataset.SliceLocation = decimal(float(position @ frames.normal))
        if origin is not None:
            dataset.SourceImageSequence = origin.references(position)
        if shared.Modality == "CT" or not pixels.is_identity:  # classic MR images have no rescale of their own
            dataset.RescaleSlope, dataset.RescaleIntercept = decimal(pixels.slope), decimal(pixels.intercept)
        else:
            del dataset.RescaleType
        pixels.describe(dataset, volume.values.shape[1:])
        dataset.PixelData = pixels.bytes_of(volume.values[k])
        yield dataset


def _write_enhanced(
    folder: Path,
    volume: Volume,
    shared: Dataset,
    frames: Frames,
    pixels: StoredPixels,
    origin: Origin | None,
    compress: bool,
) -> None:
    """One file; its pixels pass through a file beside it, slice by slice."""
    dataset = enhanced_object(volume, shared, frames, pixels, origin)
    raw = folder / ".pixels"
    try:
        with open(raw, "wb") as stream:
            for k, _ in frames.in_order():
                stream.write(pixels.bytes_of(volume.values[k]))
        with open(raw, "rb") as stream:
            dataset.PixelData = stream.read() if compress else stream  # the encoder wants all of it
            dataset["PixelData"].VR = "OW"
            _save(dataset, folder / "0001.dcm", compress)
    finally:
        raw.unlink(missing_ok=True)


def _save(dataset: Dataset, path: Path, compress: bool) -> None:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if compress:
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
