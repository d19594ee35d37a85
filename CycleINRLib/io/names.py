"""What a path and a frame number mean: the format, the name of a scan, which volume of several (floor 2)."""

from __future__ import annotations

from pathlib import Path

from ..errors import RequestError, VolumeError

EXTENSIONS = (".nrrd", ".nii.gz", ".nii", ".mha")  # that are written
ENDINGS = (*EXTENSIONS, ".mhd")  # that are read, beside DICOM


def choose_frame(count: int, frame: int | None, found: str) -> int:
    """The number of the volume to read, refused where it is not clear."""
    if frame is None and count > 1:
        raise VolumeError(f"The scan is 4D, {count} volumes in one", found, f"choose one by --frame 0 to {count - 1}")
    if frame is not None and not 0 <= frame < count:
        raise RequestError(
            f"There is no volume {frame}", f"{count} in the scan, counted from 0", "choose another --frame"
        )
    return frame or 0


def is_named_as_scan(path: Path) -> bool:
    """Whether the name is that of a file format that is read, and not hidden."""
    return not path.name.startswith(".") and path.name.lower().endswith(ENDINGS)


def stem_of(path: Path) -> str:
    """The file's name without its extension, .nii.gz as one."""
    return path.name[: -len(suffix_of(path))] if suffix_of(path) else path.stem or path.name


def suffix_of(path: Path) -> str:
    """The extension of an output in lower case, "" where this package does not write it."""
    return next((suffix for suffix in EXTENSIONS if path.name.lower().endswith(suffix) and path.name[0] != "."), "")
