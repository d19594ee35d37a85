"""Volumes from and to files: NRRD, NIfTI, MetaImage; DICOM is handed to `dicomread` (floor 2).

Values and geometry are read and written here exactly, without ITK in between. Tried with SimpleITK 2.5.7 instead: it
straightens or refuses a sheared NIfTI, fills a truncated NIfTI with zeros (truncated NRRD and MHA it refuses), takes a
flipped bit of a compressed MHA for voxels, allocates whatever a header claims, and says nothing when the disk is full.
The tests hold every format against it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MissingPackageError, RequestError, ResourceError, VolumeError
from ..imaging.geometry import SQUARE, Geometry
from ..imaging.volume import UNITS, Volume, rescaled, storable
from ..wholefile import check_file, check_folder, check_name, write_whole
from .decode import decode
from .encode import ENCODERS
from .fields import Header
from .headers import is_dicom, read_header
from .names import EXTENSIONS, choose_frame, stem_of, suffix_of

PACKED = 1 / 3  # of the voxels' bytes, a guess at what a compressed scan takes at least

if TYPE_CHECKING:
    from .dicomread import SeriesFacts


def read(path: str | os.PathLike, *, series: str | None = None, frame: int | None = None) -> Volume:
    """The scan at `path`: a NRRD, NIfTI, MHA or MHD file, a DICOM file, or a folder of DICOM files.

    Parameters
    ----------
    series : series instance UID, or the start of one, where a folder holds several
    frame : which volume of a 4D file, from 0

    Returns
    -------
    Volume with values (K, J, I) in the stored type where no rescale asks for another, and the exact geometry;
    modality, unit and slice axis are known from DICOM alone

    Raises
    ------
    VolumeError : missing, unreadable, truncated, or no scalar volume (design section 7)
    RequestError : `series` for a file that has none, `frame` beyond the last volume
    ResourceError : too little memory for the volume
    MissingPackageError : DICOM without pydicom
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise VolumeError("The path is no file and no folder", str(path), "give a file or a folder")
        if path.is_dir() or is_dicom(path):
            return _dicomread(path).read_dicom(path, series=series, frame=frame)
        if series is not None:
            raise RequestError("Only DICOM holds series", f"--series {series} for {path.name}", "leave --series out")
        return _read_image(path, frame)
    except FileNotFoundError as error:
        raise VolumeError("There is no such file or folder", str(error.filename or path), "check the path") from error
    except OSError as error:
        raise VolumeError(
            "The file cannot be read", f"{path}, {error.strerror or error}", "check its permissions"
        ) from error
    except MemoryError as error:
        raise ResourceError(
            "The volume does not fit into memory", path.name, "close other programs or crop it"
        ) from error


def list_series(path: str | os.PathLike) -> list[SeriesFacts]:
    """The DICOM series at `path`, largest first; empty where the path is no DICOM."""
    path = Path(path)
    try:
        if not path.is_dir() and not is_dicom(path):
            return []
    except OSError as error:
        raise VolumeError("The path cannot be read", f"{path}, {error.strerror}", "check the path") from error
    return _dicomread(path).find_series(path)


def _dicomread(path: Path) -> ModuleType:
    """The DICOM reader; pydicom is paid for when it is used."""
    try:
        from . import dicomread
    except ModuleNotFoundError as error:
        if error.name != "pydicom":
            raise
        found = f"DICOM at {path}; NRRD, NIfTI and MHA are read without it"
        raise MissingPackageError("The package pydicom is not installed", found, "pip install pydicom") from error
    return dicomread


# --- reading --------------------------------------------------------------------------------------------------
def _read_image(path: Path, frame: int | None) -> Volume:
    header = read_header(path)
    shape = tuple(header.sizes[axis] for axis in reversed(header.spatial))
    geometry = Geometry(shape, header.ijk_to_ras)
    frame = _check_frame(header, frame)
    values = decode(header)
    if header.frame_axis is not None:
        values = values.take(frame, axis=len(header.sizes) - 1 - header.frame_axis)
    values = values.reshape(shape).astype(header.dtype.newbyteorder("="), copy=False)
    values = rescaled(np.ascontiguousarray(values), header.slope, header.intercept)
    return Volume(
        values,
        geometry,
        modality=header.modality,
        unit=UNITS.get(header.modality or ""),
        thickness_mm=header.thickness_mm,
        warnings=header.warnings,
        name=stem_of(path),
    )


def _check_frame(header: Header, frame: int | None) -> int:
    count = 1 if header.frame_axis is None else header.sizes[header.frame_axis]
    return choose_frame(count, frame, " x ".join(map(str, header.sizes)))


