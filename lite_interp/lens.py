"""What a latent writes: the tokens its decoder direction raises and lowers, and its like."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lite_interp.details import N_TOP, Neighbours, rounded
from lite_interp.records import Hookpoint
from lite_interp.sae import SparseCoder
from lite_interp.subject import Subject

BLOCK_ELEMENTS = 1 << 24
"""Most float32 numbers in one block of logits, cosines or unembedding rows: 64 MiB."""

NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
"""What architectures call the norm before the unembedding."""

RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Hookpoints whose activations are the residual stream, or are added to it as they are."""

LOUD = 1024.0
"""Scale of a probe of a norm: its epsilon, 1e-5 or so, is then without effect."""

NONE_YET = float("-inf")


class Lens(NamedTuple):
    """Tokens that each latent raises and lowers most, on the subject's device."""

    promoted_ids: Tensor
    """(n_latents, n) token ids, highest logit first."""
    promoted: Tensor
    """(n_latents, n) their logits, falling."""
    suppressed_ids: Tensor
    """(n_latents, n) token ids, lowest logit first."""
    suppressed: Tensor
    """(n_latents, n) their logits, rising."""


class FinalNorm(NamedTuple):
    """What the norm before the unembedding does to a direction, apart from the length."""

    scale: Tensor
    """(d_model,) float32, what each coordinate is multiplied by."""
    centres: bool
    """Whether it takes the mean off first, as LayerNorm does."""


def logit_lens(
    subject: Subject,
    coder: SparseCoder,
    writes: Hookpoint,
    n_vocab: int | None = None,
    n: int = N_TOP,
    block_elements: int = BLOCK_ELEMENTS,
) -> Lens | None:
    """The direct effect of each latent on the logits (nostalgebraist 2020, on directions).

        logits_i = (centre(W_dec[i]) * scale) W_U^T

    Args:
        subject: the language model, with its head.
        coder: the sparse coder.
        writes: what the coder reconstructs.
        n_vocab: tokens of the tokenizer; rows behind it pad the unembedding. None = all rows.
        n: tokens at either end.
        block_elements: most numbers in one block.

    The final norm's division by the token's own norm is left out, as are a softcap and a factor on
    the logits: they change no order. So a logit is in units of one latent to another, not nats.
    What later layers make of the direction is left out too.

    Returns:
        None if the coder does not write to the residual stream, or the model has no unembedding.
    """
    head = subject.model.get_output_embeddings()
    if head is None or not writes_residual(writes, subject):
        return None
    unembedding = head.weight.detach()[:n_vocab]
    if coder.d_out != subject.d_model or unembedding.shape[1] != coder.d_out:
        return None
    directions = coder.W_dec.to(unembedding.device, torch.float32)
    if norm := final_norm(subject.model):
        if norm.centres:
            directions = directions - directions.mean(-1, keepdim=True)
        directions = directions * norm.scale.to(directions.device)
    highest = _extremes(directions, unembedding, n, block_elements)
    lowest = _extremes(-directions, unembedding, n, block_elements)
    return Lens(highest[0], highest[1], lowest[0], -lowest[1])


def writes_residual(writes: Hookpoint, subject: Subject) -> bool:
    """Whether activations at a hookpoint are in the residual stream, or are added to it.

    Width alone does not tell: the heads' outputs before their projection are often as wide.
    """
    head, _, tail = writes.module.removeprefix(f"{subject.modules.layers}.").partition(".")
    inside = writes.module == ".".join(filter(None, (subject.modules.layers, head, tail)))
    known = [subject.modules.points.get(name) for name in RESIDUAL]
    return inside and head.isdecimal() and (tail, writes.side) in known


