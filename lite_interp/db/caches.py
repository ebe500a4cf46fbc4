"""Corpora, caches, firings and statistics in the results file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp import codec
from lite_interp.db.file import add
from lite_interp.errors import ResultsError, UsageError, one_line
from lite_interp.records import ContextShard, Corpus, LatentStats

Blobs = TypeVar("Blobs")
Unpacked = TypeVar("Unpacked")

NOT_HERE = "not in this file: it is a shared copy"
WHERE = "use the file that it was made from, or merge that into this one"
"""What is said where tokens or firings are wanted that were left out."""


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """A cache, with what is needed to read from it."""

    id: str
    """Content id of corpus, subject, coder and settings."""
    corpus: Corpus
    """The corpus."""
    subject_id: str
    """Hash of the subject."""
    subject_path: str
    """Where the subject was when it was read."""
    coder_id: str
    """Hash of the coder."""
    coder_name: str
    """Name of the coder."""
    hookpoint: str
    """Where the coder reads."""
    n_latents: int
    """Width of the coder."""
    n_counted: int | None
    """Positions counted; None while the cache is not complete."""
    number: int
    """What the keys of its firings begin with; of this file alone."""
    span: int = 1
    """Shards of contexts that make up one of its shards."""
    keep: str = "all"
    """Which firings are left once it is complete: a name in `reservoir.KEEP`."""


def store_corpus(db: Database, corpus: Corpus, shards: Iterable[ContextShard]) -> None:
    """Store a corpus and its tokens, all or nothing."""
    with db.atomic():
        add(db, "corpora", asdict(corpus))
        for shard in shards:
            add(
                db,
                "context_shards",
                {
                    "corpus_id": corpus.id,
                    "shard": shard.ordinal,
                    "first_context": shard.first,
                    "n_contexts": len(shard.lengths),
                    "token_ids": codec.pack_contexts(shard.lengths, shard.token_ids),
                },
            )


def has_corpus(db: Database, corpus_id: str) -> bool:
    """Whether a corpus and its tokens are in the file; a shared copy has no tokens."""
    found = db.execute("select 1 from context_shards where corpus_id = ? limit 1", [corpus_id])
    return found.fetchone() is not None


def load_corpus(db: Database, corpus_id: str) -> Corpus:
    """A corpus by its id."""
    row = next(db.query("select * from corpora where id = ?", [corpus_id]))
    return Corpus(**{**row, "add_bos": bool(row["add_bos"]), "packed": bool(row["packed"])})


def load_context_shard(db: Database, corpus_id: str, ordinal: int) -> ContextShard:
    """One shard of a corpus."""
    row = db.execute(
        "select first_context, token_ids from context_shards where corpus_id = ? and shard = ?",
        [corpus_id, ordinal],
    ).fetchone()
    lengths, token_ids = intact(codec.unpack_contexts, row[1])
    return ContextShard(ordinal, row[0], lengths, token_ids)


def load_tokens(db: Database, corpus: Corpus) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The whole corpus: (n_contexts,) lengths and (n_contexts, n_ctx) token ids.

    Raises:
        ResultsError: the tokens are not in the file, as those of a shared copy are not.
    """
    rows = db.execute(
        "select token_ids from context_shards where corpus_id = ? order by shard", [corpus.id]
    )
    parts = [intact(codec.unpack_contexts, blob) for (blob,) in rows]
    if not parts:
        raise ResultsError(f"the tokens of the corpus are {NOT_HERE}", WHERE)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def store_cache(db: Database, row: dict[str, Any]) -> None:
    """Store a cache unless it is there; its firings get a number of this file."""
    (number,) = db.execute("select coalesce(max(number), 0) + 1 from caches").fetchone()
    add(db, "caches", {**row, "number": number})


def finish_cache(db: Database, cache_id: str, latents: Iterable[LatentStats]) -> None:
    """Store the statistics of every latent and mark the cache as complete."""
    with db.atomic():
        for stats in latents:
            add(
                db,
                "latents",
                {"cache_id": cache_id, **asdict(stats), "histogram": list(stats.histogram)},
            )
        db.execute(
            """update caches set
               n_counted = (select coalesce(sum(n_counted), 0) from cache_shards
                            where cache_id = :id),
               n_masked = (select coalesce(sum(value), 0)
                           from cache_shards, json_each(cache_shards.n_masked)
                           where cache_id = :id)
               where id = :id""",
            {"id": cache_id},
        )


def counted_positions(db: Database, cache_id: str) -> int:
    """Positions counted over the finished shards of a cache."""
    row = db.execute("select sum(n_counted) from cache_shards where cache_id = ?", [cache_id])
    return int(row.fetchone()[0] or 0)


