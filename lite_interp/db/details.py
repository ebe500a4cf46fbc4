"""Details of latents in the results file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from itertools import chain, zip_longest
from typing import Any

from sqlite_utils import Database

from lite_interp.details import LatentDetails
from lite_interp.ids import canonical_json

COLUMNS = tuple(field.name for field in fields(LatentDetails))
PLAIN = {"latent", "single_token_share", "position_dependence"}
"""Columns that are numbers; all others are JSON."""


def store_details(db: Database, cache_id: str, details: Iterable[LatentDetails]) -> None:
    """Store details of latents, all or nothing, in the place of what was there about them."""
    marks = ", ".join("?" * (1 + len(COLUMNS)))
    with db.atomic():
        db.conn.executemany(
            f"insert or replace into latent_details (cache_id, {', '.join(COLUMNS)}) "
            f"values ({marks})",
            ((cache_id, *_stored(each)) for each in details),
        )


def _stored(details: LatentDetails) -> list[Any]:
    row = ((name, getattr(details, name)) for name in COLUMNS)
    return [
        value if name in PLAIN or value is None else canonical_json(value) for name, value in row
    ]


def load_details(db: Database, cache_id: str, latent: int) -> LatentDetails | None:
    """Details of one latent; None if there are none."""
    row = db.execute(
        f"select {', '.join(COLUMNS)} from latent_details where cache_id = ? and latent = ?",
        [cache_id, latent],
    ).fetchone()
    if row is None:
        return None
    pairs = zip(COLUMNS, row, strict=True)
    return LatentDetails(**{name: _loaded(name, value) for name, value in pairs})


def _loaded(name: str, value: Any) -> Any:
    if name in PLAIN or value is None:
        return value
    items = json.loads(value)
    return tuple(tuple(item) if isinstance(item, list) else item for item in items)


def has_details(db: Database, cache_id: str) -> bool:
    """Whether the details of a cache are in the file; they are stored all at once."""
    found = db.execute("select 1 from latent_details where cache_id = ? limit 1", [cache_id])
    return found.fetchone() is not None


def count_firings(db: Database, cache_id: str) -> int:
    """Firings over the finished shards of a cache."""
    row = db.execute("select sum(n_firings) from cache_shards where cache_id = ?", [cache_id])
    return int(row.fetchone()[0] or 0)


def siblings(db: Database, cache_id: str, latent: int, n: int) -> list[int]:
    """Latents that are easily taken for this one, at most n: by direction and by firing in turn.

    Each once, and never the latent itself; none if there are no details.
    """
    details = load_details(db, cache_id, latent)
    if details is None:
        return []
    both = zip_longest(details.decoder_neighbours, details.cofiring_neighbours)
    found = dict.fromkeys(pair[0] for pair in chain.from_iterable(both) if pair is not None)
    return [other for other in found if other != latent][:n]
