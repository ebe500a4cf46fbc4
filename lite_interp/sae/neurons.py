"""The subject's own MLP neurons as latents: what a sparse coder has to beat.

    a   topk of what goes into the MLP's output projection
    y   a W_out + b_out, what the k neurons write

Paulo et al. 2024 (arXiv 2410.13928), Table A10, score the explanations of the 32 and of the 256
largest neurons of each token. There is no file: such a coder is named `neurons:LAYER`, or
`neurons:LAYER:K`, and made from the subject. Neurons below 0 do not fire; those of a gated MLP may
write as much below 0 as above it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import nn

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import content_id
from lite_interp.sae.coder import SparseCoder

NEURONS = "neurons"
"""Format of such a coder, and the beginning of its name."""
K = 32
"""Neurons kept for each token if the name does not say how many."""
READS, WRITES = "mlp.hook_post", "mlp.hook_out"
"""Where it reads and writes in its layer."""
PARTIAL = "a few neurons of a layer, which are not meant to reconstruct it"
"""Why its FVU says little."""

MAX_NEURONS = 1 << 15
"""Most neurons of a layer: the encoder is a square matrix, of 4 GiB then."""


class Wanted(NamedTuple):
    """Which neurons are meant."""

    layer: int
    """The decoder layer."""
    k: int
    """Neurons kept for each token."""

    @property
    def reads(self) -> str:
        """The hookpoint of the neurons."""
        return f"blocks.{self.layer}.{READS}"

    @property
    def name(self) -> str:
        """`neurons:LAYER:K`."""
        return f"{NEURONS}:{self.layer}:{self.k}"


def read_name(path: str) -> Wanted | None:
    """The neurons that a coder's path means; None if it means a folder or file.

    Raises:
        CoderError: it begins like one, but does not go on like one.
    """
    if not path.startswith(f"{NEURONS}:"):
        return None
    match = re.fullmatch(rf"{NEURONS}:(\d{{1,5}})(?::(\d{{1,9}}))?", path)
    if match is None:
        raise CoderError(
            f"no such neurons: {one_line(path)}",
            f"e.g. {NEURONS}:9, or {NEURONS}:9:256 for k = 256",
        )
    return Wanted(int(match[1]), int(match[2] or K))


def make_neurons(wanted: Wanted, projection: nn.Module, subject_hash: str) -> SparseCoder:
    """A coder whose latents are the neurons of a layer.

    Args:
        wanted: which ones.
        projection: the module that takes the neurons, at `wanted.reads`.
        subject_hash: hash of the subject, which is in the coder's own.

    Raises:
        CoderError: the module is no projection, or k and the neurons do not fit.
    """
    weight = getattr(projection, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise CoderError(
            f"layer {wanted.layer} has no neurons to read: {type(projection).__name__}",
            "its MLP has no single output projection, as when experts take turns",
        )
    # nn.Linear keeps (d_out, n), GPT-2's Conv1D (n, d_out).
    rows = weight.T if isinstance(projection, nn.Linear) else weight
    rows = rows.detach().to("cpu", torch.float32).contiguous()
    n_neurons, d_out = rows.shape
    if n_neurons > MAX_NEURONS:
        raise CoderError(
            f"layer {wanted.layer} has {n_neurons:,} neurons, at most {MAX_NEURONS:,} are read"
        )
    bias = getattr(projection, "bias", None)
    return SparseCoder(
        format=NEURONS,
        hash=content_id([NEURONS, subject_hash, wanted.layer]),
        reads=wanted.reads,
        writes=f"blocks.{wanted.layer}.{WRITES}",
        W_enc=torch.eye(n_neurons),
        b_enc=torch.zeros(n_neurons),
        W_dec=rows,
        b_dec=torch.zeros(d_out) if bias is None else bias.detach().to("cpu", torch.float32),
        activation="topk",
        k=wanted.k,
        provenance={
            "path": wanted.name,
            "config": {"layer": wanted.layer, "k": wanted.k},
            "assumptions": ["neurons below 0 do not fire"],
            "partial": PARTIAL,
        },
    )
