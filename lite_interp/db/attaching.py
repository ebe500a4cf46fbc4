"""Another results file beside this one, to read from: as `other`, and only if it is whole.

It may come from anyone. Its tables and their indices must be ours, letter by letter, so nothing
of its own is run by reading them; its views and triggers are never touched.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlite_utils import Database

from lite_interp.db.cached import LATENT_BITS, SHARD_BITS, WHOLE
from lite_interp.errors import ResultsError, one_line
from lite_interp.migrations import APPLICATION_ID, SCHEMA_VERSION, TABLES, migrations
from lite_interp.migrations.search_index import INDEX_TABLES

FACTS = tuple(name for name in TABLES if name not in INDEX_TABLES)
"""Tables that are looked at; an index is made again where it is wanted."""

JSON = {
    "subjects": ("provenance",),
    "coders": ("fit", "provenance"),
    "caches": ("settings",),
    "cache_shards": ("n_masked",),
    "latents": ("histogram",),
    "latent_details": (
        "quantiles", "top_tokens", "flags", "promoted", "suppressed", "decoder_neighbours",
        "cofiring_neighbours",
    ),
    "windows": ("tokens", "acts"),
    "example_sets": ("settings",),
    "engines": ("provenance",),
    "embedders": ("provenance",),
    "explanations": ("settings", "detail"),
    "steerings": ("settings", "promoted"),
    "verdicts": ("detail",),
    "ratings": ("settings",),
    "conditions": ("against", "settings", "explanation_ids"),
    "conflicts": ("key", "other"),
}  # fmt: skip
"""Columns that every reader takes for JSON."""

NUMBER_BITS = 63 - SHARD_BITS - LATENT_BITS

STRAY_SHARDS = """
select count(*) from other.cache_shards join other.caches on caches.id = cache_id
where cache_shards.shard not between 0 and :last or (
  exists (select 1 from other.context_shards where context_shards.corpus_id = caches.corpus_id)
  and not exists (
    select 1 from other.context_shards where context_shards.corpus_id = caches.corpus_id
    and context_shards.shard = cache_shards.shard * span))
"""
STRAY_CACHES = """
select count(*) from other.caches join other.coders on coders.id = coder_id
where number is null or number not between 0 and :number or span < 1
  or n_latents not between 0 and :latents
"""
KNOWN_FIRINGS = """
with shards (cache_id, shard) as (
    select cache_id, shard from other.cache_shards
    union all select id, :whole from other.caches
    where n_counted is not null and json_extract(settings, '$.keep') = 'reservoir'
), firsts (key, n_latents) as (
    select (number << :shard_bits | shard) << :latent_bits, n_latents
    from shards join other.caches on caches.id = cache_id join other.coders on coders.id = coder_id
)
select coalesce(sum((select count(*) from other.firings
    where firings.key >= firsts.key and firings.key < firsts.key + n_latents)), 0) from firsts
"""
"""Firings whose key names a cache, a shard of it and a latent."""


@contextmanager
def attached(db: Database, path: Path) -> Iterator[None]:
    """Another file's tables as `other`, within one transaction of this file's: all or nothing.

    A file of an older version is brought up to date in a temporary copy.

    Raises:
        ResultsError: it is no results file, of a newer version, damaged, or not what it says.
    """
    with TemporaryDirectory() as folder:
        with _refused(path):
            place = path
            if _version(path) < SCHEMA_VERSION:
                place = Path(folder) / "copy.db"
                _bring_up_to_date(path, place)
            db.execute("pragma trusted_schema = off")
            db.execute("pragma cell_size_check = on")
            db.execute("attach ? as other", [address(place)])
        try:
            with db.atomic():
                with _refused(path):
                    _check(db, path)
                try:
                    yield
                except sqlite3.IntegrityError as error:
                    raise _refusal(path, one_line(error)) from error
        finally:
            # What failed may still hold a question open; then the file is closed at once anyway.
            with suppress(sqlite3.OperationalError):
                db.execute("detach other")


def refuse_other(path: Path) -> None:
    """Refuse at once what `attached` would refuse by its header."""
    with _refused(path):
        _version(path)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What SQLite says about the other file, in one line."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        what, hint = one_line(error), "take a copy from before; nothing of it was merged"
        if "readonly" in what:
            what = "who wrote to it was stopped in the middle"
            hint = f"`lite-interp info {one_line(path)}` undoes what was half written"
        raise _refusal(path, what, hint) from error


def _refusal(path: Path, what: str, hint: str = "nothing of it was merged") -> ResultsError:
    return ResultsError(f"cannot be merged: {one_line(path)}: {what}", hint)


def address(path: Path) -> str:
    """For reading alone; where nothing can be written beside it, it is not locked."""
    at_rest = not path.with_name(path.name + "-wal").exists()
    alone = at_rest and not os.access(path.absolute().parent, os.W_OK)
    return path.absolute().as_uri() + ("?mode=ro&immutable=1" if alone else "?mode=ro")


def copy_file(path: Path, place: Path) -> None:
    """A copy of a results file as it is now, though it may be written meanwhile."""
    with _refused(path), closing(_open(path)) as old, closing(Database(place)) as db:
        old.conn.backup(db.conn)


def _open(path: Path) -> Database:
    db = Database(sqlite3.connect(address(path), uri=True, isolation_level=None))
    db.execute("pragma trusted_schema = off")
    return db


def _version(path: Path) -> int:
    """The schema's version of a results file."""
    if not path.is_file():
        raise _refusal(path, "no such file")
    with path.open("rb") as file:
        begin = file.read(16)
    if begin and begin != b"SQLite format 3\0":
        raise _refusal(path, "not a results file of lite-interp")
    with closing(_open(path)) as db:
        return _read_version(db, path, "main")


