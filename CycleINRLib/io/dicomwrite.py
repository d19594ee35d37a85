"""A result as a new DICOM series of the same study: one classic file a slice (floor 2, pydicom).

Only facts that still hold for a derived series are taken over from the source, by name; private tags are not.

Source: DICOM PS3.3, C.7.6.1 (derived images), C.7.6.2 (image plane), A.3 (CT), A.4 (MR)
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from .. import __version__
from ..errors import RequestError, VolumeError
from ..imaging.volume import Volume, choose_slice_axis, guess_modality
from ..wholefile import beside
from .dicomread import header_of_series
from .files import check_output, refuse_in_plane_shear, reporting

STORAGE = {"CT": pydicom.uid.CTImageStorage, "MR": pydicom.uid.MRImageStorage}
TAKEN_OVER = """
    SpecificCharacterSet TimezoneOffsetFromUTC
    PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex PatientAge PatientSize PatientWeight
    PatientIdentityRemoved DeidentificationMethod PregnancyStatus
    StudyInstanceUID StudyDate StudyTime StudyID StudyDescription AccessionNumber ReferringPhysicianName
    FrameOfReferenceUID PositionReferenceIndicator PatientPosition BodyPartExamined Laterality BurnedInAnnotation
    Manufacturer ManufacturerModelName InstitutionName StationName ProtocolName AcquisitionDate AcquisitionTime
    KVP ConvolutionKernel ScanOptions ContrastBolusAgent
    MagneticFieldStrength ScanningSequence SequenceVariant MRAcquisitionType SequenceName EchoTime RepetitionTime
    InversionTime FlipAngle EchoTrainLength
    LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
""".split()
NEVER_ABSENT = """
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName
    Manufacturer PositionReferenceIndicator KVP ScanningSequence SequenceVariant ScanOptions MRAcquisitionType EchoTime
    RepetitionTime EchoTrainLength AcquisitionNumber
""".split()  # type 2 in the standard: there, if only empty
ONLY_CT = {"KVP"}
ONLY_MR = {"ScanningSequence", "SequenceVariant", "MRAcquisitionType", "EchoTime", "RepetitionTime", "EchoTrainLength"}


def write_series(
    volume: Volume,
    source: str | os.PathLike | None,
    output_folder: str | os.PathLike,
    report: dict[str, Any],
    *,
    overwrite: bool = False,
) -> Path:
    """Writes the volume as a folder of DICOM slices, whole or not at all, and gives the folder.

    Parameters
    ----------
    source : file or folder that the volume was made from; where it is DICOM, the new series joins its study, patient
        and frame of reference
    report : of the upsampling (design section 4.5), for the derivation description; may be empty

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
        origin = header_of_series(Path(source), job.get("series"), job.get("frame")) if source else None
        common = _common(volume, origin, report)
        stored, slope, intercept = _stored(volume.values)
        with reporting(folder), _folder_or_nothing(folder.resolve()) as part:
            for n, dataset in enumerate(_slices(volume, common, stored, slope, intercept)):
                dataset.save_as(part / f"{n + 1:04d}.dcm", enforce_file_format=True)
    return folder


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