def load_caches(db: Database) -> list[CacheInfo]:
    """Every cache in the file, in the order they were begun."""
    rows = db.query(
        """select caches.id, corpus_id, subject_id, coder_id, n_counted,
                  coders.name as coder_name, hookpoint, n_latents, number, span,
                  coalesce(json_extract(caches.settings, '$.keep'), 'all') as keep,
                  json_extract(subjects.provenance, '$.path') as subject_path
           from caches join coders on coders.id = coder_id join subjects on subjects.id = subject_id
           order by caches.rowid"""
    )
    return [CacheInfo(corpus=load_corpus(db, row.pop("corpus_id")), **row) for row in list(rows)]


def coder_fit(db: Database, coder_id: str) -> dict[str, Any]:
    """How well a coder reconstructs: `fvu`, None where nobody can say, `l0` and others."""
    found = db.execute("select fit from coders where id = ?", [coder_id]).fetchone()
    return json.loads(found[0])


def shard_places(db: Database, corpus_id: str) -> list[tuple[int, int, int]]:
    """(shard, ordinal of its first context, number of contexts) of a corpus, in order."""
    rows = db.execute(
        """select shard, first_context, n_contexts from context_shards
           where corpus_id = ? order by shard""",
        [corpus_id],
    )
    return rows.fetchall()


def first_context(db: Database, corpus_id: str, shard: int) -> int:
    """Ordinal of the first context of a shard of contexts."""
    row = db.execute(
        "select first_context from context_shards where corpus_id = ? and shard = ?",
        [corpus_id, shard],
    )
    return int(row.fetchone()[0])


def coder_place(db: Database, coder_id: str) -> tuple[str, str, dict[str, Any]]:
    """Where a coder was, the hookpoint that it reads, and its recipe if it is a random one.

    The place is empty where the file does not say it.
    """
    row = db.execute("select provenance, hookpoint from coders where id = ?", [coder_id])
    provenance, hookpoint = row.fetchone()
    known = json.loads(provenance)
    return str(known.get("path") or ""), hookpoint, known.get("random", {})


def subject_dtype(db: Database, cache_id: str) -> str:
    """Number format in which the subject was run for a cache."""
    row = db.execute(
        "select json_extract(settings, '$.dtype') from caches where id = ?", [cache_id]
    )
    return str(row.fetchone()[0])


def the_cache(db: Database, wanted: str = "") -> CacheInfo:
    """The complete cache that the user means: by the beginning of its id, or the only one.

    Raises:
        ResultsError: there is none, or it is not complete.
        UsageError: there are several, or none of that id.
    """
    caches = load_caches(db)
    if not caches:
        raise ResultsError("the file holds no cache", "begin with `lite-interp cache`")
    begin = wanted.removeprefix("b2:")
    found = [cache for cache in caches if cache.id.removeprefix("b2:").startswith(begin)]
    if len(found) != 1:
        names = ", ".join(
            f"{cache.id[3:11]} ({cache.coder_name} on {cache.corpus.name})" for cache in caches
        )
        what = "several caches fit" if found else "no cache has an id that begins with"
        raise UsageError(
            f"{what}: {one_line(wanted) or 'any'}",
            f"name one with --cache; there is: {one_line(names)}",
        )
    if found[0].n_counted is None:
        raise ResultsError(
            "the cache is not complete", "the same `lite-interp cache` command goes on with it"
        )
    return found[0]


def intact(unpack: Callable[[Blobs], Unpacked], blob: Blobs) -> Unpacked:
    """What a blob holds, or several, or one line that says the file is damaged."""
    try:
        return unpack(blob)
    except ValueError as error:
        raise ResultsError(
            f"the file is damaged: {error}", "take a copy from before, or cache again"
        ) from error


def load_latent(db: Database, cache_id: str, latent: int) -> LatentStats:
    """Statistics of one latent of a complete cache."""
    row = next(
        db.query("select * from latents where cache_id = ? and latent = ?", [cache_id, latent])
    )
    del row["cache_id"]
    return LatentStats(**{**row, "histogram": tuple(json.loads(row["histogram"]))})


def densities(db: Database, cache_id: str) -> dict[int, float]:
    """Latent → density, of all latents of a complete cache that have statistics."""
    rows = db.execute("select latent, density from latents where cache_id = ?", [cache_id])
    return dict(rows.fetchall())


def latents_by_density(db: Database, cache_id: str, low: float, high: float) -> list[int]:
    """Indices of the latents whose density lies between two bounds, in order of index."""
    rows = db.execute(
        "select latent from latents where cache_id = ? and density between ? and ? order by latent",
        [cache_id, low, high],
    )
    return [latent for (latent,) in rows]
