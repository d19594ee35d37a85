"""Volumes from and to files: NRRD, NIfTI, MetaImage; DICOM is handed to `dicomread` (floor 2).

Values and place are read and written here exactly, without ITK in between. Tried with SimpleITK 2.5.7 instead: it
straightens or refuses a sheared NIfTI, fills truncated data with zeros, takes a flipped bit of a compressed MHA for
voxels, allocates whatever a header claims, and says nothing when the disk is full. The tests hold every format
against it.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..errors import MissingPackageError, RequestError, ResourceError, VolumeError
from ..imaging.geometry import AXES, Geometry
from ..imaging.volume import UNITS, Volume, choose_slice_axis, rescaled
from .decode import decode
from .fields import Header
from .headers import is_dicom, read_header

if TYPE_CHECKING:
    from .dicomread import SeriesFacts

EXTENSIONS = (".nrrd", ".nii.gz", ".nii", ".mha")
COMPRESSION = 1  # zlib level: 6 times faster than level 6 for files 2 % larger, since noise cannot be packed


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


def choose_frame(count: int, frame: int | None, found: str) -> int:
    """The number of the volume to read, refused where it is not clear."""
    if frame is None and count > 1:
        raise VolumeError(f"The scan is 4D, {count} volumes in one", found, f"choose one by --frame 0 to {count - 1}")
    if frame is not None and not 0 <= frame < count:
        raise RequestError(
            f"There is no volume {frame}", f"{count} in the scan, counted from 0", "choose another --frame"
        )
    return frame or 0


def stem_of(path: Path) -> str:
    """The file's name without its extension, .nii.gz as one."""
    return path.name[: -len(suffix_of(path))] if suffix_of(path) else path.stem or path.name


def suffix_of(path: Path) -> str:
    """The extension of an output in lower case, "" where this package does not write it."""
    return next((suffix for suffix in EXTENSIONS if path.name.lower().endswith(suffix) and path.name[0] != "."), "")


# --- writing --------------------------------------------------------------------------------------------------
def check_output(
    path: str | os.PathLike,
    *,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike] = (),
    geometry: Geometry | None = None,
    dicom: bool = False,
) -> None:
    """Refuses an output that could not be written, before anything is computed.

    Parameters
    ----------
    inputs : files and folders that must not be written over
    geometry : of the output where it is known; NIfTI cannot hold a sheared one
    dicom : the output is a folder of DICOM files

    Raises
    ------
    RequestError : unknown extension, exists, is an input, its folder is missing, sheared to NIfTI
    ResourceError : the folder cannot be written to
    """
    path = Path(path)
    suffix = suffix_of(path)
    if dicom:
        _check_dicom_folder(path, overwrite, [Path(given) for given in inputs])
    elif path.is_dir():
        raise RequestError("The output is a folder", str(path), "name a file, or add --dicom")
    elif not suffix:
        raise RequestError(
            "The extension of the output is unknown", path.name, f"end it with one of {', '.join(EXTENSIONS)}"
        )
    if not path.resolve().parent.is_dir():
        raise RequestError("The folder of the output does not exist", str(path.parent), "make it or choose another")
    if any(_same_file(path, Path(given)) for given in inputs):
        raise RequestError("The output is the input", str(path), "choose another name for the output")
    if path.exists() and not overwrite and not dicom:
        raise RequestError("The output exists", str(path), "choose another name, or add --overwrite")
    if geometry is not None and geometry.is_sheared and suffix.startswith(".nii"):
        raise RequestError(
            "NIfTI readers straighten a sheared volume in silence", "a sheared (tilted) stack", "write .nrrd"
        )
    if not os.access(path.resolve().parent, os.W_OK):
        raise ResourceError("The folder of the output is read-only", str(path.parent), "choose another")


