"""Encoding at the speed that a cache wants: the firings of `SparseCoder.firings`, found sooner.

    top-k            pre-activations of a block of tokens, the k largest of each
    threshold        pre-activations of a block of latents, those above the threshold
    many latents     the product in bfloat16 says which latents may fire, float32 decides

The last way finds what float32 finds. With rounded inputs x~ and w~ (Cauchy and Schwarz)

    |x w - x~ w~| <= |x - x~| |w| + |x~| |w - w~|

so a latent whose rounded pre-activation misses the cut by more than the bound cannot fire. The
others are computed in float32; a token for which too many are left is encoded densely.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from lite_interp.sae.coder import BLOCK_ELEMENTS, Fired, SparseCoder, join_fired

SCREENED_LATENTS = 1 << 12
"""From so many latents on screening is faster than float32."""
BLOCK_TOKENS = 1024
"""Most tokens that are encoded at once."""
STRIDES = 8
"""Pre-activations of which the greatest is looked at first."""
HALF_STEP = 2.0**-8
"""Greatest relative error of rounding to bfloat16."""
SUMS = 2.0**-12
"""Greatest relative error of a float32 sum of 4,096 products, all of one sign."""

Found = tuple[Tensor, Tensor, Tensor]
"""Rows of tokens, latents, activations > 0; three (f,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """The encoder in bfloat16, and how far its pre-activations may be off."""

    W_enc: Tensor
    """(d_in, n_latents) bfloat16."""
    rows: Tensor
    """(n_latents, d_in) float32, the exact encoder, a latent a row."""
    longest: float
    """Greatest length of a latent's encoder vector."""
    lost: float
    """Greatest length of what rounding took from one."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """A sparse coder, ready to encode many tokens."""

    coder: SparseCoder
    """The coder."""
    screen: Screen | None
    """For coders with many latents, on a machine that is fast at bfloat16."""

    @torch.no_grad()
    def firings(self, x: Tensor) -> Fired:
        """All activations > 0, in any order.

        Args:
            x: (n, d_in) activations at the hookpoint, any dtype.
        """
        if self.screen is None and not self.coder.compete:
            return join_fired(_by_latents(self.coder, self.coder.prepared(x)), x.device)
        found, start = [], 0
        for block in self.coder.blocks(x):
            # A block that fits in the cache of a core is the faster.
            for part in block.split(BLOCK_TOKENS):
                rows, latents, values = self._of_block(self.coder.prepared(part))
                found.append((rows + start, latents, values))
                start += len(part)
        return join_fired(found, x.device)

    def _of_block(self, x: Tensor) -> Found:
        if self.screen is None or self.coder.activation == "groupmax":
            return _positive(*self.coder.largest(_pre_activations(self.coder, x)))
        if not self.coder.compete:
            return _screened_threshold(self.coder, self.screen, x)
        return _screened_top(self.coder, self.screen, x)


def make_encoder(coder: SparseCoder, fast_bfloat16: bool) -> Encoder:
    """Make a coder ready to encode many tokens.

    Args:
        coder: the coder, on the device where it is used.
        fast_bfloat16: whether the CPU multiplies bfloat16 much faster than float32; elsewhere
            sums in bfloat16 may be less exact than the bound asks for, and there is no screening.
    """
    wide = coder.n_latents >= SCREENED_LATENTS and coder.activation != "groupmax"
    if not (fast_bfloat16 and wide and coder.W_enc.device.type == "cpu"):
        return Encoder(coder, None)
    rounded = coder.W_enc.bfloat16()
    lost = max(
        float((exact - part.float()).norm(dim=0).max())
        for exact, part in zip(coder.W_enc.split(4096, 1), rounded.split(4096, 1), strict=True)
    )
    longest = float(coder.W_enc.norm(dim=0).max())
    return Encoder(coder, Screen(rounded, coder.W_enc.T.contiguous(), longest, lost))


def _pre_activations(coder: SparseCoder, x: Tensor) -> Tensor:
    return torch.addmm(coder.b_enc, x, coder.W_enc)


def _positive(values: Tensor, latents: Tensor) -> Found:
    """Of (n, k) values and latents those above 0."""
    rows, places = (values > 0).nonzero(as_tuple=True)
    return rows, latents[rows, places], values[rows, places]


def _by_latents(coder: SparseCoder, x: Tensor) -> list[Found]:
    """Firings where each latent is by itself: a block of latents of all tokens at a time."""
    found = []
    size = max(1, BLOCK_ELEMENTS // max(1, len(x)))
    for start in range(0, coder.n_latents, size):
        part = slice(start, min(coder.n_latents, start + size))
        p = torch.addmm(coder.b_enc[part], x, coder.W_enc[:, part])
        values = coder.fired(p, part)
        rows, latents = values.nonzero(as_tuple=True)
        found.append((rows, latents + start, values[rows, latents]))
    return found


def _rough(coder: SparseCoder, screen: Screen, x: Tensor) -> tuple[Tensor, Tensor]:
    """(n, n_latents) bfloat16 pre-activations; (n, 1) how far off they may be but for rounding."""
    rounded = x.bfloat16()
    p = torch.addmm(coder.b_enc.bfloat16(), rounded, screen.W_enc)
    lost = (x - rounded.float()).norm(dim=1, keepdim=True)
    length = x.norm(dim=1, keepdim=True) + lost
    bias = float((coder.b_enc - coder.b_enc.bfloat16().float()).abs().max())
    return p, lost * screen.longest + length * (screen.lost + SUMS * screen.longest) + bias


def _screened_top(coder: SparseCoder, screen: Screen, x: Tensor) -> Found:
    """The k largest of each token: of twice as many candidates, if no other can be among them."""
    k = coder.k or 0
    p, bound = _rough(coder, screen, x)
    rough, latents = _greatest(p, min(2 * k + 32, coder.n_latents))
    greatest = rough.abs().amax(dim=1, keepdim=True)
    least, last = rough[:, k - 1 : k], rough[:, -1:]
    safe = (least - last > 2 * (bound + HALF_STEP * greatest)).squeeze(1)
    chosen, order = latents[safe].sort(dim=1)
    counts = torch.full((len(chosen),), chosen.shape[1])
    exact = _exact(coder, screen, x[safe], chosen.reshape(-1), counts)
    values, places = exact.view(chosen.shape).topk(k, dim=-1, sorted=False)
    rows, kept, values = _positive(values, chosen.gather(1, places))
    found = (safe.nonzero().squeeze(1)[rows], kept, values)
    if bool(safe.all()):
        return found
    others = (~safe).nonzero().squeeze(1)
    rows, kept, values = _positive(*coder.largest(_pre_activations(coder, x[others])))
    parts = (found, (others[rows], kept, values))
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))  # type: ignore[return-value]


def _greatest(p: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(rows, n) float32 the n greatest of each row (rows, m), falling, and where they stand.

    Of m numbers in groups of eight the n greatest stand in the n groups with the greatest maxima.
    """
    n_rows, m = p.shape
    if m % STRIDES or m // STRIDES < n:
        values, places = p.topk(n, dim=-1)
        return values.float(), places
    grouped = p.view(n_rows, STRIDES, m // STRIDES)
    groups = grouped.amax(1).topk(n, dim=-1, sorted=False).indices
    few = grouped.gather(2, groups[:, None].expand(-1, STRIDES, -1)).flatten(1)
    values, places = few.topk(n, dim=-1)
    stride = torch.div(places, n, rounding_mode="floor")
    return values.float(), groups.gather(1, places - n * stride) + stride * (m // STRIDES)


def _screened_threshold(coder: SparseCoder, screen: Screen, x: Tensor) -> Found:
    """Firings where each latent is by itself, of those whose rounded p comes near the threshold."""
    p, bound = _rough(coder, screen, x)
    cut = torch.zeros(()) if coder.threshold is None else coder.threshold
    cut = cut - bound.max()
    rows, latents = (p > (cut - 4 * HALF_STEP * cut.abs()).bfloat16()).nonzero(as_tuple=True)
    exact = _exact(coder, screen, x, latents, rows.bincount(minlength=len(x)))
    values = coder.fired(exact, latents)
    kept = values > 0
    return rows[kept], latents[kept], values[kept]


def _exact(
    coder: SparseCoder, screen: Screen, x: Tensor, latents: Tensor, counts: Tensor
) -> Tensor:
    """(f,) float32 pre-activations of chosen latents.

    Args:
        coder: the coder.
        screen: its exact rows.
        x: (n, d_in) prepared tokens.
        latents: (f,) those of the first token, rising, then those of the second, and so on.
        counts: (n,) how many there are of each token.
    """
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shape = (len(x), coder.n_latents)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        wanted = torch.sparse_csr_tensor(
            ends, latents, x.new_zeros(len(latents)), size=shape, check_invariants=False
        )
    found = torch.sparse.sampled_addmm(wanted, x, screen.rows.T, beta=0.0)
    return found.values() + coder.b_enc[latents]