def _stored(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """16-bit integers and their rescale: exact for whole numbers that fit, else 65536 steps over the range."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise VolumeError("The volume holds NaN or infinity", f"from {low} to {high}", "replace them by the background")
    if values.dtype.kind in "iub":
        for kind in (np.uint16, np.int16) if values.dtype == np.uint16 else (np.int16, np.uint16):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return values.astype(kind), 1.0, 0.0
    slope, intercept = float(_decimal((high - low) / 65535 or 1.0)), float(_decimal(low))
    stored = np.empty(values.shape, np.uint16)
    for n, plane in enumerate(values):
        stored[n] = np.clip(np.rint((plane.astype(float) - intercept) / slope), 0, 65535)
    return stored, slope, intercept


def _decimal(number: float) -> DSfloat:
    """At most 16 characters, as DICOM demands, of the best precision that they allow."""
    return DSfloat(float(number) + 0.0, auto_format=True)


def _common(volume: Volume, origin: Dataset | None, report: dict[str, Any]) -> Dataset:
    """What all slices of the new series share."""
    modality = volume.modality or guess_modality(volume)
    if modality not in STORAGE:
        raise RequestError("DICOM is written for CT and MR only", f"modality {modality}", "write .nrrd")
    common = Dataset()
    for name in TAKEN_OVER:
        if origin is not None and name in origin:
            common[name] = origin[name]
    for name in NEVER_ABSENT:
        foreign = ONLY_MR if modality == "CT" else ONLY_CT
        if name not in common and name not in foreign:
            setattr(common, name, None)
    common.SOPClassUID = STORAGE[modality]
    common.Modality = modality
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not common.get(name):
            setattr(common, name, generate_uid(prefix=None))
    common.SeriesInstanceUID = generate_uid(prefix=None)
    number = origin.get("SeriesNumber") if origin is not None else None
    common.SeriesNumber = int(number or 0) + 1000
    described = str(origin.get("SeriesDescription") or "") if origin is not None else volume.name
    common.SeriesDescription = f"{described[:54].strip()} CycleINR".strip()
    kinds = list(origin.get("ImageType") or [])[2:] if origin is not None else []
    common.ImageType = ["DERIVED", "SECONDARY", *(kinds or ["AXIAL" if modality == "CT" else "OTHER"])]
    common.DerivationDescription = _derivation(report)
    common.ContributingEquipmentSequence = [_equipment()]
    now = datetime.datetime.now()
    common.SeriesDate = common.ContentDate = common.InstanceCreationDate = now.strftime("%Y%m%d")
    common.SeriesTime = common.ContentTime = common.InstanceCreationTime = now.strftime("%H%M%S")
    inverted = origin is not None and origin.get("PhotometricInterpretation") == "MONOCHROME1"
    common.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"  # values are kept, so is polarity
    common.RescaleType = "HU" if volume.unit == "HU" or (modality == "CT" and volume.unit is None) else "US"
    _take_window(common, origin)
    return common


def _derivation(report: dict[str, Any]) -> str:
    words = [f"CycleINR {__version__}: slices generated between the acquired ones"]
    words += [f"{name} {report[name]}" for name in ("z_scale", "profile", "consistency", "texture") if name in report]
    if report.get("model"):
        words.append(f"model {report['model'].get('name')}, sha256 {report['model'].get('sha256')}")
    return ", ".join(words)[:1024]


def _equipment() -> Dataset:
    """CycleINR as post-processing equipment (DCM 109103)."""
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109103", "DCM", "Modifying Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.Manufacturer = "CycleINR"
    item.ManufacturerModelName = "CycleINR"
    item.SoftwareVersions = __version__
    return item


def _take_window(common: Dataset, origin: Dataset | None) -> None:
    """Window and level of the source: its first slice, or the first frame of a multi-frame file."""
    if origin is None:
        return
    places = [origin]
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        places += [item[0] for group in (origin.get(groups) or [])[:1] if (item := group.get("FrameVOILUTSequence"))]
    for place in places:
        if place.get("WindowCenter") is not None and place.get("WindowWidth") is not None:
            common.WindowCenter, common.WindowWidth = place.WindowCenter, place.WindowWidth
            return


def _slices(volume: Volume, common: Dataset, stored: np.ndarray, slope: float, intercept: float) -> Iterator[Dataset]:
    """Each slice with its place; numbered along the normal, as readers will order them."""
    lps = volume.geometry.to_lps()
    rows, columns = volume.geometry.to_lps()[:3, :2].T
    spacing = volume.geometry.spacing_mm
    left, _, right = np.linalg.svd(np.stack([rows / spacing[2], columns / spacing[1]]), full_matrices=False)
    rows, columns = left @ right  # rounded axes at right angles
    normal = np.cross(rows, columns)
    order = range(len(stored)) if lps[:3, 2] @ normal > 0 else range(len(stored) - 1, -1, -1)
    for number, k in enumerate(order):
        position = lps[:3, 3] + k * lps[:3, 2]
        dataset = Dataset()
        dataset.update(common)
        dataset.SOPInstanceUID = generate_uid(prefix=None)
        dataset.InstanceNumber = number + 1
        dataset.ImagePositionPatient = [_decimal(n) for n in position]
        dataset.ImageOrientationPatient = [_decimal(n) for n in (*rows, *columns)]
        dataset.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[2])]
        dataset.SpacingBetweenSlices = _decimal(abs(float(lps[:3, 2] @ normal)))
        dataset.SliceThickness = None if volume.thickness_mm is None else _decimal(volume.thickness_mm)
        dataset.SliceLocation = _decimal(float(position @ normal))
        dataset.RescaleSlope, dataset.RescaleIntercept = _decimal(slope), _decimal(intercept)
        _put_pixels(dataset, stored[k])
        yield dataset


def _put_pixels(dataset: Dataset, plane: np.ndarray) -> None:
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = plane.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(plane.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(plane, plane.dtype.newbyteorder("<")).tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
