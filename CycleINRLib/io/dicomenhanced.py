"""A result as one multi-frame DICOM object, Enhanced CT or Enhanced MR (floor 2, pydicom).

Most acquisition facts are asked of original images alone; a derived one says what it is, where each frame lies, how its
numbers become values, and which frames or images of the source it was made from.

Source: DICOM PS3.3, A.36 (Enhanced MR), A.38 (Enhanced CT), C.7.6.16 (functional groups), C.8.13.1 and C.8.15.2
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, generate_uid

from ..imaging.volume import Volume
from .dicomderived import Frames, Origin, StoredPixels, coded, decimal

OBJECTS = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage}
OF_CLASSIC_IMAGES = """
    KVP ConvolutionKernel ScanOptions ContrastBolusAgent ScanningSequence SequenceVariant MRAcquisitionType SequenceName
    EchoTime RepetitionTime InversionTime FlipAngle EchoTrainLength MagneticFieldStrength
    AcquisitionDate AcquisitionTime AcquisitionNumber Laterality DerivationDescription
    WindowCenter WindowWidth RescaleType DerivationCodeSequence SourceImageSequence
    LossyImageCompressionRatio LossyImageCompressionMethod
""".split()  # said otherwise in a multi-frame object, or of original ones alone
FLAVORS = {
    "CT": ("ANGIO", "CARDIAC", "PERFUSION"),
    "MR": ("ANGIO", "PERFUSION", "PROTON_DENSITY", "STIR", "T1", "T2", "TOF"),
}
UNKNOWN = "UNKNOWN"


def enhanced_object(
    volume: Volume, shared: Dataset, frames: Frames, pixels: StoredPixels, origin: Origin | None
) -> Dataset:
    """All of the object but its pixels, for a volume whose slices are first; frames along the normal.

    Parameters
    ----------
    shared : what the classic slices would say alike (`dicomderived.shared_by_slices`)
    """
    modality = shared.Modality
    found = Dataset()
    found.update({element.tag: element for element in shared if element.keyword not in OF_CLASSIC_IMAGES})
    found.SOPClassUID = OBJECTS[modality]
    found.SOPInstanceUID = generate_uid(prefix=None)
    found.InstanceNumber = 1
    found.ImageType = ["DERIVED", "PRIMARY", _flavor(shared, modality), "RESAMPLED"]
    _say_equipment(found)
    _say_image(found, modality)
    if origin is not None:
        found.SourceImageEvidenceSequence = [_evidence(found.StudyInstanceUID, origin)]
    found.NumberOfFrames = frames.count
    pixels.describe(found, volume.values.shape[1:])
    _say_dimensions(found)
    found.SharedFunctionalGroupsSequence = [_shared_groups(volume, shared, frames, pixels, modality, origin)]
    found.PerFrameFunctionalGroupsSequence = [
        _frame_groups(number, position, shared, origin) for number, (_, position) in enumerate(frames.in_order(), 1)
    ]
    return found


def _flavor(shared: Dataset, modality: str) -> str:
    """Value 3 of the image type: that of the source where an enhanced object may say it."""
    kinds = [kind for kind in list(shared.ImageType)[2:] if kind in FLAVORS[modality]]
    return kinds[0] if kinds else "VOLUME"


def _say_equipment(found: Dataset) -> None:
    """Type 1 in the enhanced equipment module; what the source leaves open is said to be unknown."""
    for name in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"):
        if not found.get(name):
            setattr(found, name, UNKNOWN)


def _say_image(found: Dataset, modality: str) -> None:
    found.PixelPresentation = "MONOCHROME"
    found.VolumetricProperties = "VOLUME"
    found.VolumeBasedCalculationTechnique = "NONE"
    found.PresentationLUTShape = "IDENTITY" if found.PhotometricInterpretation == "MONOCHROME2" else "INVERSE"
    found.BurnedInAnnotation = found.get("BurnedInAnnotation") or "NO"
    found.LossyImageCompression = found.get("LossyImageCompression") or "00"
    found.ContentQualification = "RESEARCH"
    found.AcquisitionContextSequence = []
    if modality == "MR":
        found.ComplexImageComponent = "MAGNITUDE"
        found.AcquisitionContrast = UNKNOWN
        if not found.get("ApplicableSafetyStandardAgency"):
            found.ApplicableSafetyStandardAgency = UNKNOWN


def _say_dimensions(found: Dataset) -> None:
    """One dimension: the position of the frame in its stack."""
    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid(prefix=None)
    index = Dataset()
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer = Tag("InStackPositionNumber")
    index.FunctionalGroupPointer = Tag("FrameContentSequence")
    index.DimensionDescriptionLabel = "position in the stack"
    found.DimensionOrganizationSequence = [organization]
    found.DimensionOrganizationType = "3D"
    found.DimensionIndexSequence = [index]


def _shared_groups(
    volume: Volume, shared: Dataset, frames: Frames, pixels: StoredPixels, modality: str, origin: Origin | None
) -> Dataset:
    """What is alike in every frame: pixel measures, orientation, anatomy, rescale, window, kind of frame."""
    groups = Dataset()
    thickness = frames.spacing_mm if volume.thickness_mm is None else volume.thickness_mm
    groups.PixelMeasuresSequence = _one(
        PixelSpacing=[decimal(mm) for mm in frames.pixel_spacing],
        SliceThickness=decimal(thickness),
        SpacingBetweenSlices=decimal(frames.spacing_mm),
    )
    groups.PlaneOrientationSequence = _one(ImageOrientationPatient=[decimal(n) for n in frames.orientation])
    groups.FrameAnatomySequence = _one(
        FrameLaterality="U", AnatomicRegionSequence=[coded("38266002", "SCT", "Entire body")]
    )
    groups.PixelValueTransformationSequence = _one(
        RescaleSlope=decimal(pixels.slope), RescaleIntercept=decimal(pixels.intercept), RescaleType=shared.RescaleType
    )
    if shared.get("WindowCenter") is not None and shared.get("WindowWidth") is not None:
        groups.FrameVOILUTSequence = _one(WindowCenter=shared.WindowCenter, WindowWidth=shared.WindowWidth)
    kind = Dataset()
    kind.FrameType = ["DERIVED", "PRIMARY", _flavor(shared, modality), "RESAMPLED"]
    kind.PixelPresentation, kind.VolumetricProperties = "MONOCHROME", "VOLUME"
    kind.VolumeBasedCalculationTechnique = "NONE"
    if modality == "MR":
        kind.ComplexImageComponent, kind.AcquisitionContrast = "MAGNITUDE", UNKNOWN
        groups.MRImageFrameTypeSequence = [kind]
    else:
        groups.CTImageFrameTypeSequence = [kind]
        event = origin.header.get("IrradiationEventUID") if origin is not None else None
        groups.IrradiationEventIdentificationSequence = _one(IrradiationEventUID=event or generate_uid(prefix=None))
    return groups


def _frame_groups(number: int, position: np.ndarray, shared: Dataset, origin: Origin | None) -> Dataset:
    """What differs from frame to frame: its place in the stack and in space, and what it was made from."""
    groups = Dataset()
    groups.FrameContentSequence = _one(
        StackID="1", InStackPositionNumber=number, DimensionIndexValues=number, FrameAcquisitionNumber=1
    )
    groups.PlanePositionSequence = _one(ImagePositionPatient=[decimal(n) for n in position])
    groups.DerivationImageSequence = _one(
        DerivationDescription=shared.DerivationDescription,
        DerivationCodeSequence=list(shared.DerivationCodeSequence),
        SourceImageSequence=[] if origin is None else origin.references(position),
    )
    return groups


def _evidence(study_uid: str, origin: Origin) -> Dataset:
    """The study, series and images that the frames refer to (C.8.13.1, image and spectroscopy instance macro)."""
    series = Dataset()
    series.SeriesInstanceUID = origin.planes[0].facts.uid
    series.ReferencedSOPSequence = [
        _one(ReferencedSOPClassUID=origin.header.SOPClassUID, ReferencedSOPInstanceUID=uid)[0]
        for uid in dict.fromkeys(plane.facts.sop_uid for plane in origin.planes)
    ]
    return _one(StudyInstanceUID=study_uid, ReferencedSeriesSequence=[series])[0]


def _one(**elements: Any) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return [item]
