"""EleutherAI sparsify: `<hookpoint>/cfg.json` and `<hookpoint>/sae.safetensors`.

The folder's name is the hookpoint, and it means the module's output; a transcoder reads the
module's input. `b_dec` is subtracted before the encoder, except in a transcoder.
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
from lite_interp.sae.files import Assumptions, need, read_config, read_tensors

WEIGHTS = "sae.safetensors"
"""Name of the weights file."""


def load(folder: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read a sparse coder that sparsify wrote; `overrides` replace keys of its config."""
    weights = folder / WEIGHTS
    config = read_config(folder / "cfg.json") | dict(overrides)
    known = Assumptions(config)
    tensors = read_tensors(weights)
    encoder = need(tensors, "encoder.weight", weights)
    decoder = need(tensors, "W_dec", weights)
    b_dec = need(tensors, "b_dec", weights)
    _check_shape(known, tuple(encoder.shape))
    skip = tensors.get("W_skip")
    transcoder = bool(known.get("transcode", False)) or skip is not None
    hookpoint = _hookpoint(folder)
    known.notes.append(f"the hookpoint is the folder's name: {hookpoint}")
    return SparseCoder(
        format="sparsify",
        hash=hash_file(weights),
        reads=f"{hookpoint}.input" if transcoder else hookpoint,
        writes=f"{hookpoint}.output" if transcoder else hookpoint,
        W_enc=encoder.T.contiguous(),
        b_enc=need(tensors, "encoder.bias", weights),
        W_dec=decoder,
        b_dec=b_dec,
        activation=_activation(known),
        k=known.integer("k", 32),
        pre_bias=None if transcoder else b_dec,
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
    if len(shape) != 2:
        raise CoderError(f"encoder.weight of the sparse coder is no matrix: shape {shape}")
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
