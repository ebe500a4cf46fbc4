"""What the file says of a latent in one line: its best explanation, a score, its density."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lite_interp.db.caches import CacheInfo
from lite_interp.ways import in_order, way_names, way_of

N_TOKENS = 6
"""Tokens that stand for a latent without an explanation."""


@dataclass(frozen=True, slots=True)
class Told:
    """A latent in one line."""

    latent: int
    """Index."""
    explanation_id: str | None
    """The explanation; None if there is none."""
    explanation: str | None
    """Its text."""
    explainer: str
    """Who explained; empty if nobody did."""
    scores: dict[str, dict[str, Any]]
    """Name of a way to score → its raw score, a row of the file; in the order of columns."""
    density: float
    """Firings per position that was counted."""
    max_value: float
    """Greatest activation in the cache."""
    tokens: tuple[str, ...]
    """Tokens on which it fires most, if that is known."""

    @property
    def words(self) -> str:
        """Those tokens, each once, in a row; empty if none is known."""
        stripped = (token.strip() for token in self.tokens)
        return ", ".join(dict.fromkeys(token for token in stripped if token))

    @property
    def score(self) -> tuple[str, float] | None:
        """Name and value of the first score that has a value."""
        known = ((name, row["value"]) for name, row in self.scores.items())
        return next(((name, value) for name, value in known if value is not None), None)


def tell_explanation(db: Database, cache: CacheInfo, name: str) -> Told:
    """An explanation, by its id, of a latent of the cache."""
    found = db.execute(
        "select id, latent, text, explainer, example_set_id from explanations where id = ?",
        [name],
    ).fetchone()
    return _told(db, cache, *found)


def tell_latent(db: Database, cache: CacheInfo, latent: int) -> Told:
    """A latent by its best explanation.

    The best is the one with the highest raw score, by the first scorer in the order of columns
    that has judged any of them; of equal ones the latest.
    """
    rows = db.execute(
        """select id, latent, text, explainer, example_set_id from explanations
           where cache_id = ? and latent = ? and text is not null order by rowid desc""",
        [cache.id, latent],
    ).fetchall()
    found = [_told(db, cache, *row) for row in rows]
    if not found:
        return _told(db, cache, None, latent, None, "", None)
    first = in_order({each.score[0] for each in found if each.score})[:1]

    def worth(told: Told) -> float:
        return told.score[1] if told.score and [told.score[0]] == first else -math.inf

    return max(found, key=worth)


def _told(
    db: Database,
    cache: CacheInfo,
    name: str | None,
    latent: int,
    text: str | None,
    explainer: str,
    example_set_id: str | None,
) -> Told:
    row = db.execute(
        "select density, max_value from latents where cache_id = ? and latent = ?",
        [cache.id, latent],
    ).fetchone()
    density, max_value = row or (0.0, 0.0)
    return Told(
        latent,
        name,
        text,
        explainer,
        _scores(db, example_set_id, name) if name else {},
        density,
        max_value,
        _tokens(db, cache, latent),
    )


def _scores(db: Database, example_set_id: str | None, name: str) -> dict[str, dict[str, Any]]:
    rows = list(
        db.query(
            """select scorer, settings, model_id, value, low, high, null_value from scores
               where example_set_id = ? and coalesce(explanation_id, '') = ? and variant = 'raw'""",
            [example_set_id, name],
        )
    )
    names = way_names(rows)
    found = {names[way_of(row)]: row for row in rows}
    return {key: found[key] for key in in_order(found)}


def _tokens(db: Database, cache: CacheInfo, latent: int) -> tuple[str, ...]:
    row = db.execute(
        "select top_tokens from latent_details where cache_id = ? and latent = ?",
        [cache.id, latent],
    ).fetchone()
    pairs = json.loads(row[0]) if row else []
    return tuple(str(pair[0]) for pair in pairs[:N_TOKENS])


def tell_latents(db: Database, cache: CacheInfo, latents: Iterable[int]) -> dict[int, Told]:
    """Several latents by their best explanations."""
    return {latent: tell_latent(db, cache, latent) for latent in dict.fromkeys(latents)}
