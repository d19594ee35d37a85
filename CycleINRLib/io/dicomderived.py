"""What a derived DICOM series says beside its pixels: whose it is, of what it was made, what modules ask for (floor 2).

Only facts that still hold for a derived series are taken over from the source, by name; private tags are not. What the
standard asks for and the source does not say is left empty where that is allowed (type 2), else said as unknown.

Source: DICOM PS3.3, C.7.6.1 (general image), C.12.4 (general reference), C.8.2.1 (CT), C.8.3.1 (MR); PS3.16, CID 7203
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat, validate_value

from .. import __version__
from ..imaging.volume import Volume
from .dicomplanes import Plane, getter_of
from .dicomread import planes_of_volume
from .dicomvalues import DAMAGED, Get, informing, value_of

OF_ANY = """
    SpecificCharacterSet TimezoneOffsetFromUTC
    PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex PatientAge PatientSize PatientWeight
    PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence PregnancyStatus
    LongitudinalTemporalInformationModified
    ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID
    ClinicalTrialSiteName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ClinicalTrialTimePointID
    StudyInstanceUID StudyDate StudyTime StudyID StudyDescription AccessionNumber ReferringPhysicianName
    FrameOfReferenceUID PositionReferenceIndicator PatientPosition BodyPartExamined Laterality
    Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions InstitutionName StationName ProtocolName
    AcquisitionDate AcquisitionTime AcquisitionNumber BurnedInAnnotation RecognizableVisualFeatures
    LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
    MagneticFieldStrength ContrastBolusAgent ContrastBolusRoute WindowCenterWidthExplanation VOILUTFunction
""".split()
# of the classic image modules: name -> where it stands in an enhanced source
OF_CT = {
    "KVP": "CTXRayDetailsSequence", "FilterType": "CTXRayDetailsSequence",
    "ConvolutionKernel": "CTReconstructionSequence", "ReconstructionDiameter": "CTReconstructionSequence",
    "GantryDetectorTilt": "CTAcquisitionDetailsSequence", "RotationDirection": "CTAcquisitionDetailsSequence",
    "DataCollectionDiameter": "CTAcquisitionDetailsSequence", "ScanOptions": "",
}  # fmt: skip
OF_MR = {
    "ScanningSequence": "", "SequenceVariant": "", "ScanOptions": "", "MRAcquisitionType": "", "SequenceName": "",
    "EchoTime": "", "RepetitionTime": "MRTimingAndRelatedParametersSequence", "InversionTime": "", "EchoNumbers": "",
    "FlipAngle": "MRTimingAndRelatedParametersSequence", "EchoTrainLength": "MRTimingAndRelatedParametersSequence",
    "NumberOfAverages": "MRAveragesSequence", "ImagingFrequency": "", "ImagedNucleus": "",
    "PixelBandwidth": "MRImagingModifierSequence", "ReceiveCoilName": "MRReceiveCoilSequence", "TriggerTime": "",
    "PercentSampling": "MRFOVGeometrySequence", "PercentPhaseFieldOfView": "MRFOVGeometrySequence",
    "InPlanePhaseEncodingDirection": "", "AngioFlag": "",
}  # fmt: skip
NEVER_ABSENT = """
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName
    Manufacturer PositionReferenceIndicator PatientPosition
