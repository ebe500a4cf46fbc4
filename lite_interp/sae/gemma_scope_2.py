"""Gemma Scope 2, of Gemma 3: `params.safetensors` with lower-case names, often a `config.json`.

`{resid_post,attn_out,mlp_out,transcoder}[_all]/layer_<L>_width_<n>_l0_<size>[_affine]/`; a
cross-layer transcoder is a file for each layer, `clt/<name>/..._layer_<L>.safetensors`. JumpReLU;
b_dec is not subtracted before the encoder. Of a cross-layer transcoder one layer is read: its
encoder, and what it writes to its own layer.
Facts: model cards of google/gemma-scope-2-*; SAELens 6.54.12, gemma_3 loaders.
What a reader gets wrong most easily: transcoders read after the gain of the norm before the MLP;
`affine_skip_connection` is (d_in, d_out), the transpose of SAELens' W_skip; paths of the larger
models have `language_model` in them, which the configs leave out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import hash_file
from lite_interp.sae.circuit_tracer import PARTIAL
from lite_interp.sae.coder import SparseCoder
from lite_interp.sae.files import Assumptions, look, need_all, read_config, use_safetensors
from lite_interp.sae.gemma_scope import SHAPES

WEIGHTS = "params.safetensors"
"""Name of the weights file in a folder."""
SKIP = "affine_skip_connection"
"""Name of the linear path, (d_in, d_out)."""
N_LOOKED_AT = 64
"""Latents whose decoders tell which of its slices a cross-layer transcoder uses."""

SITES: dict[str, tuple[str, str]] = {
    "resid_post": ("", ""),
    "attn_out": (".self_attn.o_proj.input", ".self_attn.o_proj.input"),
    "mlp_out": (".post_feedforward_layernorm.output", ".post_feedforward_layernorm.output"),
    "transcoder": (".pre_feedforward_layernorm.output", ".post_feedforward_layernorm.output"),
    "clt": (".pre_feedforward_layernorm.output", ".post_feedforward_layernorm.output"),
}
"""What each kind of folder reads and writes, below `layers.<L>`."""


def is_one(path: Path) -> bool:
    """Whether a folder, or a file of another name, holds a coder of Gemma Scope 2."""
    if path.name == WEIGHTS:
        return False
    weights = _weights(path)
    return weights.suffix == ".safetensors" and set(SHAPES) <= set(look(weights))


def load(path: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read a coder of Gemma Scope 2; `overrides` replace keys of its config."""
    weights = _weights(path)
    beside = weights.parent / "config.json"
    config = (read_config(beside) if beside.is_file() else {}) | dict(overrides)
    known = Assumptions(config)
    architecture = known.get("architecture", "jump_relu")
    if architecture not in ("jump_relu", "jumprelu"):
        raise CoderError(
            f"architecture of the sparse coder is not read: {one_line(architecture)}",
            "of Gemma Scope 2 jump_relu is read",
        )
    raw = _read(weights, known)
    skip = {SKIP: ("d_in", "d_out")} if SKIP in raw else {}
    tensors = need_all(raw, SHAPES | skip, weights)
    n_latents = tensors["w_enc"].shape[1]
    width = config.get("width", n_latents)
    if isinstance(width, int) and width != n_latents:
        raise CoderError(
            f"w_enc of the sparse coder has {n_latents} latents, its config.json says {width}: "
            f"{one_line(weights)}"
        )
    reads, writes = _sites(weights, known)
    return SparseCoder(
        format="gemma_scope_2",
        hash=hash_file(weights),
        reads=reads,
        writes=writes,
        W_enc=tensors["w_enc"],
        b_enc=tensors["b_enc"],
        W_dec=tensors["w_dec"],
        b_dec=tensors["b_dec"],
        activation="jumprelu",
        threshold=tensors["threshold"],
        W_skip=tensors[SKIP].T.contiguous() if skip else None,
        provenance={
            "path": str(path),
            "config": config,
            "assumptions": known.notes,
            **({"partial": PARTIAL} if len(look(weights)["w_dec"]) == 3 else {}),
        },
    )


