"""What the header of a NIfTI file claims (floor 2). Sources: nifti1.h and nifti2.h"""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np

from ..errors import VolumeError
from ..imaging.geometry import LPS_TO_RAS
from .fields import AGAIN, Header, refuse_non_scalar, sizes_of, whole

FORMATS = "give NRRD, NIfTI, MHA or DICOM"
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_NO_SCALARS = {32: "complex64", 1792: "complex128", 2048: "complex256", 128: "RGB", 2304: "RGBA"}
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, meter, mm, micron
_UNITS = {1000.0: "meter", 0.001: "micron"}
_LABELS = 1002  # intent code
_PLACES_1 = {
    "dim": ("8h", 40), "intent": ("h", 68), "datatype": ("h", 70), "pixdim": ("8f", 76), "vox_offset": ("f", 108),
    "scl_slope": ("f", 112), "scl_inter": ("f", 116), "xyzt_units": ("b", 123), "qform_code": ("h", 252),
    "sform_code": ("h", 254), "quatern": ("3f", 256), "qoffset": ("3f", 268), "srow": ("12f", 280),
    "magic": ("4s", 344),
}  # fmt: skip
_PLACES_2 = {
    "magic": ("8s", 4), "datatype": ("h", 12), "dim": ("8q", 16), "pixdim": ("8d", 104),
    "intent": ("i", 504), "vox_offset": ("q", 168),
    "scl_slope": ("d", 176), "scl_inter": ("d", 184), "qform_code": ("i", 344),
    "sform_code": ("i", 348), "quatern": ("3d", 352), "qoffset": ("3d", 376), "srow": ("12d", 400),
    "xyzt_units": ("i", 500),
}  # fmt: skip


def header_of_image(path: Path) -> Path | None:
    """The .hdr that belongs to an .img, packed or not; None where there is none."""
    if not re.search(r"\.img(\.gz)?$", path.name, re.IGNORECASE):
        return None
    return _beside(path, "img", "hdr")


