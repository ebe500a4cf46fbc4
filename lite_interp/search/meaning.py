"""Explanations as directions, and which lie nearest to a text: every one is compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from sqlite_utils import Database

from lite_interp.db import search, search_index
from lite_interp.db.file import add
from lite_interp.embedder import Embedder

if TYPE_CHECKING:
    # It would load torch, and words are found without it.
    from lite_interp.loading import Reporter


def embed_explanations(db: Database, index: Database, embedder: Embedder, tell: Reporter) -> None:
    """Give each explanation a direction, block by block, where it has none."""
    pending = search_index.pending_explanations(db, index, embedder.id)
    size = search_index.BLOCK_VECTORS
    blocks = [pending[start : start + size] for start in range(0, len(pending), size)]
    if blocks:
        for block in tell.track(blocks, len(blocks), "embedding explanations"):
            vectors = np.asarray(embedder.embed([text for _, text in block]), np.float32)
            # A text without a direction is near to nothing.
            vectors[~np.isfinite(vectors).all(axis=1)] = 0
            with index.atomic():
                if index is db:
                    row = {"name": embedder.name, "provenance": dict(embedder.provenance)}
                    add(db, "embedders", {"id": embedder.id, **row})
                names = [name for name, _ in block]
                search_index.store_vectors(index, embedder.id, names, vectors)
    search_index.mark_vectors(db, index, embedder.id)


def nearest(index: Database, embedder: Embedder, text: str) -> Iterator[tuple[str, float]]:
    """(id, cosine) of explanations, the nearest to a text first."""
    query = np.asarray(embedder.embed([text]), np.float32)[0]
    blocks, cosines = [], []
    for block, vectors in search.load_vectors(index, embedder.id, len(query)):
        blocks.append((block, len(vectors)))
        cosines.append(vectors @ query)
    if not blocks:
        return
    starts = np.cumsum([0, *(n for _, n in blocks)])
    every = np.concatenate(cosines)
    names: dict[int, list[str]] = {}
    for place in np.argsort(-every, kind="stable"):
        number = int(np.searchsorted(starts, place, side="right")) - 1
        if number not in names:
            names[number] = search.block_names(index, embedder.id, blocks[number][0])
        yield names[number][place - starts[number]], float(every[place])
