"""Lines of files that nobody vouches for: plain, gzip or zstandard, as their first bytes say.

A line, a file and what is unpacked at a time have a greatest size, so that a small file that
unpacks to a huge one is refused and fills no memory.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

from lite_interp.documents import unzstd
from lite_interp.errors import LiteInterpError, one_line

BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 1 << 20
"""Longest line."""
MAX_FILE_BYTES = 1 << 30
"""Longest file, unpacked."""
BLOCK_BYTES = 1 << 16
ZSTANDARD_BYTES = 1 << 10
"""Four packed bytes can stand for 128 KiB: so much is unpacked at a time, to 32 MiB at most."""


class NoTextError(ValueError):
    """Bytes that are no text: `binary`, `broken UTF-8`."""


def decoded(data: bytes) -> str:
    """Bytes as text, without a byte order mark.

    Raises:
        NoTextError: they are none.
    """
    if b"\x00" in data:
        raise NoTextError("binary")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NoTextError("broken UTF-8") from None


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, unpacked; each ends with its line break, the last one perhaps not.

    A byte order mark at the beginning is left out.

    Raises:
        LiteInterpError: a line or the file is too long, or the file is damaged or cut short.
        OSError: it cannot be read.
    """
    number = size = 0
    kept = b""
    try:
        for block in _blocks(path):
            size += len(block)
            if size > MAX_FILE_BYTES:
                raise LiteInterpError(
                    f"longer than {MAX_FILE_BYTES >> 20:,} MiB: {one_line(path)}", "split it"
                )
            for line in io.BytesIO(kept + block):
                if len(line) > MAX_LINE_BYTES:
                    raise LiteInterpError(
                        f"a line longer than {MAX_LINE_BYTES >> 20} MiB: "
                        f"{one_line(path)}:{number + 1}",
                        "this is no file of explanations",
                    )
                kept = b"" if line.endswith(b"\n") else line
                if not kept:
                    yield line.removeprefix(BOM) if number == 0 else line
                    number += 1
    except EOFError:
        raise LiteInterpError(
            f"the compressed file is cut short: {one_line(path)}: after line {number}"
        ) from None
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise LiteInterpError(
            f"the compressed file is damaged: {one_line(path)}: after line {number}: "
            f"{one_line(error)}"
        ) from None
    if kept:
        yield kept.removeprefix(BOM) if number == 0 else kept


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        sign = file.peek(4)
        if sign.startswith(b"\x1f\x8b"):
            with gzip.open(file) as unpacked:
                while block := unpacked.read(BLOCK_BYTES):
                    yield block
        elif sign.startswith(zstandard.FRAME_HEADER):
            yield from unzstd(file, ZSTANDARD_BYTES)
        else:
            while block := file.read(BLOCK_BYTES):
                yield block
