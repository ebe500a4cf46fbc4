"""Open and close a results file, and say in one line why that is not possible."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import platformdirs
from sqlite_utils import Database

from lite_interp.db.shared_views import drop_views
from lite_interp.errors import ResultsError, one_line
from lite_interp.ids import canonical_json
from lite_interp.migrations import APPLICATION_ID, SCHEMA_VERSION, migrations

OLDEST_SQLITE = (3, 37, 0)
"""The first with STRICT tables."""

PAGE_SIZE = 16384
"""Bytes. Packed firings are about 1 KB each; larger pages leave less unused at their ends."""


FREE_PAGES = ("freelist_count", "page_count")


@contextmanager
def open_results(path: Path, *, create: bool = False) -> Iterator[Database]:
    """A results file to write to, one writer at a time; closed and in one piece afterwards.

    Raises:
        ResultsError: not there (unless `create`), another program's, of a newer version,
            read-only, in use by another writer, or the disk is full.
    """
    _refuse_impossible(path, create)
    if path.exists() and not os.access(path, os.W_OK):
        raise ResultsError(
            f"the file is read-only: {one_line(path)}", "copy it, or make it writable"
        )
    with _one_writer(path), plain_errors(path):
        new = not path.exists()
        db = Database(sqlite3.connect(path.absolute().as_uri(), uri=True, isolation_level=None))
        empty = False
        try:
            _prepare(db, path)
            yield db
        except BaseException:
            empty = new and _is_empty(db)
            raise
        finally:
            _settle(db)
            db.close()
            if empty:
                path.unlink()


def refuse_unusable(path: Path) -> None:
    """Refuse at once what `open_results(create=True)` would refuse after an hour of loading."""
    _refuse_impossible(path, create=True)
    if path.exists():
        with open_results(path):
            pass


@contextmanager
def read_results(path: Path) -> Iterator[Database]:
    """A results file to read from; it may be written by another process meanwhile."""
    _refuse_impossible(path, create=False)
    with plain_errors(path):
        mode = "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"
        if mode == "ro" and not path.with_name(path.name + "-wal").exists():
            mode = "ro&immutable=1"
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)
        db = Database(connection)
        try:
            _check_header(db, path)
            if not _n_tables(db):
                raise ResultsError(f"an empty file, not a results file: {one_line(path)}")
            if _user_version(db) != SCHEMA_VERSION:
                raise ResultsError(
                    f"written by an older version of lite-interp: {one_line(path)}",
                    "what writes to it brings it up to date, e.g. `lite-interp search FILE word`",
                )
            db.execute("pragma query_only = on")
            yield db
        finally:
            db.close()


def show_broken_text(db: Database) -> None:
    """Read a text that is no UTF-8, as another's file may hold, with marks of what is broken."""
    db.conn.text_factory = lambda raw: raw.decode("utf-8", "replace")


def _refuse_impossible(path: Path, create: bool) -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ResultsError(
            f"this Python's SQLite is too old: {sqlite3.sqlite_version}",
            "a newer build of Python brings a newer SQLite; 3.37 is enough",
        )
    try:
        _refuse_path(path, create)
    except OSError as error:
        raise ResultsError(
            f"cannot be read: {one_line(path)}: {error.strerror}", "look at its name and rights"
        ) from error


def _refuse_path(path: Path, create: bool) -> None:
    if path.is_dir():
        raise ResultsError(f"a folder, not a results file: {one_line(path)}")
    if not path.exists() and not create:
        raise ResultsError(
            f"no such results file: {one_line(path)}",
            "`lite-interp cache` and `lite-interp run` make one",
        )
    if not path.parent.is_dir():
        raise ResultsError(
            f"no such folder: {one_line(path.parent)}", "make it first, or name another"
        )
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise ResultsError(f"not a results file of lite-interp: {one_line(path)}")


def _check_header(db: Database, path: Path) -> None:
    application = db.execute("pragma application_id").fetchone()[0]
    tables = _n_tables(db)
    if application != APPLICATION_ID and (application or tables):
        raise ResultsError(
            f"a SQLite file of another program: {one_line(path)}", "name another file"
        )
    if not tables:
        return
    if _user_version(db) > SCHEMA_VERSION:
        raise ResultsError(
            f"written by a newer version of lite-interp: {one_line(path)} has schema "
            f"{_user_version(db)}, this version knows {SCHEMA_VERSION}",
            "update lite-interp",
        )


