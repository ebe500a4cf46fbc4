"""Reading the files of sparse coders: JSON configs and safetensors, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from lite_interp.errors import CoderError, one_line


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file; NaN and infinities, which are no JSON, become their names."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=str)
    except (OSError, ValueError) as error:
        raise CoderError(
            f"sparse coder's config cannot be read: {one_line(path)}: {one_line(error)}"
        ) from error
    if not isinstance(config, dict):
        raise CoderError(f"sparse coder's config is no JSON object: {one_line(path)}")
    return config


def tensor_names(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file; nothing but its header is read."""
    return set(_open(path, lambda file: list(file.keys())))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, floating ones as float32."""

    def take(file: Any) -> dict[str, Tensor]:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    tensors = _open(path, take)
    return {
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def _open(path: Path, use: Any) -> Any:
    """Use an open safetensors file; what is wrong with it becomes one line."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return use(file)
    except (OSError, SafetensorError) as error:
        raise CoderError(
            f"weights of the sparse coder cannot be read: {one_line(path)}: {one_line(error)}",
            "is the download complete?",
        ) from error


def need(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    """A tensor that must be there."""
    if name not in tensors:
        raise CoderError(
            f"sparse coder lacks the tensor {name}: {one_line(path)}",
            f"it has: {one_line(', '.join(sorted(tensors)))}",
        )
    return tensors[name]


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
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            raise CoderError(f"{key} of the sparse coder is no whole number: {one_line(value)}")
        return int(value)
