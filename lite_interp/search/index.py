"""A results file with an index that is up to date, in the file or, if need be, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlite_utils import Database

from lite_interp.db import search_index
from lite_interp.db.file import open_results, read_results, show_broken_text
from lite_interp.db.search_index import EXPLANATIONS, WINDOWS
from lite_interp.embedder import Embedder
from lite_interp.errors import ResultsError
from lite_interp.search.meaning import embed_explanations

if TYPE_CHECKING:
    # It would load torch, and words are found without it.
    from lite_interp.loading import Reporter

FILL = {EXPLANATIONS: search_index.index_explanations, WINDOWS: search_index.index_windows}
"""Source → what brings its words up to date."""


class Searched(NamedTuple):
    """A file that can be searched."""

    db: Database
    """The file."""
    index: Database
    """Its index of words: the same, or one in memory."""
    directions: Database
    """Its index of directions: one of these."""


@contextmanager
def open_searched(
    path: Path, sources: Sequence[str], embedder: Embedder | None, tell: Reporter
) -> Iterator[Searched]:
    """A results file to read, with an index that is up to date.

    Rows that were added since the last search are indexed first, a transaction for each 20,000 of
    them. A file that cannot be written, or that another process is writing, gets an index in
    memory.

    Args:
        path: the file.
        sources: which words will be searched: `explanations`, `windows`.
        embedder: by whose directions explanations will be compared, if at all.
        tell: who is told.

    Raises:
        ResultsError: the file cannot be read.
    """
    reason = _update(path, sources, embedder, tell)
    with read_results(path) as db:
        index = db
        if not _is_fresh(db, index, sources, embedder):
            why = f": {reason}" if reason else ""
            tell.say(f"the index is made in memory, for this search alone{why}")
            index = search_index.memory_index()
            _fill(db, index, sources, embedder, tell)
        yield Searched(db, index, index)


@contextmanager
def open_to_search(path: Path, sources: Sequence[str], tell: Reporter) -> Iterator[Searched]:
    """The same without a write to the file: an index that is not up to date is made in memory.

    A text that is no UTF-8, in another's file, is read with marks of what is broken.

    Args:
        path: the file.
        sources: which words will be searched.
        tell: who is told.

    Raises:
        ResultsError: the file cannot be read.
    """
    with read_results(path) as db:
        show_broken_text(db)
        index = db
        if not _is_fresh(db, db, sources, None):
            index = search_index.memory_index()
            _fill(db, index, sources, None, tell)
        yield Searched(db, index, index)


def with_meaning(searched: Searched, embedder: Embedder, tell: Reporter) -> Searched:
    """An open file with directions by an embedder, made in memory if they are not in its index."""
    if search_index.is_fresh(searched.db, searched.directions, embedder.id):
        return searched
    directions = search_index.memory_index()
    _fill(searched.db, directions, (), embedder, tell)
    return searched._replace(directions=directions)


def _update(
    path: Path, sources: Sequence[str], embedder: Embedder | None, tell: Reporter
) -> ResultsError | None:
    """Bring the index in the file up to date; returns why that cannot be."""
    try:
        with read_results(path) as db:
            if _is_fresh(db, db, sources, embedder):
                return None
    except ResultsError:
        # A file of an older version is brought up to date below; what else it is, is said there.
        pass
    try:
        with open_results(path) as db:
            _fill(db, db, sources, embedder, tell)
    except ResultsError as error:
        return error
    return None


def _is_fresh(
    db: Database, index: Database, sources: Sequence[str], embedder: Embedder | None
) -> bool:
    wanted = [*sources, *([embedder.id] if embedder else [])]
    return all(search_index.is_fresh(db, index, source) for source in wanted)


def _fill(
    db: Database,
    index: Database,
    sources: Sequence[str],
    embedder: Embedder | None,
    tell: Reporter,
) -> None:
    for source in sources:
        if not search_index.is_fresh(db, index, source):
            total = search_index.count_pending(db, index, source)
            for _ in tell.track(FILL[source](db, index), total, f"indexing {source}"):
                pass
    if embedder is not None:
        embed_explanations(db, index, embedder, tell)
