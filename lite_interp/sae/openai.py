"""OpenAI's sparse_autoencoder, of GPT-2 small: `<location>[_v4|_v5_*]/autoencoders/<layer>.pt`.

Facts: github.com/openai/sparse_autoencoder, model.py and paths.py, 4965b94.
What a reader gets wrong most easily: a TopK coder normalises each token first, and nothing in the
file says so but the name of its activation; one bias, `pre_bias`, is subtracted and added back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import hash_file
from lite_interp.sae.coder import SparseCoder
from lite_interp.sae.files import Assumptions, look, need_all, read_pt

SHAPES: dict[str, tuple[str, ...]] = {
    "pre_bias": ("d_in",),
    "encoder.weight": ("n_latents", "d_in"),
    "latent_bias": ("n_latents",),
    "decoder.weight": ("d_in", "n_latents"),
}
"""Tensors and their sides."""

SITES: dict[str, str] = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}
"""What each location is in its layer."""


def is_one(path: Path) -> bool:
    """Whether a file is a coder of OpenAI's; `decoder.weight` may lack, which is then said."""
    return path.suffix == ".pt" and {"pre_bias", "latent_bias", "encoder.weight"} <= set(look(path))


def load(path: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read a coder of OpenAI's; `overrides` may say what it `reads`, its `activation` and `k`."""
    held = read_pt(path)
    tensors = need_all(held, SHAPES, path)
    state = held.get("activation_state_dict") or {}
    if not isinstance(state, dict):
        raise CoderError(f"activation_state_dict of the sparse coder is no dict: {one_line(path)}")
    config = {
        **({"activation": held["activation"]} if "activation" in held else {}),
        **({key: state[key] for key in ("k", "postact_fn") if key in state}),
        **overrides,
    }
    known = Assumptions(config)
    k = _k(known)
    reads = _reads(path, known)
    return SparseCoder(
        format="openai",
        hash=hash_file(path),
        reads=reads,
        writes=reads,
        W_enc=tensors["encoder.weight"].T.contiguous(),
        b_enc=tensors["latent_bias"],
        W_dec=tensors["decoder.weight"].T.contiguous(),
        b_dec=tensors["pre_bias"],
        activation="relu" if k is None else "topk",
        k=k,
        pre_bias=tensors["pre_bias"],
        input_transform="none" if k is None else "layer_norm",
        provenance={"path": str(path), "config": config, "assumptions": known.notes},
    )


def _k(known: Assumptions) -> int | None:
    """Latents kept for each token; None = ReLU. Activations that may be negative are refused."""
    name = known.get("activation", "ReLU")
    if name == "ReLU":
        return None
    if name != "TopK":
        raise CoderError(
            f"activation of the sparse coder is not read: {one_line(name)}",
            "of OpenAI's coders ReLU and TopK are read",
        )
    after = known.get("postact_fn", "ReLU")
    if after != "ReLU":
        raise CoderError(
            f"postact_fn of the sparse coder leaves negative activations, which are not read: "
            f"{one_line(after)}"
        )
    if known.config.get("k") is None:
        raise CoderError("activation_state_dict of the sparse coder lacks k")
    known.notes.append("activation TopK: each token is normalised first, as OpenAI's code does")
    return known.integer("k", 0)


def _reads(path: Path, known: Assumptions) -> str:
    """The hookpoint: as overridden, or as the path tells; empty where it tells none."""
    if named := known.config.get("reads"):
        return str(named)
    folder = path.absolute().parent
    place = folder.parent if folder.name == "autoencoders" else folder
    location = re.sub(r"_v\d+(_\d+k)?$", "", place.name)
    if location not in SITES or not path.stem.isdecimal():
        known.notes.append("reads is missing: the path is no <location>/autoencoders/<layer>.pt")
        return ""
    reads = f"blocks.{int(path.stem)}.{SITES[location]}"
    known.notes.append(f"the hookpoint is told by the path: {reads}")
    return reads
