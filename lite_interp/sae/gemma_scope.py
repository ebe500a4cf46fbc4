"""Gemma Scope 1: `params.npz` and no config; where it reads is told by the path alone.

`.../gemma-scope-<size>-<pt|it>-<kind>/layer_<L>/width_<n>/average_l0_<n>/params.npz`. JumpReLU;
b_dec is not subtracted before the encoder, no scale is left to fold.
Facts: model cards of google/gemma-scope-*; SAELens 6.54.12, gemma_2 loaders.
What a reader gets wrong most easily: `mlp` reads after the norm that follows the MLP, not the MLP's
own output; transcoders read the normalised stream before the norm's gain; `att` reads z.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lite_interp.ids import hash_file
from lite_interp.sae.coder import SparseCoder
from lite_interp.sae.files import look, need_all, read_npz

WEIGHTS = "params.npz"
"""Name of the weights file."""

SHAPES: dict[str, tuple[str, ...]] = {
    "w_enc": ("d_in", "n_latents"),
    "w_dec": ("n_latents", "d_out"),
    "b_enc": ("n_latents",),
    "b_dec": ("d_out",),
    "threshold": ("n_latents",),
}
"""Tensors and their sides; in files the first letter of the weights is a capital or not."""

SITES: dict[str, tuple[str, str]] = {
    "res": ("hook_resid_post", "hook_resid_post"),
    "mlp": ("hook_mlp_out", "hook_mlp_out"),
    "att": ("attn.hook_z", "attn.hook_z"),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}
"""What each kind of repository reads and writes in its layer."""


def is_one(folder: Path) -> bool:
    """Whether a folder holds a coder of Gemma Scope 1."""
    return set(SHAPES) <= {name.lower() for name in look(folder / WEIGHTS)}


def load(folder: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read a coder of Gemma Scope 1; `overrides` may say what it `reads` and `writes`."""
    weights = folder / WEIGHTS
    raw = {
        name if name == "threshold" else name.lower(): tensor
        for name, tensor in read_npz(weights).items()
    }
    tensors = need_all(raw, SHAPES, weights)
    config, notes = _place(folder)
    config |= overrides
    if config.get("embedding"):
        _scale(tensors)
        notes.append(
            "trained on embeddings before their scale sqrt(d_in): the scale is folded, of b_dec too"
        )
    reads = str(config.get("reads", ""))
    return SparseCoder(
        format="gemma_scope",
        hash=hash_file(weights),
        reads=reads,
        writes=str(config.get("writes") or reads),
        W_enc=tensors["w_enc"],
        b_enc=tensors["b_enc"],
        W_dec=tensors["w_dec"],
        b_dec=tensors["b_dec"],
        activation="jumprelu",
        threshold=tensors["threshold"],
        provenance={"path": str(folder), "config": config, "assumptions": notes},
    )


def _place(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What the path says, as a config, and a note on what was taken from it."""
    path = folder.absolute().as_posix()
    config: dict[str, Any] = {}
    for key, pattern in (("l0", r"average_l0_(\d+)"), ("layer", r"layer_(\d+)")):
        if found := re.findall(rf"(?<![^/]){pattern}(?![^/])", path):
            config[key] = int(found[-1])
    kinds = re.findall(r"gemma-scope-\w+-[pi]t-(res|mlp|att|transcoders)(?![^/])", path)
    if re.search(r"/embedding/width_\w+(/|$)", path):
        config |= {"embedding": True, "reads": "embed_tokens", "writes": "embed_tokens"}
    elif kinds and "layer" in config:
        points = [f"blocks.{config['layer']}.{point}" for point in SITES[kinds[-1]]]
        config |= {"kind": kinds[-1], "reads": points[0], "writes": points[1]}
    else:
        return config, [
            "reads is missing: the path names no kind of gemma-scope repository and no layer"
        ]
    return config, [f"the hookpoint is told by the path: {config['reads']}"]


def _scale(tensors: dict[str, Tensor]) -> None:
    """Fold the scale of Gemma's embeddings, sqrt(d_in), which a subject's module has applied."""
    scale = tensors["w_enc"].shape[0] ** 0.5
    tensors["w_enc"] = tensors["w_enc"] / scale
    tensors["w_dec"] = tensors["w_dec"] * scale
    tensors["b_dec"] = tensors["b_dec"] * scale
