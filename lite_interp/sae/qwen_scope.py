"""Qwen Scope: one `layer<L>.sae.pt` for each layer, and one `config.json` for all.

Each reads the output of decoder block L; nothing is subtracted before the encoder.
Facts: model cards of Qwen/SAE-Res-*-W<N>K-L0_<k>; SAELens 6.54.12, qwen_scope loader.
What a reader gets wrong most easily: both matrices are stored the other way round than their names
say elsewhere. The card keeps the k largest pre-activations whatever their sign, SAELens and we run
relu after it: the two differ only for tokens with fewer than k positive ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import hash_file
from lite_interp.sae.coder import SparseCoder
from lite_interp.sae.files import (
    Assumptions,
    look,
    need_all,
    read_config,
    read_pt,
    refuse_other_sizes,
)

SHAPES: dict[str, tuple[str, ...]] = {
    "W_enc": ("n_latents", "d_in"),
    "b_enc": ("n_latents",),
    "W_dec": ("d_in", "n_latents"),
    "b_dec": ("d_in",),
}
"""Tensors and their sides."""


def is_one(path: Path) -> bool:
    """Whether a file is a coder of Qwen Scope: its four tensors, with more latents than inputs."""
    if path.suffix not in (".pt", ".pth"):
        return False
    held = look(path)
    matrix = held.get("W_enc", ())
    return set(held) == set(SHAPES) and len(matrix) == 2 and matrix[0] > matrix[1]


def load(path: Path, overrides: Mapping[str, Any]) -> SparseCoder:
    """Read a coder of Qwen Scope.

    Args:
        path: the file of one layer.
        overrides: keys that replace those of the config beside it; `reads` is the hookpoint.

    Raises:
        CoderError: its tensors do not fit together or its config, or nothing says k.
    """
    tensors = need_all(read_pt(path), SHAPES, path)
    beside = path.parent / "config.json"
    known = Assumptions((read_config(beside) if beside.is_file() else {}) | dict(overrides))
    n_latents, d_in = tensors["W_enc"].shape
    sizes = {"d_model": d_in, "d_sae": n_latents}
    refuse_other_sizes(known, sizes, (n_latents, d_in), path)
    reads = _reads(path, known)
    known.notes.append("relu after topk: negative pre-activations never fire")
    return SparseCoder(
        format="qwen_scope",
        hash=hash_file(path),
        reads=reads,
        writes=reads,
        W_enc=tensors["W_enc"].T.contiguous(),
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"].T.contiguous(),
        b_dec=tensors["b_dec"],
        activation="topk",
        k=_k(path, known),
        provenance={"path": str(path), "config": known.config, "assumptions": known.notes},
    )


def _k(path: Path, known: Assumptions) -> int:
    """Latents kept for each token: from the config, else from the name of the repository."""
    if known.config.get("k") is not None:
        return known.integer("k", 0)
    # The path as given: a file of the Hub's cache is a link to a name without meaning.
    found = [re.search(r"-W\d+K-L0_(\d+)$", folder.name) for folder in path.absolute().parents]
    k = next((int(match[1]) for match in found if match), None)
    if k is None:
        raise CoderError(
            f"k of the sparse coder is told neither by a config.json nor by a folder's name: "
            f"{one_line(path)}",
            "say it: k = 50",
        )
    return known.integer("k", k)


def _reads(path: Path, known: Assumptions) -> str:
    """The hookpoint: as overridden, or the layer of the file's name."""
    if named := known.config.get("reads"):
        return str(named)
    point = known.get("hook_point", "resid_post")
    if point != "resid_post":
        raise CoderError(
            f"hook_point of the sparse coder is not known: {one_line(point)}",
            "say where it reads: reads = blocks.8.hook_resid_post",
        )
    found = re.match(r"layer[-_]?(\d+)\b", path.name)
    if not found:
        known.notes.append("reads is missing: the file's name has no layer, such as layer8.sae.pt")
        return ""
    reads = f"blocks.{int(found[1])}.hook_resid_post"
    known.notes.append(f"the hookpoint is told by the file's name: {reads}")
    return reads
