"""Sparse coders from files: which format it is, and how it is read.

A format is known by its files and the names of its tensors, never by the name of its folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lite_interp.errors import CoderError, nearest, one_line
from lite_interp.sae import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    llama_scope,
    openai,
    qwen_scope,
    saelens,
    sparsify,
)
from lite_interp.sae.check import (
    Fit,
    check_fits,
    measure_fit,
    refuse_bad_fit,
    valid_positions,
)
from lite_interp.sae.coder import Encoded, Fired, SparseCoder
from lite_interp.sae.encoder import Encoder, make_encoder
from lite_interp.sae.files import READERS, shapes_of
from lite_interp.sae.neurons import NEURONS
from lite_interp.sae.random_coder import RANDOM, Recipe, make_recipe, randomised
from lite_interp.sae.refused import reason_against

__all__ = [
    "FORMATS",
    "RANDOM",
    "Encoded",
    "Encoder",
    "Fired",
    "Fit",
    "Format",
    "Recipe",
    "SparseCoder",
    "check_fits",
    "detect",
    "find_coders",
    "load_coder",
    "make_encoder",
    "make_recipe",
    "measure_fit",
    "randomised",
    "refuse_bad_fit",
    "valid_positions",
]


class Format(NamedTuple):
    """How sparse coders of one origin are known and read; each is a folder, or one file of many."""

    load: Callable[[Path, Mapping[str, Any]], SparseCoder]
    """Reads it from a folder or file and overrides of its config."""
    is_one: Callable[[Path], bool]
    """Whether there is one right at a folder or file; False for whatever is odd, never an error."""
    what: str
    """Its files and tensors, for a hint."""


FORMATS: dict[str, Format] = {
    "saelens": Format(saelens.load, saelens.is_one, "cfg.json, sae_weights.safetensors with W_dec"),
    "sparsify": Format(
        sparsify.load, sparsify.is_one, "cfg.json, sae.safetensors with encoder.weight"
    ),
    "gemma_scope": Format(gemma_scope.load, gemma_scope.is_one, "params.npz with W_enc, threshold"),
    "gemma_scope_2": Format(
        gemma_scope_2.load,
        gemma_scope_2.is_one,
        "params.safetensors, or a file for each layer, with w_enc, threshold",
    ),
    "dictionary_learning": Format(
        dictionary_learning.load, dictionary_learning.is_one, "ae.pt, config.json with trainer"
    ),
    "llama_scope": Format(
        llama_scope.load,
        llama_scope.is_one,
        "hyperparams.json or config.json, sae_weights or checkpoints/final with encoder.weight or "
        "W_E",
    ),
    "openai": Format(openai.load, openai.is_one, "a .pt with pre_bias, latent_bias"),
    "goodfire": Format(
        goodfire.load, goodfire.is_one, "a .pt or .pth with encoder_linear.weight or encoder.weight"
    ),
    "qwen_scope": Format(
        qwen_scope.load, qwen_scope.is_one, "a .pt for each layer with W_enc, W_dec"
    ),
    "circuit_tracer": Format(
        circuit_tracer.load,
        circuit_tracer.is_one,
        "layer_<i>.safetensors, or W_enc_<i>.safetensors and W_dec_<i>.safetensors",
    ),
}
"""Every format, in the order in which they are tried."""


def detect(path: Path) -> str | None:
    """The format of the sparse coder right at a folder or file; None if none is read there."""
    found = _right_at(path)
    return found[0] if found else None


def find_coders(path: str | Path) -> list[Path]:
    """Folders and files at or below a path that are sparse coders, in natural order of names."""
    found = {place for file in _weights(Path(path).expanduser()) for _, place in _at_file(file)}
    return sorted(found, key=_natural)


def load_coder(
    path: str | Path, format: str | None = None, overrides: Mapping[str, Any] | None = None
) -> SparseCoder:
    """Read a sparse coder.

    Args:
        path: its folder, a file in it, or a folder with exactly one sparse coder below.
        format: name in FORMATS; None = found from files and tensor names.
        overrides: keys that replace those of its config, kept in its provenance.

    Raises:
        CoderError: there is none, there are several, or it is not one that is read.
    """
    if format is not None and format not in FORMATS:
        raise CoderError(
            f"no such format of sparse coders: {one_line(format)}", nearest(format, FORMATS)
        )
    given = Path(path).expanduser()
    if not given.exists():
        raise CoderError(f"no such folder or file: {one_line(given)}", _what_is_read())
    found = _right_at(given) or _only_one_below(given)
    if format is not None:
        return FORMATS[format].load(found[1] if found else given, dict(overrides or {}))
    if found is None:
        raise _not_read(given)
    name, place = found
    return FORMATS[name].load(place, dict(overrides or {}))


def _right_at(path: Path) -> tuple[str, Path] | None:
    """Format and place of the coder that a path itself means."""
    if path.is_file():
        return next(_at_file(path), None)
    return next(((name, path) for name, each in FORMATS.items() if each.is_one(path)), None)


def _at_file(file: Path) -> Iterator[tuple[str, Path]]:
    """Format and place of the coder that a file is, or belongs to; one or none."""
    # Weights may lie a folder below the config; but what lies nearer comes first.
    for places in ((file.parent, file), (file.parent.parent,)):
        for name, each in FORMATS.items():
            for place in places:
                if each.is_one(place):
                    yield name, place
                    return


def _only_one_below(path: Path) -> tuple[str, Path] | None:
    """The one coder below a folder; None if there is none."""
    places = find_coders(path)
    if len(places) > 1:
        names = ", ".join(str(place.relative_to(path)) for place in places[:8])
        raise CoderError(
            f"{len(places)} sparse coders below this folder: {one_line(path)}",
            f"choose one: {one_line(names)}{', …' if len(places) > 8 else ''}",
        )
    return _right_at(places[0]) if places else None


def _weights(path: Path) -> list[Path]:
    """Files at or below a path that may hold weights."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sorted(
        (file for file in files if file.suffix in READERS and file.is_file()), key=_natural
    )


def _natural(path: Path) -> list[Any]:
    """A key by which layers.2 comes before layers.10."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _not_read(path: Path) -> CoderError:
    """The error for a path without a coder: why its weights are not read, if that is known."""
    for file in _weights(path):
        if known := reason_against(file):
            return known
        try:
            shapes_of(file)
        except CoderError as error:
            return error
    return CoderError(f"no sparse coder that is read: {one_line(path)}", _what_is_read())


def _what_is_read() -> str:
    """The formats and their files, for a hint."""
    formats = "; ".join(f"{name} ({each.what})" for name, each in FORMATS.items())
    return f"read are: {formats}; and {NEURONS}:LAYER, MLP neurons of the subject, no file"
