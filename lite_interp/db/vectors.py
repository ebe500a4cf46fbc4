"""Directions of windows in the results file, a row for each shard of contexts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp.codec import pack_vectors, unpack_vectors
from lite_interp.db.caches import intact
from lite_interp.db.file import add

Key = tuple[str, int, str, int]
"""Corpus, tokens in a window, embedder, shard of contexts."""
NAMES = ("corpus_id", "width", "embedder_id", "shard")


def store_vectors(db: Database, key: Key, vectors: NDArray[np.float16]) -> None:
    """Store the directions (n, d) of the windows of one shard."""
    row = dict(zip(NAMES, key, strict=True))
    add(db, "window_vectors", {**row, "vectors": pack_vectors(vectors)})


def known_shards(db: Database, corpus_id: str, width: int, embedder_id: str) -> set[int]:
    """The shards whose windows were embedded."""
    rows = db.execute(
        "select shard from window_vectors where corpus_id = ? and width = ? and embedder_id = ?",
        [corpus_id, width, embedder_id],
    )
    return {shard for (shard,) in rows.fetchall()}


def load_vectors(
    db: Database, corpus_id: str, width: int, embedder_id: str
) -> Iterator[NDArray[np.float16]]:
    """The directions of the windows of each shard, in order.

    Raises:
        ResultsError: the file is damaged.
    """
    rows = db.execute(
        """select vectors from window_vectors
           where corpus_id = ? and width = ? and embedder_id = ? order by shard""",
        [corpus_id, width, embedder_id],
    )
    for (blob,) in rows:
        yield intact(unpack_vectors, blob)