""".split()  # type 2 in the standard: there, if only empty
NEVER_ABSENT_IN = {
    "CT": "AcquisitionNumber KVP".split(),
    "MR": "ScanOptions MRAcquisitionType EchoTime RepetitionTime EchoTrainLength".split(),
}
LOSSY = {  # the method by the transfer syntax, where the source does not say it
    "1.2.840.10008.1.2.4.50": "ISO_10918_1", "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1", "1.2.840.10008.1.2.4.91": "ISO_15444_1",
}  # fmt: skip
QUALIFICATION = "RESEARCH"  # of the content: CycleINR is no approved medical device
_LONGEST_TEXT, LONGEST_DESCRIPTION = 1024, 64
ACQUIRED = 1e-3  # of the slice distance: so near, an output slice lies on an acquired one


@dataclass(frozen=True, eq=False)
class Origin:
    """The source of a derived series, where it is DICOM."""

    header: Dataset  # of its first slice, without pixels
    planes: list[Plane]  # the slices of the volume, in order

    @classmethod
    def of(cls, path: Path, series: str | None, frame: int | None) -> Origin | None:
        """None where the path is no DICOM."""
        planes = planes_of_volume(path, series, frame)
        if not planes:
            return None
        return cls(pydicom.dcmread(planes[0].file, stop_before_pixels=True, force=True), planes)

    @property
    def get(self) -> Get:
        """(attribute, functional groups ...) -> its value for the first slice, or None."""
        return getter_of(self.header, self.planes[0].frame)


def decimal(number: float) -> DSfloat:
    """At most 16 characters, as DICOM demands, of the best precision that they allow."""
    return DSfloat(float(number) + 0.0, auto_format=True)


def code_of(code: Any) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


# --- whose it is ----------------------------------------------------------------------------------------------
def facts_of_series(volume: Volume, modality: str, origin: Origin | None, report: dict[str, Any]) -> Dataset:
    """What every image of the new series says in either form: patient, study, series, equipment, how it was derived."""
    facts = Dataset()
    for name in OF_ANY:
        if origin is not None and (element := _sound(origin.header, name)) is not None:
            facts[name] = element
    for name in NEVER_ABSENT:
        if name not in facts:
            setattr(facts, name, None)
    if not facts.get("BodyPartExamined") and "Laterality" not in facts:
        facts.Laterality = None  # asked for where the part may be one of a pair
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not facts.get(name):
            setattr(facts, name, generate_uid(prefix=None))
    facts.Modality = modality
    facts.SeriesInstanceUID = generate_uid(prefix=None)
    number = informing(origin.get, "SeriesNumber")[0] if origin is not None else None
    facts.SeriesNumber = min(int(number or 0) + 1000, 2**31 - 1)
    facts.SeriesDescription = _description(volume, origin, report)
    facts.DerivationDescription = _derivation(report)
    facts.DerivationCodeSequence = [code_of(codes.DCM.SpatialResampling)]
    facts.ContributingEquipmentSequence = [_equipment()]
    facts.ContentQualification = QUALIFICATION
    now = datetime.datetime.now()
    facts.SeriesDate = facts.ContentDate = facts.InstanceCreationDate = now.strftime("%Y%m%d")
    facts.SeriesTime = facts.ContentTime = facts.InstanceCreationTime = now.strftime("%H%M%S")
    inverted = origin is not None and origin.planes[0].facts.color == "MONOCHROME1"
    facts.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"  # values are kept, so is polarity
    if origin is not None:
        _keep_history_of_loss(facts, origin)
        _take_window(facts, origin.get)
    _state_characters(facts)
    return facts


def _state_characters(facts: Dataset) -> None:
    """The character set of texts beyond ASCII that came without one: read as Latin-1, as pydicom does."""
    text = "".join(str(element.value) for element in facts if element.VR in ("LO", "LT", "PN", "SH", "ST", "UT"))
    if not facts.get("SpecificCharacterSet") and not text.isascii():
        facts.SpecificCharacterSet = "ISO_IR 100" if all(ord(letter) < 256 for letter in text) else "ISO_IR 192"


def _sound(header: Dataset, name: str) -> DataElement | None:
    """An attribute that is there, can be read and obeys the rules of its kind: an age of "0Y" is not handed on."""
    try:
        if name not in header:
            return None
        element, kind = header[name], dictionary_VR(name)
        if kind not in ("SQ", "PN"):
            for one in element.value if element.VM > 1 else [element.value]:
                if one not in (None, ""):
                    validate_value(kind, str(one) if kind in ("DS", "IS") else one, RAISE)
        return DataElement(element.tag, kind, element.value)
    except DAMAGED:
        return None


def _description(volume: Volume, origin: Origin | None, report: dict[str, Any]) -> str:
    ending = " CycleINR, noise synthetic" if report.get("noise") == "renew" else " CycleINR"
    said = str(value_of(origin.header, "SeriesDescription") or "") if origin is not None else volume.name
    return f"{said[: LONGEST_DESCRIPTION - len(ending)].strip()}{ending}".strip()


def _derivation(report: dict[str, Any]) -> str:
    words = [f"CycleINR {__version__}: slices generated between the acquired ones"]
    told = ("z_scale", "profile", "consistency", "noise")
    words += [f"{name} {report[name]}" for name in told if isinstance(report.get(name), (str, int, float))]
    if report.get("model"):
        words.append(f"model {report['model'].get('name')}, sha256 {report['model'].get('sha256')}")
    ending = ", noise synthetic" if report.get("noise") == "renew" else ""
    return ", ".join(words)[: _LONGEST_TEXT - len(ending)] + ending


def _equipment() -> Dataset:
    """CycleINR as post-processing equipment."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_of(codes.DCM.ModifyingEquipment)]
    item.Manufacturer = item.ManufacturerModelName = "CycleINR"
    item.SoftwareVersions = __version__
    return item


