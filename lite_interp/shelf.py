"""Shards of contexts set aside in a file that is gone when it is closed.

The name of a corpus follows from all of its documents, so it must be read before its first row can
be written; kept in memory it would grow with the corpus, read twice it would be cut twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from lite_interp.codec import pack_contexts, unpack_contexts
from lite_interp.records import ContextShard


class Shelf:
    """Takes shards of contexts and gives them back in order. A context manager."""

    def __init__(self) -> None:
        """Nothing is set aside yet."""
        # A context manager opens its file at its beginning.
        self._file = tempfile.TemporaryFile(prefix="lite-interp-")  # noqa: SIM115
        self._shards: list[tuple[int, int, int]] = []

    def __enter__(self) -> Shelf:
        """The shelf."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the file."""
        self._file.close()

    def put(self, shard: ContextShard) -> None:
        """Set a shard aside."""
        blob = pack_contexts(shard.lengths, shard.token_ids)
        self._file.write(blob)
        self._shards.append((shard.ordinal, shard.first, len(blob)))

    def __iter__(self) -> Iterator[ContextShard]:
        """All shards, in the order in which they were set aside."""
        self._file.seek(0)
        for ordinal, first, n_bytes in self._shards:
            yield ContextShard(ordinal, first, *unpack_contexts(self._file.read(n_bytes)))
