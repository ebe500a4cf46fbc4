"""Filling the index of `search`: it follows from the other tables and holds no text.

    search_explanations   full text over explanations; a row number is that of the explanation
    search_windows        full text over activating windows, each text once, whoever fires on it
    search_places         text → the windows that have it
    search_vectors        explanations as directions, a block of them in a row

`search_marks` says up to which row of its source each was filled. Rows that were added since are
found at once; rows that were renumbered, as VACUUM may do, are seen by the id of the last one.
Every function takes the file and the index: the same database, or one in memory for a file that
cannot be written.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp.db.caches import intact
from lite_interp.migrations.search_index import SEARCH_INDEX
from lite_interp.migrations.search_prefixes import SEARCH_PREFIXES

EXPLANATIONS, WINDOWS = "explanations", "windows"
ROWS_AT_ONCE = 20_000
"""Rows of a source that are indexed in one transaction."""
BLOCK_VECTORS = 1024
"""Directions in a row of search_vectors."""


def memory_index() -> Database:
    """An empty index in memory."""
    db = Database(sqlite3.connect(":memory:", isolation_level=None))
    for statement in (SEARCH_INDEX + SEARCH_PREFIXES).split(";\n"):
        if statement.strip():
            db.execute(statement)
    return db


def empty(index: Database) -> None:
    """Forget everything: the next search fills the index again."""
    with index.atomic():
        _forget(index, EXPLANATIONS)
        _forget(index, WINDOWS)
        index.execute("delete from search_vectors")
        index.execute("delete from search_marks")


def is_fresh(db: Database, index: Database, source: str) -> bool:
    """Whether every row of a source is in the index.

    Args:
        db: the file.
        index: its index.
        source: `explanations`, `windows`, or the id of an embedder, whose source are explanations.
    """
    mark = index.execute(
        "select last_row, last_id from search_marks where source = ?", [source]
    ).fetchone()
    table = WINDOWS if source == WINDOWS else EXPLANATIONS
    last = db.execute(f"select rowid, id from {table} order by rowid desc limit 1").fetchone()
    return last is None or last == mark


def count_pending(db: Database, index: Database, source: str) -> int:
    """Transactions that bringing a source up to date takes."""
    last = _last_row(db, index, source)
    row = db.execute(f"select count(*) from {source} where rowid > ?", [last or 0])
    return -(-int(row.fetchone()[0]) // ROWS_AT_ONCE)


def _last_row(db: Database, index: Database, source: str) -> int | None:
    """The last row of a source that is in the index; None if it must be filled from the start."""
    mark = index.execute(
        "select last_row, last_id from search_marks where source = ?", [source]
    ).fetchone()
    if mark is None:
        return None
    row = db.execute(f"select id from {source} where rowid = ?", [mark[0]]).fetchone()
    return mark[0] if row == (mark[1],) else None


def _forget(index: Database, source: str) -> None:
    index.execute(f"insert into search_{source} (search_{source}) values ('delete-all')")
    index.execute("delete from search_marks where source = ?", [source])
    if source == WINDOWS:
        index.execute("delete from search_texts")
        index.execute("delete from search_places")


def _mark(index: Database, source: str, last_row: int, last_id: str) -> None:
    index.execute(
        "insert or replace into search_marks (source, last_row, last_id) values (?, ?, ?)",
        [source, last_row, last_id],
    )


def index_explanations(db: Database, index: Database) -> Iterator[None]:
    """Bring the words of explanations up to date; yields once for each transaction."""
    last = _last_row(db, index, EXPLANATIONS)
    while True:
        rows = db.execute(
            "select rowid, id, text from explanations where rowid > ? order by rowid limit ?",
            [last or 0, ROWS_AT_ONCE],
        ).fetchall()
        if not rows:
            return
        with index.atomic():
            if last is None:
                _forget(index, EXPLANATIONS)
            index.conn.executemany(
                "insert into search_explanations (rowid, text) values (?, ?)",
                ((number, text) for number, _, text in rows if text is not None),
            )
            _mark(index, EXPLANATIONS, *rows[-1][:2])
        last = rows[-1][0]
        yield


def index_windows(db: Database, index: Database) -> Iterator[None]:
    """Bring the words of activating windows up to date; yields once for each transaction.

    A window in which its latent is silent says nothing of the latent and is left out.

    Raises:
        ResultsError: the file is damaged.
    """
    last = _last_row(db, index, WINDOWS)
    while True:
        rows = db.execute(
            """select windows.rowid, windows.id, caches.number, windows.latent,
                      windows.max_value / latents.max_value,
                      case when windows.max_value > 0 then tokens end
               from windows cross join caches on caches.id = windows.cache_id
               left join latents
                 on latents.cache_id = windows.cache_id and latents.latent = windows.latent
               where windows.rowid > ? order by windows.rowid limit ?""",
            [last or 0, ROWS_AT_ONCE],
        ).fetchall()
        if not rows:
            return
        with index.atomic():
            if last is None:
                _forget(index, WINDOWS)
            _add_windows(index, rows)
            _mark(index, WINDOWS, *rows[-1][:2])
        last = rows[-1][0]
        yield


def _add_windows(index: Database, rows: Sequence[tuple]) -> None:
    texts: dict[int, str] = {}
    places = []
    for window, _, cache, latent, share, tokens in rows:
        if tokens is None or share is None:
            continue
        text = intact(_joined, tokens)
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        name = int.from_bytes(digest, "little") >> 1
        texts[name] = text
        places.append((name, window, cache, latent, share))
    numbers = _number_texts(index, texts)
    index.conn.executemany(
        """insert or ignore into search_places (text, window, cache, latent, share)
           values (?, ?, ?, ?, ?)""",
        ((numbers[name], *rest) for name, *rest in places),
    )


def _joined(tokens: str) -> str:
    """The text of a window from the JSON list of its tokens; what is no Unicode becomes `?`."""
    found = json.loads(tokens)
    if not isinstance(found, list):
        raise ValueError("the tokens of a window are no list")
    return "".join(map(str, found)).encode("utf-8", "replace").decode()


def _number_texts(index: Database, texts: dict[int, str]) -> dict[int, int]:
    """The number of each text, given by its hash; new ones are indexed."""
    known = index.execute(
        """select hash, number from search_texts
           where hash in (select value from json_each(?))""",
        [json.dumps(list(texts))],
    )
    numbers: dict[int, int] = dict(known.fetchall())
    new = [name for name in texts if name not in numbers]
    (last,) = index.execute("select coalesce(max(number), 0) from search_texts").fetchone()
    numbers.update((name, last + place) for place, name in enumerate(new, 1))
    index.conn.executemany(
        "insert into search_texts (number, hash) values (?, ?)",
        ((numbers[name], name) for name in new),
    )
    index.conn.executemany(
        "insert into search_windows (rowid, text) values (?, ?)",
        ((numbers[name], texts[name]) for name in new),
    )
    return numbers


def pending_explanations(db: Database, index: Database, embedder_id: str) -> list[tuple[str, str]]:
    """(id, text) of the explanations that have no direction yet."""
    if is_fresh(db, index, embedder_id):
        return []
    rows = index.execute(
        "select explanation_ids from search_vectors where embedder_id = ?", [embedder_id]
    )
    known = {name for (names,) in rows for name in intact(json.loads, names)}
    found = db.execute(
        "select id, text from explanations where text is not null and latent >= 0 order by rowid"
    )
    return [(name, text) for name, text in found if name not in known]


def store_vectors(
    index: Database, embedder_id: str, names: Sequence[str], vectors: NDArray[np.float32]
) -> None:
    """Store the directions (n, d) of explanations as a block."""
    (block,) = index.execute(
        "select coalesce(max(block), -1) + 1 from search_vectors where embedder_id = ?",
        [embedder_id],
    ).fetchone()
    index.execute(
        """insert into search_vectors (embedder_id, block, explanation_ids, vectors)
           values (?, ?, ?, ?)""",
        [embedder_id, block, json.dumps(list(names)), vectors.astype("<f4").tobytes()],
    )


def mark_vectors(db: Database, index: Database, embedder_id: str) -> None:
    """Note that all explanations in the file have directions."""
    last = db.execute("select rowid, id from explanations order by rowid desc limit 1").fetchone()
    if last is not None:
        _mark(index, embedder_id, *last)
