"""Voxels out of the files that a header names, exactly as many as it says (floor 2).

Every way in which header and data can disagree is a refusal, and none of them allocates what the header claims first.
"""

from __future__ import annotations

import bz2
import contextlib
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import VolumeError
from .fields import AGAIN, Header

MOST_BYTES = 1 << 42  # 4 TiB: no machine holds such a volume
MOST_DEFLATE = 1040  # deflate cannot shrink data more than 1032 to 1
CHUNK = 1 << 20
TRAILING = 16  # bytes that may follow the data in a file of their own
MAPPED_BYTES = 1 << 28  # from 256 MiB, uncompressed voxels are mapped, not read


def decode(header: Header) -> np.ndarray:
    """(..., K, J, I) values as stored, in the byte order of the file.

    Large uncompressed ones stay in the file and come into memory as they are used; writing to them changes a copy.

    Raises
    ------
    VolumeError : fewer or more bytes than the header says, damaged, or a claim that no file of this size can hold
    """
    need = math.prod(header.sizes) * header.dtype.itemsize
    _check_claim(header, need)
    if header.encoding == "text":
        return _decode_text(header)
    share, rest = divmod(need, len(header.files))
    if rest:
        found = f"{need} bytes of voxels in {len(header.files)} files"
        raise VolumeError("The voxels cannot be shared among the data files", found, AGAIN)
    surplus = need // header.sizes[-1]  # more than a slice too much: the header is wrong
    if header.format != "NIfTI" and not (header.offset or header.skip or header.line_skip):
        surplus = min(surplus, TRAILING)  # data in a file of their own: it starts with another header
    if header.skip == -1:
        header = replace(header, skip=max(_length(header) - share, 0))
    if (mapped := _mapped(header, need, surplus)) is not None:
        return mapped
    data = np.empty(need, np.uint8)
    for n, file in enumerate(header.files):
        part = data.data[n * share : (n + 1) * share]
        with open(file, "rb") as stream:
            filled = _fill(part, _decoded(stream, header, share), header, file, surplus)
        if filled < share:
            raise VolumeError(
                "The file is truncated",
                f"{file.name} holds {filled} of {share} bytes of voxels",
                "copy or export it again",
            )
    return data.view(header.dtype).reshape(header.sizes[::-1])


def _length(header: Header) -> int:
    """Decoded bytes of the only data file; 0 where it is damaged, which is found again when it is read."""
    with open(header.files[0], "rb") as stream, contextlib.suppress(EOFError, zlib.error, OSError):
        return sum(map(len, _decoded(stream, header, 0)))
    return 0


def _mapped(header: Header, need: int, surplus: int) -> np.ndarray | None:
    """The voxels where they lie in the file; None for small ones, and for what must be decoded or is damaged."""
    plain = header.encoding == "raw" and len(header.files) == 1 and not header.line_skip
    if not plain or need < MAPPED_BYTES:
        return None
    size = header.files[0].stat().st_size
    at = size - need if header.offset == -1 else header.offset + header.skip
    if at < 0 or not need <= size - at < need + surplus:
        return None  # reading it says what is wrong
    try:
        found = np.memmap(header.files[0], header.dtype, "c", at, header.sizes[::-1])
    except (OSError, ValueError):  # a file system that maps no files
        return None
    return found.view(np.ndarray)


def _check_claim(header: Header, need: int) -> None:
    """Before anything is allocated: can the files hold what the header claims?"""
    held = sum(file.stat().st_size for file in header.files)
    most = held * {"raw": 1, "text": 8, "hex": 1, "gzip": MOST_DEFLATE}.get(header.encoding, 1 << 20)
    if need > MOST_BYTES or need > max(most, CHUNK):
        claim = " x ".join(map(str, header.sizes))
        raise VolumeError(
            "Header and data disagree, the file cannot hold the voxels that the header claims",
            f"{claim} voxels, {need:.3g} bytes, in a file of {held} bytes",
            "copy or export it again",
        )


