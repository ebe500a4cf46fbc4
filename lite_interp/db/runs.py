"""Which command wrote to the file, with what, on what machine, and how it ended."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from lite_interp.db.file import open_results
from lite_interp.errors import LiteInterpError, one_line
from lite_interp.ids import canonical_json

LIBRARIES = (
    "lite-interp",
    "llama-cpp-python",
    "torch",
    "transformers",
    "sentence-transformers",
    "numpy",
    "scipy",
    "scikit-learn",
    "sqlite-utils",
)


@contextmanager
def open_run(path: Path, command: str, *, create: bool = False) -> Iterator[Database]:
    """A results file to write to, and a row that says who wrote, when, and how it ended."""
    with open_results(path, create=create) as db:
        row = (command, canonical_json(_arguments()), _versions(), _machine(), _now())
        number = db.execute(
            """insert into runs (command, argv, versions, machine, started_utc)
               values (?, ?, ?, ?, ?)""",
            row,
        ).lastrowid
        try:
            yield db
        except BaseException as error:
            _end(db, number, _outcome(error))
            raise
        _end(db, number, "done")


def load_runs(db: Database) -> list[dict[str, Any]]:
    """Commands that wrote to the file, the first first: `command`, times, `outcome`."""
    return list(db.query("select command, started_utc, ended_utc, outcome from runs order by id"))


def _end(db: Database, number: int | None, outcome: str) -> None:
    """How the run ended; a full disk may leave even that unsaid."""
    try:
        db.execute(
            "update runs set ended_utc = ?, outcome = ? where id = ?", [_now(), outcome, number]
        )
    except sqlite3.Error:
        if outcome == "done":
            raise


def _outcome(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    kind = "" if isinstance(error, LiteInterpError) else f"{type(error).__name__}: "
    return f"failed: {kind}{one_line(error)[:300]}"


def _arguments() -> Sequence[str]:
    """The command line as it was given; bytes that are no Unicode are written out."""
    return [os.fsencode(word).decode("utf-8", "backslashreplace") for word in sys.argv[1:]]


def _versions() -> str:
    versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return canonical_json(versions)


def _machine() -> str:
    return canonical_json(
        {
            "system": platform.system(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        }
    )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
