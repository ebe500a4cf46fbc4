"""Open the file for one moment: to read what is asked, to write one answer.

So others can write to the same file between.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock
from sqlite_utils import Database

from lite_interp.db.file import open_results, read_results, show_broken_text
from lite_interp.db.ratings import store_rating
from lite_interp.errors import ResultsError
from lite_interp.records import Rating

PATIENCE_S = 10.0
"""How long to wait for another process that writes to the file."""
PAUSE_S = 0.1
"""Between two attempts."""


@contextmanager
def open_to_ask(path: Path) -> Iterator[Database]:
    """A results file to read questions from; what is no UTF-8 in it is shown broken."""
    with read_results(path) as db:
        show_broken_text(db)
        yield db


@contextmanager
def open_to_answer(path: Path, patience_s: float = PATIENCE_S) -> Iterator[Database]:
    """A results file for one short write; another writer is waited for.

    Raises:
        ResultsError: as `open_results`; in use by another writer only after `patience_s`.
    """
    with ExitStack() as stack:
        yield _patiently(path, patience_s, stack)


def _patiently(path: Path, patience_s: float, stack: ExitStack) -> Database:
    until = time.monotonic() + patience_s
    while True:
        try:
            return stack.enter_context(open_results(path))
        except ResultsError as error:
            if not isinstance(error.__cause__, filelock.Timeout) or time.monotonic() > until:
                raise
        time.sleep(PAUSE_S)


def keep_rating(path: Path, rating: Rating, patience_s: float = PATIENCE_S) -> bool:
    """Store one answer in a transaction of its own; False if the question had one: that stays."""
    with open_to_answer(path, patience_s) as db:
        return store_rating(db, rating)
