"""Names of hookpoints: what papers, sparse coders and users call them, and which module it is.

Four spellings are read:

- a transformers path with its side, `model.layers.9.input` or `model.layers.9.output`; inside a
  multimodal wrapper too, whose decoder stands deeper than the path says;
- the same path relative to the model without its head, as sparsify writes it: `layers.9.mlp`.
  Without a side it means the module's output;
- a TransformerLens name, `blocks.9.hook_resid_post`, `blocks.9.mlp.hook_post`, `hook_embed`;
- point and layer, `resid_post.9`, by the names in `SHORT`.

What a name means differs between architectures: `post_attention_layernorm` is the norm before the
MLP in Llama and the one after attention in Gemma 2. Names that different tools use for different
tensors are refused, with the reason.
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
    "ln1.hook_normalized": ("ln_1", "normalized"),
    "ln2.hook_normalized": ("ln_2", "normalized"),
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
    "ln1.hook_normalized": ("input_layernorm", "normalized"),
    "ln2.hook_normalized": ("post_attention_layernorm", "normalized"),
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
    "ln2.hook_normalized": ("pre_feedforward_layernorm", "normalized"),
    "hook_attn_out": ("post_attention_layernorm", "output"),
    "hook_mlp_out": ("post_feedforward_layernorm", "output"),
    "mlp.hook_in": ("pre_feedforward_layernorm", "output"),
}
_NORMALIZED = ("ln1.hook_normalized", "ln2.hook_normalized")
# OLMo 2 has no norm before attention and MLP, but one after each.
_OLMO2: dict[str, Point] = {
    **{name: point for name, point in _LLAMA.items() if name not in _NORMALIZED},
    "hook_resid_mid": ("mlp", "input"),
    "hook_attn_out": ("post_attention_layernorm", "output"),
    "hook_mlp_out": ("post_feedforward_layernorm", "output"),
    "mlp.hook_in": ("mlp", "input"),
}
# With a parallel residual there is no stream between attention and MLP.
_NEOX: dict[str, Point] = {
    **_LAYER,
    "ln1.hook_normalized": ("input_layernorm", "normalized"),
    "ln2.hook_normalized": ("post_attention_layernorm", "normalized"),
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
    "ministral": _LLAMA,
    "smollm3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "gpt_neox": _NEOX,
}
"""TransformerLens names by transformers `model_type`; other types know the residual stream only."""

EMBEDDINGS = ("wte", "embed_tokens", "embed_in")
"""What the module of the token embedding is called; TransformerLens says `hook_embed`."""

SHORT: dict[str, str] = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "mlp_raw": "mlp.hook_out",
    "mlp_input": "mlp.hook_in",
    "z": "attn.hook_z",
    "neurons": "mlp.hook_post",
}
"""Points by short names, to be followed by a layer, and their TransformerLens names. `mlp_out` is
what the MLP adds to the stream, after a norm of its own in Gemma and OLMo 2; `mlp_raw` is before
that norm."""

SIDES: dict[str, Side] = {"input": "input", "output": "output", "normalized": "normalized"}
"""How a path may end. `normalized` is a norm's output before its gain, which is computed anew."""

AMBIGUOUS: dict[str, tuple[str, str]] = {
    "hook_mlp_in": (
        "TransformerLens means the stream before the norm, others the MLP's input after it",
        "hook_resid_mid or blocks.{layer}.mlp.hook_in",
    ),
    "hook_attn_in": (
        "TransformerLens means the stream before the norm, others the attention's input after it",
        "hook_resid_pre or the module of the norm with .output",
    ),
}
"""TransformerLens names that are refused: the reason, and what to name in their place."""

_WRAPPED = re.compile(r"(?:(?:model|language_model|text_model|transformer|gpt_neox)\.)*(.+)")
"""A path behind the wrappers that a decoder stands in."""


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
        SubjectError: the subject has no such hookpoint, or the name means several; the hint gives
            the nearest names.
    """
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return _resolve_block(name, int(match[1]), match[2], modules)
    # The whole name first: some architectures have a module that is called `output`.
    if found := _module(name, modules):
        return Hookpoint(found, "output")
    stem, _, suffix = name.rpartition(".")
    if suffix in SIDES and (found := _module(stem, modules)):
        return Hookpoint(found, SIDES[suffix])
    if stem in SHORT and suffix.isdecimal():
        return _resolve_block(name, int(suffix), SHORT[stem], modules)
    embeddings = (_module(each, modules) for each in EMBEDDINGS)
    if name == "hook_embed" and (found := next(filter(None, embeddings), None)):
        return Hookpoint(found, "output")
    raise _unknown(name, stem if suffix in SIDES else name, modules)


def _module(name: str, modules: Modules) -> str | None:
    """Full path of a module, or None."""
    tried = [name, *(f"{prefix}.{name}" for prefix in modules.prefixes)]
    if match := _WRAPPED.fullmatch(name):
        # A coder of the text model names `model.layers.9`; in a multimodal one it is deeper.
        tried += [f"{prefix}.{match[1]}" for prefix in modules.prefixes]
    return next((path for path in tried if path in modules.names), None)


def _resolve_block(name: str, layer: int, point: str, modules: Modules) -> Hookpoint:
    """The hookpoint of a TransformerLens name."""
    block = f"{modules.layers}.{layer}"
    if block in modules.names and point in modules.points:
        child, side = modules.points[point]
        path = f"{block}.{child}" if child else block
        if path in modules.names:
            return Hookpoint(path, side)
    raise _unknown(name, f"blocks.{layer}.{point}", modules)


def _reason(layer: str, point: str, modules: Modules) -> tuple[str, str] | None:
    """Why a TransformerLens name of a layer that is there is not read, and what to do; or None."""
    if point in AMBIGUOUS:
        reason, instead = AMBIGUOUS[point]
        if instead.startswith("hook_"):
            instead = f"blocks.{{layer}}.{instead}"
        return reason, f"name the one you mean: {instead.format(layer=layer)}"
    if point == "hook_resid_mid" and modules.points is _NEOX:
        reason = "attention and MLP read the same stream, and there is none between them"
        return reason, f"there is: blocks.{layer}.hook_resid_pre, blocks.{layer}.hook_resid_post"
    if modules.points is _LAYER and point in _LLAMA:
        reason = f"of {one_line(modules.model_type)} such names are known for the stream only"
        return reason, f"name the module, e.g. {modules.layers}.{layer}.mlp.output"
    return None


def _unknown(name: str, sought: str, modules: Modules) -> SubjectError:
    """The error for a name that means nothing here, or not one thing."""
    message = f"subject has no such hookpoint: {one_line(name)}"
    layers = [path for path in modules.names if re.fullmatch(r".*\.\d+", path)]
    if match := re.fullmatch(r"blocks\.([^.]+)\.?(.*)", sought):
        known = {f"blocks.{match[1]}.{point}" for point in modules.points}
        if f"{modules.layers}.{match[1]}" not in modules.names:
            known = set(layers)
        elif found := _reason(match[1], match[2], modules):
            return SubjectError(f"{message}: {found[0]}", found[1])
    else:
        short = {path.removeprefix(modules.prefixes[0] + ".") for path in modules.names}
        known = short | set(modules.names) if sought else set(layers)
        if layer := re.fullmatch(r"\w+\.(\d+)", sought):
            known |= {f"{point}.{layer[1]}" for point in SHORT}
    return SubjectError(message, nearest(sought, known))
