"""What a sparse coder's config declares, beside what is found. A config is hostile text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lite_interp.coder_check.sites import layer_of
from lite_interp.errors import SubjectError, one_line
from lite_interp.sae import Fit, SparseCoder
from lite_interp.sae.check import WORST_L0_RATIO
from lite_interp.subject import Subject

KEYS: dict[str, tuple[str, ...]] = {
    "width read": ("d_in", "activation_dim", "d_model"),
    "latents": ("d_sae", "num_latents", "dict_size", "width"),
    "k": ("k", "top_k"),
    "L0": ("l0", "average_l0", "L0"),
    "layer": ("hook_layer", "layer"),
    "model": ("model_name", "lm_name", "model", "base_model"),
    "dtype": ("dtype", "torch_dtype"),
    "normalisation": ("normalize_activations", "norm_activation", "normalize"),
    "begins with BOS": ("prepend_bos",),
    "context": ("context_size", "context_length", "ctx_len", "n_ctx"),
}
"""What is compared beside the hookpoint, and what the formats call it."""

FACTORS = ("norm_scaling_factor", "scaling_factor", "activation_scale", "norm_factor")
"""Numbers of a config that scale the input."""
LENGTHS = ("dataset_average_activation_norm", "average_activation_norm")
"""Mean lengths in a config, which are to become sqrt(d)."""
INSTRUCT = re.compile(r"(?<![a-z])(it|instruct|chat|sft|rlhf|distill)(?![a-z])", re.IGNORECASE)
"""Parts of a model's name by which it is not the base model."""


class Declared(NamedTuple):
    """One thing that a config says."""

    what: str
    """Name in KEYS, or `hookpoint`."""
    declared: str
    """What the config, or the file's place, says."""
    found: str
    """What there is."""
    agrees: bool | None
    """Whether these are the same; None = they need not be."""


def compare(
    coder: SparseCoder, subject: Subject, reads: str, begins_with_bos: bool, fit: Fit | None
) -> list[Declared]:
    """Everything that the config declares, beside what is found.

    Args:
        coder: the sparse coder.
        subject: the subject.
        reads: hookpoint at which it was read; empty = none was found.
        begins_with_bos: whether contexts do.
        fit: what was measured there.
    """
    values = list(_values(coder.provenance.get("config")))
    if coder.reads:
        values.append(("hookpoint", coder.reads))
    return [
        Declared(what, one_line(value)[:80], *_found(what, value, coder, subject, reads, fit))
        if what != "begins with BOS"
        else Declared(what, _yes(value), _yes(begins_with_bos), value == begins_with_bos)
        for what, value in values
    ]


def _values(config: Any) -> Iterator[tuple[str, Any]]:
    """What is declared: the first key that holds a plain value."""
    if not isinstance(config, Mapping):
        return
    for what, keys in KEYS.items():
        plain = (config[key] for key in keys if isinstance(config.get(key), (str, int, float)))
        value = next((each for each in plain if each != ""), None)
        if value is not None:
            yield what, value


def _found(
    what: str,
    value: Any,
    coder: SparseCoder,
    subject: Subject,
    reads: str,
    fit: Fit | None,
) -> tuple[str, bool | None]:
    """What there is, and whether it is what was declared."""
    if what == "width read":
        return str(coder.d_in), value == coder.d_in
    if what == "latents":
        return str(coder.n_latents), value == coder.n_latents
    if what in ("k", "L0"):
        return (f"L0 {fit.l0:.1f}", _near(value, fit.l0)) if fit else ("not measured", None)
    if what in ("layer", "hookpoint"):
        return _place(what, value, subject, reads)
    if what == "model":
        same = _plain(value) in _plain(subject.name) or _plain(subject.name) in _plain(value)
        differs = bool(INSTRUCT.search(str(value))) != bool(INSTRUCT.search(subject.name))
        return subject.name, False if same and differs else (True if same else None)
    if what == "dtype":
        return f"float32; the subject {str(subject.dtype).removeprefix('torch.')}", None
    if what == "normalisation":
        return coder.input_transform, None
    return "see above", None


def _place(what: str, value: Any, subject: Subject, reads: str) -> tuple[str, bool | None]:
    """Where it was read, and whether that is the declared layer or hookpoint."""
    if not reads:
        return "nowhere", False
    if what == "layer":
        layer = layer_of(reads)
        return str(layer), None if layer is None else str(value) == str(layer)
    try:
        return reads, str(subject.resolve(str(value))) == reads
    except SubjectError:
        return reads, None


def _near(declared: Any, l0: float) -> bool | None:
    """Whether an L0 is about the declared one."""
    if isinstance(declared, str) or not 0 < declared < math.inf:
        return None
    return declared / WORST_L0_RATIO <= l0 <= declared * WORST_L0_RATIO


def _yes(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, one_line(value)[:80])


def _plain(name: Any) -> str:
    """A model's name without its owner, signs and capitals."""
    return re.sub(r"[^a-z0-9]", "", str(name).rpartition("/")[2].lower())


def factors_of(coder: SparseCoder) -> dict[str, float]:
    """Scales of the input that a config declares, by their key; lengths become sqrt(d) / length."""
    found: dict[str, float] = {}
    for key, value in _numbers(coder.provenance.get("config"), 3):
        last = key.split("/")
        if last[-1] in FACTORS:
            found[last[-1]] = value
        elif set(last) & set(LENGTHS):
            found[f"sqrt(d) / {one_line(last[-1])[:60]}"] = coder.d_in**0.5 / value
    return dict(list(found.items())[:8])


def _numbers(config: Any, depth: int) -> Iterator[tuple[str, float]]:
    """Positive numbers in a config and the dicts in it, with their keys."""
    if not isinstance(config, Mapping) or not depth:
        return
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}/{below}", each) for below, each in _numbers(value, depth - 1))
        elif type(value) in (int, float) and 1e-30 < value < 1e30 and value != 1:
            yield str(key), float(value)
