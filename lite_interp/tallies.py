"""What the firings of many latents say of each by itself, without a loop over firings or latents.

Firings lie side by side, one latent after the other. What is wanted of each latent are sums and
orders within its run: one sort of numbers that begin with the latent gives them all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.details import N_POSITION_BINS
from lite_interp.records import Firings

MOST_FIRINGS = 1 << 20
"""Firings in a block, unless one latent alone has more: some 60 MiB of scratch."""
MOST_LATENTS = 1 << 11
"""Latents in a block."""
N_QUANTILES = 11


class Block(NamedTuple):
    """The firings of some latents that follow each other, those that never fired too."""

    start: int
    """The first latent."""
    counts: NDArray[np.int64]
    """(m,) firings of each latent."""
    contexts: NDArray[np.int32]
    """(f,) ordinals of contexts; (context, position) rises within a latent."""
    positions: NDArray[np.int32]
    """(f,) positions in them."""
    values: NDArray[np.float32]
    """(f,) activations, > 0."""

    @property
    def stop(self) -> int:
        """One more than the last latent."""
        return self.start + len(self.counts)

    @property
    def starts(self) -> NDArray[np.int64]:
        """(m + 1,) latent i of the block owns the firings from starts[i] up to starts[i + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @property
    def owners(self) -> NDArray[np.int64]:
        """(f,) number of the latent within the block."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def blocks(
    found: Iterable[tuple[int, Firings]],
    n_latents: int,
    most_firings: int = MOST_FIRINGS,
    most_latents: int = MOST_LATENTS,
) -> Iterator[Block]:
    """All latents from 0 to n_latents - 1 in blocks.

    Args:
        found: the latents that fired, rising, each with its firings.
        n_latents: how many there are.
        most_firings: firings in a block, unless one latent alone has more.
        most_latents: latents in a block.
    """
    start, held, n_held = 0, list[tuple[int, Firings]](), 0
    for latent, firings in found:
        while latent >= start + most_latents or (
            held and n_held + len(firings.values) > most_firings
        ):
            stop = min(start + most_latents, latent)
            yield _joined(held, start, stop)
            start, held, n_held = stop, [], 0
        held.append((latent, firings))
        n_held += len(firings.values)
    while start < n_latents:
        stop = min(start + most_latents, n_latents)
        yield _joined(held, start, stop)
        start, held = stop, []


def _joined(held: list[tuple[int, Firings]], start: int, stop: int) -> Block:
    counts = np.zeros(stop - start, np.int64)
    for latent, firings in held:
        counts[latent - start] = len(firings.values)
    whole = [firings for _, firings in held]
    return Block(
        start,
        counts,
        np.concatenate([np.zeros(0, np.int32), *(each.contexts for each in whole)]),
        np.concatenate([np.zeros(0, np.int32), *(each.positions for each in whole)]),
        np.concatenate([np.zeros(0, np.float32), *(each.values for each in whole)]),
    )


def quantiles(block: Block) -> NDArray[np.float64]:
    """(m, 11) activation at 0, 10, … 100 % of each latent's firings; 0 if it never fired.

    Linear between neighbours, as `numpy.quantile` does by default.
    """
    # Bits of floats above 0 rise with the value.
    keys = np.sort(block.owners << 32 | block.values.view(np.uint32).astype(np.int64))
    values = np.append((keys & 0xFFFFFFFF).astype(np.uint32).view(np.float32), np.float32(0))
    places = np.maximum(block.counts - 1, 0)[:, None] * np.linspace(0, 1, N_QUANTILES)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(block.counts - 1, 0)[:, None])
    first = block.starts[:-1, None]
    low, high = values[first + below].astype(np.float64), values[first + above].astype(np.float64)
    part, step = places - below, high - low
    # From the nearer end, as numpy does it.
    found = np.where(part < 0.5, low + step * part, high - step * (1 - part))
    return np.where(block.counts[:, None] > 0, found, 0.0)


class Sums(NamedTuple):
    """Activation on each token, one latent after the other."""

    starts: NDArray[np.int64]
    """(m + 1,) latent i of the block owns what lies from starts[i] up to starts[i + 1]."""
    token_ids: NDArray[np.int64]
    """(s,) ids, rising within a latent, each once."""
    sums: NDArray[np.float64]
    """(s,) sum of the activations on the token."""


def token_sums(block: Block, token_ids: NDArray[np.int32]) -> Sums:
    """Sum of each latent's activation by token id.

    Args:
        block: the firings.
        token_ids: (n_contexts, n_ctx) token ids of the corpus.
    """
    fired_on = token_ids[block.contexts, block.positions].astype(np.int64)
    keys = block.owners << 32 | fired_on
    order = np.argsort(keys)
    keys = keys[order]
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    values = block.values[order].astype(np.float64)
    sums = np.add.reduceat(values, firsts) if len(firsts) else values
    edges = np.arange(len(block.counts) + 1) << 32
    return Sums(np.searchsorted(keys[firsts], edges), keys[firsts] & 0xFFFFFFFF, sums)


def count_contexts(block: Block) -> NDArray[np.int64]:
    """(m,) contexts in which each latent fired."""
    firsts = np.flatnonzero(np.diff(block.owners << 32 | block.contexts, prepend=-1))
    return np.bincount(block.owners[firsts], minlength=len(block.counts))


def bins_of_positions(n_ctx: int) -> NDArray[np.int64]:
    """(n_ctx,) in which eighth of the longest context each position stands."""
    return np.arange(n_ctx) * N_POSITION_BINS // n_ctx


def position_bins(block: Block, n_ctx: int) -> NDArray[np.int64]:
    """(m, 8) how many firings of each latent stand in each eighth of the longest context."""
    m = len(block.counts)
    cells = block.owners * N_POSITION_BINS + bins_of_positions(n_ctx)[block.positions]
    return np.bincount(cells, minlength=m * N_POSITION_BINS).reshape(m, N_POSITION_BINS)
