"""A results file with one corpus and one empty cache: what the benches of caching fill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def begin_file(
    db: Any, token_ids: np.ndarray, n_latents: int, settings: dict[str, Any], n_tokens: int = 65_536
) -> Any:
    """Store full contexts (n, n_ctx) in shards of so many tokens, and an empty cache of a coder."""
    from lite_interp.cache import span
    from lite_interp.corpus import CorpusSettings, CorpusTotals, corpus_record
    from lite_interp.db import caches
    from lite_interp.db.file import add
    from lite_interp.study import SHARD_TOKENS

    n, n_ctx = token_ids.shape
    totals = CorpusTotals("sha256:bench", 1, 0, n, n * n_ctx, 0, 0, False)
    record = corpus_record("bench", "none", CorpusSettings(n_ctx), totals, 0)
    caches.store_corpus(db, record, split(token_ids, n_tokens // n_ctx))
    subject = {"id": "s", "name": "s", "architecture": "", "d_model": 1}
    add(db, "subjects", {**subject, "provenance": {"path": ""}})
    coder = {"id": "c", "name": "c", "format": "", "hookpoint": "", "activation": "topk"}
    sizes = {"k": None, "d_in": 1, "n_latents": n_latents, "fit": {}, "provenance": {}}
    add(db, "coders", {**coder, **sizes})
    row = {"id": "b2:bench", "corpus_id": record.id, "subject_id": "s", "coder_id": "c"}
    # A shard of a cache has as many tokens as ever, however the contexts are cut.
    n_parts = span(n_latents, SHARD_TOKENS) * SHARD_TOKENS // n_tokens
    caches.store_cache(db, {**row, "settings": settings, "span": n_parts})
    return caches.load_caches(db)[0]


def split(token_ids: np.ndarray, size: int) -> list[Any]:
    """Full contexts as shards."""
    from lite_interp.records import ContextShard

    n_ctx = token_ids.shape[1]
    return [
        ContextShard(number, start, np.full(len(part), n_ctx, np.int32), np.asarray(part, np.int32))
        for number, start in enumerate(range(0, len(token_ids), size))
        for part in [token_ids[start : start + size]]
    ]


def sizes_of(db: Any, path: Path) -> dict[str, int]:
    """Firings, bytes of their blobs, bytes of the file."""
    (firings,) = db.execute("select sum(n_firings) from cache_shards").fetchone()
    (packed,) = db.execute("select sum(length(packed)) from firings").fetchone()
    return {"firings": firings, "packed_bytes": packed, "file_bytes": path.stat().st_size}