def _keep_history_of_loss(facts: Dataset, origin: Origin) -> None:
    """Lossy once is lossy for ever; where only the transfer syntax tells, the attributes are filled in."""
    syntax = str(origin.header.file_meta.get("TransferSyntaxUID", ""))
    if syntax in LOSSY and facts.get("LossyImageCompression") != "01":
        header, file = origin.header, origin.planes[0].file
        frames = int(header.get("NumberOfFrames") or 1)
        plain = frames * int(header.Rows) * int(header.Columns) * int(header.get("BitsAllocated") or 16) // 8
        facts.LossyImageCompression = "01"
        facts.LossyImageCompressionMethod = LOSSY[syntax]
        facts.LossyImageCompressionRatio = decimal(round(max(plain / file.stat().st_size, 1.0), 2))


def _take_window(facts: Dataset, get: Get) -> None:
    """Window and level of the source: its first slice, or the first frame of a multi-frame file."""
    center, width = (get(name, "FrameVOILUTSequence") for name in ("WindowCenter", "WindowWidth"))
    if center not in (None, "") and width not in (None, ""):
        facts.WindowCenter, facts.WindowWidth = center, width
        return
    for name in ("WindowCenterWidthExplanation", "VOILUTFunction"):
        if name in facts:
            del facts[name]


def rescale_type(volume: Volume, origin: Origin | None) -> str:
    """HU, or the unit that the source names; US: unspecified."""
    if volume.unit == "HU" or (volume.modality == "CT" and volume.unit is None):
        return "HU"
    said = origin.planes[0].rescale_type if origin is not None else ""
    return said if said and said != "HU" else "US"


