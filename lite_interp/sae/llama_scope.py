"""Llama Scope and all that OpenMOSS' lm-saes, now llamascopium, wrote: three generations.

1. `hyperparams.json`, `checkpoints/final.safetensors` (Llama Scope, 2024): activations in the
   subject's own scale, decoder directions of length 1, one threshold for all latents.
2. `config.json`, `sae_weights.safetensors` with `encoder.weight` (Llama Scope R1-Distill, 2025).
3. The same with `W_E` (llamascopium 2, 2026). Both: activations in the scale of training, where the
   mean length of an input vector is sqrt(d_in), and a threshold for each latent.

Where a length of training is missing, nothing says how large an input is, so it is refused. With
`sparsity_include_decoder_norm` a pre-activation competes as p |d|, d its decoder direction.
Facts: github.com/OpenMOSS/Language-Model-SAEs, trees 2320def2 and 95281ac. SAELens reads the first
generation in the scale of training: its activations are sqrt(d_in) / length times ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import hash_file
from lite_interp.sae.coder import SparseCoder, Transform
from lite_interp.sae.files import Assumptions, look, need_all, read_config, read_weights

OLD_CONFIG = "hyperparams.json"
"""Config of the first generation."""
WEIGHTS = tuple(
    f"{stem}.{kind}"
    for stem in ("sae_weights", "checkpoints/pruned", "checkpoints/final")
    for kind in ("safetensors", "pt", "dcp")
)
"""Where weights may be, in the order in which their own code looks."""
LENGTH = "dataset_average_activation_norm"
"""Key, and start of the names of tensors, that hold the mean length of an activation vector."""
LEAST, MOST = 1e-4, 1e6
"""What a mean length may be: a tensor that was never set holds anything."""

LINEAR: dict[str, tuple[str, ...]] = {
    "encoder.weight": ("n_latents", "d_in"),
    "encoder.bias": ("n_latents",),
    "decoder.weight": ("d_out", "n_latents"),
}
"""Tensors of the first two generations, and their sides; `decoder.bias` may lack."""
MATRICES: dict[str, tuple[str, ...]] = {
    "W_E": ("d_in", "n_latents"),
    "b_E": ("n_latents",),
    "W_D": ("n_latents", "d_out"),
}
"""Tensors of the third; `b_D` may lack."""
THRESHOLDS = ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold")
"""Names of the logarithms of the thresholds."""

REFUSED: dict[str, str] = {
    "crosscoder": "it reads several hookpoints at once",
    "clt": "it reads and writes several layers at once",
    "lorsa": "it is an attention layer and needs the whole sequence",
    "molt": "its latents are matrices, not directions",
    "mixcoder": "its latents are split by modality",
}
"""Kinds of sparse dictionaries that are no sparse coder of one hookpoint."""


class Weights(NamedTuple):
    """Encoder and decoder in our orientation, as stored."""

    W_enc: Tensor
    """(d_in, n_latents)"""
    b_enc: Tensor
    """(n_latents,)"""
    W_dec: Tensor
    """(n_latents, d_out)"""
    b_dec: Tensor
    """(d_out,)"""
    log_threshold: Tensor | None
    """(n_latents,) logarithms of the thresholds, if there are any."""


def is_one(folder: Path) -> bool:
    """Whether a folder holds what OpenMOSS' library wrote, also of a kind that is refused."""
    file = _weights_file(folder)
    if file is None:
        return False
    try:
        config = read_config(_config_file(folder))
    except CoderError:
        return False
    if isinstance(config.get("sae_type"), str):
        return True
    return "hook_point_in" in config and any(
        set(names) <= set(look(file)) for names in (LINEAR, MATRICES)
    )