def _weights(path: Path) -> Path:
    """The weights file that a path means."""
    return path / WEIGHTS if path.is_dir() else path


def _read(weights: Path, known: Assumptions) -> dict[str, Tensor]:
    """All tensors, float32; of a cross-layer transcoder the decoder into its own layer."""
    shapes = look(weights)
    if len(shapes.get("w_enc", ())) == 3:
        raise CoderError(
            f"sparse coder is a crosscoder, which reads several layers at once: {one_line(weights)}"
        )

    def take(file: Any) -> dict[str, Tensor]:
        tensors = {}
        for name in file.keys():  # noqa: SIM118
            if name == "w_dec" and len(shapes[name]) == 3:
                # All its slices are many times the encoder, one is as large.
                part = file.get_slice(name)
                tensors[name] = part[:, _own_slice(part, weights, known), :]
            else:
                tensors[name] = file.get_tensor(name)
        return {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }

    return use_safetensors(weights, take)


def _own_slice(part: Any, weights: Path, known: Assumptions) -> int:
    """Which slice of a decoder (n_latents, n_layers, d_out) writes to the layer it reads.

    Slices stand for all layers of the model, of which the first are empty, or for the layers from
    its own on, of which the last are empty. Readers differ, so some latents are looked at.
    """
    layer, n_layers = _layer(weights), part.get_shape()[1]
    if layer is None or layer >= n_layers:
        raise CoderError(
            f"w_dec of the sparse coder writes to {n_layers} layers, and its file's name does not "
            f"say which is its own, as in params_layer_0.safetensors: {one_line(weights)}"
        )
    used = part[:N_LOOKED_AT].abs().sum((0, 2)) > 0
    if layer and used[:layer].any() and not used[n_layers - layer :].any():
        return 0
    if layer and used[:layer].any():
        known.notes.append("w_dec has no empty slices: they are taken to stand for all layers")
    return layer


def _sites(weights: Path, known: Assumptions) -> tuple[str, str]:
    """What is read and written: as overridden, as the config says, or as the path tells."""
    config = known.config
    told = _told_by_path(weights)
    spelled: list[str] = []
    for side, key in (("reads", "hf_hook_point_in"), ("writes", "hf_hook_point_out")):
        named = config.get(side) or _relative(config.get(key), weights)
        if named is None:
            named = told[len(spelled)]
            known.notes.append(f"{key} is missing: {named!r}, as the path tells")
        spelled.append(str(named))
    # Only the input may be named: then an autoencoder writes where it reads.
    return spelled[0], spelled[1] or spelled[0]


def _relative(named: Any, weights: Path) -> str | None:
    """A hookpoint of the config below the model, whatever wraps it; None if it is of no use."""
    found = re.fullmatch(r"(?:[a-z_]+\.)*?(layers\.(\d+)(?:\..+)?)", str(named))
    if not found:
        return None
    layer = _layer(weights)
    # One config may stand for all layers of a cross-layer transcoder.
    if weights.name != WEIGHTS and layer is not None and layer != int(found[2]):
        return None
    return found[1].removesuffix(".output")


def _told_by_path(weights: Path) -> tuple[str, str]:
    """The two hookpoints by the names of the folders; empty where they name none."""
    layer = _layer(weights)
    for folder in weights.absolute().parents:
        kind = folder.name.removesuffix("_all")
        if kind in SITES and layer is not None:
            reads, writes = SITES[kind]
            return f"layers.{layer}{reads}", f"layers.{layer}{writes}"
    return "", ""


def _layer(weights: Path) -> int | None:
    """The layer in the name of the file, or of its folder."""
    name = weights.absolute().parent.name if weights.name == WEIGHTS else weights.stem
    found = re.search(r"(?<![a-z])layer_(\d+)", name)
    return int(found[1]) if found else None