# --- what it was made of --------------------------------------------------------------------------------------
class Sources:
    """The source images of each output slice: the acquired one that it lies on, or the two that it lies between;
    all of them where output slices cross the source's."""

    def __init__(self, origin: Origin | None, normal: np.ndarray) -> None:
        """`normal` (3,): of the output slices, LPS."""
        planes = origin.planes if origin is not None and all(p.facts.sop_uid for p in origin.planes) else []
        self.kind = value_of(origin.header, "SOPClassUID") if origin is not None else None
        self.planes = planes if self.kind else []
        self._normal = planes[0].normal if planes else normal
        self.are_parallel = bool(planes) and abs(float(self._normal @ normal)) > 0.999
        self._along = np.array([float(plane.position @ self._normal) for plane in planes])

    def of(self, position: np.ndarray) -> list[Dataset]:
        """Items of SourceImageSequence for the output slice whose first pixel lies at `position` (3,) LPS in mm."""
        chosen = [self.planes[n] for n in self._bracket(position)] if self.are_parallel else self.planes
        return [self._marked(item) for item in self._items(chosen)]

    def _bracket(self, position: np.ndarray) -> list[int]:
        count = len(self._along)
        if count == 1:
            return [0]
        at = (float(position @ self._normal) - self._along[0]) / ((self._along[-1] - self._along[0]) / (count - 1))
        at = min(max(at, 0.0), count - 1.0)
        return [round(at)] if abs(at - round(at)) < ACQUIRED else [int(at), int(at) + 1]

    def list_all(self, facts: Dataset) -> None:
        """Adds all source images, as multi-frame objects list what their frames refer to."""
        images = list(self._items(self.planes, frames=False))
        evidence, by_instance, by_sop = Dataset(), Dataset(), Dataset()
        by_instance.SeriesInstanceUID = by_sop.SeriesInstanceUID = self.planes[0].facts.uid
        by_instance.ReferencedInstanceSequence = by_sop.ReferencedSOPSequence = images
        evidence.StudyInstanceUID, evidence.ReferencedSeriesSequence = facts.StudyInstanceUID, [by_sop]
        facts.ReferencedSeriesSequence, facts.SourceImageEvidenceSequence = [by_instance], [evidence]

    def _items(self, planes: list[Plane], frames: bool = True) -> Iterator[Dataset]:
        numbers: dict[str, list[int]] = {}
        for plane in planes:
            numbers.setdefault(plane.facts.sop_uid, []).extend([] if plane.frame is None else [plane.frame + 1])
        for uid, of_file in numbers.items():
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = self.kind, uid
            if of_file and frames:
                item.ReferencedFrameNumber = of_file
            yield item

    @staticmethod
    def _marked(item: Dataset) -> Dataset:
        item.PurposeOfReferenceCodeSequence = [code_of(codes.DCM.SourceImageForImageProcessingOperation)]
        return item


# --- the classic modules --------------------------------------------------------------------------------------
def facts_of_classic(facts: Dataset, modality: str, origin: Origin | None) -> None:
    """Adds what the CT or MR image module asks for."""
    for name, group in (OF_CT if modality == "CT" else OF_MR).items():
        if origin is None:
            break
        if (element := _sound(origin.header, name)) is not None:
            facts[name] = element
        elif group and (number := informing(origin.get, name, group)[0]) is not None:
            setattr(facts, name, int(number) if name == "EchoTrainLength" else decimal(number))
    if modality == "MR":
        _fill_mr(facts, origin)
    for name in NEVER_ABSENT_IN[modality]:
        if name not in facts:
            setattr(facts, name, None)
    kinds = list(origin.planes[0].image_type)[2:] if origin is not None else []
    if modality == "CT":
        kinds = ["AXIAL", *kinds[1:]]  # the other word is LOCALIZER
    facts.ImageType = ["DERIVED", "SECONDARY", *(kinds or ["OTHER"])]


def _fill_mr(facts: Dataset, origin: Origin | None) -> None:
    """The type 1 attributes of the MR image module out of an enhanced source, else as a research sequence."""
    if origin is not None:
        get = origin.get
        for name, there, group in (
            ("EchoTime", "EffectiveEchoTime", "MREchoSequence"),
            ("InversionTime", "InversionTimes", "MRModifierSequence"),
        ):
            if name not in facts and (number := informing(get, there, group)[0]) is not None:
                setattr(facts, name, decimal(number))
        echo = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(str(get("EchoPulseSequence")), [])
        planar = ["EP"] if get("EchoPlanarPulseSequence") == "YES" else []
        inverted = ["IR"] if get("InversionRecovery", "MRModifierSequence") == "YES" else []
        if not facts.get("ScanningSequence") and (echo or planar):
            facts.ScanningSequence = [*echo, *planar, *inverted]
    if not facts.get("ScanningSequence"):
        facts.ScanningSequence = "RM"
    if not facts.get("SequenceVariant"):
        facts.SequenceVariant = "NONE"
