"""What a derived DICOM object says beside its pixels: what it takes over, and what it was made from (floor 2, pydicom).

Only facts that still hold are taken over from the source, by name; private tags are not, nor values that break the
rules of their own kind.

Source: DICOM PS3.3, C.7.6.1 (general image), C.8.2.1 (CT), C.8.3.1 (MR), C.12.4 (derivation); PS3.16, CID 7202, 7203
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat, validate_value

from .. import __version__
from ..errors import RequestError, VolumeError
from ..imaging.volume import Volume, guess_modality
from .dicomplanes import Plane

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
    ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialSubjectID LongitudinalTemporalInformationModified
    DeviceSerialNumber SoftwareVersions ApplicableSafetyStandardAgency
    LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
""".split()
NEVER_ABSENT = """
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName
    Manufacturer PositionReferenceIndicator KVP ScanningSequence SequenceVariant ScanOptions MRAcquisitionType EchoTime
    RepetitionTime EchoTrainLength AcquisitionNumber PatientPosition
""".split()  # type 2 in the standard, or 2C where the source does not say: there, if only empty
ONLY_CT = {"KVP"}
ONLY_MR = {"ScanningSequence", "SequenceVariant", "MRAcquisitionType", "EchoTime", "RepetitionTime", "EchoTrainLength"}


ON_SLICE = 1e-3  # of the spacing: an output slice so near to one of the source lies on it


@dataclass(frozen=True, eq=False)
class Origin:
    """The images of the source: the header of the first, its SOP class, and every plane in the order of positions."""

    header: Dataset
    planes: Sequence[Plane]

    def beside(self, position: np.ndarray) -> list[Plane]:
        """The planes that an output slice at `position` (LPS in mm) lies between, or the one that it lies on."""
        normal = self.planes[0].normal
        heights = np.array([plane.position @ normal for plane in self.planes])
        order = np.argsort(heights)
        at = float(position @ normal)
        spacing = abs(heights[order[-1]] - heights[order[0]]) / max(1, len(order) - 1)
        above = int(np.clip(np.searchsorted(heights[order], at), 1, len(order) - 1))
        near = [order[above - 1], order[above]]
        on = [n for n in near if abs(heights[n] - at) <= ON_SLICE * spacing]
        return [self.planes[n] for n in on or near]

    def references(self, position: np.ndarray) -> list[Dataset]:
        """Source image references of an output slice (C.7.6.1.1.4)."""
        return [self.reference_to(plane) for plane in self.beside(position)]

    def reference_to(self, plane: Plane) -> Dataset:
        """One image, or one frame of a multi-frame image, of the source."""
        item = Dataset()
        item.ReferencedSOPClassUID = self.header.SOPClassUID
        item.ReferencedSOPInstanceUID = plane.facts.sop_uid
        if plane.frame is not None:
            item.ReferencedFrameNumber = plane.frame + 1
        purpose = coded("121322", "DCM", "Source image for image processing operation")
        item.PurposeOfReferenceCodeSequence = [purpose]
        return item


@dataclass(frozen=True, eq=False)
class Frames:
    """Where the slices of a volume (its slices first) lie, in LPS and mm."""

    matrix: np.ndarray  # (4, 4) voxel (i, j, k) to LPS
    count: int
    orientation: np.ndarray  # (6,) direction cosines of rows and columns, at right angles
    normal: np.ndarray
    pixel_spacing: tuple[float, float]  # between rows, between columns
    spacing_mm: float

    @classmethod
    def of(cls, volume: Volume) -> Frames:
        matrix = volume.geometry.to_lps()
        rows, columns = matrix[:3, :2].T
        between, down, along = volume.geometry.spacing_mm
        left, _, right = np.linalg.svd(np.stack([rows / along, columns / down]), full_matrices=False)
        rows, columns = left @ right  # rounded axes at right angles
        normal = np.cross(rows, columns)
        spacing = abs(float(matrix[:3, 2] @ normal))
        return cls(matrix, volume.values.shape[0], np.array([*rows, *columns]), normal, (down, along), spacing)

    def in_order(self) -> Iterator[tuple[int, np.ndarray]]:
        """(slice, position of its first pixel) along the normal, as readers order them."""
        along = self.matrix[:3, 2] @ self.normal > 0
        for k in range(self.count) if along else range(self.count - 1, -1, -1):
            yield k, self.matrix[:3, 3] + k * self.matrix[:3, 2]