def load(folder: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read a sparse coder of OpenMOSS' library, of any generation.

    Args:
        folder: where its config is.
        overrides: keys that replace those of its config; `reads` and `writes` are hookpoints in
            place of those it names.

    Raises:
        CoderError: it is of a kind that is not read, or its files are wrong.
    """
    file = _weights_file(folder)
    if file is None:
        raise CoderError(
            f"sparse coder has a config and no weights: {one_line(folder)}",
            f"sought were: {', '.join(WEIGHTS)}",
        )
    config = read_config(_config_file(folder))
    known = Assumptions({**config, **overrides})
    old = (folder / OLD_CONFIG).is_file()
    if not old:
        known.get("sae_type", "sae")
    _refuse(known, file)
    tensors = _tensors(file)
    activation = _activation(known)
    weights = _stored(tensors, known, file, activation == "jumprelu" and not old)
    sites, named = _sites(known), known.config.get("reads")
    rule = known.get("norm_activation", "dataset-wise")
    scales = (1.0, 1.0)
    if rule == "dataset-wise":
        scales = _scales(known, tensors, sites, weights)
    parts = (_first if old else _later)(weights, scales, known, activation)
    return SparseCoder(
        format="llama_scope",
        hash=hash_file(file),
        reads=str(named or sites[0]),
        writes=str(known.config.get("writes") or named or sites[1]),
        **parts,
        pre_bias=_pre_bias(known, parts["b_dec"], sites),
        input_transform=_transform(rule, sites),
        provenance={"path": str(folder), "config": known.config, "assumptions": known.notes},
    )


def _config_file(folder: Path) -> Path:
    """The config of the oldest generation a folder is of."""
    old = folder / OLD_CONFIG
    return old if old.is_file() else folder / "config.json"


def _weights_file(folder: Path) -> Path | None:
    """The weights that their own code would read."""
    return next((folder / name for name in WEIGHTS if (folder / name).exists()), None)


def _refuse(known: Assumptions, file: Path) -> None:
    """Refuse what is no affine encoder of one hookpoint, or is stored in many files."""
    kind = known.config.get("sae_type") or "sae"
    if kind != "sae":
        reason = REFUSED.get(str(kind), "no such kind is known")
        raise CoderError(
            f"sparse dictionary of type {one_line(kind)} is not read: {reason}: {one_line(file)}"
        )
    if known.config.get("use_glu_encoder"):
        raise CoderError(
            f"sparse coder with use_glu_encoder is not read: W_E_glu makes its encoder more than "
            f"one matrix: {one_line(file)}"
        )
    if file.suffix == ".dcp":
        raise CoderError(
            f"weights in torch's distributed form are not read: {one_line(file)}",
            "save them again with llamascopium, as sae_weights.safetensors",
        )


def _tensors(file: Path) -> Mapping[str, Any]:
    """All tensors of the file; in a .pt they are below the key `sae`."""
    held = read_weights(file)
    if file.suffix != ".pt" or not isinstance(held.get("sae"), dict):
        return held
    inner: dict[str, Any] = {}
    for name, value in held["sae"].items():
        whole = isinstance(value, Tensor) and not value.is_sparse
        if not whole or value.nbytes > value.untyped_storage().nbytes():
            raise CoderError(
                f"{one_line(name)} of the sparse coder is no tensor that the file holds whole: "
                f"{one_line(file)}"
            )
        inner[str(name)] = value.float() if value.is_floating_point() else value
    return inner


def _stored(
    tensors: Mapping[str, Any], known: Assumptions, file: Path, has_thresholds: bool
) -> Weights:
    """Encoder and decoder in our orientation, of the width that the config says."""
    third = "W_E" in tensors
    names, bias = (MATRICES, "b_D") if third else (LINEAR, "decoder.bias")
    shapes = dict(names)
    if known.get("use_decoder_bias", True):
        shapes[bias] = ("d_out",)
    threshold = next((name for name in THRESHOLDS if name in tensors), THRESHOLDS[third])
    if has_thresholds:
        shapes[threshold] = ("n_latents",)
    taken = need_all(tensors, shapes, file)
    encoder, b_enc, decoder = (taken[name] for name in names)
    if not third:
        encoder, decoder = encoder.T.contiguous(), decoder.T.contiguous()
    width = known.config.get("d_model")
    for name, own in (("encoder", encoder.shape[0]), ("decoder", decoder.shape[1])):
        if width is not None and width != own:
            raise CoderError(
                f"{name} of the sparse coder has width {own}, its config says d_model = "
                f"{one_line(width)}: {one_line(file)}"
            )
    b_dec = taken.get(bias, decoder.new_zeros(decoder.shape[1]))
    return Weights(encoder, b_enc, decoder, b_dec, taken.get(threshold))


def _sites(known: Assumptions) -> tuple[str, str]:
    """Where it reads and writes, as it is spelled in the config."""
    reads = str(known.get("hook_point_in", ""))
    return reads, str(known.get("hook_point_out", reads))


def _scales(
    known: Assumptions, tensors: Mapping[str, Any], sites: tuple[str, str], weights: Weights
) -> tuple[float, float]:
    """sqrt(d) / mean length of the activations, for what is read and what is written."""
    lengths = known.config.get(LENGTH)
    if not isinstance(lengths, dict):
        lengths = {}
    found = []
    sides = zip(("in", "out"), sites, (weights.W_enc.shape[0], weights.W_dec.shape[1]), strict=True)
    for side, site, width in sides:
        stored = tensors.get(f"{LENGTH}.{site}")
        value = lengths.get(side, lengths.get(site, stored))
        if isinstance(value, Tensor):
            value = value.item() if value.numel() == 1 else None
        # NaN is no number between the two.
        if isinstance(value, bool) or not isinstance(value, int | float):
            value = math.nan
        if not LEAST < value < MOST:
            raise CoderError(
                f"{LENGTH} of the sparse coder is missing, or no length, for {one_line(site)}: "
                f"{one_line(lengths.get(side, stored))}",
                f'say it: {LENGTH} = {{"in": 12.5, "out": 12.5}}, or norm_activation = inference '
                "if it is folded into the weights",
            )
        found.append(width**0.5 / value)
    return found[0], found[1]


def _first(
    weights: Weights, scales: tuple[float, float], known: Assumptions, activation: str
) -> dict[str, Any]:
    """The first generation: the scale is folded, then decoder norms, then comes the threshold."""
    read, written = scales
    b_enc, w_dec = weights.b_enc / read, weights.W_dec * (read / written)
    parts = {"W_enc": weights.W_enc, "b_enc": b_enc, "W_dec": w_dec}
    if known.get("sparsity_include_decoder_norm", True):
        parts = _scaled(weights.W_enc, b_enc, w_dec, w_dec.norm(dim=1))
        known.notes.append("activations are scaled by the decoder norms, which become 1")
    parts["b_dec"] = weights.b_dec / written
    threshold = known.get("jump_relu_threshold", 0.0)
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not number or not 0 <= threshold < MOST:
        raise CoderError(
            f"jump_relu_threshold of the sparse coder is no threshold: {one_line(threshold):.60}"
        )
    if activation == "relu" or (activation == "topk" and threshold <= 0):
        return parts | {"activation": activation, "k": _k(known, activation)}
    if activation == "topk":
        known.notes.append("act_fn topk with a jump_relu_threshold: run as jumprelu")
    return parts | {"activation": "jumprelu", "threshold": torch.full_like(b_enc, threshold)}


def _later(
    weights: Weights, scales: tuple[float, float], known: Assumptions, activation: str
) -> dict[str, Any]:
    """Later generations: all is in the scale of training, and activations stay in it."""
    read, written = scales
    w_enc, b_enc, w_dec = weights.W_enc * read, weights.b_enc, weights.W_dec / written
    parts = {"W_enc": w_enc, "b_enc": b_enc, "W_dec": w_dec}
    by_norm = known.get("sparsity_include_decoder_norm", True)
    norm = weights.W_dec.norm(dim=1)
    if activation == "topk" and by_norm:
        # p |d| is what latents compete with; only as their activation can it order them here.
        parts = _scaled(w_enc, b_enc, w_dec, norm)
        known.notes.append("activations are scaled by the decoder norms")
    extra: dict[str, Any] = {"activation": activation, "k": _k(known, activation)}
    if weights.log_threshold is not None:
        threshold = weights.log_threshold.exp()
        # Without a direction, p |d| is 0 and nothing fires: no p is above infinity or NaN.
        extra["threshold"] = threshold / norm if by_norm else threshold
    return {**parts, "b_dec": weights.b_dec / written, **extra}


def _scaled(w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, norm: Tensor) -> dict[str, Any]:
    """The same coder with activations scaled by decoder norms; one of 0 leaves a dead latent."""
    safe = norm.where(norm > 0, 1)[:, None]
    return {"W_enc": w_enc * norm, "b_enc": b_enc * norm, "W_dec": w_dec / safe}


def _activation(known: Assumptions) -> str:
    """What is done to pre-activations; what depends on other tokens of a batch is refused."""
    name = str(known.get("act_fn", "relu")).lower()
    if name in ("batchtopk", "batchlayertopk", "layertopk"):
        raise CoderError(
            f"activation of the sparse coder depends on its batch: {name}",
            "convert it to jumprelu with llamascopium",
        )
    if name not in ("relu", "topk", "jumprelu"):
        raise CoderError(
            f"activation of the sparse coder is not known: {one_line(name)}",
            "of OpenMOSS' coders relu, topk and jumprelu are read",
        )
    return name


def _k(known: Assumptions, activation: str) -> int | None:
    """Latents kept for each token, for topk."""
    return known.integer("top_k", 50) if activation == "topk" else None


def _pre_bias(known: Assumptions, b_dec: Tensor, sites: tuple[str, str]) -> Tensor | None:
    """b_dec where it is subtracted from the input, else None."""
    if not known.get("apply_decoder_bias_to_pre_encoder", False):
        return None
    if sites[0] != sites[1]:
        raise CoderError(
            "transcoder with apply_decoder_bias_to_pre_encoder is not read: b_dec of the sparse "
            "coder is in the scale of what it writes, its input is not"
        )
    return b_dec


def _transform(rule: Any, sites: tuple[str, str]) -> Transform:
    """What is done to each token before the encoder."""
    if rule in ("dataset-wise", "inference"):
        return "none"
    if rule == "token-wise" and sites[0] == sites[1]:
        return "norm_rescale"
    reason = {
        "token-wise": "the length of what a transcoder writes is not known from what it reads",
        "batch-wise": "activations would depend on their batch",
    }
    raise CoderError(
        f"norm_activation of the sparse coder is not read: {one_line(rule)}: "
        f"{reason.get(str(rule), 'no such rule is known')}"
    )
