"""EleutherAI sparsify: `<hookpoint>/cfg.json` and `<hookpoint>/sae.safetensors`.

The folder's name is the hookpoint, and it means the module's output; a transcoder reads the
module's input. `b_dec` is subtracted before the encoder unless `transcode` is true. A skip
connection alone makes a transcoder too, as Delphi has it, but its `b_dec` is subtracted.
Facts: github.com/EleutherAI/sparsify, sparse_coder.py, versions 0.0.1 to 1.3.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import hash_file
from lite_interp.sae.coder import Activation, SparseCoder
from lite_interp.sae.files import Assumptions, look, need_all, read_config, read_tensors

WEIGHTS = "sae.safetensors"
"""Name of the weights file."""
SHAPES: dict[str, tuple[str, ...]] = {
    "encoder.weight": ("n_latents", "d_in"),
    "encoder.bias": ("n_latents",),
    "W_dec": ("n_latents", "d_out"),
    "b_dec": ("d_out",),
}
"""Tensors and their sides."""


def is_one(folder: Path) -> bool:
    """Whether a folder holds a coder of sparsify."""
    return (folder / "cfg.json").is_file() and "encoder.weight" in look(folder / WEIGHTS)


def load(folder: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read a sparse coder that sparsify wrote; `overrides` replace keys of its config."""
    weights = folder / WEIGHTS
    config = read_config(folder / "cfg.json") | dict(overrides)
    known = Assumptions(config)
    raw = read_tensors(weights)
    tensors = need_all(
        raw, SHAPES | ({"W_skip": ("d_out", "d_in")} if "W_skip" in raw else {}), weights
    )
    encoder, b_dec, skip = tensors["encoder.weight"], tensors["b_dec"], tensors.get("W_skip")
    _check_shape(known, tuple(encoder.shape))
    transcode = bool(known.get("transcode", False))
    transcoder = transcode or skip is not None
    if transcoder and not transcode:
        known.notes.append("a skip connection without transcode: it reads its module's input")
    hookpoint = _hookpoint(folder)
    known.notes.append(f"the hookpoint is the folder's name: {hookpoint}")
    return SparseCoder(
        format="sparsify",
        hash=hash_file(weights),
        reads=f"{hookpoint}.input" if transcoder else hookpoint,
        writes=f"{hookpoint}.output" if transcoder else hookpoint,
        W_enc=encoder.T.contiguous(),
        b_enc=tensors["encoder.bias"],
        W_dec=tensors["W_dec"],
        b_dec=b_dec,
        activation=_activation(known),
        k=known.integer("k", 32),
        pre_bias=None if transcode else b_dec,
        W_skip=skip,
        provenance={"path": str(folder), "config": config, "assumptions": known.notes},
    )


def _activation(known: Assumptions) -> Activation:
    """Topk or groupmax; the old signed form is refused."""
    if known.config.get("signed"):
        raise CoderError(
            "sparse coder with `signed: true` has negative activations, which are not read"
        )
    name = known.get("activation", "topk")
    if name not in ("topk", "groupmax"):
        raise CoderError(
            f"activation of the sparse coder is not known: {one_line(name)}",
            "sparsify coders are read with topk and groupmax",
        )
    return name


def _check_shape(known: Assumptions, shape: tuple[int, ...]) -> None:
    """Compare the encoder (n_latents, d_in) with what the config says."""
    d_in = known.integer("d_in", shape[1])
    declared = known.integer("num_latents", 0)
    expected = declared or d_in * known.integer("expansion_factor", 32)
    if shape != (expected, d_in):
        raise CoderError(
            f"encoder.weight of the sparse coder has shape {shape}, "
            f"its cfg.json says {(expected, d_in)}"
        )


def _hookpoint(folder: Path) -> str:
    """The hookpoint a folder is named after; a folder `seed<N>` stands below it."""
    folder = folder.resolve()
    return folder.parent.name if re.fullmatch(r"seed\d+", folder.name) else folder.name
