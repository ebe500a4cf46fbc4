"""dictionary_learning: `ae.pt`, and `config.json` with the key `trainer`.

Facts: github.com/saprmarks/dictionary_learning, dictionary.py, trainers/*.py and utils.py, 0.1.0.
What a reader gets wrong most easily: the classes differ in what they subtract (AutoEncoder `bias`,
GatedAutoEncoder `decoder_bias`, the top-k classes `b_dec`, AutoEncoderNew and JumpReluAutoEncoder
nothing, though all add it back), and BatchTopK runs with its one threshold, not with its k, which
would make activations depend on the neighbours in a batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import hash_file
from lite_interp.sae.coder import Gate, SparseCoder
from lite_interp.sae.files import Assumptions, need_all, read_config, read_pt, refuse_other_sizes

WEIGHTS = "ae.pt"
"""Name of the weights file."""

Parts = dict[str, Any]
"""Fields of a SparseCoder."""

_LINEAR: dict[str, tuple[str, ...]] = {
    "encoder.weight": ("n_latents", "d_in"),
    "encoder.bias": ("n_latents",),
    "decoder.weight": ("d_in", "n_latents"),
}
_MATRICES: dict[str, tuple[str, ...]] = {
    "W_enc": ("d_in", "n_latents"),
    "b_enc": ("n_latents",),
    "W_dec": ("n_latents", "d_in"),
    "b_dec": ("d_in",),
}
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "AutoEncoder": {**_LINEAR, "bias": ("d_in",)},
    "AutoEncoderNew": {**_LINEAR, "decoder.bias": ("d_in",)},
    "AutoEncoderTopK": {**_LINEAR, "b_dec": ("d_in",)},
    "BatchTopKSAE": {**_LINEAR, "b_dec": ("d_in",), "threshold": ()},
    "MatryoshkaBatchTopKSAE": {**_MATRICES, "threshold": ()},
    "GatedAutoEncoder": {
        "encoder.weight": ("n_latents", "d_in"),
        "gate_bias": ("n_latents",),
        "r_mag": ("n_latents",),
        "mag_bias": ("n_latents",),
        "decoder.weight": ("d_in", "n_latents"),
        "decoder_bias": ("d_in",),
    },
    "JumpReluAutoEncoder": {**_MATRICES, "threshold": ("n_latents",)},
}
"""Classes that are read, and the sides of their tensors."""

BESIDE: dict[str, set[str]] = {
    "AutoEncoderTopK": {"k", "threshold"},
    "BatchTopKSAE": {"k"},
    "MatryoshkaBatchTopKSAE": {"k", "group_sizes"},
}
"""What else a class may hold beside its tensors; the threshold of AutoEncoderTopK is not used."""

POINTS = {
    "resid_post": ("hook_resid_pre", "hook_resid_post"),
    "mlp_out": ("mlp.hook_in", "mlp.hook_out"),
}
"""Input and output of the module that a `submodule_name` such as `resid_post_layer_8` means."""


def is_one(folder: Path) -> bool:
    """Whether a folder holds a coder of dictionary_learning."""
    try:
        return (folder / WEIGHTS).is_file() and isinstance(
            read_config(folder / "config.json").get("trainer"), dict
        )
    except CoderError:
        return False


def load(folder: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read a sparse coder that dictionary_learning trained.

    Args:
        folder: where `ae.pt` and `config.json` are.
        overrides: keys that replace those of the `trainer` and `buffer` in its config; `reads`
            and `writes` are hookpoints that replace what these say.

    Raises:
        CoderError: it is of a class that is not read, or its files are wrong.
    """
    weights = folder / WEIGHTS
    known = Assumptions(_flat(read_config(folder / "config.json")) | dict(overrides))
    tensors = read_pt(weights)
    name = _class(known, tensors, weights)
    taken = need_all(tensors, LAYOUTS[name], weights)
    parts = READERS[name](taken, known)
    if name == "AutoEncoderTopK":
        parts["k"] = _k(tensors, known)
    _check(parts, tensors, known, weights)
    reads, writes = _sites(known)
    return SparseCoder(
        format="dictionary_learning",
        hash=hash_file(weights),
        reads=reads,
        writes=writes,
        **parts,
        provenance={"path": str(folder), "config": known.config, "assumptions": known.notes},
    )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `buffer` and `trainer`, as one."""
    flat: dict[str, Any] = {}
    for key in ("buffer", "trainer"):
        flat |= config[key] if isinstance(config.get(key), dict) else {}
    return flat


def _class(known: Assumptions, tensors: Mapping[str, Any], weights: Path) -> str:
    """The class that the config names, compared with what the file holds."""
    fits = [
        name
        for name, layout in LAYOUTS.items()
        if set(layout) <= set(tensors) <= set(layout) | BESIDE.get(name, set())
    ]
    name = known.config.get("dict_class")
    if name is None:
        if len(fits) != 1:
            raise CoderError(
                f"dict_class of the sparse coder is missing, and its tensors do not tell: "
                f"{one_line(weights)}",
                "name it: dict_class = " + ", ".join(fits or LAYOUTS),
            )
        name = known.get("dict_class", fits[0])
    if not isinstance(name, str) or name not in LAYOUTS:
        raise CoderError(
            f"class of the sparse coder is not read: {one_line(name)}",
            "read are: " + ", ".join(LAYOUTS),
        )
    extra = set(tensors) - set(LAYOUTS[name]) - BESIDE.get(name, set())
    if extra:
        raise CoderError(
            f"sparse coder has tensors that no {name} has: {one_line(', '.join(sorted(extra)))}: "
            f"{one_line(weights)}",
            f"its tensors are those of {fits[0]}" if fits else "",
        )
    return name


def _auto_encoder(tensors: Mapping[str, Tensor], known: Assumptions) -> Parts:
    """Rescaled to decoder directions of length 1, as the trainer's own loader does."""
    norm = tensors["decoder.weight"].norm(dim=0)
    norm = norm.where(norm > 0, 1)
    known.notes.append("activations are scaled by the decoder norms, which become 1")
    return {
        "W_enc": (tensors["encoder.weight"] * norm[:, None]).T.contiguous(),
        "b_enc": tensors["encoder.bias"] * norm,
        "W_dec": (tensors["decoder.weight"] / norm).T.contiguous(),
        "b_dec": tensors["bias"],
        "pre_bias": tensors["bias"],
        "activation": "relu",
    }


