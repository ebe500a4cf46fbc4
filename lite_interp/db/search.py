"""What the index of `search` finds: rows of explanations, latents of windows, directions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp.db.caches import intact
from lite_interp.migrations.search_index import TOKENIZE
from lite_interp.records import Window

PRIVATE = range(0xE000, 0xF8FF)
"""Characters that have no meaning: two that are in no text stand around what was found."""

Span = tuple[int, int]
"""First character and the one behind the last."""


class Firing(NamedTuple):
    """A latent some of whose activating windows have the words."""

    latent: int
    """The latent."""
    strength: float
    """Sum over these windows: peak / the latent's greatest activation."""
    n_windows: int
    """How many."""
    window: int
    """Row number of the strongest."""


def find_explanations(index: Database, query: str) -> Iterator[int]:
    """Row numbers of explanations that match an FTS5 query, best first by BM25."""
    rows = index.execute(
        """select rowid from search_explanations where search_explanations match ?
           order by rank""",
        [query],
    )
    return (number for (number,) in rows)


def find_latents(index: Database, query: str, cache: int, n_texts: int) -> list[Firing]:
    """Latents of a cache that fire in windows which match an FTS5 query, strongest first.

    Args:
        index: the index.
        query: in the syntax of FTS5.
        cache: number of the cache.
        n_texts: if more texts match, only about so many are looked at, evenly over all texts.
    """
    (n,) = index.execute(
        "select count(*) from search_windows where search_windows match ?", [query]
    ).fetchone()
    # Counting and choosing within SQLite is ten times as fast as fetching all their numbers.
    rows = index.execute(
        "select rowid from search_windows where search_windows match ? and rowid % ? = 0",
        [query, -(-n // n_texts) or 1],
    ).fetchall()
    # In each group SQLite takes `window` from the row that has the maximum.
    found = index.execute(
        """select latent, sum(share), count(*), window, max(share) from search_places
           where text in (select value from json_each(?)) and cache = ?
           group by latent order by 2 desc, latent""",
        [json.dumps([number for (number,) in rows]), cache],
    )
    return [Firing(*row[:4]) for row in found.fetchall()]


def explained_latent(db: Database, cache_id: str, row: int | str) -> tuple[int, str] | None:
    """Latent and id of an explanation, by its row number or id; None if it is of another cache."""
    column = "id" if isinstance(row, str) else "rowid"
    return db.execute(
        f"""select latent, id from explanations
            where {column} = ? and cache_id = ? and text is not null and latent >= 0""",
        [row, cache_id],
    ).fetchone()


def load_window(db: Database, row: int) -> Window:
    """A window by its row number.

    Raises:
        ResultsError: the file is damaged.
    """
    name, latent, context, start, *packed = db.execute(
        "select id, latent, context, start, tokens, acts from windows where rowid = ?", [row]
    ).fetchone()
    tokens, acts = (intact(json.loads, each) for each in packed)
    return Window(name, latent, context, start, tuple(tokens), np.array(acts, np.float32))


def spans(query: str, texts: Sequence[str]) -> list[tuple[Span, ...]]:
    """Where each text matches an FTS5 query, as FTS5 itself says it; nothing where it doesn't."""
    present = set("".join(texts))
    left, right = [chr(code) for code in PRIVATE if chr(code) not in present][:2]
    db = Database(sqlite3.connect(":memory:"))
    db.execute(f"create virtual table found using fts5(text, tokenize='{TOKENIZE}')")
    db.conn.executemany("insert into found (rowid, text) values (?, ?)", enumerate(texts))
    rows = db.execute(
        "select rowid, highlight(found, 0, ?, ?) from found where found match ?",
        [left, right, query],
    )
    marked = dict(rows.fetchall())
    db.close()
    return [_spans(marked.get(place, ""), text, left, right) for place, text in enumerate(texts)]


def _spans(marked: str, text: str, left: str, right: str) -> tuple[Span, ...]:
    plain, begins, ends = 0, [], []
    for character in marked:
        if character == left:
            begins.append(plain)
        elif character == right:
            ends.append(plain)
        else:
            plain += 1
    # FTS5 cuts a text at a NUL.
    whole = marked.replace(left, "").replace(right, "") == text
    return tuple(zip(begins, ends, strict=True)) if whole else ()


def load_vectors(
    index: Database, embedder_id: str, d: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(block, (n, d) directions) of an embedder.

    Raises:
        ResultsError: the file is damaged.
    """

    def unpack(blob: bytes) -> NDArray[np.float32]:
        return np.frombuffer(blob, "<f4").reshape(-1, d)

    rows = index.execute(
        "select block, vectors from search_vectors where embedder_id = ? order by block",
        [embedder_id],
    )
    for block, blob in rows:
        yield block, intact(unpack, blob)


def block_names(index: Database, embedder_id: str, block: int) -> list[str]:
    """Ids of the explanations of a block, in order."""
    row = index.execute(
        "select explanation_ids from search_vectors where embedder_id = ? and block = ?",
        [embedder_id, block],
    ).fetchone()
    return intact(json.loads, row[0])
