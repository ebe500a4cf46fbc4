"""SAELens: `cfg.json` and `sae_weights.safetensors`, version 6 and the flat configs before it.

Facts: github.com/decoderesearch/SAELens, saes/*.py and loading/pretrained_sae_loaders.py, 6.54.12.
What a reader gets wrong most easily: architecture `standard` with a topk activation is a TopK
coder; before 6.0 a missing `apply_b_dec_to_input` means true; transcoders never subtract b_dec.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import hash_file
from lite_interp.sae.coder import Activation, Gate, SparseCoder, Transform
from lite_interp.sae.files import Assumptions, look, need_all, read_config, read_tensors, whole

WEIGHTS = "sae_weights.safetensors"
"""Name of the weights file."""

ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
"""Architectures that are read, and what they do to pre-activations."""

TRANSFORMS: dict[Any, Transform] = {
    "none": "none",
    False: "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "norm_rescale",
    "expected_average_only_in": "none",
    True: "none",
    "covariance_whitening": "none",
}
"""Input normalisation by its name in the config; the last three are folded into the weights."""


def is_one(folder: Path) -> bool:
    """Whether a folder holds a coder of SAELens."""
    return (folder / "cfg.json").is_file() and "W_dec" in look(folder / WEIGHTS)


def load(folder: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read a sparse coder that SAELens wrote; `overrides` replace keys of its config."""
    weights = folder / WEIGHTS
    known = Assumptions(_flat(read_config(folder / "cfg.json") | dict(overrides)))
    architecture = known.get("architecture", "standard")
    if not isinstance(architecture, str) or architecture not in ACTIVATIONS:
        raise CoderError(
            f"architecture of the sparse coder is not read: {one_line(architecture)}",
            "read are: " + ", ".join(ACTIVATIONS),
        )
    if known.config.get("hook_head_index") is not None:
        raise CoderError("sparse coder reads a single attention head, which is not supported")
    if "transcoder" in architecture and not known.config.get("hook_name_out"):
        raise CoderError(
            f"config of a transcoder does not say where it writes: {one_line(folder / 'cfg.json')}",
            "add the `hook_name_out` that it was trained on to the config",
        )
    activation = _activation(architecture, known)
    raw = read_tensors(weights)
    tensors = need_all(raw, _shapes(activation, architecture, raw), weights)
    _fold(tensors, known, folder)
    gated = activation == "gated"
    reads = str(known.get("hook_name", ""))
    return SparseCoder(
        format="saelens",
        hash=hash_file(weights),
        reads=reads,
        writes=str(known.config.get("hook_name_out") or reads),
        W_enc=tensors["W_enc"],
        b_enc=tensors["b_gate" if gated else "b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        activation=activation,
        k=_k(known) if activation == "topk" else None,
        threshold=tensors.get("threshold"),
        gate=Gate(tensors["r_mag"], tensors["b_mag"]) if gated else None,
        pre_bias=_pre_bias(architecture, known, tensors["b_dec"]),
        input_transform=_transform(known),
        W_skip=tensors.get("W_skip"),
        provenance={"path": str(folder), "config": known.config, "assumptions": known.notes},
    )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """One flat config: `metadata` of version 6 and the older names brought to today's."""
    metadata = config.get("metadata")
    flat = {**(metadata if isinstance(metadata, dict) else {}), **config}
    older = {
        "hook_name": ("hook_point",),
        "hook_head_index": ("hook_point_head_index",),
        "activation_fn": ("activation_fn_str",),
    }
    for name, others in older.items():
        for other in others:
            if flat.get(name) is None and flat.get(other) is not None:
                flat[name] = flat[other]
    return flat


def _activation(architecture: str, known: Assumptions) -> Activation:
    """What is done to pre-activations; old configs of `standard` name it apart."""
    named = known.config.get("activation_fn")
    if architecture == "standard" and named is not None:
        if named not in ("relu", "topk"):
            raise CoderError(
                f"activation of the sparse coder is not read: {one_line(named)}",
                "read are: relu, topk",
            )
        return named
    return ACTIVATIONS[architecture]


def _k(known: Assumptions) -> int:
    """Latents kept for each token: a key of its own, or an argument of the old activation."""
    arguments = known.config.get("activation_fn_kwargs")
    old = arguments.get("k") if isinstance(arguments, dict) else None
    k = known.config.get("k") if known.config.get("k") is not None else old
    return whole("k", k)


def _pre_bias(architecture: str, known: Assumptions, b_dec: Tensor) -> Tensor | None:
    """b_dec where it is subtracted from the input, else None."""
    if "transcoder" in architecture:
        return None
    return b_dec if known.get("apply_b_dec_to_input", True) else None


def _transform(known: Assumptions) -> Transform:
    """What is done to each token before the encoder."""
    name = known.get("normalize_activations", "none")
    if not isinstance(name, (str, bool)) or name not in TRANSFORMS:
        raise CoderError(f"normalisation of the sparse coder is not known: {one_line(name)}")
    if name in (True, "expected_average_only_in", "covariance_whitening"):
        known.notes.append(f"normalize_activations {name!r} is taken as folded into the weights")
    model = known.config.get("model_from_pretrained_kwargs")
    if isinstance(model, dict) and model.get("center_writing_weights"):
        known.notes.append("trained on centred writing weights: the mean over d_model is removed")
        if TRANSFORMS[name] == "none":
            return "centre"
    return TRANSFORMS[name]


def _shapes(
    activation: Activation, architecture: str, held: Mapping[str, Tensor]
) -> dict[str, tuple[str, ...]]:
    """Tensors that a coder needs, and their sides."""
    vectors = {"gated": ["b_gate", "b_mag", "r_mag"], "jumprelu": ["b_enc", "threshold"]}
    names = [*vectors.get(activation, ["b_enc"]), *{"scaling_factor"}.intersection(held)]
    return {
        "W_enc": ("d_in", "n_latents"),
        "W_dec": ("n_latents", "d_out"),
        "b_dec": ("d_out",),
        **dict.fromkeys(names, ("n_latents",)),
        **({"W_skip": ("d_out", "d_in")} if "skip" in architecture else {}),
    }


def _fold(tensors: dict[str, Tensor], known: Assumptions, folder: Path) -> None:
    """Bring scales that stand beside the weights into them, and note each."""
    scale = tensors.get("scaling_factor")
    if scale is not None and not torch.all(scale == 1):
        if not known.config.get("finetuning_scaling_factor"):
            raise CoderError(
                f"sparse coder has a scaling_factor that its config does not explain: "
                f"{one_line(folder / WEIGHTS)}"
            )
        tensors["W_dec"] = tensors["W_dec"] * scale[:, None]
        known.notes.append("finetuning scaling_factor folded into W_dec")
    if (folder / "activation_scaler.json").is_file():
        scaler = read_config(folder / "activation_scaler.json")
        known.config = {**known.config, "activation_scaler": scaler}
        if scaler.get("has_whitening"):
            raise CoderError(
                f"sparse coder with unfolded whitening is not read: {one_line(folder)}"
            )
        if factor := scaler.get("scaling_factor"):
            if not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
                raise CoderError(
                    f"scaling_factor of activation_scaler.json is no scale: {one_line(factor)}"
                )
            tensors["W_enc"] = tensors["W_enc"] * factor
            tensors["W_dec"] = tensors["W_dec"] / factor
            tensors["b_dec"] = tensors["b_dec"] / factor
            known.notes.append(f"scaling_factor {factor} of activation_scaler.json folded")
    # After the scale, as when training ends: it changes the norms, and so the activations' unit.
    if known.config.get("rescale_acts_by_decoder_norm"):
        if "b_enc" not in tensors:
            raise CoderError("rescale_acts_by_decoder_norm of the sparse coder, but no b_enc")
        norm = tensors["W_dec"].norm(dim=-1)
        tensors["W_enc"] = tensors["W_enc"] * norm
        tensors["b_enc"] = tensors["b_enc"] * norm
        tensors["W_dec"] = tensors["W_dec"] / norm[:, None]
        known.notes.append("rescale_acts_by_decoder_norm: decoder norms folded")
