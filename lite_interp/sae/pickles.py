"""Opening `.pt` files: no code in one is ever run, and none may claim more than it holds."""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lite_interp.errors import CoderError, one_line

MAX_PICKLE_BYTES = 1 << 24
"""Largest pickle beside the tensors that is read."""

HARMLESS = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor_v2|parameter)"
    r"|torch\.(\w+Storage|Size|device|(b?float|int|uint|complex)\d+|bool)"
)
"""What a pickle may name: all that tensors, their sizes and dtypes are made of."""


def load_pt(path: Path, device: str) -> dict[str, Any]:
    """The dict in a .pt file on a device, after a look at its pickle."""
    try:
        _check_pickle(path)
        loaded = torch.load(path, map_location=device, weights_only=True, mmap=device == "cpu")
        _check_sizes(loaded, "", path)
    except CoderError:
        raise
    except Exception as error:  # a hostile file: unpickling raises all kinds
        raise unreadable(path, error) from error
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise CoderError(f"weights of the sparse coder are no dict of tensors: {one_line(path)}")
    return dict(loaded)


def _check_sizes(held: Any, name: str, path: Path) -> None:
    """Refuse tensors that repeat what the file holds, such as one number a billion times."""
    if isinstance(held, dict):
        for key, value in held.items():
            _check_sizes(value, str(key), path)
    elif isinstance(held, (list, tuple)):
        for value in held:
            _check_sizes(value, name, path)
    elif isinstance(held, Tensor) and held.nbytes > held.untyped_storage().nbytes():
        raise refused(path, f"{one_line(name)} claims more than the file holds")


def _check_pickle(path: Path) -> None:
    """Refuse a .pt file whose pickle names more than tensors are made of; runs none of it."""
    if not zipfile.is_zipfile(path):
        raise CoderError(
            f"weights of the sparse coder cannot be read: {one_line(path)}: "
            "cut, or no zip as torch.save writes it",
            "is the download complete?",
        )
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise refused(path, "it is compressed, which torch.save never does")
        pickles = [e for e in archive.infolist() if e.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise refused(path, "it has no one small data.pkl")
        code = archive.read(pickles[0])
    for opcode, argument, _ in pickletools.genops(code):
        if opcode.name in ("GLOBAL", "INST"):
            named = str(argument).replace(" ", ".")
            if not HARMLESS.fullmatch(named):
                raise refused(path, f"its pickle names {one_line(named)}, nothing of it was run")
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise refused(path, f"its pickle has {opcode.name}, nothing of it was run")


def unreadable(path: Path, error: Exception) -> CoderError:
    """The error for a file that is broken."""
    return CoderError(
        f"weights of the sparse coder cannot be read: {one_line(path)}: {one_line(error)}",
        "is the download complete?",
    )


def refused(path: Path, reason: str) -> CoderError:
    """The error for a file that would do harm."""
    return CoderError(
        f"weights of the sparse coder are refused: {one_line(path)}: {reason}",
        "safetensors hold tensors and nothing else: ask the author for them",
    )