def _check_dicom_folder(path: Path, overwrite: bool, inputs: list[Path]) -> None:
    if path.exists() and not path.is_dir():
        raise RequestError("The output for DICOM must be a folder", str(path), "name a folder that does not exist yet")
    folder = path.resolve()
    for given in (place.resolve() for place in inputs):
        if folder == given or folder in given.parents or (given.is_dir() and given in folder.parents):
            raise RequestError(
                "The output folder and the input lie in each other", f"{path} and {given}", "choose another folder"
            )
    content = list(folder.iterdir()) if folder.is_dir() else []
    if content and not overwrite:
        raise RequestError("The output folder is not empty", str(path), "choose another folder, or add --overwrite")
    if any(file.suffix != ".dcm" or not file.is_file() for file in content):
        raise RequestError("The output folder holds more than DICOM files", str(path), "choose another folder")


def _same_file(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.resolve() == other.resolve() or os.path.samefile(one, other)
    return False


def write(volume: Volume, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Writes `.nrrd`, `.nii`, `.nii.gz` or `.mha`, whole or not at all, and gives the path.

    Voxels keep their type, except that bool, float16 and 64-bit integers become the nearest type that other programs
    read. NRRD carries the slice thickness. NIfTI stores its matrix in 32-bit floats, i.e. to about 1e-5 mm.

    Raises
    ------
    RequestError : as `check_output`
    ResourceError : disk full or read-only; nothing is left behind
    """
    path = Path(path)
    check_output(path, overwrite=overwrite, geometry=volume.geometry)
    values = _storable(volume.values)
    with _whole_or_nothing(path.resolve()) as stream:
        _WRITERS[suffix_of(path)](stream, volume, values)
    return path


@contextlib.contextmanager
def _whole_or_nothing(path: Path) -> Iterator[BinaryIO]:
    """A file beside the target whose name starts with a dot; it takes the target's place only when complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with reporting(path):
        try:
            with open(part, "wb") as stream:
                yield stream
            os.replace(part, path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turns what a disk refuses into a ResourceError."""
    try:
        yield
    except OSError as error:
        found = f"{path}, {error.strerror or error}"
        raise ResourceError("The output cannot be written", found, "free the disk or choose another") from error


def _storable(values: np.ndarray) -> np.ndarray:
    """The same numbers in a type that every reader of the formats knows."""
    kind = values.dtype
    if kind.kind == "b":
        return values.astype(np.uint8)
    if kind.kind == "f":
        return values.astype(np.float32 if kind.itemsize <= 4 else np.float64, copy=False)
    if kind.kind not in "iu":
        raise VolumeError("The voxels are no single numbers", str(kind), "give integers or floats")
    if kind.itemsize < 8:
        return values
    low, high = int(values.min()), int(values.max())
    fits = [t for t in (np.int16, np.uint16, np.int32, np.uint32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max]
    return values.astype(fits[0] if fits else np.float64)


def _pour(stream: BinaryIO | gzip.GzipFile, values: np.ndarray) -> None:
    """Little-endian, slice by slice: views need no copy of the whole."""
    for plane in values:
        stream.write(np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("<")).data)


def _text(numbers: Iterable[float], between: str = " ") -> str:
    return between.join(repr(float(n) + 0.0) for n in numbers)  # 17 digits come back exactly; + 0.0 turns -0.0 into 0.0


_NRRD_NAMES = {
    "i1": "signed char", "u1": "unsigned char", "i2": "short", "u2": "unsigned short",
    "i4": "int", "u4": "unsigned int", "f4": "float", "f8": "double",
}  # fmt: skip


def _write_nrrd(stream: BinaryIO, volume: Volume, values: np.ndarray) -> None:
    lps = volume.geometry.to_lps()
    vectors = " ".join(f"({_text(lps[:3, axis], ',')})" for axis in range(3))
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {_NRRD_NAMES[values.dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in values.shape[::-1])}",
        f"space directions: {vectors}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({_text(lps[:3, 3], ',')})",
    ]
    if volume.thickness_mm:
        at = 2 - AXES.index(choose_slice_axis(volume))
        lines.append("thicknesses: " + " ".join(_text([volume.thickness_mm]) if n == at else "nan" for n in range(3)))
    stream.write(("\n".join(lines) + "\n\n").encode("ascii"))
    with gzip.GzipFile("", "wb", COMPRESSION, stream, mtime=0) as packed:
        _pour(packed, values)


def _write_mha(stream: BinaryIO, volume: Volume, values: np.ndarray) -> None:
    lps = volume.geometry.to_lps()
    kind = {
        "i1": "CHAR",
        "u1": "UCHAR",
        "i2": "SHORT",
        "u2": "USHORT",
        "i4": "INT",
        "u4": "UINT",
        "f4": "FLOAT",
        "f8": "DOUBLE",
    }
    start = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        "CompressedDataSize = ",
    ]
    end = [
        f"TransformMatrix = {_text((lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)).T.ravel())}",
        f"Offset = {_text(lps[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_text(volume.geometry.spacing_mm[::-1])}",
        f"DimSize = {' '.join(str(n) for n in values.shape[::-1])}",
        f"ElementType = MET_{kind[values.dtype.str[1:]]}",
        "ElementDataFile = LOCAL",
    ]
    stream.write("\n".join(start).encode("ascii"))
    size_at = stream.tell()
    stream.write(f"{0:<20}\n".encode("ascii") + ("\n".join(end) + "\n").encode("ascii"))
    data_at = stream.tell()
    packer = zlib.compressobj(COMPRESSION)
    for plane in values:
        stream.write(packer.compress(np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("<")).data))
    stream.write(packer.flush())
    packed = stream.tell() - data_at
    stream.seek(size_at)
    stream.write(f"{packed:<20}".encode("ascii"))


_NIFTI_CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}


def _nifti_header(volume: Volume, values: np.ndarray) -> bytes:
    """348 bytes and the four that say that no extension follows; nifti1.h."""
    geometry = volume.geometry
    quaternion, qfac = _quaternion(geometry.directions)
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *values.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, _NIFTI_CODES[values.dtype.str[1:]], 8 * values.dtype.itemsize)
    struct.pack_into("<8f", head, 76, qfac, *geometry.spacing_mm[::-1], 0, 0, 0, 0)
    struct.pack_into("<3f", head, 108, 352, 1, 0)  # vox_offset, scl_slope, scl_inter
    struct.pack_into("<b", head, 123, 2)  # millimeters
    struct.pack_into("<80s", head, 148, b"CycleINR")
    struct.pack_into("<2h", head, 252, 1, 1)  # qform_code, sform_code: scanner
    struct.pack_into("<6f", head, 256, *quaternion[1:], *geometry.ijk_to_ras[:3, 3])
    struct.pack_into("<12f", head, 280, *geometry.ijk_to_ras[:3].ravel())
    struct.pack_into("<4s", head, 344, b"n+1")
    return bytes(head)


def _quaternion(directions: np.ndarray) -> tuple[np.ndarray, float]:
    """(a, b, c, d) with a >= 0 and qfac of orthogonal directions; the largest eigenvector (Bar-Itzhack 2000)."""
    qfac = -1.0 if np.linalg.det(directions) < 0 else 1.0
    r = directions * (1, 1, qfac)
    matrix = np.array([
        [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
        [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
        [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
    ])  # fmt: skip
    b, c, d, a = np.linalg.eigh(matrix)[1][:, -1]  # eigh reads the lower triangle
    return np.array([a, b, c, d]) * (1 if a >= 0 else -1), qfac


def _write_nifti(stream: BinaryIO | gzip.GzipFile, volume: Volume, values: np.ndarray) -> None:
    if max(values.shape) > 32767:
        raise RequestError("NIfTI cannot hold so many voxels along one axis", f"{values.shape}", "write .nrrd")
    stream.write(_nifti_header(volume, values))
    _pour(stream, values)


def _write_packed_nifti(stream: BinaryIO, volume: Volume, values: np.ndarray) -> None:
    with gzip.GzipFile("", "wb", COMPRESSION, stream, mtime=0) as packed:
        _write_nifti(packed, volume, values)


_WRITERS = {".nrrd": _write_nrrd, ".mha": _write_mha, ".nii": _write_nifti, ".nii.gz": _write_packed_nifti}
