"""What is packed in blocks is one stream that every reader reads, the same from any number of threads."""

from __future__ import annotations

import gzip
import importlib.util
import io
import sys
import zlib

import numpy as np
import pytest

from CycleINRLib.io import deflate
from CycleINRLib.io.deflate import Deflated


def packed(data: bytes, wrapper: str, threads: int = 2, piece: int = 1000) -> bytes:
    stream = io.BytesIO()
    with Deflated(stream, wrapper, threads) as out:
        for at in range(0, len(data), piece):
            out.write(data[at : at + piece])
    return stream.getvalue()


@pytest.fixture(params=["zlib", "isal"], autouse=True)
def packer(request, monkeypatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(deflate, "PACKER", zlib)
        monkeypatch.setattr(deflate, "LEVEL", 1)
    elif deflate.PACKER is zlib:
        pytest.skip("isal is not installed")


@pytest.fixture(params=[0, 1, 5000, 70_001, 131_072])
def data(request, monkeypatch) -> bytes:
    monkeypatch.setattr(deflate, "BLOCK_BYTES", 1 << 16)
    return np.random.default_rng(1).integers(0, 40, request.param, np.uint8).tobytes()


def test_it_is_one_gzip_member(data):
    unpacker = zlib.decompressobj(31)
    assert unpacker.decompress(packed(data, "gzip")) == data and unpacker.eof and not unpacker.unused_data
    assert gzip.decompress(packed(data, "gzip")) == data


def test_it_is_one_zlib_stream(data):
    assert zlib.decompress(packed(data, "zlib")) == data


def test_threads_and_the_size_of_what_is_written_change_no_byte(data):
    assert packed(data, "gzip", 1, 999) == packed(data, "gzip", 5, 50_000)


def test_blocks_know_what_was_before_them(monkeypatch):
    again = np.random.default_rng(2).integers(0, 256, 20_000, np.uint8).tobytes() * 8
    whole = len(packed(again, "zlib"))
    monkeypatch.setattr(deflate, "BLOCK_BYTES", 1 << 15)
    assert len(packed(again, "zlib")) < 1.1 * whole


def test_zlib_packs_where_isal_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "isal", None)
    spec = importlib.util.find_spec("CycleINRLib.io.deflate")
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.PACKER is zlib


def test_a_fault_on_the_way_is_raised_and_ends_the_threads():
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() > 10:
                raise OSError(28, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space"), Deflated(Full(), "gzip", 2) as out:
        out.write(bytes(100))
    assert out._pool._shutdown
