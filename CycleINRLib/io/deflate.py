"""Packs what is written on all cores (floor 2): one gzip or zlib stream, the same bytes from any number of threads.

Blocks are packed apart, each with the 32 KiB before it as dictionary, and end at a byte, so that one after the other
they are one deflate stream, which every reader reads. Source: M. Adler, pigz (https://zlib.net/pigz).
"""

from __future__ import annotations

import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO

from ..machine import usable_cores

PACKER: Any  # isal: the same format in a fifth of the time, and files 2 % smaller; below level 3 it looks back less far
try:
    from isal import isal_zlib
except ImportError:
    PACKER, LEVEL = zlib, 1  # level 1 for noise, which level 6 packs 2 % smaller
else:
    PACKER, LEVEL = isal_zlib, 3
BLOCK_BYTES = 1 << 20
LOOKS_BACK = 1 << 15  # bytes that deflate looks back
MOST_THREADS = 8  # a disk takes no more
_GZIP_HEAD = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255])  # deflated, no time, fastest, from any system
_ZLIB_HEAD = bytes([0x78, 0x01])


class Deflated:
    """A file to write to, whose bytes go packed into `stream`; a context, whose end writes what is left."""

    def __init__(self, stream: BinaryIO, wrapper: str, threads: int | None = None) -> None:
        """wrapper : "gzip" or "zlib"; threads : None, as many as the machine has cores for"""
        self._stream, self._is_gzip = stream, wrapper == "gzip"
        self._threads = min(threads or usable_cores(), MOST_THREADS)
        self._pool = ThreadPoolExecutor(self._threads)
        self._jobs: deque[Future[bytes]] = deque()
        self._held, self._before = bytearray(), b""
        self._checksum, self._count = (0 if self._is_gzip else 1), 0
        stream.write(_GZIP_HEAD if self._is_gzip else _ZLIB_HEAD)

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        self._checksum = (zlib.crc32 if self._is_gzip else zlib.adler32)(view, self._checksum)
        self._count += len(view)
        at = 0
        while at < len(view):
            part = view[at : at + BLOCK_BYTES - len(self._held)]
            self._held += part
            at += len(part)
            if len(self._held) == BLOCK_BYTES:
                self._pack(last=False)
        return len(view)

    def _pack(self, last: bool) -> None:
        block = bytes(self._held)
        self._held.clear()
        self._jobs.append(self._pool.submit(_packed, block, self._before, last))
        self._before = block[-LOOKS_BACK:]
        while len(self._jobs) > (0 if last else 2 * self._threads):
            self._stream.write(self._jobs.popleft().result())

    def __enter__(self) -> Deflated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._pack(last=True)
                if self._is_gzip:
                    self._stream.write(self._checksum.to_bytes(4, "little"))
                    self._stream.write((self._count % 2**32).to_bytes(4, "little"))
                else:
                    self._stream.write(self._checksum.to_bytes(4, "big"))
        finally:
            self._pool.shutdown(cancel_futures=True)


def _packed(block: bytes, before: bytes, last: bool) -> bytes:
    known = {"zdict": before} if before else {}
    packer = PACKER.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, **known)
    return packer.compress(block) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