def _beside(path: Path, ours: str, other: str) -> Path | None:
    """The other file of a pair, in either case, packed or not."""
    stem = re.sub(rf"\.{ours}(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    endings = [other, other.upper(), f"{other}.gz", f"{other.upper()}.GZ"]
    return next((file for end in endings if (file := path.with_name(f"{stem}.{end}")).is_file()), None)


SPHERE = (27307, 1, 6)  # how FreeSurfer writes the 163842 vertices of its sphere, which no 16-bit size holds


def parse_nifti(path: Path) -> Header:
    start = _decoded_start(path)
    facts = _facts(start, path)
    _refuse_analyze(facts, path)
    kind = facts["datatype"]
    if kind in _NO_SCALARS:
        refuse_non_scalar(_NO_SCALARS[kind])
    if kind not in _TYPES:
        raise VolumeError(
            "The voxel type of the NIfTI is unknown", f"datatype {kind}", "save the scan as short or float"
        )
    count = facts["dim"][0]
    if not 2 <= count <= 7:
        raise VolumeError("The header of the NIfTI is damaged", f"{count} dimensions", AGAIN)
    sizes = (*facts["dim"][1 : count + 1], 1)[: max(count, 3)]
    sizes = sizes_of([*sizes[:3], *(n or 1 for n in sizes[3:])])  # 0 beyond the third means 1 to many writers
    if sizes[:3] == SPHERE:
        raise VolumeError("The file holds values of a surface, no volume", f"FreeSurfer's in {path.name}", FORMATS)
    if len(sizes) >= 5 and sizes[4] > 1:
        refuse_non_scalar(f"vectors of {sizes[4]} components")
    warnings: list[str] = []
    slope, intercept = _scale(facts, warnings)
    if facts["intent"] == _LABELS:
        warnings.append("The file says that it holds labels: between two of them there is nothing to upsample")
    file = _data_file(path, facts)
    first = whole(facts["vox_offset"], "vox_offset")
    return Header(
        format="NIfTI",
        sizes=sizes,
        dtype=np.dtype(facts["order"] + _TYPES[kind]),
        spatial=(0, 1, 2),
        ijk_to_ras=_matrix(facts, warnings),
        files=(file,),
        encoding="gzip" if _is_packed(file) else "raw",
        skip=first if file != path else max(first, facts["least_offset"]),
        slope=slope,
        intercept=intercept,
        warnings=tuple(warnings),
    )


def _is_packed(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _decoded_start(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return (gzip.GzipFile(fileobj=stream) if _is_packed(path) else stream).read(540)


def _data_file(path: Path, facts: dict) -> Path:
    """The file itself, or the .img of a pair."""
    if not facts["magic"].startswith((b"ni1", b"ni2")):
        return path
    found = _beside(path, "hdr", "img")
    if found is None:
        raise VolumeError(
            "The header tells of an image in a second file that is not there",
            f"{path.name}, without {re.sub('(?i)[.]hdr([.]gz)?$', '', path.name)}.img",
            "put the .img beside it, or save the scan as .nii.gz",
        )
    return found


def _refuse_analyze(facts: dict, path: Path) -> None:
    """ANALYZE 7.5 has the same size field, and no word about left and right."""
    if not facts["magic"].startswith((b"n+1", b"n+2", b"ni1", b"ni2")):
        raise VolumeError(
            "An Analyze 7.5 file is not read, since it does not say which side is left",
            f"{path.name}, by its magic {facts['magic'].rstrip(bytes(1))!r} no NIfTI",
            "convert it to NIfTI with a program that knows its side",
        )


def _facts(start: bytes, path: Path) -> dict:
    """The fields that matter, from version 1 (348 bytes) or 2 (540 bytes), in either byte order."""
    sizes = [struct.unpack(order + "i", start[:4])[0] if len(start) >= 348 else 0 for order in "<>"]
    version = next((size for size in sizes if size in (348, 540)), 0)
    if not version or len(start) < version:
        raise VolumeError("The file is no volume that CycleINR can read", path.name, FORMATS)
    order = "<" if sizes[0] == version else ">"
    facts: dict = {"order": order, "least_offset": 352 if version == 348 else 544}
    for name, (kinds, at) in (_PLACES_1 if version == 348 else _PLACES_2).items():
        values = struct.unpack_from(order + kinds, start, at)
        facts[name] = values[0] if len(values) == 1 else values
    return facts


def _scale(facts: dict, warnings: list[str]) -> tuple[float, float]:
    """scl_slope and scl_inter; a slope of 0 or NaN means that there is no scale, as the standard and FSL have it."""
    slope, intercept = facts["scl_slope"], facts["scl_inter"]
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite(slope):
        warnings.append(f"The file states a scl_slope of {slope}: values are taken as stored")
        return 1.0, 0.0
    if not np.isfinite(intercept):
        warnings.append(f"The file states a scl_inter of {intercept}: 0 is taken")
        intercept = 0.0
    return slope, intercept


# --- matrix --------------------------------------------------------------------------------------------------
def _matrix(facts: dict, warnings: list[str]) -> np.ndarray:
    """sform where its code says so, as the standard has it; else qform; else pixdim along LPS, as ITK does.

    A code whose numbers make no matrix is passed over with a warning, as ITK does.
    """
    spacing = np.abs(facts["pixdim"][1:4])
    rotated, sform = _qform(facts, spacing), np.eye(4)
    sform[:3] = np.reshape(facts["srow"], (3, 4))
    codes = {"sform": facts["sform_code"], "qform": facts["qform_code"]}
    usable = {"sform": _is_matrix(sform), "qform": _is_matrix(rotated)}
    stated = [name for name in codes if codes[name] > 0]
    chosen = next((name for name in stated if usable[name]), None)
    if stated and chosen is None:
        raise VolumeError(
            "The matrix of the volume cannot be told",
            f"the numbers of {' and '.join(stated)} are no finite matrix",
            "export the scan again, or set its sform or qform",
        )
    for name in stated:
        if not usable[name]:
            warnings.append(f"The file states an {name} whose numbers are no matrix: {chosen} is used")
    if chosen == "sform" and "qform" in stated and usable["qform"] and _is_rotation(sform[:3, :3]):
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in facts["dim"][1:4]]), float).reshape(3, -1)
        apart = np.abs((sform - rotated)[:3] @ np.vstack([corners, np.ones(8)])).max()
        if apart > 0.5:  # a sheared sform cannot be a qform
            warnings.append(f"The file states two matrices, sform and qform, {apart:.1f} mm apart: sform is used")
    if chosen is None:
        if not (np.isfinite(spacing).all() and (spacing > 0).all()):
            raise ValueError(f"neither sform nor qform nor pixdim {spacing.tolist()} says how large a voxel is")
        matrix = LPS_TO_RAS @ np.diag([*spacing, 1.0])
        warnings.append("The file states no orientation: axes along left, posterior, superior are assumed")
    else:
        matrix = sform if chosen == "sform" else rotated
    sizes = np.linalg.norm(matrix[:3, :3], axis=0)
    if chosen == "sform" and (spacing > 0).all() and not np.allclose(spacing, sizes, rtol=0.01):
        said, used = (" x ".join(f"{mm:.4g}" for mm in one) for one in (spacing, sizes))
        warnings.append(f"The file states two sizes of a voxel, pixdim {said} and sform {used}: sform is used")
    mm = _MM.get(facts["xyzt_units"] & 7)
    if mm is not None and mm != 1:
        warnings.append(f"The unit of length of the file is the {_UNITS[mm]}: lengths were turned into mm")
    if mm is None:
        warnings.append(f"The file states a unit of length that is not known, {facts['xyzt_units'] & 7}: mm is assumed")
        mm = 1.0
    return np.diag([mm, mm, mm, 1.0]) @ matrix


def _is_matrix(matrix: np.ndarray) -> bool:
    """Finite, and not singular."""
    columns = np.linalg.norm(matrix[:3, :3], axis=0)
    return bool(
        np.isfinite(matrix).all() and (columns > 1e-9).all() and abs(np.linalg.det(matrix[:3, :3] / columns)) > 1e-6
    )


def _is_rotation(matrix: np.ndarray) -> bool:
    columns = matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-12)
    return bool(np.abs(columns.T @ columns - np.eye(3)).max() < 1e-3)


def _qform(facts: dict, spacing: np.ndarray) -> np.ndarray:
    """The matrix of a unit quaternion (a, b, c, d), qfac in pixdim[0]; nifti1.h, method 2."""
    b, c, d = np.array(facts["quatern"]) / max(1.0, np.linalg.norm(facts["quatern"]))  # a rounded half turn
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * spacing * (1, 1, -1 if facts["pixdim"][0] < 0 else 1)
    matrix[:3, 3] = facts["qoffset"]
    return matrix
