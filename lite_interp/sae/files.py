"""Reading the files of sparse coders: JSON configs, safetensors, npz and pt.

No code in a file is ever run: object arrays are refused, and a `.pt` may hold tensors, numbers and
strings only. What a file claims to hold is compared with its size before memory is asked for.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from lite_interp.errors import CoderError, one_line
from lite_interp.sae.pickles import load_pt, refused, unreadable

MAX_CONFIG_BYTES = 1 << 24
"""Largest config that is read."""
MAX_RATIO = 16
"""A compressed array that grows by more is refused: weights do not compress so well."""

Shapes = dict[str, tuple[int, ...]]
"""Shape of each tensor by its name; () also for what is no tensor."""
Read = TypeVar("Read")


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file; NaN and infinities, which are no JSON, become their names."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {MAX_CONFIG_BYTES:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=str)
    except (OSError, ValueError, RecursionError) as error:
        raise CoderError(
            f"sparse coder's config cannot be read: {one_line(path)}: {one_line(error)}"
        ) from error
    if not isinstance(config, dict):
        raise CoderError(f"sparse coder's config is no JSON object: {one_line(path)}")
    return config


def shapes_of(path: Path) -> Shapes:
    """Names and shapes of what a .safetensors, .npz, .pt or .pth holds, from its headers.

    Raises:
        CoderError: it cannot be read, or is refused.
    """
    if path.suffix not in SHAPES:
        raise CoderError(f"weights of no kind that is read: {one_line(path)}", _KINDS)
    return SHAPES[path.suffix](path)


def look(path: Path) -> Shapes:
    """The same, for telling formats apart: empty where there is no such file or it is odd."""
    try:
        return shapes_of(path) if path.is_file() else {}
    except (CoderError, OSError):
        return {}


def read_weights(path: Path) -> dict[str, Any]:
    """All that a .safetensors, .npz, .pt or .pth holds; floating tensors as float32."""
    if path.suffix not in READERS:
        raise CoderError(f"weights of no kind that is read: {one_line(path)}", _KINDS)
    return READERS[path.suffix](path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, floating ones as float32."""

    def take(file: Any) -> dict[str, Tensor]:
        return {name: _float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118

    return use_safetensors(path, take)


def use_safetensors(path: Path, use: Callable[[Any], Read]) -> Read:
    """Use an open safetensors file; what is wrong with it becomes one line."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return use(file)
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def read_npz(path: Path) -> dict[str, Tensor]:
    """All arrays of an .npz file as tensors, floating ones as float32; object arrays are refused.

    Raises:
        CoderError: it is none, is cut, holds objects, or claims more than is in it.
    """
    _npz_shapes(path)  # what it claims comes first: np.load would ask for the memory
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.array(file[name]) for name in file.files}
    except Exception as error:  # a hostile file: zipfile, zlib and numpy raise all kinds
        raise unreadable(path, error) from error
    native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    return {name: _float32(torch.from_numpy(array)) for name, array in native.items()}


def read_pt(path: Path) -> dict[str, Any]:
    """The dict in a .pt or .pth file: tensors, floating ones as float32, numbers and strings.

    Large tensors stay on disk until they are used. A pickle that names anything but the parts of
    tensors is refused before it is opened; files from before torch 1.6, which are no zip, too.

    Raises:
        CoderError: it is none, is cut, holds code or no dict, or claims more than is in it.
    """
    return {name: _plain(value) for name, value in load_pt(path, "cpu").items()}


def need(tensors: Mapping[str, Any], name: str, path: Path) -> Tensor:
    """A tensor that must be there, of floating numbers, all of them finite."""
    if name not in tensors:
        raise CoderError(
            f"sparse coder lacks the tensor {name}: {one_line(path)}",
            f"it has: {one_line(', '.join(sorted(map(str, tensors))))}",
        )
    tensor = tensors[name]
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise CoderError(
            f"{name} of the sparse coder holds no floating numbers but {kind}: {one_line(path)}"
        )
    # NaN goes through both ends; no copy is made, as isfinite would.
    if tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
        raise CoderError(
            f"{name} of the sparse coder has values that are not finite: {one_line(path)}",
            "is the download complete?",
        )
    return tensor


def need_all(
    tensors: Mapping[str, Any], shapes: Mapping[str, tuple[str, ...]], path: Path
) -> dict[str, Tensor]:
    """Tensors that must be there and fit together, by `need`.

    Args:
        tensors: what the file holds.
        shapes: names of the sides of each tensor, e.g. {"W_enc": ("d_in", "n_latents")}; sides of
            the same name must be as long. Vectors say how long, which nobody can transpose.
        path: the file, for messages.
    """
    taken = {name: need(tensors, name, path) for name in shapes}

    def lengths(side: str, but: str = "") -> list[tuple[bool, int]]:
        return [
            (len(names) == 1, length)
            for name, names in shapes.items()
            if name != but and taken[name].ndim == len(names)
            for each, length in zip(names, taken[name].shape, strict=True)
            if each == side and length
        ]

    def told(given: list[tuple[bool, int]]) -> int:
        def votes(length: int) -> tuple[int, int]:
            return given.count((True, length)), given.count((False, length))

        return max((length for _, length in given), key=votes, default=0)

    sides = {side: told(lengths(side)) for names in shapes.values() for side in names}
    for name, names in shapes.items():
        shape = tuple(taken[name].shape)
        if 0 in shape or shape != tuple(sides[side] for side in names):
            wanted = [f"{side} {sides[side]}" if lengths(side, name) else side for side in names]
            raise CoderError(
                f"{name} of the sparse coder has shape {shape}, expected ({', '.join(wanted)}): "
                f"{one_line(path)}"
            )
    return taken


class Assumptions:
    """Reads keys of a config and notes each default that stood in for a missing one."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Start with no notes."""
        self.config = config
        self.notes: list[str] = []

    def get(self, key: str, default: Any) -> Any:
        """The value of a key; a missing or null one is noted."""
        value = self.config.get(key)
        if value is None:
            self.notes.append(f"{key} is missing: {default!r}")
            return default
        return value

    def integer(self, key: str, default: int) -> int:
        """The value of a key that must be a whole number >= 0."""
        return whole(key, self.get(key, default))


def whole(key: str, value: Any) -> int:
    """A value of a config that must be a whole number >= 0; 3.0 and 1e2 are."""
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or value < 0 or (isinstance(value, float) and not value.is_integer()):
        raise CoderError(f"{key} of the sparse coder is no whole number: {one_line(value)}")
    return int(value)


def _float32(tensor: Tensor) -> Tensor:
    """A floating tensor as float32; any other as it is. Parameters become plain tensors."""
    return tensor.detach().to(torch.float32) if tensor.is_floating_point() else tensor.detach()


def _plain(value: Any) -> Any:
    """What a `.pt` holds, with its tensors as float32, in dicts too."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return _float32(value) if isinstance(value, Tensor) else value


def _safetensors_shapes(path: Path) -> Shapes:
    """Shapes from the header of a safetensors file."""

    def take(file: Any) -> Shapes:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    return use_safetensors(path, take)


def _npz_shapes(path: Path) -> Shapes:
    """Shapes from the headers of an .npz file; refuses objects and sizes that cannot be true."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                entry.filename.removesuffix(".npy"): _npy_shape(archive, entry, path)
                for entry in archive.infolist()
            }
    except CoderError:
        raise
    except Exception as error:  # a hostile file: zipfile, zlib and numpy raise all kinds
        raise unreadable(path, error) from error


