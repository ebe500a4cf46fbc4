"""Firings in the results file: a packed blob for each latent in each shard of a cache.

A blob is found by `key`, one number made of cache, shard and latent: rows lie in the file in that
order, so that a shard is written at its end, one latent is read by one look-up for each shard, and
a block of latents by one run of pages for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp.db.caches import NOT_HERE, WHERE, CacheInfo, intact
from lite_interp.db.file import add
from lite_interp.errors import ResultsError
from lite_interp.firing_codec import unpack_all
from lite_interp.records import Firings

LATENT_BITS, SHARD_BITS = 24, 20
WHOLE = (1 << SHARD_BITS) - 1
"""Stands for the shard in the keys of windows that a reservoir kept of the whole corpus."""
BLOCK_FIRINGS = 1 << 20
"""About so many firings are unpacked at once: 60 MiB."""

Packed = Iterable[tuple[int, bytes]]
"""Latents, each with a blob of `firing_codec.pack_firings`."""


def key(number: int, shard: int, latent: int) -> int:
    """Name of a blob in this file: number of the cache, shard, latent."""
    return (number << SHARD_BITS | shard) << LATENT_BITS | latent


def store_cache_shard(db: Database, row: dict[str, Any], packed: Packed) -> None:
    """Store a shard of firings, all or nothing: its row, and a blob for each firing latent."""
    with db.atomic():
        add(db, "cache_shards", row)
        found = db.execute("select number from caches where id = ?", [row["cache_id"]])
        _store(db, found.fetchone()[0], row["shard"], packed)


def _store(db: Database, number: int, shard: int, packed: Packed) -> None:
    db.conn.executemany(
        "insert or ignore into firings (key, packed) values (?, ?)",
        ((key(number, shard, latent), blob) for latent, blob in packed),
    )


def keep_only(db: Database, cache: CacheInfo, packed: Packed) -> None:
    """Put these firings of the whole corpus in the place of all shards of a cache."""
    with db.atomic():
        _store(db, cache.number, WHOLE, packed)
        db.execute(
            "delete from firings where key >= ? and key < ?",
            [key(cache.number, 0, 0), key(cache.number, WHOLE, 0)],
        )


def n_shards(db: Database, cache: CacheInfo) -> int:
    """Shards that a cache has when it is complete."""
    found = db.execute(
        "select count(*) from context_shards where corpus_id = ?", [cache.corpus.id]
    ).fetchone()[0]
    return -(-found // cache.span)


def pending_shards(db: Database, cache: CacheInfo) -> list[int]:
    """Shards that a cache has not finished."""
    rows = db.execute("select shard from cache_shards where cache_id = ?", [cache.id])
    done = {shard for (shard,) in rows}
    return [shard for shard in range(n_shards(db, cache)) if shard not in done]


def least_batch(db: Database, cache: CacheInfo) -> int | None:
    """Tokens in a forward pass of the finished shards, the least; None if there is none."""
    row = db.execute("select min(batch_tokens) from cache_shards where cache_id = ?", [cache.id])
    return row.fetchone()[0]


def load_firings(db: Database, cache: CacheInfo, latent: int) -> Firings:
    """Where one latent fired; empty arrays if it never did.

    Of a complete cache that keeps a reservoir: where it fired in the windows that were kept.

    Raises:
        ResultsError: the firings were left out of the file.
    """
    firsts, blobs = [], []
    for first, name in _keys(db, cache, latent):
        row = db.execute("select packed from firings where key = ?", [name]).fetchone()
        if row is not None:
            firsts.append(first)
            blobs.append(row[0])
    if not blobs:
        _refuse_without(db, cache)
    _, places, values = _unpacked(firsts, blobs)
    return _firings(places, values, cache)


def iterate_firings(db: Database, cache: CacheInfo) -> Iterator[tuple[int, Firings]]:
    """Every latent that fired, with its firings over all shards, one latent at a time."""
    for start, stop in latent_blocks(db, cache):
        yield from load_block(db, cache, start, stop)


def latent_blocks(db: Database, cache: CacheInfo) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of runs of latents whose firings fit in memory together.

    A run has about as many bytes as `BLOCK_FIRINGS` firings have on average, so a coder whose
    busiest latents stand side by side has shorter runs there. No run is shorter than one latent.
    """
    sizes = np.zeros(cache.n_latents, np.int64)
    for _, name in _keys(db, cache, 0):
        rows = db.execute(
            "select key, length(packed) from firings where key >= ? and key < ?",
            [name, name + cache.n_latents],
        )
        for found, n_bytes in rows:
            sizes[found - name] += n_bytes
    row = db.execute("select sum(n_firings) from cache_shards where cache_id = ?", [cache.id])
    n_blocks = int(row.fetchone()[0] or 0) / BLOCK_FIRINGS
    room = sizes.sum() / max(n_blocks, 1)
    start, held = 0, 0
    for latent, size in enumerate(sizes.tolist()):
        if held and held + size > room:
            yield start, latent
            start, held = latent, 0
        held += size
    yield start, cache.n_latents


