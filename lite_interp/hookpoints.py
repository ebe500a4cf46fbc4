"""Names of hookpoints: what papers, sparse coders and users call them, and which module it is.

Four spellings are read: a transformers path with or without `.input` / `.output`, the same path
relative to the model without its head (as sparsify writes it), and TransformerLens names such as
`blocks.9.hook_resid_post`. Without a suffix a path means the module's output.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from lite_interp.errors import SubjectError, nearest, one_line
from lite_interp.records import Hookpoint, Side

Point = tuple[str, Side]
"""Module relative to the decoder layer (empty = the layer itself), and its side."""

_LAYER: dict[str, Point] = {
    "hook_resid_pre": ("", "input"),
    "hook_resid_post": ("", "output"),
}
_GPT2: dict[str, Point] = {
    **_LAYER,
    "hook_resid_mid": ("ln_2", "input"),
    "hook_attn_out": ("attn", "output"),
    "hook_mlp_out": ("mlp", "output"),
    "mlp.hook_in": ("ln_2", "output"),
    "mlp.hook_out": ("mlp", "output"),
    "mlp.hook_post": ("mlp.c_proj", "input"),
    "attn.hook_z": ("attn.c_proj", "input"),
}
_LLAMA: dict[str, Point] = {
    **_LAYER,
    "hook_resid_mid": ("post_attention_layernorm", "input"),
    "hook_attn_out": ("self_attn", "output"),
    "hook_mlp_out": ("mlp", "output"),
    "mlp.hook_in": ("post_attention_layernorm", "output"),
    "mlp.hook_out": ("mlp", "output"),
    "mlp.hook_post": ("mlp.down_proj", "input"),
    "attn.hook_z": ("self_attn.o_proj", "input"),
}
_GEMMA: dict[str, Point] = {
    **_LLAMA,
    "hook_resid_mid": ("pre_feedforward_layernorm", "input"),
    "hook_attn_out": ("post_attention_layernorm", "output"),
    "hook_mlp_out": ("post_feedforward_layernorm", "output"),
    "mlp.hook_in": ("pre_feedforward_layernorm", "output"),
}
_OLMO2: dict[str, Point] = {
    **_LLAMA,
    "hook_resid_mid": ("mlp", "input"),
    "hook_attn_out": ("post_attention_layernorm", "output"),
    "hook_mlp_out": ("post_feedforward_layernorm", "output"),
    "mlp.hook_in": ("mlp", "input"),
}
# With a parallel residual there is no stream between attention and MLP.
_NEOX: dict[str, Point] = {
    **_LAYER,
    "hook_attn_out": ("attention", "output"),
    "hook_mlp_out": ("mlp", "output"),
    "mlp.hook_in": ("post_attention_layernorm", "output"),
    "mlp.hook_out": ("mlp", "output"),
    "mlp.hook_post": ("mlp.dense_4h_to_h", "input"),
    "attn.hook_z": ("attention.dense", "input"),
}

POINTS: dict[str, dict[str, Point]] = {
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo2": _OLMO2,
    "gpt_neox": _NEOX,
}
"""TransformerLens names by transformers `model_type`; other types know the residual stream only."""


@dataclass(frozen=True, slots=True)
class Modules:
    """What a subject's modules are called."""

    names: Collection[str]
    """Dotted paths of all modules that are run when the subject is read."""
    prefixes: tuple[str, ...]
    """Where relative paths may start, e.g. `model`, `model.language_model`."""
    layers: str
    """Path of the list of decoder layers, e.g. `model.layers`."""
    model_type: str
    """transformers' name of the architecture."""

    @property
    def points(self) -> dict[str, Point]:
        """TransformerLens names this architecture knows."""
        return POINTS.get(self.model_type, _LAYER)


def resolve(name: str, modules: Modules) -> Hookpoint:
    """The hookpoint that a name means.

    Raises:
        SubjectError: the subject has no such hookpoint; the hint gives the nearest names.
    """
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return _resolve_block(name, int(match[1]), match[2], modules)
    # The whole name first: some architectures have a module that is called `output`.
    if found := _module(name, modules):
        return Hookpoint(found, "output")
    stem, _, suffix = name.rpartition(".")
    if suffix in ("input", "output") and (found := _module(stem, modules)):
        return Hookpoint(found, "input" if suffix == "input" else "output")
    raise _unknown(name, stem if suffix in ("input", "output") else name, modules)


def _module(name: str, modules: Modules) -> str | None:
    """Full path of a module, or None."""
    tried = (name, *(f"{prefix}.{name}" for prefix in modules.prefixes))
    return next((path for path in tried if path in modules.names), None)


def _resolve_block(name: str, layer: int, point: str, modules: Modules) -> Hookpoint:
    """The hookpoint of a TransformerLens name."""
    block = f"{modules.layers}.{layer}"
    if block not in modules.names or point not in modules.points:
        raise _unknown(name, name, modules)
    child, side = modules.points[point]
    path = f"{block}.{child}" if child else block
    if path not in modules.names:
        raise _unknown(name, name, modules)
    return Hookpoint(path, side)


def _unknown(name: str, sought: str, modules: Modules) -> SubjectError:
    """The error for a name that means nothing here."""
    layers = [path for path in modules.names if re.fullmatch(r".*\.\d+", path)]
    if sought.startswith("blocks."):
        layer = sought.split(".")[1]
        known = {f"blocks.{layer}.{point}" for point in modules.points}
        if f"{modules.layers}.{layer}" not in modules.names:
            known = set(layers)
    else:
        short = {path.removeprefix(modules.prefixes[0] + ".") for path in modules.names}
        known = short | set(modules.names) if sought else set(layers)
    return SubjectError(f"subject has no such hookpoint: {one_line(name)}", nearest(sought, known))