def _npy_shape(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> tuple[int, ...]:
    """Shape of one array of an .npz file."""
    name = one_line(entry.filename.removesuffix(".npy"))
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
        left = entry.file_size - file.tell()
    if dtype.kind not in "fiub":
        raise refused(path, f"{name} is an array of {one_line(dtype)}, no plain numbers")
    if math.prod(shape) * dtype.itemsize != left:
        raise refused(path, f"{name} claims shape {shape}, which is not what the file holds")
    if entry.file_size > MAX_RATIO * entry.compress_size + MAX_CONFIG_BYTES:
        raise refused(path, f"{name} would grow to {entry.file_size:,} bytes")
    return shape


def _pt_shapes(path: Path) -> Shapes:
    """Shapes from the pickle of a .pt file; no tensor is read."""
    return {
        name: tuple(value.shape) if isinstance(value, Tensor) else ()
        for name, value in load_pt(path, "meta").items()
    }


SHAPES: dict[str, Callable[[Path], Shapes]] = {
    ".safetensors": _safetensors_shapes,
    ".npz": _npz_shapes,
    ".pt": _pt_shapes,
    ".pth": _pt_shapes,
}
"""How the headers of each kind of file are read."""
READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".safetensors": read_tensors,
    ".npz": read_npz,
    ".pt": read_pt,
    ".pth": read_pt,
}
"""How each kind of file is read."""
_KINDS = "read are: " + ", ".join(READERS)


def refuse_other_sizes(
    known: Assumptions, sizes: Mapping[str, int], shape: tuple[int, int], path: Path
) -> None:
    """Refuse an encoder of other sizes than its config declares.

    Args:
        known: the config.
        sizes: key of the config → what the encoder has; a missing key declares nothing.
        shape: of W_enc as the file has it.
        path: the file.
    """
    for key, own in sizes.items():
        declared = known.config.get(key)
        if declared is not None and declared != own:
            raise CoderError(
                f"W_enc of the sparse coder has shape {shape}, its config.json says "
                f"{key} = {one_line(declared)}: {one_line(path)}"
            )