def _n_tables(db: Database) -> int:
    return int(db.execute("select count(*) from sqlite_master").fetchone()[0])


def _is_empty(db: Database) -> bool:
    """Whether nothing was computed; a file that cannot be asked is kept."""
    try:
        return not _n_tables(db) or not db.execute("select 1 from corpora").fetchone()
    except sqlite3.Error:
        return False


def _user_version(db: Database) -> int:
    return int(db.execute("pragma user_version").fetchone()[0])


def _prepare(db: Database, path: Path) -> None:
    db.execute("pragma busy_timeout = 10000")
    _check_header(db, path)
    if not _n_tables(db):
        db.execute(f"pragma page_size = {PAGE_SIZE}")
    if _user_version(db) < SCHEMA_VERSION:
        with db.atomic():
            db.execute(f"pragma application_id = {APPLICATION_ID}")
            # Of a shared copy: a table that a view reads cannot be made anew under it.
            drop_views(db)
            migrations.apply(db)
            db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        # What was written anew left its old place behind; without room for a copy it stays so.
        with suppress(sqlite3.OperationalError):
            shrink(db)
    # Network file systems refuse WAL; the mode that was there then stays.
    db.execute("pragma journal_mode = wal")
    # One wait for the disk a unit of work, so that a power cut costs at most one unit.
    db.execute("pragma synchronous = full")
    db.execute("pragma foreign_keys = on")


def _settle(db: Database) -> None:
    """Back to one closed file: another reader may keep it in WAL mode, which is no harm."""
    try:
        db.execute("pragma busy_timeout = 200")
        db.execute("pragma wal_checkpoint(truncate)")
        db.execute("pragma journal_mode = delete")
    except sqlite3.OperationalError:
        return


@contextmanager
def _one_writer(path: Path) -> Iterator[None]:
    """A lock outside the folder of the file, so that the results stay one file."""
    folder = Path(platformdirs.user_cache_dir("lite-interp")) / "locks"
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    lock = filelock.FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ResultsError(
            f"another process is writing to this file: {one_line(path)}",
            "wait for it, or write to a file of its own",
        ) from error
    except OSError as error:
        raise ResultsError(
            f"no place for a lock: {one_line(folder)}: {error.strerror}",
            "set XDG_CACHE_HOME to a folder that can be written to",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """SQLite's own refusals as one line; what was committed stays."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        reasons = {
            "disk is full": ("the disk is full", "make room; the same command goes on from here"),
            "readonly": ("the file is read-only", "copy it, or make it writable"),
            "locked": ("another process is using this file", "wait for it, or stop it"),
            "unable to open": ("cannot be opened", "look at the rights of the file and its folder"),
            "malformed": ("the file is damaged", "take a copy from before; `verify` lists what is"),
            "not a database": ("not a results file of lite-interp", ""),
            "no such module": (
                "this Python's SQLite has no full-text search (FTS5)",
                "another build of Python brings it",
            ),
            "disk I/O error": ("the disk cannot be read or written", "is there room on it?"),
        }
        for sign, (message, hint) in reasons.items():
            if sign in str(error):
                raise ResultsError(f"{message}: {one_line(path)}", hint) from error
        raise


def shrink(db: Database) -> None:
    """Give free pages back to the disk, if they are more than a tenth of the file."""
    free, pages = (db.execute(f"pragma {name}").fetchone()[0] for name in FREE_PAGES)
    if free > pages / 10:
        db.execute("vacuum")


def add(db: Database, table: str, row: dict[str, Any]) -> None:
    """Insert a row unless its key is there; dicts and lists are stored as canonical JSON."""
    plain = {
        key: canonical_json(value) if isinstance(value, (dict, list)) else value
        for key, value in row.items()
    }
    names = ", ".join(plain)
    marks = ", ".join(f":{key}" for key in plain)
    keys = ", ".join(db[table].pks)  # type: ignore[union-attr]
    db.execute(
        f"insert into {table} ({names}) values ({marks}) on conflict({keys}) do nothing", plain
    )
