"""A result as one enhanced CT or MR file, written frame by frame (floor 2, pydicom).

The functional groups of the frames and the pixels are the last attributes of the file, so they are appended one by one
behind what pydicom writes: thousands of slices are never held as data sets.

Source: DICOM PS3.3, A.36 and A.38 (enhanced MR, CT), C.7.6.16 (functional groups), C.8.13, C.8.15; PS3.5, 7.5, A.4
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, generate_uid

from ..errors import RequestError
from .dicomderived import Origin, Sources, code_of, decimal
from .dicompixels import StoredSlices
from .dicomvalues import informing, value_of

_STORAGE = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage}
SHARED = """
    FrameAnatomySequence MRTimingAndRelatedParametersSequence MREchoSequence MRModifierSequence
    MRImagingModifierSequence MRAveragesSequence MRFOVGeometrySequence
    CTXRayDetailsSequence CTReconstructionSequence CTAcquisitionDetailsSequence
""".split()  # what an enhanced source says of its frames and still holds
COMPONENTS = {"P": "PHASE", "PHASE": "PHASE", "R": "REAL", "REAL": "REAL", "I": "IMAGINARY", "IMAGINARY": "IMAGINARY"}
UNKNOWN = "unknown"  # what is asked for and no source says
_MOST_BYTES = 2**32 - 2  # of pixels that are not compressed
_ITEM, _END_OF_ITEMS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
_ENDLESS = 0xFFFFFFFF


def check_origin(origin: Origin | None) -> None:
    """A RequestError where the source is what enhanced CT and MR have no word for."""
    if origin is None:
        return
    if origin.planes[0].facts.color == "MONOCHROME1":
        found, what = "MONOCHROME1", "An enhanced CT or MR cannot be stored inverted"
        raise RequestError(what, found, "leave out --enhanced")
    if str(value_of(origin.header, "BurnedInAnnotation") or "").upper() == "YES":
        what = "An enhanced CT or MR must hold no text in its pixels"
        raise RequestError(what, "BurnedInAnnotation YES", "leave out --enhanced")


def check_size(shape: tuple[int, ...], is_compressed: bool) -> None:
    """A RequestError where the pixels are more than one file holds."""
    size = _size_of(shape)
    if size > _MOST_BYTES and not is_compressed:
        todo = "add --compress, or leave out --enhanced"
        raise RequestError("One DICOM file holds at most 4 GiB of pixels", f"{size / 2**30:.1f} GiB", todo)


def _size_of(shape: tuple[int, ...]) -> int:
    return 2 * math.prod(int(n) for n in shape)


def write_frames(
    file: Path,
    facts: Dataset,
    groups: Iterable[Dataset],
    slices: StoredSlices,
    order: Iterable[int],
    is_compressed: bool,
) -> None:
    """One multi-frame file: `facts` with file_meta, then the functional groups of each frame, then the pixels."""
    size = _size_of((len(slices), facts.Rows, facts.Columns))
    with open(file, "wb") as stream:
        facts.save_as(stream, enforce_file_format=True)
        stream.write(struct.pack("<HH2sHL", 0x5200, 0x9230, b"SQ", 0, _ENDLESS))
        for group in groups:
            _append_item(stream, _bytes_of(group))
        stream.write(_END_OF_ITEMS)
        word = b"OB" if is_compressed else b"OW"
        stream.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, word, 0, _ENDLESS if is_compressed else size))
        if not is_compressed:
            for k in order:
                stream.write(slices.encoded(k))
            return
        _append_item(stream, b"")  # no table of offsets
        for k in order:
            _append_item(stream, slices.encoded(k))
        stream.write(_END_OF_ITEMS)


def _append_item(stream: BinaryIO, data: bytes) -> None:
    stream.write(_ITEM + struct.pack("<L", len(data)) + data)


def _bytes_of(group: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, group)
    return buffer.getvalue()


def facts_of_enhanced(facts: Dataset, modality: str, origin: Origin | None, count: int, is_tilted: bool) -> None:
    """Adds what the enhanced image module asks for of a derived image, without its functional groups."""
    facts.SOPClassUID = _STORAGE[modality]
    facts.SOPInstanceUID = generate_uid(prefix=None)
    facts.InstanceNumber, facts.NumberOfFrames = 1, count
    kinds = list(origin.planes[0].image_type) if origin is not None and origin.planes[0].frame is not None else []
    facts.ImageType = ["DERIVED", "PRIMARY", kinds[2] if len(kinds) > 2 else "VOLUME", "RESAMPLED"]
    _describe_frames(facts, modality, origin)
    facts.BurnedInAnnotation = "NO"  # the one word that is allowed
    if not facts.get("LossyImageCompression"):
        facts.LossyImageCompression = "00"
    if modality == "MR":
        said = origin.get("ApplicableSafetyStandardAgency") if origin is not None else None
        facts.ApplicableSafetyStandardAgency = said or UNKNOWN.upper()
    facts.PresentationLUTShape = "IDENTITY"
    facts.AcquisitionContextSequence = []
    for name in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"):
        if not facts.get(name):
            setattr(facts, name, UNKNOWN)
    _add_dimensions(facts, is_tilted)


def _describe_frames(facts: Dataset, modality: str, origin: Origin | None) -> None:
    """What stands in the image module and again in the frame type of the functional groups."""
    facts.PixelPresentation = "MONOCHROME"
    facts.VolumetricProperties = "VOLUME"
    facts.VolumeBasedCalculationTechnique = "NONE"
    if modality == "MR":
        get = origin.get if origin is not None else lambda *_: None
        kinds = origin.planes[0].image_type[2:] if origin is not None else ()
        shown = [COMPONENTS[kind] for kind in kinds if kind in COMPONENTS]
        said = [get(name, "MRImageFrameTypeSequence") for name in ("ComplexImageComponent", "AcquisitionContrast")]
        facts.ComplexImageComponent = said[0] or (shown or ["MAGNITUDE"])[0]
        facts.AcquisitionContrast = said[1] or UNKNOWN.upper()


def _add_dimensions(facts: Dataset, is_tilted: bool) -> None:
    """Frames are counted along the one stack."""
    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid(prefix=None)
    facts.DimensionOrganizationSequence = [organization]
    if not is_tilted:
        facts.DimensionOrganizationType = "3D"
    facts.DimensionIndexSequence = []
    for label, tag in (("Stack ID", 0x00209056), ("In-Stack Position Number", 0x00209057)):
        index = Dataset()
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = tag, 0x00209111
        index.DimensionDescriptionLabel = label
        facts.DimensionIndexSequence.append(index)


def shared_groups(facts: Dataset, layout: Dataset, rescale: Dataset, modality: str, origin: Origin | None) -> Dataset:
    """The functional groups that hold for all frames.

    Parameters
    ----------
    facts : of the file; its window moves into a group
    layout : orientation, pixel spacing, slice thickness and spacing
    rescale : slope, intercept and type
    """
    shared = Dataset()
    measures, orientation, window = Dataset(), Dataset(), Dataset()
    for name in ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"):
        measures[name] = layout[name]
    if measures.SliceThickness is None:
        measures.SliceThickness = layout.SpacingBetweenSlices  # as an unknown thickness is taken everywhere
    orientation.ImageOrientationPatient = layout.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [rescale]
    for name in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"):
        if name in facts:
            window[name] = facts[name]
            del facts[name]
    if "WindowCenter" in window:
        shared.FrameVOILUTSequence = [window]
    kind = Dataset()
    kind.FrameType = facts.ImageType
    _describe_frames(kind, modality, origin)
    shared.add_new(f"{modality}ImageFrameTypeSequence", "SQ", [kind])
    _take_groups(shared, modality, origin)
    if "FrameAnatomySequence" not in shared:
        shared.FrameAnatomySequence = [_anatomy(facts)]
    if "Laterality" in facts:
        del facts.Laterality  # the anatomy of the frames says it
    if modality == "CT":
        event = Dataset()
        event.IrradiationEventUID = _irradiation(origin)
        shared.IrradiationEventIdentificationSequence = [event]
    return shared


def _irradiation(origin: Origin | None) -> str | list[str]:
    """The irradiation of the source; where it has no name, one that is the same for all that is made of its series."""
    if origin is None:
        return generate_uid(prefix=None)
    said = origin.get("IrradiationEventUID", "IrradiationEventIdentificationSequence")
    return said or generate_uid(entropy_srcs=["irradiation of", origin.planes[0].facts.uid])


def _take_groups(shared: Dataset, modality: str, origin: Origin | None) -> None:
    """Groups of an enhanced source; of a classic CT its voltage and kernel (those of MR ask for more than it says)."""
    if origin is None:
        return
    header, frame = origin.header, origin.planes[0].frame
    if frame is not None:
        groups = (header.PerFrameFunctionalGroupsSequence[frame], *(header.get("SharedFunctionalGroupsSequence") or []))
        other = "CT" if modality == "MR" else "MR"
        for name in SHARED:
            found = next((group[name] for group in groups if name in group), None)
            if found is not None and found.value and not name.startswith(other):
                shared[name] = found
    elif modality == "CT":
        details, reconstruction = Dataset(), Dataset()
        if (number := informing(origin.get, "KVP")[0]) is not None:
            details.KVP = decimal(number)
            shared.CTXRayDetailsSequence = [details]
        if kernel := value_of(origin.header, "ConvolutionKernel"):
            reconstruction.ConvolutionKernel = kernel
            shared.CTReconstructionSequence = [reconstruction]


def _anatomy(facts: Dataset) -> Dataset:
    """The body part as a code; the entire body where it is none that DICOM lists by this name."""
    word = "".join(part.capitalize() for part in str(facts.get("BodyPartExamined") or "").split())
    item = Dataset()
    item.AnatomicRegionSequence = [code_of(getattr(codes.SCT, word or "EntireBody", None) or codes.SCT.EntireBody)]
    side = str(facts.get("Laterality") or "")
    item.FrameLaterality = side if side in ("R", "L") else "U"
    return item


def groups_of_frame(number: int, position: list, sources: Sources, at) -> Dataset:
    """The functional groups of one frame: `number` from 1, `position` as DICOM writes it, `at` (3,) the same in mm."""
    content, plane = Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber = "1", number
    content.DimensionIndexValues = [1, number]
    plane.ImagePositionPatient = position
    groups = Dataset()
    groups.FrameContentSequence, groups.PlanePositionSequence = [content], [plane]
    if sources.are_parallel:
        groups.DerivationImageSequence = [derivation(sources, at)]
    return groups


def derivation(sources: Sources, at) -> Dataset:
    """An item of DerivationImageSequence for the frame at `at`."""
    item = Dataset()
    item.DerivationCodeSequence = [code_of(codes.DCM.SpatialResampling)]
    item.SourceImageSequence = sources.of(at)
    return item