# --- writing --------------------------------------------------------------------------------------------------
def check_output(
    path: str | os.PathLike,
    *,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike] = (),
    geometry: Geometry | None = None,
    dicom: bool = False,
    modality: str | None = None,
    slice_axis: str = "k",
) -> None:
    """Refuses an output that could not be written, before anything is computed.

    Parameters
    ----------
    inputs : files and folders that must not be written over
    geometry : of the output where it is known; NIfTI cannot hold a sheared one
    dicom : the output is a folder of DICOM files
    modality, slice_axis : of the scan, where they are known; DICOM is written for CT and MR alone

    Raises
    ------
    RequestError : as `check_file`; sheared or too large for NIfTI; a modality or a shear that DICOM cannot take, a
        folder for DICOM that holds something else
    ResourceError : as `check_file`
    """
    path, given = Path(path), [Path(one) for one in inputs]
    check_name(path)  # before the system is asked about it
    if dicom:
        _check_dicom_folder(path, overwrite, given)
        if modality and modality.upper() not in UNITS:
            raise RequestError("DICOM is written for CT and MR only", f"modality {modality}", "write .nrrd")
        if geometry is not None:
            refuse_in_plane_shear(geometry.slices_first(slice_axis))
        return
    if path.is_dir():
        raise RequestError("The output is a folder", str(path), "name a file, or add --dicom")
    check_file(path, EXTENSIONS, overwrite=overwrite, inputs=given)
    if geometry is not None and suffix_of(path).startswith(".nii"):
        if geometry.is_sheared:
            raise RequestError(
                "NIfTI readers straighten a sheared volume in silence", "a sheared (tilted) stack", "write .nrrd"
            )
        if max(geometry.shape) > 32767:
            found = " x ".join(map(str, geometry.shape[::-1]))
            raise RequestError("NIfTI cannot hold so many voxels along one axis", found, "write .nrrd")


def check_room(path: str | os.PathLike, values_bytes: float, scratch: str | None = None) -> None:
    """Refuses an output for which its disk has no room, before anything is computed.

    values_bytes : of the voxels. What compression saves is not known: noise leaves more than a third of them
    scratch : folder in which the result is made beside it, unpacked; None: in memory

    Raises
    ------
    ResourceError : how much is needed and free
    """
    path = Path(path)
    needed = values_bytes * (PACKED if suffix_of(path) in (".nrrd", ".nii.gz", ".mha") else 1.0)
    with contextlib.suppress(OSError):  # a system that does not say
        folder = path.resolve().parent
        if scratch is not None and os.stat(scratch).st_dev == os.stat(folder).st_dev:
            needed += values_bytes
        free = shutil.disk_usage(folder).free
        if free < needed:
            found = f"at least {needed / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free in {folder}"
            raise ResourceError("The disk has no room for the output", found, "free some space, or choose another disk")


def refuse_in_plane_shear(geometry: Geometry) -> None:
    """DICOM has one right angle in a slice; `geometry` has its slices first. Rounding is no shear."""
    across = float(geometry.directions[:, 0] @ geometry.directions[:, 1])
    if abs(across) > SQUARE:
        found = f"rows and columns {np.degrees(np.arccos(across)):.2f} degrees apart"
        raise RequestError("DICOM cannot hold a slice whose axes are not at right angles", found, "write .nrrd")


def changes_by(path: str | os.PathLike, geometry: Geometry) -> list[str]:
    """What writing to this format changes, in sentences for the user."""
    moved = geometry.squared()[1] if suffix_of(Path(path)).startswith(".nii") and not geometry.is_sheared else 0.0
    if moved < 1e-3:
        return []
    return [f"NIfTI readers need right angles: the rounded axes were straightened, corners move up to {moved:.2g} mm"]


def _check_dicom_folder(path: Path, overwrite: bool, inputs: list[Path]) -> None:
    check_folder(path)
    folder = path.resolve()
    for given in (one.resolve() for one in inputs):
        if folder == given or folder in given.parents or (given.is_dir() and given in folder.parents):
            raise RequestError(
                "The output folder and the input lie in each other", f"{path} and {given}", "choose another folder"
            )
    content = list(folder.iterdir()) if folder.is_dir() else []
    if content and not overwrite:
        raise RequestError("The output folder is not empty", str(path), "choose another folder, or add --overwrite")
    if any(file.suffix != ".dcm" or not file.is_file() for file in content):
        raise RequestError("The output folder holds more than DICOM files", str(path), "choose another folder")


def write(volume: Volume, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Writes `.nrrd`, `.nii`, `.nii.gz` or `.mha`, whole or not at all, and gives the path.

    Voxels keep their type, except that bool, float16 and 64-bit integers become the nearest type that other programs
    read. NRRD carries the slice thickness. NIfTI stores its matrix in 32-bit floats, i.e. to about 1e-5 mm, and gets
    axes at right angles where they are off by rounding (`changes_by` says so).

    Raises
    ------
    RequestError : as `check_output`
    ResourceError : disk full or read-only; nothing is left behind
    """
    path = Path(path)
    check_output(path, overwrite=overwrite, geometry=volume.geometry)
    if suffix_of(path).startswith(".nii"):
        volume = replace(volume, geometry=volume.geometry.squared()[0])
    values = storable(volume.values)

    def encode(part: Path) -> None:
        with open(part, "wb") as stream:
            ENCODERS[suffix_of(path)](stream, volume, values)

    with reporting(path):
        write_whole(path, encode)
    return path


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turns what a disk refuses into a ResourceError."""
    try:
        yield
    except OSError as error:
        found = f"{path}, {error.strerror or error}"
        raise ResourceError("The output cannot be written", found, "free the disk or choose another") from error
