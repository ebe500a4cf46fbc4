"""A small copy of a results file: every table but what was computed from a corpus and can be again.

The copy is a new file into which rows are read from the original, so gigabytes of firings are never
written, and nothing that was taken out of a text was ever in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp.db.anonymous import Hider, is_kept, text_columns
from lite_interp.db.attaching import FACTS, address
from lite_interp.db.cached import LATENT_BITS, SHARD_BITS
from lite_interp.db.file import PAGE_SIZE
from lite_interp.db.merging import Table, find_table
from lite_interp.errors import ResultsError, one_line
from lite_interp.migrations import APPLICATION_ID, SCHEMA_VERSION, migrations

NOT_SHARED = ("firings", "context_shards", "window_vectors")
"""Tables whose rows stay behind, beside the index of search."""

KEPT = {
    # Shards of a cache that is not complete would pass for done, where their firings are not.
    "cache_shards": "cache_id in (select id from other.caches where n_counted is not null)",
    "conflicts": "table_name not in ({})".format(", ".join(map(repr, NOT_SHARED))),
}
"""Which rows of a table are shared, where not all are."""

SHARED = tuple(name for name in FACTS if name not in NOT_SHARED)
"""Tables that are copied, in their order."""


class LeftOut(NamedTuple):
    """Something that is not in the copy."""

    what: str
    """In words."""
    n_rows: int
    """Rows."""
    n_bytes: int
    """Bytes of what they hold, without keys; 0 if that is next to nothing."""


@contextmanager
def shared_file(results: Path, place: Path) -> Iterator[Database]:
    """A new file in which the original is `other`; one closed file afterwards, whole and checked.

    Everything is read as it stood at one moment, though another process may be writing.

    Raises:
        ResultsError: the disk is full, or rows of the original refer to rows that are not there.
    """
    connection = sqlite3.connect(place.absolute().as_uri(), uri=True, isolation_level=None)
    with closing(Database(connection)) as db, _full_disk(place):
        db.execute(f"pragma page_size = {PAGE_SIZE}")
        # Nobody sees the file before it is whole.
        db.execute("pragma journal_mode = off")
        db.execute("pragma synchronous = off")
        db.execute(f"pragma application_id = {APPLICATION_ID}")
        migrations.apply(db)
        db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        db.execute("pragma trusted_schema = off")
        db.execute("attach ? as other", [address(results)])
        with db.atomic():
            yield db
        db.execute("detach other")
        broken = db.execute("pragma foreign_key_check").fetchone()
        if broken:
            what = f"rows of {broken[0]} refer to rows that are not there"
            raise ResultsError(f"damaged: {one_line(results)}: {what}", "take a copy from before")
        db.execute("vacuum")


@contextmanager
def _full_disk(place: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise ResultsError(
                f"the disk is full: {one_line(place.parent)}", "make room, or share to another disk"
            ) from error
        raise


def copy_tables(db: Database, hider: Hider | None = None) -> Iterator[None]:
    """Copy what is shared, table by table; yields once for each of `SHARED`.

    Rows keep their order. With a `hider` they are made anonymous on the way.
    """
    # When the file was made, so that the same file gives the same copy.
    db.execute("delete from main._sqlite_migrations")
    db.execute("insert into main._sqlite_migrations select * from other._sqlite_migrations")
    if hider is not None:
        db.conn.create_function("hidden", 3, hider.column, deterministic=True)
    for name in SHARED:
        table = find_table(db, name)
        if hider is not None and name in ("ratings", "conflicts"):
            _copy_hidden(db, table, hider)
        else:
            _copy(db, table, hider)
        yield


def _source(db: Database, table: Table) -> str:
    found = db.execute(
        "select wr from pragma_table_list where schema = 'main' and name = ?", [table.name]
    )
    order = ", ".join(table.key) if found.fetchone()[0] else "rowid"
    return f"from other.{table.name} where {KEPT.get(table.name, 1)} order by {order}"


def _copy(db: Database, table: Table, hider: Hider | None) -> None:
    names = ", ".join(table.columns)
    values = names
    if hider is not None:
        texts = set(text_columns(db, "main", table.name))
        values = ", ".join(
            f"hidden('{table.name}', '{each}', {each})"
            if each in texts and not is_kept(table.name, each)
            else each
            for each in table.columns
        )
    try:
        db.execute(f"insert into main.{table.name} ({names}) select {values} {_source(db, table)}")
    except sqlite3.IntegrityError as error:
        if hider is None:
            raise
        raise ResultsError(
            f"cannot be made anonymous: rows of {table.name} differ in nothing but a path or name",
            "share it as it is, or without those rows",
        ) from error


def _copy_hidden(db: Database, table: Table, hider: Hider) -> None:
    """Row by row, because their keys change; two that were told apart by a path become one."""
    names = ", ".join(table.columns)
    marks = ", ".join(f":{name}" for name in table.columns)
    rows = list(db.query(f"select {names} {_source(db, table)}"))
    db.conn.executemany(
        f"insert or ignore into main.{table.name} ({names}) values ({marks})",
        (hider.row(table.name, row) for row in rows),
    )


def left_out(db: Database) -> list[LeftOut]:
    """What the original has and the copy has not; nothing that is not there is named."""
    shift = SHARD_BITS + LATENT_BITS
    (n_caches,) = db.execute(
        f"""select count(*) from other.caches where exists (select 1 from other.firings
            where key >= number << {shift} and key < (number + 1) << {shift})"""
    ).fetchone()
    of_caches = f"firings of {n_caches} cache{'s' * (n_caches != 1)}"
    found = [
        LeftOut(of_caches, *_measure(db, "firings", "packed")),
        LeftOut("tokens of the corpus", *_measure(db, "context_shards", "token_ids")),
        LeftOut("directions of windows", *_measure(db, "window_vectors", "vectors")),
        LeftOut("index of search", *_index(db)),
        LeftOut("shards of caches that are not complete", _behind(db, "cache_shards"), 0),
        LeftOut("conflicts about these", _behind(db, "conflicts"), 0),
    ]
    return [each for each in found if each.n_rows]


def _measure(db: Database, table: str, column: str) -> tuple[int, int]:
    row = db.execute(f"select count(*), coalesce(sum(length({column})), 0) from other.{table}")
    return row.fetchone()


def _index(db: Database) -> tuple[int, int]:
    parts = [
        _measure(db, "search_explanations_data", "block"),
        _measure(db, "search_windows_data", "block"),
        _measure(db, "search_vectors", "vectors"),
    ]
    (n_marks,) = db.execute("select count(*) from other.search_marks").fetchone()
    n_rows, n_bytes = map(sum, zip(*parts, strict=True))
    return (n_rows, n_bytes) if n_marks else (0, 0)


def _behind(db: Database, table: str) -> int:
    row = db.execute(f"select count(*) from other.{table} where not ({KEPT[table]})")
    return int(row.fetchone()[0])
