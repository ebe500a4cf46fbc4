"""Goodfire's coders of Llama 3, and qresearch's, which differ in names: one `.pt` or `.pth`.

`<model>-SAE-l<L>.pth` reads the output of layer L. ReLU; nothing is subtracted before the encoder.
Facts: model cards of Goodfire/Llama-3.*-Instruct-SAE-*; SAELens 6.54.12, goodfire and deepseek_r1
loaders. There is no config, so the layer is in the file's name alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lite_interp.ids import hash_file
from lite_interp.sae.coder import SparseCoder
from lite_interp.sae.files import look, need_all, read_pt

NAMES = (("encoder_linear", "decoder_linear"), ("encoder", "decoder"))
"""What encoder and decoder are called: by Goodfire, by qresearch."""


def is_one(path: Path) -> bool:
    """Whether a file is such a coder: it holds two linear layers with biases, and nothing else."""
    if path.suffix not in (".pt", ".pth"):
        return False
    held = set(look(path))
    return any(set(_shapes(*names)) == held for names in NAMES)


def load(path: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read such a coder; `overrides` may say what it `reads`."""
    held = read_pt(path)
    encoder, decoder = NAMES[0] if "encoder_linear.weight" in held else NAMES[1]
    tensors = need_all(held, _shapes(encoder, decoder), path)
    found = re.search(r"[-_]l(?:ayer)?_?(\d+)$", path.stem)
    reads, notes = "", []
    if "reads" in overrides:
        reads = str(overrides["reads"])
    elif found:
        reads = f"layers.{int(found[1])}"
        notes.append(f"the hookpoint is told by the file's name: {reads}")
    else:
        notes.append("reads is missing: the file's name has no layer, such as -l19")
    return SparseCoder(
        format="goodfire",
        hash=hash_file(path),
        reads=reads,
        writes=reads,
        W_enc=tensors[f"{encoder}.weight"].T.contiguous(),
        b_enc=tensors[f"{encoder}.bias"],
        W_dec=tensors[f"{decoder}.weight"].T.contiguous(),
        b_dec=tensors[f"{decoder}.bias"],
        activation="relu",
        provenance={"path": str(path), "config": dict(overrides), "assumptions": notes},
    )


def _shapes(encoder: str, decoder: str) -> dict[str, tuple[str, ...]]:
    """Tensors and their sides."""
    return {
        f"{encoder}.weight": ("n_latents", "d_in"),
        f"{encoder}.bias": ("n_latents",),
        f"{decoder}.weight": ("d_in", "n_latents"),
        f"{decoder}.bias": ("d_in",),
    }
