"""Which latents fire at the same positions.

    J(i, j) = c_ij / (n_i + n_j - c_ij)        c_ij = positions at which both fire

What is kept in memory is, for each position, which latents fire there; the firings of a few latents
times that gives their c_ij with all others, as a product of sparse matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lite_interp.details import N_TOP, Neighbours, greatest, rounded
from lite_interp.tallies import Block

LEAST_TOGETHER = 2
"""Positions at which two latents must fire both to be neighbours: one is chance."""

MOST_COFIRINGS = 1 << 25
"""Firings that are held in memory to count co-firings: 12 bytes each at most, 400 MiB."""

BLOCK_ELEMENTS = 1 << 24
"""Most counts of pairs in one product: 128 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class Cofirings:
    """Which latents fire at each place."""

    at_places: Any
    """(n_places, n_latents) sparse matrix by rows, int32: 1 where a latent fires."""
    n_firings: NDArray[np.int64]
    """(n_latents,) places at which each fires."""
    step: int
    """Every step-th context counts: 1 = all, 2 = every second, and so on."""
    n_ctx: int
    """Positions in a context."""


def every_nth_context(n_firings: int, most: int = MOST_COFIRINGS) -> int:
    """Which contexts co-firings are counted on: 1 = all, 2 = every second, and so on."""
    return max(1, -(-n_firings // most))


def _places(block: Block, step: int, n_ctx: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(k,) places of a block's firings that count, and (m,) how many of them each latent has."""
    kept = slice(None) if step == 1 else np.flatnonzero(block.contexts % step == 0)
    places = block.contexts[kept].astype(np.int64) // step * n_ctx + block.positions[kept]
    counts = block.counts
    if step > 1:
        counts = np.bincount(block.owners[kept], minlength=len(block.counts))
    return places.astype(np.int32), counts


def collect(
    blocks: Iterable[Block], n_latents: int, shape: tuple[int, int], step: int
) -> Cofirings:
    """Collect which latents fire at each place.

    Args:
        blocks: the firings of all latents.
        n_latents: how many there are.
        shape: (n_contexts, n_ctx) of the corpus.
        step: by `every_nth_context`.
    """
    from scipy.sparse import csc_array, csr_array

    parts = [_places(block, step, shape[1]) for block in blocks]
    counts = np.concatenate([np.zeros(0, np.int64), *(counts for _, counts in parts)])
    places = np.concatenate([np.zeros(0, np.int32), *(places for places, _ in parts)])
    del parts
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    size = (-(-shape[0] // step) * shape[1], n_latents)
    # One byte a number while it is turned over; the counts of a product need four.
    rows = csc_array((np.ones(len(places), np.int8), places, ends), shape=size).tocsr()
    ones = np.ones(len(places), np.int32)
    return Cofirings(csr_array((ones, rows.indices, rows.indptr), size), counts, step, shape[1])


def neighbours(
    cofirings: Cofirings,
    block: Block,
    n: int = N_TOP,
    block_elements: int = BLOCK_ELEMENTS,
    n_threads: int = 1,
) -> list[Neighbours]:
    """For each latent of a block those that fire at the same positions, greatest J first.

    Args:
        cofirings: of all latents.
        block: the firings of some.
        n: most neighbours of a latent.
        block_elements: most pairs of latents that are counted at once, in each thread.
        n_threads: products at a time.

    Neighbours have c_ij >= 2; ties are in order of index.
    """
    n_latents = len(cofirings.n_firings)
    places, counts = _places(block, cofirings.step, cofirings.n_ctx)
    starts = np.concatenate([[0], np.cumsum(counts)])
    size = max(1, block_elements // max(1, n_latents))

    def of_part(first: int) -> list[Neighbours]:
        ends = starts[first : first + size + 1]
        own = places[ends[0] : ends[-1]]
        return list(_nearest(cofirings, block.start + first, own, ends - ends[0], n))

    with ThreadPoolExecutor(n_threads) as pool:
        parts = pool.map(of_part, range(0, len(counts), size))
        return [each for part in parts for each in part]


def _nearest(
    cofirings: Cofirings,
    first: int,
    places: NDArray[np.int32],
    ends: NDArray[np.int64],
    n: int,
) -> Iterator[Neighbours]:
    """Neighbours of the latents from `first` on, which own the places between the ends."""
    from scipy.sparse import csr_array

    ones = np.ones(len(places), np.int32)
    shape = (len(ends) - 1, cofirings.at_places.shape[0])
    fired = csr_array((ones, places, ends.astype(np.int32)), shape=shape)
    together = fired @ cofirings.at_places
    kept = np.flatnonzero(together.data >= LEAST_TOGETHER)
    others, counts = together.indices[kept], together.data[kept].astype(np.int64)
    edges = np.searchsorted(kept, together.indptr)
    totals = cofirings.n_firings
    for row in range(len(ends) - 1):
        part = slice(edges[row], edges[row + 1])
        counted, own = counts[part], first + row
        jaccard = counted / (totals[own] + totals[others[part]] - counted)
        jaccard[others[part] == own] = 0
        found = greatest(jaccard, others[part], n)
        yield tuple(
            (int(others[part][place]), rounded(jaccard[place])) for place in found if jaccard[place]
        )
