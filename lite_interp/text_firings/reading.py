"""Text × subject × sparse coder → firings, by the code that makes a cache.

    text ─tokenizer─▶ contexts, cut as those of the corpus ─`cache.read_shard`─▶ firings

What the cache masks is masked here: special tokens, and positions whose norm is so many times the
median norm of the cache's corpus. Unlike a corpus, a text keeps a short last piece, and a context
that stands in it twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp.cache import BATCH_TOKENS, CacheSettings, Reader, read_shard
from lite_interp.db import caches, masking
from lite_interp.db.caches import CacheInfo
from lite_interp.errors import ResultsError, UsageError
from lite_interp.fit import Site, read_sample
from lite_interp.records import ContextShard
from lite_interp.reopening import Reopened
from lite_interp.sae import make_encoder
from lite_interp.subject import has_fast_bfloat16
from lite_interp.tokenizer import Tokenizer

MOST_CHARACTERS = 100_000
"""Of a text; what is longer is a corpus."""


class LatentFirings(NamedTuple):
    """Where one latent fires in a text."""

    latent: int
    """Index."""
    peak: float
    """Greatest activation."""
    tokens: NDArray[np.int64]
    """(n,) numbers of tokens, rising."""
    values: NDArray[np.float32]
    """(n,) activations, > 0."""


@dataclass(frozen=True, slots=True, eq=False)
class TextFirings:
    """The tokens of a text and what fires on them."""

    tokens: tuple[str, ...]
    """(n,) texts of the tokens of all contexts, a BOS token of each included."""
    contexts: NDArray[np.int64]
    """(n,) number of the context, from 0."""
    positions: NDArray[np.int64]
    """(n,) position in the context, from 0."""
    special: NDArray[np.bool_]
    """(n,) whether the token is left out because it is a special one."""
    n_outlier: int
    """Tokens that are left out because their norm is an outlier."""
    places: NDArray[np.int64]
    """(f,) number of the token, rising."""
    latents: NDArray[np.int32]
    """(f,) indices; of one token the strongest first."""
    values: NDArray[np.float32]
    """(f,) activations, > 0."""

    def at(self, token: int) -> list[tuple[int, float]]:
        """(latent, activation) at a token, the strongest first."""
        low, high = np.searchsorted(self.places, [token, token + 1])
        pairs = zip(self.latents[low:high], self.values[low:high], strict=True)
        return [(int(latent), float(value)) for latent, value in pairs]

    def by_latent(self) -> list[LatentFirings]:
        """Every latent that fires, by its greatest activation; equal ones by index."""
        order = np.argsort(self.latents, kind="stable")
        latents, starts = np.unique(self.latents[order], return_index=True)
        found = [
            LatentFirings(
                int(latent), float(self.values[part].max()), self.places[part], self.values[part]
            )
            for latent, part in zip(latents, np.split(order, starts[1:]), strict=False)
        ]
        return sorted(found, key=lambda each: (-each.peak, each.latent))


def checked_text(text: str) -> str:
    """The text as Unicode that a tokenizer takes.

    Raises:
        UsageError: it is empty or too long.
    """
    if not text.strip():
        raise UsageError("there is no text to read")
    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            f"the text is too long: {len(text):,} characters",
            f"at most {MOST_CHARACTERS:,}; `lite-interp cache` reads whole corpora",
        )
    # What a terminal could not decode arrives as lone surrogates, which are no text.
    return text.encode("utf-8", "replace").decode()


def read_text(db: Database, cache: CacheInfo, made: Reopened, text: str) -> TextFirings:
    """Which latents of a cache fire on a text, where, and how strongly.

    Args:
        db: the file.
        cache: the cache whose subject and coder read it, and whose masks hold.
        made: these models.
        text: valid Unicode.

    Raises:
        UsageError: the tokenizer makes nothing of the text.
        SubjectError: there is no memory for a context.
    """
    shard = _cut(text, made.tokenizer, cache)
    reader = _reader(db, cache, made)
    (found,), _ = read_shard(shard, made.subject, [reader], BATCH_TOKENS)
    contexts, positions = np.nonzero(np.arange(shard.token_ids.shape[1]) < shard.lengths[:, None])
    ids = shard.token_ids[contexts, positions]
    tokens = [
        made.tokenizer.texts(row[:length].tolist())
        for row, length in zip(shard.token_ids, shard.lengths, strict=True)
    ]
    special = np.isin(ids, list(made.tokenizer.special_ids)) & reader.settings.mask_special
    first_token = np.cumsum(shard.lengths) - shard.lengths
    in_context, position = np.divmod(found.places, shard.token_ids.shape[1])
    places = first_token[in_context] + position
    order = np.lexsort((found.latents, -found.values, places))
    return TextFirings(
        tuple(token for row in tokens for token in row),
        contexts,
        positions,
        special,
        found.n_outlier,
        places[order],
        found.latents[order],
        found.values[order],
    )


def _cut(text: str, tokenizer: Tokenizer, cache: CacheInfo) -> ContextShard:
    """The text as contexts like those of the corpus."""
    tokens = tokenizer.encode(text)
    if not tokens:
        raise UsageError("the tokenizer makes nothing of the text")
    corpus = cache.corpus
    prefix = [tokenizer.bos_id] if corpus.add_bos and tokenizer.bos_id is not None else []
    room = corpus.n_ctx - len(prefix)
    rows = [prefix + tokens[start : start + room] for start in range(0, len(tokens), room)]
    lengths = np.array([len(row) for row in rows], np.int32)
    token_ids = np.zeros((len(rows), corpus.n_ctx), np.int32)
    for row, cut in zip(token_ids, rows, strict=True):
        row[: len(cut)] = cut
    return ContextShard(0, 0, lengths, token_ids)


def _reader(db: Database, cache: CacheInfo, made: Reopened) -> Reader:
    """The coder as the cache read with it."""
    stored = masking.load_settings(db, cache)
    settings = CacheSettings(bool(stored["mask_special"]), float(stored["outlier_multiple"]))
    site = Site(made.reads, made.reads, made.tokenizer.special_ids)
    norm = _median_norm(db, cache, made, site) if settings.outlier_multiple else 0.0
    encoder = make_encoder(made.coder, has_fast_bfloat16(made.subject.device))
    return Reader(encoder, site, settings, norm)


def _median_norm(db: Database, cache: CacheInfo, made: Reopened, site: Site) -> float:
    """As the cache measured it, or measured again on the same sample of the corpus."""
    noted, certain = masking.load_median_norm(db, cache)
    places = caches.shard_places(db, cache.corpus.id)
    if noted is not None and (certain or not places):
        return noted
    if not places:
        raise ResultsError(
            "the file does not say which norms are outliers, and has no corpus to measure them on",
            "use the file that this one was made from",
        )

    def shards() -> Iterator[ContextShard]:
        for shard, _, _ in places:
            yield caches.load_context_shard(db, cache.corpus.id, shard)

    return read_sample(shards(), made.subject, site).median_norm
