"""Windows of a corpus as directions, and which lie nearest to some of them.

The vectors are made once for a corpus, a width and an embedder, and serve every latent. What may
not be found, because the latent fires in it, is left out when it is looked for: no index of one
latent is ever needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lite_interp.embedder import Embedder

BLOCK = 1 << 14
"""Vectors that are compared at once."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowIndex:
    """The direction of every window of a corpus."""

    vectors: NDArray[np.float16]
    """(n_windows, d) unit vectors; all 0 for a window that has no direction."""

    def nearest(
        self, shown: NDArray[np.int64], pool: NDArray[np.int64], n: int
    ) -> NDArray[np.int64]:
        """Numbers of up to n windows of a pool, those nearest to the shown windows first.

        Args:
            shown: (q,) numbers of the windows to be near to.
            pool: (m,) numbers to choose from, rising.
            n: how many.

        The shown windows take turns, each with its next nearest; one that was taken before is
        passed over. So all of them have their share, and a latent with two meanings has near
        windows of both: the mean of its windows may be near to neither. Exact; takes 4 q bytes
        a window of the pool and, on one core, a second for 300,000 windows and 20 shown.
        """
        n = min(n, len(pool))
        if not n or not len(shown):
            return pool[:0]
        cosines = self._cosines(shown, pool)
        turns = np.stack([_greatest(row, n) for row in cosines], axis=1).ravel()
        _, firsts = np.unique(turns, return_index=True)
        return pool[turns[np.sort(firsts)[:n]]]

    def _cosines(self, shown: NDArray[np.int64], pool: NDArray[np.int64]) -> NDArray[np.float32]:
        queries = self.vectors[shown].astype(np.float32)
        cosines = np.empty((len(shown), len(pool)), np.float32)
        for start in range(0, len(pool), BLOCK):
            block = self.vectors[pool[start : start + BLOCK]].astype(np.float32)
            cosines[:, start : start + BLOCK] = queries @ block.T
        return cosines


def _greatest(numbers: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Places of the n greatest, greatest first; equal ones in order of place."""
    least = np.partition(numbers, -n)[-n]
    places = np.flatnonzero(numbers >= least)
    return places[np.argsort(-numbers[places], kind="stable")][:n]


def embed_windows(
    texts: Iterable[str], embedder: Embedder, batch: int = 256
) -> Iterator[NDArray[np.float16]]:
    """Vectors (b, d) of the texts in order, a batch at a time, so that progress can be shown.

    Half precision changes a cosine by about 1e-4 at most.
    """
    rest = iter(texts)
    while some := list(islice(rest, batch)):
        vectors = np.asarray(embedder.embed(some), np.float32)
        # A text without a direction is near to nothing; it must not be near to everything.
        vectors[~np.isfinite(vectors).all(axis=1)] = 0
        yield vectors.astype(np.float16)


def join_vectors(parts: Iterable[NDArray[np.float16]]) -> NDArray[np.float16]:
    """(n, d) vectors of all parts in order; a part without a vector may be of any width."""
    filled = [vectors for vectors in parts if len(vectors)]
    return np.concatenate(filled) if filled else np.zeros((0, 0), np.float16)
