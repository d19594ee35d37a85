"""The facts of a DICOM image by which volumes of one series differ, standard and of the makers (floor 2, pydicom).

None of them decides geometry or values, so a fact that cannot be read is taken as its raw bytes: enough to tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag

# mark -> where it stands: attribute [at the functional groups ...], the first that is there counts
_ATTRIBUTES: dict[str, list[tuple[str, ...]]] = {
    "stack": [("StackID", "FrameContentSequence")],
    "echo time": [("EffectiveEchoTime", "MREchoSequence"), ("EchoTime",)],
    "b-value": [("DiffusionBValue", "MRDiffusionSequence")],
    "component": [("ComplexImageComponent", "MRImageFrameTypeSequence")],
    "temporal position": [
        ("TemporalPositionIndex", "FrameContentSequence"), ("TemporalPositionIdentifier",),
    ],
    "time offset": [("TemporalPositionTimeOffset", "TemporalPositionSequence")],
    "trigger delay": [("NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence"), ("TriggerTime",)],
    "cardiac phase": [("NominalPercentageOfCardiacPhase", "CardiacSynchronizationSequence")],
    "respiratory phase": [("NominalPercentageOfRespiratoryPhase", "RespiratorySynchronizationSequence")],
    "inversion time": [("InversionTimes", "MRModifierSequence"), ("InversionTime",)],
    "flip angle": [("FlipAngle", "MRTimingAndRelatedParametersSequence")],
    "repetition time": [("RepetitionTime", "MRTimingAndRelatedParametersSequence")],
    "labeling": [("ASLContext", "MRArterialSpinLabelingSequence")],
    "voltage": [("KVP", "CTXRayDetailsSequence")],
    "kernel": [("ConvolutionKernel", "CTReconstructionSequence")],
    "energy": [("EnergyWeightingFactor", "MultienergyCTProcessingSequence")],
    "series number": [("SeriesNumber",)],
    "echo number": [("EchoNumbers",)],
    "acquisition": [("FrameAcquisitionNumber", "FrameContentSequence"), ("AcquisitionNumber",)],
    "frame reference time": [("FrameReferenceTime",)],
    "sequence": [("SequenceName",), ("PulseSequenceName",)],
    "coil": [("ReceiveCoilName", "MRReceiveCoilSequence")],
    "contrast agent": [("ContrastBolusAgent",)],
    "label": [("FrameLabel", "FrameContentSequence")],
    "description": [("SeriesDescription",)],
    "protocol": [("ProtocolName",)],
    "thickness": [("SliceThickness", "PixelMeasuresSequence")],
    "frame of reference": [("FrameOfReferenceUID",)],
    "modality": [("Modality",)],
    "series time": [("SeriesTime",)],
    "comment": [("ImageComments",)],  # Canon writes the diffusion direction there
    "acquisition time": [
        ("FrameAcquisitionDateTime", "FrameContentSequence"), ("AcquisitionDateTime",),
        ("AcquisitionDate+AcquisitionTime",),
    ],
    "content time": [("FrameReferenceDateTime", "FrameContentSequence"), ("ContentDate+ContentTime",)],
}  # fmt: skip
_PRIVATE = {  # GE, Siemens, Philips, United Imaging
    "b-value": [(0x0043, 0x1039), (0x0019, 0x100C), (0x2001, 0x1003), (0x0065, 0x1009)],
    "component": [(0x0043, 0x102F)],
    "cardiac phase": [(0x2001, 0x1008)],  # Philips: of arterial spin labeling, the delay
    "labeling": [(0x2005, 0x1429)],  # Philips: control or label
    "reconstruction": [(0x0043, 0x1030)],  # GE: field map or magnitude
    "time in the scan": [(0x0021, 0x105E)],  # GE
    "gradient direction": [
        (0x0019, 0x10BB), (0x0019, 0x10BC), (0x0019, 0x10BD), (0x0019, 0x100E), (0x2005, 0x10B0), (0x2005, 0x10B1),
        (0x2005, 0x10B2), (0x0065, 0x1037),
    ],
}  # fmt: skip
MARK_TAGS = [
    *{
        part
        for choices in _ATTRIBUTES.values()
        for choice in choices
        for part in choice[0].split("+")
    },
    "ImageType", "DiffusionGradientOrientation", "DimensionIndexSequence", "MRDiffusionSequence",
    *(Tag(group, element) for tags in _PRIVATE.values() for group, element in tags),
]  # fmt: skip
MOST_INDICES = 5  # dimensions of a multi-frame file that are looked at one by one
_OF_POSITION = {0x00200032, 0x00209057, 0x00201041, 0x00200013, 0x00201002, 0x00209056}  # not what tells volumes apart


def marks_of(header: Dataset, get: Callable[..., Any], groups: Dataset | None) -> dict[str, Any]:
    """mark -> value (a number, a word, or a tuple of them) of one image.

    Parameters
    ----------
    get : (attribute, functional groups ...) -> its value for this image, or None
    groups : the functional groups of the frame, None in a classic file
    """
    marks: dict[str, Any] = {}
    for mark, choices in _ATTRIBUTES.items():
        for name, *sequences in choices:
            parts = [get(part, *sequences) for part in name.split("+")]
            if parts[-1] not in (None, ""):
                marks[mark] = _moment(parts) if mark in ("acquisition time", "content time") else plain(parts[0])
                break
    kinds = get("FrameType", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence") or get("ImageType")
    words = plain(kinds) if kinds else None
    if isinstance(words, tuple) and len(words) > 2:
        marks["image type"] = words[2:]
    direction = get("DiffusionGradientOrientation", "MRDiffusionSequence") or _nested_direction(get)
    if direction:
        marks["gradient direction"] = plain(direction)
    for mark, tags in _PRIVATE.items():
        found = tuple(value for tag in tags if (value := plain(_raw(header, tag))) not in (None, ""))
        if found and mark not in marks:
            marks[mark] = found[0] if len(found) == 1 else found
    if groups is not None:
        marks.update(_index_without_position(header, groups))
    return marks


def _nested_direction(get: Callable[..., Any]) -> Any:
    items = get("DiffusionGradientDirectionSequence", "MRDiffusionSequence")
    return items[0].get("DiffusionGradientOrientation") if items else None


def _raw(header: Dataset, tag: tuple[int, int]) -> Any:
    try:
        return header[tag].value if tag in header else None
    except Exception:  # a maker's value that does not fit its type is no reason to stop
        return bytes(getattr(header.get_item(tag), "value", b"") or b"")


def _index_without_position(header: Dataset, groups: Dataset) -> dict[str, Any]:
    """DimensionIndexValues of a frame without those that count positions; each alone where nothing says which do."""
    content = groups.get("FrameContentSequence")
    values = content[0].get("DimensionIndexValues") if content else None
    if values is None:
        return {}
    numbers = plain(values)
    numbers = numbers if isinstance(numbers, tuple) else (numbers,)
    pointers = [item.get("DimensionIndexPointer") for item in header.get("DimensionIndexSequence") or []]
    if len(pointers) != len(numbers):
        return {f"dimension index {n}": number for n, number in enumerate(numbers[:MOST_INDICES], 1)}
    others = tuple(n for n, pointer in zip(numbers, pointers) if pointer is None or int(pointer) not in _OF_POSITION)
    return {"dimension index": others} if others else {}


def plain(value: Any) -> Any:
    """A number, a word or a tuple of them, hashable; numbers to six digits, so that rounding tells nothing apart."""
    if value is None or isinstance(value, Sequence):
        return None
    if isinstance(value, (MultiValue, list, tuple)):
        return tuple(plain(one) for one in value)
    if isinstance(value, bytes):
        return value.rstrip(b"\0 ").decode("ascii", "backslashreplace")
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return float(f"{number:.6g}") if number == number else text


def _moment(parts: list[Any]) -> Any:
    """Date and time, or time alone, as the number YYYYMMDDHHMMSS.FFFFFF, which orders them; text where it is none."""
    text = "".join(str(part).strip() for part in parts if part).replace(":", "")
    try:
        return float(text)
    except ValueError:
        return text
