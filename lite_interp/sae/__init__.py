"""Sparse coders from files: which format it is, and how it is read.

A format is known by its files and the names of its tensors, never by the name of its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lite_interp.errors import CoderError, nearest, one_line
from lite_interp.sae import saelens, sparsify
from lite_interp.sae.check import (
    Fit,
    check_fits,
    measure_fit,
    median_norm,
    outlier_positions,
    refuse_bad_fit,
    valid_positions,
)
from lite_interp.sae.coder import Encoded, Fired, SparseCoder
from lite_interp.sae.files import tensor_names
from lite_interp.sae.random_coder import RANDOM, Recipe, make_recipe, randomised

__all__ = [
    "LOADERS",
    "RANDOM",
    "Encoded",
    "Fired",
    "Fit",
    "Recipe",
    "SparseCoder",
    "check_fits",
    "detect",
    "find_coders",
    "load_coder",
    "make_recipe",
    "measure_fit",
    "median_norm",
    "outlier_positions",
    "randomised",
    "refuse_bad_fit",
    "valid_positions",
]

LOADERS: dict[str, Callable[[Path, Mapping[str, Any]], SparseCoder]] = {
    "sparsify": sparsify.load,
    "saelens": saelens.load,
}
"""How each format is read: from a folder and overrides of its config."""

SIGNS: dict[str, tuple[str, str]] = {
    "sparsify": (sparsify.WEIGHTS, "encoder.weight"),
    "saelens": (saelens.WEIGHTS, "W_dec"),
}
"""The weights file and a tensor by which each format is known; beside it stands cfg.json."""


def detect(folder: Path) -> str | None:
    """The format of the sparse coder right in a folder; None if there is none that is read."""
    for name, (weights, tensor) in SIGNS.items():
        file = folder / weights
        if (folder / "cfg.json").is_file() and file.is_file() and tensor in tensor_names(file):
            return name
    return None


def find_coders(path: str | Path) -> list[Path]:
    """Folders at or below a path that look like sparse coders, in natural order of names."""
    root = Path(path).expanduser()
    names = {weights for weights, _ in SIGNS.values()}
    found = {file.parent for name in names for file in root.rglob(name)}
    return sorted(folder for folder in found if (folder / "cfg.json").is_file())


def load_coder(
    path: str | Path, format: str | None = None, overrides: Mapping[str, Any] | None = None
) -> SparseCoder:
    """Read a sparse coder.

    Args:
        path: its folder, a file in it, or a folder with exactly one such folder below.
        format: name in LOADERS; None = found from files and tensor names.
        overrides: keys that replace those of its config, kept in its provenance.

    Raises:
        CoderError: there is none, there are several, or it is not one that is read.
    """
    if format is not None and format not in LOADERS:
        raise CoderError(
            f"no such format of sparse coders: {one_line(format)}", nearest(format, LOADERS)
        )
    folder = _folder(Path(path).expanduser())
    found = format or detect(folder)
    if found is None:
        raise CoderError(f"no sparse coder that is read: {one_line(folder)}", _what_is_read())
    return LOADERS[found](folder, dict(overrides or {}))


def _folder(path: Path) -> Path:
    """The one folder that a path means."""
    if not path.exists():
        raise CoderError(f"no such folder or file: {one_line(path)}", _what_is_read())
    if path.is_file():
        return path.parent
    if (path / "cfg.json").is_file():
        return path
    folders = find_coders(path)
    if len(folders) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in folders[:8])
        raise CoderError(
            f"{len(folders)} sparse coders below this folder: {one_line(path)}",
            f"choose one: {one_line(names)}{', …' if len(folders) > 8 else ''}",
        )
    return folders[0] if folders else path


def _what_is_read() -> str:
    """The formats and their files, for a hint."""
    return "read are: " + "; ".join(
        f"{name} (cfg.json, {weights} with {tensor})" for name, (weights, tensor) in SIGNS.items()
    )
