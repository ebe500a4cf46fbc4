"""Does a sparse coder belong to this subject and hookpoint? One cheap measurement tells.

The fraction of variance unexplained, FVU = sum |y - y'|^2 / sum |y - mean(y)|^2, is near 1 or above
it whenever the hookpoint, the model or a scale is wrong, whatever the file format.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lite_interp.errors import CoderError, one_line
from lite_interp.sae.coder import SparseCoder

WORST_FVU = 0.9
"""A coder that leaves more of the variance unexplained is refused."""
WORST_L0_RATIO = 3.0
"""An L0 this many times off the declared k is worth a warning."""


class Fit(NamedTuple):
    """How well a sparse coder reconstructs a sample of activations."""

    fvu: float
    """Fraction of variance unexplained; 0 = perfect, NaN where there is no variance."""
    l0: float
    """Mean number of latents that fire for each token."""
    dead_fraction: float
    """Fraction of the latents that never fired in the sample."""
    n_tokens: int
    """Tokens in the sample."""


def check_fits(coder: SparseCoder, name: str, d_reads: int, d_writes: int) -> None:
    """Refuse a coder whose widths are not those of the subject's hookpoints.

    Args:
        coder: the sparse coder.
        name: the subject and hookpoint, for the message.
        d_reads: width of the activations it would read.
        d_writes: width of the activations it would write.
    """
    for verb, own, subject in (
        ("reads", coder.d_in, d_reads),
        ("writes", coder.d_out, d_writes),
    ):
        if own != subject:
            raise CoderError(
                f"sparse coder {verb} width {own}, the hookpoint has width {subject}: "
                f"{one_line(name)}",
                "the coder was trained on another model or another hookpoint",
            )


@torch.no_grad()
def measure_fit(coder: SparseCoder, x: Tensor, y: Tensor | None = None) -> Fit:
    """Measure a coder on activations, in float32 with sums in float64.

    Args:
        coder: the sparse coder.
        x: (n, d_in) activations it reads; leave out BOS and outlier positions.
        y: (n, d_out) activations a transcoder should give; None = x.
    """
    target = (x if y is None else y).float()
    if not len(target):
        return Fit(math.nan, 0.0, 1.0, 0)
    error = total = 0.0
    n_fired = torch.zeros(coder.n_latents, dtype=torch.long, device=x.device)
    mean = target.mean(0)
    for part, wanted in zip(x.split(4096), target.split(4096), strict=True):
        encoded = coder.encode(part)
        made = coder.reconstruct(part, encoded)
        error += float((wanted - made).pow(2).sum(dtype=torch.float64))
        total += float((wanted - mean).pow(2).sum(dtype=torch.float64))
        n_fired += encoded.indices[encoded.values > 0].bincount(minlength=coder.n_latents)
    return Fit(
        fvu=error / total if total > 0 else math.nan,
        l0=int(n_fired.sum()) / len(target),
        dead_fraction=float((n_fired == 0).double().mean()),
        n_tokens=len(target),
    )


def refuse_bad_fit(fit: Fit, coder: SparseCoder) -> list[str]:
    """Refuse a coder that does not reconstruct; returns warnings about one that does.

    Raises:
        CoderError: the FVU is above 0.9, or no number.
    """
    if not fit.fvu <= WORST_FVU:
        raise CoderError(
            f"sparse coder does not reconstruct {one_line(coder.writes)}: fraction of variance "
            f"unexplained {fit.fvu:.3g} over {fit.n_tokens} tokens, at most {WORST_FVU} is allowed",
            "wrong hookpoint, wrong model (base or instruct?), or a scale of the input that is "
            "not folded into the weights",
        )
    if coder.k is None or coder.k / WORST_L0_RATIO <= fit.l0 <= coder.k * WORST_L0_RATIO:
        return []
    return [
        f"{fit.l0:.1f} latents fire for each token, the sparse coder declares k = {coder.k}: "
        "does it belong to this subject?"
    ]


def valid_positions(lengths: Any, width: int) -> Tensor:
    """(n, width) bool: which positions lie within their context's length."""
    return torch.arange(width) < torch.as_tensor(lengths)[:, None]