def _read_version(db: Database, path: Path, schema: str) -> int:
    application, version = (
        db.execute(f"pragma {schema}.{name}").fetchone()[0]
        for name in ("application_id", "user_version")
    )
    if not db.execute(f"select 1 from {schema}.sqlite_master limit 1").fetchone():
        raise _refusal(path, "an empty file")
    if application != APPLICATION_ID or version < 1:
        raise _refusal(path, "a SQLite file of another program")
    if version > SCHEMA_VERSION:
        raise _refusal(
            path,
            f"of a newer version, with schema {version}; this one knows {SCHEMA_VERSION}",
            "update lite-interp",
        )
    return version


def _bring_up_to_date(path: Path, copy: Path) -> None:
    copy_file(path, copy)
    with closing(Database(copy)) as db:
        db.execute("pragma trusted_schema = off")
        for kind in ("trigger", "view"):
            names = db.execute("select name from sqlite_master where type = ?", [kind]).fetchall()
            for (name,) in names:
                db.execute(f'drop {kind} "{name.replace(chr(34), chr(34) * 2)}"')
        version = _read_version(db, path, "main")
        _check_schema(db, path, "main", version)
        migrations.apply(db)
        db.execute(f"pragma user_version = {SCHEMA_VERSION}")


def _check(db: Database, path: Path) -> None:
    """Refuse a file whose tables are not ours, or whose rows no reader could take."""
    _check_schema(db, path, "other", _read_version(db, path, "other"))
    for table in FACTS:
        problems = db.execute(f"pragma other.quick_check('{table}')").fetchall()
        if problems != [("ok",)]:
            raise _refusal(path, f"damaged: {one_line(problems[0][0])}", "take a copy from before")
        if db.execute(f"pragma other.foreign_key_check('{table}')").fetchone():
            raise _refusal(path, f"rows of {table} refer to rows that are not there")
        _check_text(db, path, table)
    _check_keys(db, path)


def _check_schema(db: Database, path: Path, schema: str, version: int) -> None:
    with closing(Database(memory=True)) as new:
        names = [each.name for each in migrations.pending(new)]
        migrations.apply(new, stop_before=names[version:])
        if _objects(db, schema) != _objects(new, "main"):
            raise _refusal(
                path,
                "its tables are not those of lite-interp",
                "did another program change them? triggers and views may stay, indices may not",
            )


def _objects(db: Database, schema: str) -> list[tuple[str, str, str]]:
    """Kind, name and SQL of our tables, their indices, and whatever else has their name."""
    rows = db.execute(f"select type, name, tbl_name, sql from {schema}.sqlite_master").fetchall()
    return sorted(
        (kind, name.lower(), " ".join(sql.replace('"', "").lower().split()))
        for kind, name, table, sql in rows
        if sql and (name.lower() in FACTS or (kind == "index" and table.lower() in FACTS))
    )


def _check_text(db: Database, path: Path, table: str) -> None:
    """Refuse text that is no Unicode, and JSON that is none."""
    rows = db.execute(f"pragma other.table_xinfo('{table}')").fetchall()
    columns = [name for _, name, kind, *_ in rows if kind.upper() == "TEXT"]
    if columns:
        # Decoding is what fails.
        deque(db.execute(f"select {', '.join(columns)} from other.{table}"), maxlen=0)
    for column in JSON.get(table, ()):
        bad = f"{column} is not null and not json_valid({column})"
        if db.execute(f"select 1 from other.{table} where {bad} limit 1").fetchone():
            raise _refusal(path, f"damaged: {table}.{column} is no JSON")


def _check_keys(db: Database, path: Path) -> None:
    """Refuse firings of no cache, no shard or no latent of this file."""
    highest = {"number": (1 << NUMBER_BITS) - 1, "latents": 1 << LATENT_BITS}
    if db.execute(STRAY_CACHES, highest).fetchone()[0]:
        raise _refusal(path, "damaged: a cache without a number, or with too many latents")
    if db.execute(STRAY_SHARDS, {"last": WHOLE - 1}).fetchone()[0]:
        raise _refusal(path, "damaged: a shard of a cache that its corpus has not")
    bits = {"whole": WHOLE, "shard_bits": SHARD_BITS, "latent_bits": LATENT_BITS}
    known = db.execute(KNOWN_FIRINGS, bits).fetchone()[0]
    if known != db.execute("select count(*) from other.firings").fetchone()[0]:
        raise _refusal(path, "damaged: firings of no shard or no latent that it knows")
