"""The details of every latent of a cache, in one pass over its firings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp import details
from lite_interp.db import caches
from lite_interp.db.caches import CacheInfo
from lite_interp.db.details import count_firings, store_details
from lite_interp.details import LatentDetails, Neighbours, Tokens
from lite_interp.lens import Lens, decoder_neighbours, logit_lens
from lite_interp.records import Firings, Hookpoint
from lite_interp.sae import SparseCoder
from lite_interp.subject import Subject
from lite_interp.tokenizer import Tokenizer


class Weights(NamedTuple):
    """What says which tokens a latent raises, and which latents point its way."""

    subject: Subject
    """The language model."""
    coder: SparseCoder
    """The sparse coder of the cache."""
    writes: Hookpoint
    """What the coder reconstructs."""


class _Latent(NamedTuple):
    """What one latent's firings say by themselves."""

    n_firings: int
    n_contexts: int
    quantiles: tuple[float, ...]
    top_tokens: Tokens
    single_token_share: float
    bins: NDArray[np.int64]
    places: NDArray[np.int32]


class _Written(NamedTuple):
    """What the weights say of every latent; lists by latent, None or empty if unknown."""

    promoted: list[Tokens] | None
    suppressed: list[Tokens] | None
    neighbours: list[Neighbours]


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
    written = _written(weights, tokenizer) if weights else _Written(None, None, [])
    lengths, token_ids = caches.load_tokens(db, cache.corpus)
    step = details.every_nth_context(count_firings(db, cache.id))
    fired_at = np.zeros(token_ids.shape, bool)
    found: dict[int, _Latent] = {}
    for latent, firings in caches.iterate_firings(db, cache):
        fired_at[firings.contexts, firings.positions] = True
        found[latent] = _one_latent(firings, token_ids, tokenizer, step)
    silent = _one_latent(caches.load_firings(db, cache, -1), token_ids, tokenizer, step)
    latents = [found.pop(latent, silent) for latent in range(cache.n_latents)]
    together = details.cofiring_neighbours([each.places for each in latents], token_ids.size)
    counted = details.position_bins(np.nonzero(fired_at)[1], cache.corpus.n_ctx)
    n_counted = caches.counted_positions(db, cache.id)
    rows = _rows(latents, counted, n_counted, together, written)
    store_details(db, cache.id, rows)


def _one_latent(
    firings: Firings, token_ids: NDArray[np.int32], tokenizer: Tokenizer, step: int
) -> _Latent:
    n_ctx = token_ids.shape[1]
    shares = details.token_shares(token_ids[firings.contexts, firings.positions], firings.values)
    top = zip(shares.token_ids[: details.N_TOP], shares.shares, strict=False)
    kept = firings.contexts % step == 0
    places = firings.contexts[kept].astype(np.int64) * n_ctx + firings.positions[kept]
    return _Latent(
        len(firings.values),
        len(np.unique(firings.contexts)),
        details.quantiles(firings.values),
        tuple((_text(tokenizer, int(token)), details.rounded(share)) for token, share in top),
        float(shares.shares[0]) if len(shares.shares) else 0.0,
        details.position_bins(firings.positions, n_ctx),
        places.astype(np.int32),
    )


def _rows(
    latents: list[_Latent],
    counted: NDArray[np.int64],
    n_counted: int,
    together: list[Neighbours],
    written: _Written,
) -> Iterator[LatentDetails]:
    for number, each in enumerate(latents):
        position = details.position_dependence(each.bins, counted)
        yield LatentDetails(
            number,
            each.quantiles,
            each.top_tokens,
            each.single_token_share,
            position,
            details.flags_of(
                each.n_firings,
                each.n_contexts,
                each.n_firings / max(1, n_counted),
                each.single_token_share,
                position,
            ),
            written.promoted[number] if written.promoted else None,
            written.suppressed[number] if written.suppressed else None,
            written.neighbours[number] if written.neighbours else (),
            together[number],
        )


def _written(weights: Weights, tokenizer: Tokenizer) -> _Written:
    neighbours = decoder_neighbours(weights.coder.W_dec)
    lens = logit_lens(weights.subject, weights.coder, weights.writes, tokenizer.n_vocab)
    if lens is None:
        return _Written(None, None, neighbours)
    return _Written(*_tokens(lens, tokenizer), neighbours)


def _tokens(lens: Lens, tokenizer: Tokenizer) -> tuple[list[Tokens], list[Tokens]]:
    """Tokens raised and lowered by each latent; a direction of length 0 does neither."""
    promoted, suppressed = (
        [
            tuple(
                (_text(tokenizer, token), details.rounded(logit))
                for token, logit in zip(tokens, values, strict=True)
                if logit * sign > 0
            )
            for tokens, values in zip(ids.tolist(), logits.tolist(), strict=True)
        ]
        for ids, logits, sign in (
            (lens.promoted_ids, lens.promoted, 1),
            (lens.suppressed_ids, lens.suppressed, -1),
        )
    )
    return promoted, suppressed


def _text(tokenizer: Tokenizer, token: int) -> str:
    """Text of a token by itself; part of a character is U+FFFD."""
    return tokenizer.texts([token])[0]