def load_block(
    db: Database, cache: CacheInfo, start: int, stop: int
) -> Iterator[tuple[int, Firings]]:
    """The latents from start to stop - 1 that fired, each with its firings."""
    latents: list[int] = []
    firsts: list[int] = []
    blobs: list[bytes] = []
    for first, name in _keys(db, cache, start):
        rows = db.execute(
            "select key, packed from firings where key >= ? and key < ?",
            [name, name + stop - start],
        ).fetchall()
        latents += [found - name + start for found, _ in rows]
        firsts += [first] * len(rows)
        blobs += [blob for _, blob in rows]
    if not blobs:
        _refuse_without(db, cache)
        return
    # By latent, and those of one latent in the order of shards.
    order = np.argsort(latents, kind="stable")
    starts, places, values = _unpacked(
        [firsts[place] for place in order], [blobs[place] for place in order]
    )
    distinct, begins = np.unique(np.sort(latents), return_index=True)
    for latent, low, high in zip(distinct, begins, [*begins[1:], len(blobs)], strict=True):
        part = slice(starts[low], starts[high])
        yield int(latent), _firings(places[part], values[part], cache)


def _refuse_without(db: Database, cache: CacheInfo) -> None:
    """Tell a latent that never fires from firings that a shared copy leaves out."""
    if cache.n_counted is None:
        return
    there = db.execute(
        "select 1 from firings where key >= ? and key < ? limit 1",
        [key(cache.number, 0, 0), key(cache.number + 1, 0, 0)],
    )
    if there.fetchone() is None:
        row = db.execute("select sum(n_firings) from cache_shards where cache_id = ?", [cache.id])
        if row.fetchone()[0]:
            raise ResultsError(f"the firings of this cache are {NOT_HERE}", WHERE)


def _keys(db: Database, cache: CacheInfo, latent: int) -> list[tuple[int, int]]:
    """(place of its first token in the corpus, key) of each shard that is there."""
    if is_thinned(db, cache):
        return [(0, key(cache.number, WHOLE, latent))]
    rows = db.execute(
        """select cache_shards.shard, first_context from cache_shards
           join context_shards on corpus_id = ? and context_shards.shard = cache_shards.shard * ?
           where cache_id = ? order by cache_shards.shard""",
        [cache.corpus.id, cache.span, cache.id],
    )
    n_ctx = cache.corpus.n_ctx
    return [(first * n_ctx, key(cache.number, shard, latent)) for shard, first in rows]


def is_thinned(db: Database, cache: CacheInfo) -> bool:
    """Whether only the windows of a reservoir are left of a cache's firings."""
    return cache.keep != "all" and bool(
        db.execute(
            "select 1 from firings where key >= ? and key < ? limit 1",
            [key(cache.number, WHOLE, 0), key(cache.number + 1, 0, 0)],
        ).fetchone()
    )


def _unpacked(
    firsts: Sequence[int], blobs: Sequence[bytes]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(n + 1,) where the firings of each blob begin, their places in the corpus, their values."""
    found = intact(unpack_all, blobs)
    counts = np.diff(found.starts)
    places = found.places
    places += np.repeat(np.array(firsts, np.int64), counts)
    return found.starts, places, found.values


def _firings(places: NDArray[np.int64], values: NDArray[np.float32], cache: CacheInfo) -> Firings:
    contexts, positions = np.divmod(places, cache.corpus.n_ctx)
    return Firings(contexts.astype(np.int32), positions.astype(np.int32), values)
