"""Open a file decompressed, whatever its name says, and notice when it ends too early."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import zstandard

from ppl_assets.corpus.errors import TruncatedFile
from ppl_assets.corpus.files import SourceFile

SUFFIXES = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
"""Suffixes that say nothing about the format inside. What decompresses a file is its first bytes, never its name."""

_ZSTD_STEP = 1024
"""Compressed bytes a step: a zstd block of 4 bytes can hold 128 KiB, so one step yields 32 MiB at the very most."""

_LONGEST_WINDOW = 1 << 31
"""Accepts files made with ``zstd --long=31``; the default stops at 128 MiB."""

_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)


def compression_of(head: bytes) -> str:
    """Compression by the first 10 bytes of a file: gzip, zstd, bz2, xz, or empty."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bz2"
    return "xz" if head.startswith(b"\xfd7zXZ\x00") else ""


@contextmanager
def open_decompressed(file: SourceFile) -> Iterator[BinaryIO]:
    """A buffered binary stream of the decompressed content.

    Raises:
        TruncatedFile: inside the ``with`` body, when the stream turns out to be cut off or damaged.
    """
    with file.open() as raw:
        compression = compression_of(raw.read(10))
        raw.seek(0)
        try:
            with _decompressed(raw, compression) as stream:
                yield stream
        except (*_DAMAGE, OSError) as error:
            if not compression or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise TruncatedFile(
                f"{file.url} is a {compression} file that is damaged or ends too early ({error}); "
                "download or write it again, or leave it out with exclude."
            ) from error


def _decompressed(raw: BinaryIO, compression: str) -> BinaryIO:
    if compression == "gzip":
        return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    if compression == "zstd":
        return cast("BinaryIO", io.BufferedReader(_ZstdFrames(raw), 1 << 17))
    if compression == "bz2":
        return cast("BinaryIO", bz2.BZ2File(raw))
    return cast("BinaryIO", lzma.LZMAFile(raw)) if compression == "xz" else raw


class _ZstdFrames(io.RawIOBase):
    """All frames of a zstd file, one after the other.

    ``zstandard.stream_reader`` ends quietly where the input ends inside a frame; here that is an ``EOFError``.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview
        while not self._output:
            data = self._input or self._raw.read(_ZSTD_STEP)
            self._input = b""
            if not data:
                if self._frame is not None:
                    raise EOFError("the input ends inside a zstd frame")
                return 0
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            self._output = memoryview(self._frame.decompress(data))
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        taken = min(len(buffer), len(self._output))
        buffer[:taken] = self._output[:taken]
        self._output = self._output[taken:]
        return taken