@dataclass(frozen=True)
class StoredPixels:
    """How values become 16-bit integers: exact for whole numbers that fit, else 65536 steps over the range."""

    kind: np.dtype
    slope: float
    intercept: float

    @classmethod
    def of(cls, values: np.ndarray) -> StoredPixels:
        """For all of (K, J, I) `values`.

        Raises
        ------
        VolumeError : NaN or infinity
        """
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            found = f"from {low} to {high}"
            raise VolumeError("The volume holds NaN or infinity", found, "replace them by the background")
        if values.dtype.kind in "iub":
            for kind in (np.uint16, np.int16) if values.dtype == np.uint16 else (np.int16, np.uint16):
                if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                    return cls(np.dtype(kind), 1.0, 0.0)
        return cls(np.dtype(np.uint16), float(decimal((high - low) / 65535 or 1.0)), float(decimal(low)))

    @property
    def is_identity(self) -> bool:
        return (self.slope, self.intercept) == (1.0, 0.0)

    def bytes_of(self, plane: np.ndarray) -> bytes:
        """One slice (J, I), little-endian."""
        if not self.is_identity:
            plane = np.clip(np.rint((plane.astype(float) - self.intercept) / self.slope), 0, 65535)
        return np.ascontiguousarray(plane, self.kind.newbyteorder("<")).tobytes()

    def describe(self, dataset: Dataset, shape: tuple[int, ...]) -> None:
        """The image pixel module for slices of `shape` (J, I), without the pixels."""
        dataset.SamplesPerPixel = 1
        dataset.Rows, dataset.Columns = shape
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelRepresentation = int(self.kind.kind == "i")


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def decimal(number: float) -> DSfloat:
    """At most 16 characters, as DICOM demands, of the best precision that they allow."""
    return DSfloat(float(number) + 0.0, auto_format=True)


def shared_by_slices(volume: Volume, source: Origin | None, report: dict[str, Any]) -> Dataset:
    """What all slices of the new series say alike: patient, study, series, equipment, derivation.

    Raises
    ------
    RequestError : neither CT nor MR
    """
    origin = None if source is None else source.header
    modality = volume.modality or guess_modality(volume)
    if modality not in STORAGE:
        raise RequestError("DICOM is written for CT and MR only", f"modality {modality}", "write .nrrd")
    common = Dataset()
    for name in TAKEN_OVER:
        if origin is not None and name in origin and _is_valid(name, origin[name].value):
            setattr(common, name, origin[name].value)  # of the kind that the dictionary gives it
    for name in NEVER_ABSENT:
        foreign = ONLY_MR if modality == "CT" else ONLY_CT
        if name not in common and name not in foreign:
            setattr(common, name, None)
    if modality == "MR":
        _say_sequence(common, origin)
    else:
        common.pop("SequenceName", None)
    if not common.get("BodyPartExamined") and "Laterality" not in common:
        common.Laterality = None  # 2C: perhaps of a pair
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
    common.DerivationCodeSequence = [coded("113085", "DCM", "Spatial resampling")]
    common.ContributingEquipmentSequence = [_equipment()]
    now = datetime.datetime.now()
    common.SeriesDate = common.ContentDate = common.InstanceCreationDate = now.strftime("%Y%m%d")
    common.SeriesTime = common.ContentTime = common.InstanceCreationTime = now.strftime("%H%M%S")
    inverted = origin is not None and origin.get("PhotometricInterpretation") == "MONOCHROME1"
    common.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"  # values are kept, so is polarity
    common.RescaleType = "HU" if volume.unit == "HU" or (modality == "CT" and volume.unit is None) else "US"
    _take_window(common, origin)
    return common


def _is_valid(name: str, value: Any) -> bool:
    """Whether a value obeys the rules of its kind: an age of "0Y" is left behind, not handed on."""
    kind = dictionary_VR(name)
    try:
        for one in value if isinstance(value, pydicom.multival.MultiValue) else [value]:
            if one is not None and kind not in ("SQ", "PN"):
                validate_value(kind, one if kind not in ("DS", "IS") else str(one), RAISE)
    except (ValueError, TypeError):
        return False
    return True


def _say_sequence(common: Dataset, origin: Dataset | None) -> None:
    """Type 1 in classic MR: as the source says, else what its enhanced header says, else "research mode" and "none"."""
    if not common.get("ScanningSequence"):
        pulse = str(origin.get("EchoPulseSequence") or "") if origin is not None else ""
        found = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(pulse, [])
        if origin is not None and origin.get("InversionRecovery") == "YES":
            found = [*found, "IR"]
        if origin is not None and origin.get("EchoPlanarPulseSequence") == "YES":
            found = [*found, "EP"]
        common.ScanningSequence = found or "RM"
    if not common.get("SequenceVariant"):
        common.SequenceVariant = "NONE"


def _derivation(report: dict[str, Any]) -> str:
    words = [f"CycleINR {__version__}: slices generated between the acquired ones"]
    words += [f"{name} {report[name]}" for name in ("z_scale", "profile", "consistency", "texture") if name in report]
    if report.get("model"):
        words.append(f"model {report['model'].get('name')}, sha256 {report['model'].get('sha256')}")
    return ", ".join(words)[:1024]


def _equipment() -> Dataset:
    """CycleINR as post-processing equipment (DCM 109103)."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded("109103", "DCM", "Modifying Equipment")]
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
