"""What a latent writes: the tokens its decoder direction raises and lowers, and its like."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lite_interp.details import N_TOP, Neighbours, rounded
from lite_interp.products import BLOCK_ELEMENTS, Columns, ends, make_columns
from lite_interp.records import Hookpoint
from lite_interp.sae import SparseCoder
from lite_interp.subject import Subject, has_fast_bfloat16

NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
"""What architectures call the norm before the unembedding."""

RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Hookpoints whose activations are the residual stream, or are added to it as they are."""

LOUD = 1024.0
"""Scale of a probe of a norm: its epsilon, 1e-5 or so, is then without effect."""

LEAST_COSINE = 1e-6
"""A cosine up to this is the rounding of 0."""


class Logits(NamedTuple):
    """Tokens that some latents raise and lower most, on the subject's device."""

    promoted_ids: Tensor
    """(m, n) token ids, highest logit first."""
    promoted: Tensor
    """(m, n) their logits, falling."""
    suppressed_ids: Tensor
    """(m, n) token ids, lowest logit first."""
    suppressed: Tensor
    """(m, n) their logits, rising."""


class FinalNorm(NamedTuple):
    """What the norm before the unembedding does to a direction, apart from the length."""

    scale: Tensor
    """(d_model,) float32, what each coordinate is multiplied by."""
    centres: bool
    """Whether it takes the mean off first, as LayerNorm does."""


@dataclass(frozen=True, slots=True, eq=False)
class LogitLens:
    """The direct effect of directions on the logits (nostalgebraist 2020, on directions).

        logits = (centre(direction) * scale) W_U^T

    The final norm's division by the token's own norm is left out, as are a softcap and a factor on
    the logits: they change no order. So a logit is in units of one latent to another, not nats.
    What later layers make of the direction is left out too.
    """

    unembedding: Columns
    """A row of W_U for each token."""
    norm: FinalNorm | None
    """The norm before it."""

    def read(
        self, directions: Tensor, n: int = N_TOP, block_elements: int = BLOCK_ELEMENTS
    ) -> Logits:
        """The tokens at both ends of the logits of directions.

        Args:
            directions: (m, d_model) rows of `W_dec`.
            n: tokens at either end.
            block_elements: most logits at once.
        """
        rows = directions.to(self.unembedding.vectors.device, torch.float32)
        if self.norm:
            if self.norm.centres:
                rows = rows - rows.mean(-1, keepdim=True)
            rows = rows * self.norm.scale.to(rows.device)
        lengths = rows.norm(dim=-1, keepdim=True)
        rows = rows / lengths.where(lengths > 0, 1)
        high, low = ends(rows, self.unembedding, n, (1, -1), block_elements=block_elements)
        return Logits(high.columns, high.products * lengths, low.columns, low.products * lengths)


def open_lens(
    subject: Subject, coder: SparseCoder, writes: Hookpoint, n_vocab: int | None = None
) -> LogitLens | None:
    """The lens of a subject, for the directions of a coder.

    Args:
        subject: the language model, with its head.
        coder: the sparse coder.
        writes: what the coder reconstructs.
        n_vocab: tokens of the tokenizer; rows behind it pad the unembedding. None = all rows.

    Returns:
        None if the coder does not write to the residual stream, or the model has no unembedding.
    """
    head = subject.model.get_output_embeddings()
    if head is None or not writes_residual(writes, subject):
        return None
    unembedding = head.weight.detach()[:n_vocab]
    if coder.d_out != subject.d_model or unembedding.shape[1] != coder.d_out:
        return None
    fast = has_fast_bfloat16(unembedding.device)
    return LogitLens(make_columns(unembedding, None, fast), final_norm(subject.model))


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


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """The decoder directions of a coder, to be compared."""

    columns: Columns
    """`W_dec`, scaled to length 1; a direction of length 0 stays as it is."""

    def neighbours(
        self, start: int, stop: int, n: int = N_TOP, block_elements: int = BLOCK_ELEMENTS
    ) -> list[Neighbours]:
        """For the latents from start to stop - 1 those of the greatest cosine, above 0.

        Args:
            start: the first latent.
            stop: one more than the last.
            n: most neighbours of a latent.
            block_elements: most cosines at once.

        Ties are in order of index.
        """
        units = self.columns.exact(start, stop)
        (found,) = ends(units, self.columns, n, (1,), start, block_elements)
        rows = zip(found.columns.tolist(), found.products.tolist(), strict=True)
        return [_neighbours(latents, cosines) for latents, cosines in rows]


def open_directions(W_dec: Tensor) -> Directions:
    """Prepare decoder directions (n_latents, d_out) to be compared; they are not copied."""
    lengths = torch.cat([rows.float().norm(dim=-1) for rows in W_dec.split(1 << 14)])
    scale = 1 / lengths.where(lengths > 0, 1)
    return Directions(make_columns(W_dec, scale, has_fast_bfloat16(W_dec.device)))


def _neighbours(latents: Sequence[int], cosines: Sequence[float]) -> Neighbours:
    """Pairs whose cosine is more than the rounding of 0; ties in order of index."""
    pairs = zip(latents, map(rounded, cosines), strict=True)
    kept = (pair for pair in pairs if pair[1] > LEAST_COSINE)
    return tuple(sorted(kept, key=lambda pair: (-pair[1], pair[0])))
