"""Read the header of a GGUF file, and say in one line what is wrong with it.

llama.cpp prints, or ends the process, on a file that is cut short or holds something else; so a
file is looked at here first. Only the header is read: a model of 5 GB takes a few milliseconds.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from lite_interp.errors import EngineError, one_line

_SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_NOT_DECODERS = ("bert", "t5", "clip", "mmproj", "wavtokenizer", "gemma-embedding")


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header of a GGUF file says."""

    architecture: str
    """`general.architecture`, e.g. `llama`."""
    metadata: Mapping[str, Any]
    """Scalars and texts by key; arrays are left out."""
    n_tensors: int
    """Number of weight tensors."""


class _Cut(Exception):
    """The file ends before its header does, or its data."""


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.offset = 0

    def take(self, form: str) -> Any:
        """One little-endian number."""
        end = self.offset + struct.calcsize("<" + form)
        if end > len(self._data):
            raise _Cut
        (value,) = struct.unpack_from("<" + form, self._data, self.offset)
        self.offset = end
        return value

    def skip(self, n_bytes: int) -> None:
        """Go over some bytes."""
        self.offset += n_bytes
        if self.offset > len(self._data):
            raise _Cut

    def text(self) -> str:
        """A string with its length in front."""
        start = self.offset + 8
        self.skip(self.take("Q"))
        return self._data[start : self.offset].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A value of metadata; None for an array, which is gone over."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.take(_SCALARS[kind])
        kind, count = self.take("I"), self.take("Q")
        if kind == _STRING:
            for _ in range(count):
                self.skip(self.take("Q"))
        else:
            self.skip(count * struct.calcsize(_SCALARS[kind]))
        return None


def read_header(path: Path) -> GgufHeader:
    """Header of a GGUF file; raises `EngineError` if the file is none, or not whole."""
    shown = one_line(path)
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise EngineError(f"file is no GGUF model: {shown}", "give a .gguf file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Reader(data))
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise EngineError(
            f"engine file cannot be read: {shown}: {reason}", "give the path of a .gguf file"
        ) from error
    except _Cut as error:
        raise EngineError(
            f"GGUF file is cut short: {shown}", "fetch it again, and compare its SHA-256"
        ) from error
    except (KeyError, ValueError) as error:
        raise EngineError(
            f"GGUF file is damaged: {shown}: {one_line(error)}", "fetch it again"
        ) from error


def _read(reader: _Reader) -> GgufHeader:
    reader.skip(4)
    version = reader.take("I")
    if version not in (2, 3):
        raise ValueError(f"version {version}")
    n_tensors, n_keys = reader.take("Q"), reader.take("Q")
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = reader.text()
        value = reader.value(reader.take("I"))
        if value is not None:
            metadata[key] = value
    end = 0
    for _ in range(n_tensors):
        end = max(end, _tensor_end(reader))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"alignment {alignment}")
    reader.skip(-reader.offset % alignment)
    reader.skip(end)
    return GgufHeader(str(metadata.get("general.architecture", "")), metadata, n_tensors)


def _tensor_end(reader: _Reader) -> int:
    """Where one tensor's data ends, bytes from the start of all data."""
    reader.text()
    n_elements = 1
    for _ in range(reader.take("I")):
        n_elements *= reader.take("Q")
    kind, offset = reader.take("I"), reader.take("Q")
    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):  # a type newer than the gguf package: its size is unknown
        return offset
    return offset + n_elements // block * size


def check_engine(path: Path, header: GgufHeader) -> None:
    """Refuse a GGUF file that is whole but holds no language model that can write."""
    if any(name in header.architecture.lower() for name in _NOT_DECODERS):
        raise EngineError(
            f"model cannot write text: {one_line(path)}: "
            f"its architecture is {one_line(header.architecture)}",
            "an engine is a decoder, such as llama, qwen2 or gemma3",
        )
    check_model(path, header)


def check_model(path: Path, header: GgufHeader) -> None:
    """Refuse a GGUF file that is whole but holds no whole model."""
    shown = one_line(path)
    if not header.architecture:
        raise EngineError(f"GGUF file names no architecture: {shown}", "convert the model again")
    if header.metadata.get("split.count", 0) > 1:
        raise EngineError(
            f"GGUF file is one of several parts: {shown}",
            "join them: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
    if not header.n_tensors:
        raise EngineError(f"GGUF file holds a vocabulary and no weights: {shown}")