def final_norm(model: Any) -> FinalNorm | None:
    """The norm before the unembedding, found out by what it does; None if there is none.

    A probe z of mean 0 and mean square 1 comes out of RMSNorm and LayerNorm alike as
    scale * z + bias, so scale = (norm(z) - norm(-z)) / 2z. That holds whatever the weight is
    called, and whether the module multiplies by it (Llama) or by 1 + it (Gemma). A norm that
    centres gives the same for a constant as for its negative.
    """
    base = model.base_model
    owners = [base, *(getattr(base, name, None) for name in ("decoder", "language_model"))]
    found = [getattr(owner, name, None) for owner in owners for name in NORMS]
    norm = next((each for each in found if isinstance(each, nn.Module)), None)
    width = model.get_output_embeddings().weight.shape[1]
    if norm is None or width < 4:
        return None
    norm = copy.deepcopy(norm).float().cpu()
    probe = _probe(width)
    constant = torch.ones(width)
    with torch.no_grad():
        scale = _odd_part(norm, probe) / probe
        centres = bool(_odd_part(norm, constant).norm() < 0.01 * scale.norm())
    return FinalNorm(scale, centres)


def _probe(width: int) -> Tensor:
    """(width,) mean 0, mean square 1, no coordinate 0."""
    probe = torch.ones(width)
    probe[1::2] = -1
    if width % 2:
        probe[:3] = torch.tensor([1.0, 1.0, -2.0])
        probe[3::2], probe[4::2] = 1, -1
    return probe / probe.square().mean().sqrt()


def _odd_part(norm: nn.Module, x: Tensor) -> Tensor:
    """What a norm makes of a loud x, without its bias."""
    rows = LOUD * torch.stack([x, -x])[:, None]
    out = norm(rows)
    return (out[0, 0] - out[1, 0]) / 2


def _extremes(
    directions: Tensor, unembedding: Tensor, n: int, block_elements: int
) -> tuple[Tensor, Tensor]:
    """(n_latents, n) token ids and logits, highest first; blocks of tokens by blocks of latents."""
    n_latents, width = directions.shape
    n = min(n, len(unembedding))
    n_rows = max(n, min(len(unembedding), block_elements // width))
    logits = directions.new_full((n_latents, n), NONE_YET)
    ids = torch.zeros((n_latents, n), dtype=torch.long, device=directions.device)
    for first in range(0, len(unembedding), n_rows):
        rows = unembedding[first : first + n_rows].float()
        size = max(1, block_elements // len(rows))
        for start in range(0, n_latents, size):
            part = slice(start, start + size)
            best = (directions[part] @ rows.T).topk(min(n, len(rows)), dim=-1)
            joined = torch.cat([logits[part], best.values], dim=-1)
            joined_ids = torch.cat([ids[part], best.indices + first], dim=-1)
            logits[part], order = joined.topk(n, dim=-1)
            ids[part] = joined_ids.gather(-1, order)
    return ids, logits


def decoder_neighbours(
    W_dec: Tensor, n: int = N_TOP, block_elements: int = BLOCK_ELEMENTS
) -> list[Neighbours]:
    """For each latent those whose decoder directions have the greatest cosine, above 0.

    Args:
        W_dec: (n_latents, d_out), one direction per latent; one of length 0 is no neighbour.
        n: most neighbours of a latent.
        block_elements: most cosines at once.
    """
    lengths = W_dec.float().norm(dim=-1, keepdim=True)
    units = W_dec.float() / lengths.where(lengths > 0, 1)
    n_latents = len(units)
    size = max(1, block_elements // max(1, n_latents))
    found: list[Neighbours] = []
    for start in range(0, n_latents, size):
        cosines = units[start : start + size] @ units.T
        own = torch.arange(len(cosines), device=cosines.device)
        cosines[own, own + start] = NONE_YET
        best = cosines.topk(min(n, n_latents), dim=-1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found += [_neighbours(latents, values) for latents, values in rows]
    return found


def _neighbours(latents: Sequence[int], cosines: Sequence[float]) -> Neighbours:
    """Pairs whose cosine is more than the rounding of 0; ties in order of index."""
    pairs = [(latent, rounded(cosine)) for latent, cosine in zip(latents, cosines, strict=True)]
    return tuple(sorted((p for p in pairs if p[1] > 1e-6), key=lambda pair: (-pair[1], pair[0])))