def _auto_encoder_new(tensors: Mapping[str, Tensor], _: Assumptions) -> Parts:
    """Nothing is subtracted."""
    return {**_linear(tensors), "b_dec": tensors["decoder.bias"], "activation": "relu"}


def _top_k(tensors: Mapping[str, Tensor], _: Assumptions) -> Parts:
    """The k largest of each token."""
    bias = tensors["b_dec"]
    return {**_linear(tensors), "b_dec": bias, "pre_bias": bias, "activation": "topk"}


def _batch_top_k(tensors: Mapping[str, Tensor], known: Assumptions) -> Parts:
    """One threshold for all latents."""
    bias = tensors["b_dec"]
    parts = {**_linear(tensors), "b_dec": bias, "pre_bias": bias}
    return parts | _one_threshold(tensors, known)


def _matryoshka(tensors: Mapping[str, Tensor], known: Assumptions) -> Parts:
    """Like BatchTopK; all groups are used."""
    parts = {name: tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    return parts | {"pre_bias": tensors["b_dec"]} | _one_threshold(tensors, known)


def _gated(tensors: Mapping[str, Tensor], _: Assumptions) -> Parts:
    """A gate beside the magnitude."""
    bias = tensors["decoder_bias"]
    return {
        "W_enc": tensors["encoder.weight"].T.contiguous(),
        "b_enc": tensors["gate_bias"],
        "W_dec": tensors["decoder.weight"].T.contiguous(),
        "b_dec": bias,
        "pre_bias": bias,
        "gate": Gate(tensors["r_mag"], tensors["mag_bias"]),
        "activation": "gated",
    }


def _jump_relu(tensors: Mapping[str, Tensor], _: Assumptions) -> Parts:
    """A threshold for each latent; nothing is subtracted."""
    return {**tensors, "activation": "jumprelu"}


def _linear(tensors: Mapping[str, Tensor]) -> Parts:
    """Encoder and decoder of the classes built from torch's Linear."""
    return {
        "W_enc": tensors["encoder.weight"].T.contiguous(),
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["decoder.weight"].T.contiguous(),
    }


def _one_threshold(tensors: Mapping[str, Tensor], known: Assumptions) -> Parts:
    """BatchTopK as it runs after training; below 0 the threshold was never set."""
    threshold = tensors["threshold"]
    if threshold < 0:
        known.notes.append("threshold was never set: plain relu, as the trainer's own code runs it")
        return {"activation": "relu"}
    bias = next(tensors[name] for name in ("encoder.bias", "b_enc") if name in tensors)
    return {"activation": "jumprelu", "threshold": torch.full_like(bias, float(threshold))}


READERS: dict[str, Callable[[Mapping[str, Tensor], Assumptions], Parts]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jump_relu,
}
"""How the tensors of each class become a SparseCoder."""


def _k(tensors: Mapping[str, Any], known: Assumptions) -> int:
    """Latents kept for each token, from the file or else the config, which must agree."""
    stored, declared = tensors.get("k"), known.config.get("k")
    if isinstance(stored, Tensor):
        stored = stored.item() if stored.numel() == 1 else stored.tolist()
    if stored is None:
        known.notes.append("k is in the config alone")
    elif declared is not None and stored != declared:
        raise CoderError(
            f"k of the sparse coder is {one_line(stored)} in its weights file, "
            f"{one_line(declared)} in its config"
        )
    return Assumptions({"k": declared if stored is None else stored}).integer("k", 0)


def _check(parts: Parts, tensors: Mapping[str, Any], known: Assumptions, weights: Path) -> None:
    """Compare the sizes with what the config and the groups say."""
    d_in, n_latents = parts["W_enc"].shape
    sizes = {"activation_dim": d_in, "dict_size": n_latents}
    refuse_other_sizes(known, sizes, (d_in, n_latents), weights)
    groups = tensors.get("group_sizes")
    if groups is not None and not (isinstance(groups, Tensor) and groups.sum() == n_latents):
        raise CoderError(
            f"group_sizes of the sparse coder do not add up to {n_latents} latents: "
            f"{one_line(weights)}"
        )


def _sites(known: Assumptions) -> tuple[str, str]:
    """Where it reads and writes: a module, and the side of it that the buffer took."""
    if reads := known.config.get("reads"):
        return str(reads), str(known.config.get("writes") or reads)
    io = str(known.get("io", "out"))
    layer = known.config.get("layer")
    named = known.config.get("submodule_name")
    if not named and (isinstance(layer, bool) or not isinstance(layer, int)):
        known.notes.append("submodule_name and layer are missing: the hookpoint is not known")
        return "", ""
    named = str(named or known.get("submodule_name", f"resid_post_layer_{layer}"))
    before = after = ""
    if (match := re.fullmatch(r"(\w+?)_layer_?(\d+)", named)) and match[1] in POINTS:
        before, after = (f"blocks.{int(match[2])}.{point}" for point in POINTS[match[1]])
        if isinstance(layer, int) and layer != int(match[2]):
            raise CoderError(
                f"sparse coder's config says layer {layer}, and submodule_name {one_line(named)}"
            )
    elif re.fullmatch(r"blocks\.\d+\.[\w.]*hook_\w+", named):
        after = named
    elif re.fullmatch(r"(?!blocks)[A-Za-z_]\w*(\.\w+)+", named):
        before, after = f"{named}.input", f"{named}.output"
    # `io: in` under the name of an output says two things, except for a module's plain path.
    sides = {"out": (after, after), "in_and_out": (before, after)}
    if before.endswith(".input"):
        sides["in"] = (before, before)
    if io not in sides or not all(sides[io]):
        raise CoderError(
            f"hookpoint of the sparse coder is not known: submodule_name {one_line(named)} with "
            f"io {one_line(io)}",
            "say where it reads: reads = blocks.8.hook_resid_post",
        )
    return sides[io]