def _decoded(stream: BinaryIO, header: Header, share: int) -> Iterator[bytes]:
    """The bytes of one data file after its header, decoded chunk by chunk."""
    size = os.fstat(stream.fileno()).st_size
    stream.seek(max(size - share, 0) if header.offset == -1 else min(header.offset, size))
    for _ in range(header.line_skip):
        if not stream.readline():
            return
    if header.encoding == "hex":
        yield bytes.fromhex("".join(stream.read().decode("ascii", "replace").split()))
    elif header.encoding == "gzip":
        yield from _inflated(stream)
    elif header.encoding == "bzip2":
        yield from _bunzipped(stream)
    else:
        while chunk := stream.read(CHUNK):
            yield chunk


def _bunzipped(stream: BinaryIO) -> Iterator[bytes]:
    """bzip2 streams one after another, as pbzip2 writes them; EOFError where the last stops before its end."""
    decoder = bz2.BZ2Decompressor()
    chunk = stream.read(CHUNK)
    while chunk or not (decoder.needs_input or decoder.eof):
        yield decoder.decompress(chunk, 16 * CHUNK)
        chunk = b""
        if decoder.eof:
            chunk = decoder.unused_data or stream.read(CHUNK)
            if not chunk.startswith(b"BZ"):
                return
            decoder = bz2.BZ2Decompressor()
        elif decoder.needs_input:
            chunk = stream.read(CHUNK)
    raise EOFError


def _inflated(stream: BinaryIO) -> Iterator[bytes]:
    """gzip members or one zlib stream; EOFError where it stops before its end, whose checksum was then never seen."""
    decoder = zlib.decompressobj(47)  # 32 + 15: gzip or zlib, by its first bytes
    rest = b""
    while chunk := rest or stream.read(CHUNK):
        yield decoder.decompress(chunk, 16 * CHUNK)
        rest = decoder.unconsumed_tail
        if decoder.eof:
            rest = decoder.unused_data or stream.read(CHUNK)
            if not rest.startswith(b"\x1f\x8b"):
                return
            decoder = zlib.decompressobj(47)
    raise EOFError


def _fill(part: memoryview, chunks: Iterable[bytes], header: Header, file: Path, surplus: int) -> int:
    """Fills `part`; the count of bytes that came, at most its length."""
    at = -header.skip
    try:
        for chunk in chunks:
            wanted = chunk[max(-at, 0) :] if at < 0 else chunk
            room = part[max(at, 0) :]
            room[: len(wanted)] = wanted[: len(room)]
            at += len(chunk)
            if at >= len(part) + surplus:
                raise VolumeError(
                    "Header and data disagree, the file holds more voxels than the header says",
                    f"{file.name}, {' x '.join(map(str, header.sizes))}",
                    AGAIN,
                )
    except EOFError:
        return min(max(at, 0), len(part) - 1)  # complete or not, the checksum is missing
    except (zlib.error, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise VolumeError(
            "The data of the file are damaged", f"{file.name}, {error}", "copy or export it again"
        ) from error
    return min(max(at, 0), len(part))


def _decode_text(header: Header) -> np.ndarray:
    words: list[str] = []
    for file in header.files:
        with open(file, "rb") as stream:
            words += b"".join(_decoded(stream, header, 0)).decode("ascii", "replace").replace(",", " ").split()
    try:
        values = np.array(words, float)
        if header.dtype.kind in "iu":
            limits = np.iinfo(header.dtype)
            if not (
                np.isfinite(values).all()
                and limits.min <= values.min(initial=0)
                and values.max(initial=0) <= limits.max
            ):
                raise ValueError(f"a voxel does not fit {header.dtype.name}")
        with np.errstate(over="ignore"):
            values = values.astype(header.dtype)
    except ValueError as error:
        raise VolumeError("The data of the file are damaged", str(error), AGAIN) from error
    if len(values) != math.prod(header.sizes):
        raise VolumeError(
            "The file is truncated", f"{len(values)} of {math.prod(header.sizes)} voxels", "copy or export it again"
        )
    return values.reshape(header.sizes[::-1])
