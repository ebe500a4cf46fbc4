"""The loop that caches: shards of contexts are read, shards of firings are stored, then counted."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from sqlite_utils import Database

from lite_interp import reservoir
from lite_interp.cache import Found, Packed, Reader, join, latent_stats, pack, read_shard
from lite_interp.db import cached, caches
from lite_interp.db.caches import CacheInfo
from lite_interp.firing_codec import pack_firings
from lite_interp.records import Firings, LatentStats
from lite_interp.subject import Subject
from lite_interp.windows import make_grid


@dataclass(frozen=True, slots=True, eq=False)
class CacheWork:
    """Shards of one cache that are wanted."""

    cache: CacheInfo
    """The cache."""
    reader: Reader
    """Its coder, and where it reads."""
    shards: frozenset[int]
    """Shards of the cache to read."""


class _Waiting(NamedTuple):
    """A shard of a cache that is being packed."""

    work: CacheWork
    shard: int
    batch_tokens: int
    packed: Future[Packed]


def context_shards(db: Database, works: Sequence[CacheWork]) -> list[int]:
    """The shards of contexts that must be read for caches of one corpus, in order."""
    if not works:
        return []
    there = [shard for shard, _, _ in caches.shard_places(db, works[0].cache.corpus.id)]
    return [
        shard for shard in there if any(shard // work.cache.span in work.shards for work in works)
    ]


def cache_shards(
    db: Database, works: Sequence[CacheWork], subject: Subject, batch_tokens: int
) -> Generator[None, None, None]:
    """Read what caches of one corpus want; yields once for each of its shards of contexts.

    A shard of a cache is stored in one transaction. It is packed beside the passes through the
    subject that follow. No more than two shards of each cache are in memory.
    """
    waiting: list[_Waiting] = []
    with ThreadPoolExecutor(1) as packer:
        try:
            for shard in _read(db, works, subject, batch_tokens, packer):
                waiting += shard
                while waiting and (waiting[0].packed.done() or len(waiting) > len(works)):
                    _store(db, waiting.pop(0))
                yield
        except (GeneratorExit, KeyboardInterrupt):
            # What was read whole is not lost.
            for each in waiting:
                _store(db, each)
            raise
        for each in waiting:
            _store(db, each)


def _read(
    db: Database,
    works: Sequence[CacheWork],
    subject: Subject,
    batch_tokens: int,
    packer: ThreadPoolExecutor,
) -> Iterator[list[_Waiting]]:
    """After each shard of contexts the shards of caches that it was the last of."""
    if not works:
        return
    corpus = works[0].cache.corpus
    parts: list[list[Found]] = [[] for _ in works]
    ordinals = context_shards(db, works)
    for ordinal, following in zip(ordinals, [*ordinals[1:], -1], strict=True):
        contexts = caches.load_context_shard(db, corpus.id, ordinal)
        wanted = [n for n, work in enumerate(works) if ordinal // work.cache.span in work.shards]
        readers = [works[number].reader for number in wanted]
        found, batch_tokens = read_shard(contexts, subject, readers, batch_tokens)
        complete = []
        for number, each in zip(wanted, found, strict=True):
            work = works[number]
            parts[number].append(each)
            shard = ordinal // work.cache.span
            if following // work.cache.span != shard:
                first = caches.first_context(db, corpus.id, shard * work.cache.span)
                whole, parts[number] = join(parts[number]), []
                packed = packer.submit(pack, whole, first * corpus.n_ctx)
                complete.append(_Waiting(work, shard, batch_tokens, packed))
        yield complete


def _store(db: Database, done: _Waiting) -> None:
    packed = done.packed.result()
    row = {
        "cache_id": done.work.cache.id,
        "shard": done.shard,
        "n_firings": packed.n_firings,
        "n_counted": packed.n_counted,
        "n_masked": packed.n_masked,
        "seconds": packed.seconds,
        "batch_tokens": done.batch_tokens,
    }
    cached.store_cache_shard(db, row, packed.blobs)


def finish_cache(db: Database, cache: CacheInfo) -> None:
    """Compute the statistics of every latent, once all shards are there, in one transaction.

    Of a cache that keeps a reservoir the other firings are dropped in the same transaction.
    """
    n_counted = caches.counted_positions(db, cache.id)
    if cache.keep == "all":
        caches.finish_cache(db, cache.id, _all_stats(db, cache, n_counted))
        return
    lengths, _ = caches.load_tokens(db, cache.corpus)
    grid = make_grid(lengths, reservoir.WIDTH)
    common = reservoir.common_windows(grid.n_windows)
    kept: list[tuple[int, bytes]] = []

    def thinned() -> Iterator[LatentStats]:
        for latent, firings in _every_latent(db, cache):
            left, n_windows = reservoir.thin(firings, grid, latent, common)
            places = left.contexts.astype(np.int64) * cache.corpus.n_ctx + left.positions
            if len(places):
                kept.append((latent, pack_firings(places, left.values)))
            yield replace(latent_stats(latent, firings, n_counted), n_windows=n_windows)

    with db.atomic():
        caches.finish_cache(db, cache.id, thinned())
        cached.keep_only(db, cache, kept)


def _all_stats(db: Database, cache: CacheInfo, n_counted: int) -> Iterator[LatentStats]:
    for latent, firings in _every_latent(db, cache):
        yield latent_stats(latent, firings, n_counted)


def _every_latent(db: Database, cache: CacheInfo) -> Iterator[tuple[int, Firings]]:
    """All latents in order with their firings, those that never fired too."""
    silent = cached.load_firings(db, cache, -1)
    following = 0
    for latent, firings in cached.iterate_firings(db, cache):
        yield from ((between, silent) for between in range(following, latent))
        yield latent, firings
        following = latent + 1
    yield from ((between, silent) for between in range(following, cache.n_latents))
