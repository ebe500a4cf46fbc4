"""Caches of another file, attached as `other`, into this one: shards, firings, statistics.

`firings.key` begins with a number that is of one file alone: it is changed on the way, in SQL.
A shard is taken whole or not at all.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlite_utils import Database

from lite_interp.db.cached import LATENT_BITS, SHARD_BITS, WHOLE, key
from lite_interp.db.merging import Merged, copy_rows, find_table, merge_rows, note_conflicts

NUMBER_SHIFT = SHARD_BITS + LATENT_BITS
OF_CACHE = "theirs.cache_id = :cache"
OTHER_CUT = """
select theirs.corpus_id from other.context_shards theirs
left join main.context_shards ours
  on ours.corpus_id = theirs.corpus_id and ours.shard = theirs.shard
where theirs.corpus_id in (select corpus_id from main.context_shards)
and (ours.first_context is not theirs.first_context or ours.n_contexts is not theirs.n_contexts)
"""
"""Corpora that are cut into other shards of contexts there than here."""
SAME_CUT = f"theirs.corpus_id not in ({OTHER_CUT})"


class CacheState(NamedTuple):
    """How far a cache has come in one file."""

    id: str
    """The cache."""
    number: int
    """What the keys of its firings begin with."""
    span: int
    """Shards of contexts that make up one of its shards."""
    is_counted: bool
    """Whether it has statistics: all its shards were there."""
    n_shards: int
    """Shards that are done."""
    has_firings: bool
    """Whether any firing is in the file; a copy may have been sent without."""
    is_thinned: bool
    """Whether only a reservoir is left of them."""
    name: str
    """Coder and corpus, for people."""


def add_caches(db: Database) -> Merged:
    """Take the caches that are not here, without shards: their firings get numbers of this file."""
    table = find_table(db, "caches")
    n_conflicts = note_conflicts(db, table)
    n_new = db.execute(
        """insert into main.caches (id, corpus_id, subject_id, coder_id, settings, span, number)
           select id, corpus_id, subject_id, coder_id, settings, span,
                  (select coalesce(max(number), 0) from main.caches)
                  + row_number() over (order by number)
           from other.caches theirs
           where not exists (select 1 from main.caches ours where ours.id = theirs.id)"""
    ).rowcount
    total = db.execute("select count(*) from other.caches").fetchone()[0]
    return Merged(n_new, total - n_new - n_conflicts, n_conflicts)


def cache_states(db: Database, schema: str) -> dict[str, CacheState]:
    """Every cache of `main` or `other`, by its id."""
    rows = db.execute(
        f"""select caches.id, number, span, n_counted is not null,
                   (select count(*) from {schema}.cache_shards where cache_id = caches.id),
                   coders.name || ' on ' || corpora.name
            from {schema}.caches join {schema}.coders on coders.id = coder_id
            join {schema}.corpora on corpora.id = corpus_id order by number"""
    ).fetchall()
    return {
        name: CacheState(
            name,
            number,
            span,
            bool(is_counted),
            n_shards,
            _has_firings(db, schema, number, 0),
            _has_firings(db, schema, number, WHOLE),
            called,
        )
        for name, number, span, is_counted, n_shards, called in rows
    }


def _has_firings(db: Database, schema: str, number: int, first: int) -> bool:
    low, high = key(number, first, 0), key(number + 1, 0, 0)
    return bool(
        db.execute(
            f"select 1 from {schema}.firings where key >= ? and key < ? limit 1", [low, high]
        ).fetchone()
    )


def foreign_cuts(db: Database) -> set[str]:
    """Caches whose corpus is cut into other shards of contexts there than here."""
    rows = db.execute(f"select id from other.caches where corpus_id in ({OTHER_CUT})")
    return {name for (name,) in rows.fetchall()}


def compare_shards(db: Database, ours: CacheState, theirs: CacheState) -> tuple[int, int]:
    """Note where shards that are in both files differ; returns how many rows: shards, firings."""
    table, given = find_table(db, "cache_shards"), {"cache": ours.id}
    n = note_conflicts(db, table, OF_CACHE, given)
    if not ours.has_firings or not theirs.has_firings or ours.is_thinned != theirs.is_thinned:
        return n, 0
    shards = [WHOLE] if ours.is_thinned else _common_shards(db, ours.id)
    return n, sum(_compare_firings(db, ours, theirs, shard) for shard in shards)


def _common_shards(db: Database, cache_id: str) -> list[int]:
    rows = db.execute(
        """select shard from other.cache_shards where cache_id = :cache
           intersect select shard from main.cache_shards where cache_id = :cache order by 1""",
        {"cache": cache_id},
    )
    return [shard for (shard,) in rows.fetchall()]


def _compare_firings(db: Database, ours: CacheState, theirs: CacheState, shard: int) -> int:
    """Note latents whose blobs differ, or that have one in one file alone; returns how many."""
    given = {
        "cache": ours.id,
        "shard": shard,
        "here": key(ours.number, shard, 0),
        "there": key(theirs.number, shard, 0),
        "size": 1 << LATENT_BITS,
    }
    name = "as_json('cache_id', :cache, 'shard', :shard, 'latent', {})"
    n = db.execute(
        f"""insert into temp.found
            select 'firings', {name.format("theirs.key - :there")},
                   as_json('packed', theirs.packed)
            from other.firings theirs
            left join main.firings ours on ours.key = theirs.key - :there + :here
            where theirs.key >= :there and theirs.key < :there + :size
            and ours.packed is not theirs.packed""",
        given,
    ).rowcount
    n += db.execute(
        f"""insert into temp.found
            select 'firings', {name.format("ours.key - :here")}, 'null'
            from main.firings ours
            where ours.key >= :here and ours.key < :here + :size
            and not exists (select 1 from other.firings where key = ours.key - :here + :there)""",
        given,
    ).rowcount
    return n


def take_shards(db: Database, ours: CacheState, theirs: CacheState) -> tuple[int, int]:
    """Take the shards of a cache that are not here; returns how many, and how many firings."""
    if not ours.n_shards:
        db.execute("update main.caches set span = ? where id = ?", [theirs.span, ours.id])
    known = set(_common_shards(db, ours.id)) if ours.has_firings else set()
    n_shards = copy_rows(db, find_table(db, "cache_shards"), OF_CACHE, {"cache": ours.id})
    if theirs.is_thinned:
        db.execute(
            "delete from main.firings where key >= ? and key < ?",
            [key(ours.number, 0, 0), key(ours.number + 1, 0, 0)],
        )
        wanted = [WHOLE]
    else:
        rows = db.execute(
            "select shard from other.cache_shards where cache_id = ? order by shard", [ours.id]
        )
        wanted = [shard for (shard,) in rows.fetchall() if shard not in known]
    return n_shards, sum(_take_firings(db, ours, theirs, *run) for run in _runs(wanted))


def _runs(shards: list[int]) -> list[tuple[int, int]]:
    """(first, last) of runs of shards that follow on each other."""
    found: list[tuple[int, int]] = []
    for shard in shards:
        if found and found[-1][1] + 1 == shard:
            found[-1] = (found[-1][0], shard)
        else:
            found.append((shard, shard))
    return found


def _take_firings(db: Database, ours: CacheState, theirs: CacheState, first: int, last: int) -> int:
    return db.execute(
        """insert into main.firings (key, packed)
           select key + :shift, packed from other.firings
           where key >= :low and key < :high order by key""",
        {
            "shift": (ours.number - theirs.number) << NUMBER_SHIFT,
            "low": key(theirs.number, first, 0),
            "high": key(theirs.number, last, 0) + (1 << LATENT_BITS),
        },
    ).rowcount


def count_theirs(db: Database, theirs: CacheState) -> int:
    """Rows of firings that the other file has of a cache."""
    row = db.execute(
        "select count(*) from other.firings where key >= ? and key < ?",
        [key(theirs.number, 0, 0), key(theirs.number + 1, 0, 0)],
    )
    return int(row.fetchone()[0])


def merge_statistics(db: Database, cache_id: str, table: str, take: bool) -> Merged:
    """Compare `latents` or `latent_details` of a cache, and take them if they belong here."""
    found, given = find_table(db, table), {"cache": cache_id}
    if take:
        return merge_rows(db, found, OF_CACHE, given)
    there = db.execute(f"select count(*) from other.{table} where cache_id = ?", [cache_id])
    n_conflicts = note_conflicts(db, found, OF_CACHE, given)
    return Merged(0, there.fetchone()[0] - n_conflicts, n_conflicts)


def count_as_there(db: Database, cache_id: str) -> None:
    """The cache is complete here, as it is there."""
    db.execute(
        """update main.caches set (n_counted, n_masked) =
             (select n_counted, n_masked from other.caches theirs where theirs.id = caches.id)
           where id = ? and n_counted is null""",
        [cache_id],
    )
