"""The details of every latent of a cache, in two passes over its firings.

    first     where any latent fires, and which latents fire at each place
    second    a block of latents at a time: what their firings say, what their weights say, and
              who fires with them; the rows of a block are written before the next is looked at

So what is in memory at once grows with the tokens, one byte each beside their ids, and with a block
of latents, but never with all latents' details.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache as remembered
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp import cofiring, details, tallies
from lite_interp.cofiring import Cofirings
from lite_interp.db import cached, caches
from lite_interp.db.caches import CacheInfo
from lite_interp.db.details import count_firings, store_details
from lite_interp.details import LatentDetails, Neighbours, Tokens, rounded
from lite_interp.lens import Directions, LogitLens, Logits, open_directions, open_lens
from lite_interp.records import Hookpoint
from lite_interp.sae import SparseCoder
from lite_interp.subject import Subject
from lite_interp.tallies import Block
from lite_interp.tokenizer import Tokenizer

Text = Callable[[int], str]
"""A token id → its text by itself; part of a character is U+FFFD."""


class Weights(NamedTuple):
    """What says which tokens a latent raises, and which latents point its way."""

    subject: Subject
    """The language model."""
    coder: SparseCoder
    """The sparse coder of the cache."""
    writes: Hookpoint
    """What the coder reconstructs."""


class _Corpus(NamedTuple):
    """What the firings of a latent are compared with."""

    token_ids: NDArray[np.int32]
    counted: NDArray[np.int64]
    n_counted: int
    together: Cofirings


class _Fired(NamedTuple):
    """What the firings of a block of latents say; a row or an item for each."""

    n_firings: list[int]
    n_contexts: list[int]
    quantiles: list[list[float]]
    top_tokens: list[list[tuple[int, float]]]
    positions: list[float]
    together: list[Neighbours]


class _Written(NamedTuple):
    """What the weights of a block of latents say; None if unknown."""

    promoted: list[Tokens] | None
    suppressed: list[Tokens] | None
    neighbours: list[Neighbours] | None


def compute_details(
    db: Database, cache: CacheInfo, tokenizer: Tokenizer, weights: Weights | None = None
) -> None:
    """Compute the details of every latent and store them in one transaction.

    The file does not say which positions were masked. For `position_dependence` those count at
    which any latent fired: with a topk coder exactly the counted ones.

    Args:
        db: the file; all shards of the cache are in it.
        cache: the cache.
        tokenizer: the subject's.
        weights: subject and coder, if they are in memory; without them the tokens a latent raises
            and the neighbours of its direction stay unknown.
    """
    corpus = _first_pass(db, cache)

    @remembered
    def text(token: int) -> str:
        return tokenizer.texts([token])[0]

    look = _open_weights(weights, tokenizer.n_vocab, text)

    def rows() -> Iterator[LatentDetails]:
        for block in _blocks(db, cache):
            yield from _rows(block, corpus, _fired(block, corpus), look(block), text)

    store_details(db, cache.id, rows())


def _blocks(db: Database, cache: CacheInfo) -> Iterator[Block]:
    return tallies.blocks(cached.iterate_firings(db, cache), cache.n_latents)


def _first_pass(db: Database, cache: CacheInfo) -> _Corpus:
    """Which positions count, and which latents fire at each place."""
    _, token_ids = caches.load_tokens(db, cache.corpus)
    fired_at = np.zeros(token_ids.shape, bool)

    def marked() -> Iterator[Block]:
        for block in _blocks(db, cache):
            fired_at[block.contexts, block.positions] = True
            yield block

    n_ctx = cache.corpus.n_ctx
    step = cofiring.every_nth_context(count_firings(db, cache.id))
    together = cofiring.collect(marked(), cache.n_latents, (len(token_ids), n_ctx), step)
    bins = tallies.bins_of_positions(n_ctx)
    counted = np.bincount(bins, fired_at.sum(axis=0), details.N_POSITION_BINS).astype(np.int64)
    return _Corpus(token_ids, counted, caches.counted_positions(db, cache.id), together)


def _fired(block: Block, corpus: _Corpus) -> _Fired:
    n_ctx = corpus.token_ids.shape[1]
    bins = tallies.position_bins(block, n_ctx)
    return _Fired(
        block.counts.tolist(),
        tallies.count_contexts(block).tolist(),
        tallies.quantiles(block).tolist(),
        _top_tokens(tallies.token_sums(block, corpus.token_ids)),
        details.position_dependence(bins, corpus.counted).tolist(),
        cofiring.neighbours(corpus.together, block, n_threads=_n_threads()),
    )


def _n_threads() -> int:
    """As many as the rest of the work may use."""
    import torch

    return torch.get_num_threads()


def _top_tokens(found: tallies.Sums) -> list[list[tuple[int, float]]]:
    """For each latent at most ten token ids with their share of the activation."""
    top = []
    for start, stop in pairwise(found.starts):
        sums, ids = found.sums[start:stop], found.token_ids[start:stop]
        places = details.greatest(sums, ids)
        shares = sums[places] / max(sums.sum(), 1e-300)
        top.append(list(zip(ids[places].tolist(), shares.tolist(), strict=True)))
    return top


def _rows(
    block: Block, corpus: _Corpus, fired: _Fired, written: _Written, text: Text
) -> Iterator[LatentDetails]:
    for place, n_firings in enumerate(fired.n_firings):
        top = fired.top_tokens[place]
        single_token_share = top[0][1] if top else 0.0
        position = rounded(fired.positions[place])
        yield LatentDetails(
            block.start + place,
            tuple(map(rounded, fired.quantiles[place])) if n_firings else (),
            tuple((text(token), rounded(share)) for token, share in top),
            single_token_share,
            position,
            details.flags_of(
                n_firings,
                fired.n_contexts[place],
                n_firings / max(1, corpus.n_counted),
                single_token_share,
                position,
            ),
            written.promoted[place] if written.promoted else None,
            written.suppressed[place] if written.suppressed else None,
            written.neighbours[place] if written.neighbours else (),
            fired.together[place],
        )


def _open_weights(weights: Weights | None, n_vocab: int, text: Text) -> Callable[[Block], _Written]:
    """How to read what the weights say of a block of latents."""
    if weights is None:
        return lambda block: _Written(None, None, None)
    subject, coder, writes = weights
    lens, directions = open_lens(subject, coder, writes, n_vocab), open_directions(coder.W_dec)
    return lambda block: _written(block, coder, lens, directions, text)


def _written(
    block: Block, coder: SparseCoder, lens: LogitLens | None, directions: Directions, text: Text
) -> _Written:
    neighbours = directions.neighbours(block.start, block.stop)
    if lens is None:
        return _Written(None, None, neighbours)
    return _Written(*_tokens(lens.read(coder.W_dec[block.start : block.stop]), text), neighbours)


def _tokens(logits: Logits, text: Text) -> tuple[list[Tokens], list[Tokens]]:
    """Tokens raised and lowered by each latent; a direction of length 0 does neither."""
    promoted, suppressed = (
        [
            tuple(
                (text(token), rounded(logit))
                for token, logit in zip(tokens, values, strict=True)
                if logit * sign > 0
            )
            for tokens, values in zip(ids.tolist(), found.tolist(), strict=True)
        ]
        for ids, found, sign in (
            (logits.promoted_ids, logits.promoted, 1),
            (logits.suppressed_ids, logits.suppressed, -1),
        )
    )
    return promoted, suppressed
