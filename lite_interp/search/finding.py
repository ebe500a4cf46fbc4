"""Latents that fit a text, by words and by meaning, as one list.

    lists     explanations with all the words, by BM25
              windows with all the words: latents that fire on one of them in the strongest of
              these windows, then the others; each by the sum of peak / greatest activation
              explanations by the cosine with the text
    together  sum over the lists of 1 / (60 + place in the list)

The last is reciprocal rank fusion with the constant of Cormack, Clarke and Büttcher 2009
(Reciprocal rank fusion outperforms Condorcet and individual rank learning methods, SIGIR). A latent
stands once in a list, at its best explanation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from sqlite_utils import Database

from lite_interp.db import search, told
from lite_interp.db.caches import CacheInfo
from lite_interp.db.search import Firing, Span
from lite_interp.db.search_index import EXPLANATIONS, WINDOWS
from lite_interp.db.told import Told
from lite_interp.embedder import Embedder
from lite_interp.records import Window
from lite_interp.render import one_row, plain_text
from lite_interp.search.index import Searched
from lite_interp.search.meaning import nearest
from lite_interp.search.query import plain_query, words_query

PLACES = {"explanations": (EXPLANATIONS,), "windows": (WINDOWS,), "all": (EXPLANATIONS, WINDOWS)}
"""Where to look for words → sources of the index."""
FUSION = 60
"""Constant of reciprocal rank fusion."""
LIST_LATENTS = 100
"""Latents of each list that are ranked together, at least."""
MOST_TEXTS = 2000
"""Texts of windows that are looked at, about, evenly over all that have the words."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is looked for."""

    text: str
    """Words, as the user typed them."""
    places: str = "all"
    """Where to look for them: a name in `PLACES`."""
    embedder: Embedder | None = None
    """For meaning; None = words alone."""
    limit: int = 20
    """Latents at most; 0 = all that are found."""


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A latent that was found."""

    told: Told
    """The latent with the explanation that was found, or its best one."""
    explanation: str
    """That explanation on one line; empty if there is none."""
    spans: tuple[Span, ...]
    """Where the words stand in it."""
    fused: float
    """Sum over lists of 1 / (60 + place)."""
    found_by: tuple[str, ...]
    """The lists: `words`, `windows`, `meaning`."""
    cosine: float | None
    """Of the explanation with the text, if it was found by meaning."""
    n_windows: int
    """Windows it fires in that have the words, of those looked at."""
    window: str
    """The one it fires in most, on one line; empty if there is none."""
    window_spans: tuple[Span, ...]
    """Where the words stand in it."""
    on_words: bool
    """Whether it fires on one of them there."""


class _Fired(NamedTuple):
    n_windows: int = 0
    window: str = ""
    spans: tuple[Span, ...] = ()
    on_words: bool = False


class _Place(NamedTuple):
    latent: int
    explanation_id: str | None = None
    cosine: float | None = None
    fired: _Fired = _Fired()


def find(searched: Searched, cache: CacheInfo, request: Request) -> list[Hit]:
    """Latents of a cache that fit a text, the best first.

    Raises:
        UsageError: there is no word in the text, or it is too long.
    """
    query = words_query(request.text)
    depth = max(LIST_LATENTS, 2 * request.limit) if request.limit else None
    lists: dict[str, list[_Place]] = {}
    if EXPLANATIONS in PLACES[request.places]:
        rows = search.find_explanations(searched.index, query)
        lists["words"] = _distinct(
            _explained(searched, cache, ((row, None) for row in rows)), depth
        )
    if WINDOWS in PLACES[request.places]:
        firings = search.find_latents(searched.index, query, cache.number, MOST_TEXTS)
        lists["windows"] = _fired(searched.db, query, firings[:depth])
    if request.embedder is not None:
        near = nearest(searched.directions, request.embedder, plain_query(request.text))
        lists["meaning"] = _distinct(_explained(searched, cache, near), depth)
    best = _fuse(lists)[: request.limit or None]
    return _hits(searched, cache, query, lists, best)


def _explained(
    searched: Searched, cache: CacheInfo, rows: Iterable[tuple[int | str, float | None]]
) -> Iterator[_Place]:
    """Explanations of the cache, by row number or id, in the order given."""
    for row, cosine in rows:
        found = search.explained_latent(searched.db, cache.id, row)
        if found is not None:
            yield _Place(*found, cosine)


def _fired(db: Database, query: str, firings: Sequence[Firing]) -> list[_Place]:
    """Latents with their windows, those that fire on the words first."""
    windows = [search.load_window(db, each.window) for each in firings]
    texts = [plain_text(window) for window in windows]
    places = [
        _Place(
            each.latent,
            fired=_Fired(each.n_windows, text, spans, _fires_on(window, spans)),
        )
        for each, window, text, spans in zip(
            firings, windows, texts, search.spans(query, texts), strict=True
        )
    ]
    return sorted(places, key=lambda place: not place.fired.on_words)


def _fires_on(window: Window, spans: Sequence[Span]) -> bool:
    """Whether a token that is part of one of the spans has an activation."""
    ends = np.cumsum([len(one_row(token)) for token in window.tokens])
    starts = np.concatenate([[0], ends[:-1]])
    active = window.values > 0
    return any(bool((active & (starts < last) & (ends > first)).any()) for first, last in spans)


def _distinct(places: Iterator[_Place], depth: int | None) -> list[_Place]:
    """Each latent once, at its first place."""
    seen: set[int] = set()
    firsts = (each for each in places if not (each.latent in seen or seen.add(each.latent)))
    return list(islice(firsts, depth))


def _fuse(lists: dict[str, list[_Place]]) -> list[tuple[int, float]]:
    """(latent, fused score), the best first; equal ones by index."""
    fused: dict[int, float] = {}
    for places in lists.values():
        for rank, place in enumerate(places, 1):
            fused[place.latent] = fused.get(place.latent, 0.0) + 1 / (FUSION + rank)
    return sorted(fused.items(), key=lambda item: (-item[1], item[0]))


def _hits(
    searched: Searched,
    cache: CacheInfo,
    query: str,
    lists: dict[str, list[_Place]],
    best: Sequence[tuple[int, float]],
) -> list[Hit]:
    by_latent = {name: {each.latent: each for each in places} for name, places in lists.items()}
    hits = []
    for latent, fused in best:
        there = {name: places[latent] for name, places in by_latent.items() if latent in places}
        hits.append(_hit(searched.db, cache, latent, fused, there))
    spans = search.spans(query, [hit.explanation for hit in hits])
    return [replace(hit, spans=found) for hit, found in zip(hits, spans, strict=True)]


def _hit(
    db: Database, cache: CacheInfo, latent: int, fused: float, there: dict[str, _Place]
) -> Hit:
    """A latent with what was found of it in each list."""
    names = [each.explanation_id for each in there.values() if each.explanation_id is not None]
    line = (
        told.tell_explanation(db, cache, names[0]) if names else told.tell_latent(db, cache, latent)
    )
    fired = there["windows"].fired if "windows" in there else _Fired()
    return Hit(
        line,
        one_row(line.explanation or ""),
        (),
        fused,
        tuple(there),
        there["meaning"].cosine if "meaning" in there else None,
        *fired,
    )


def hit_rows(hits: Iterable[Hit]) -> list[dict[str, Any]]:
    """Plain rows, for JSON and CSV; scores are called as `list` calls them.

    Texts are without control characters, and places in them are [first character, one behind the
    last].
    """
    rows = []
    for hit in hits:
        scores: dict[str, Any] = {}
        for name, row in hit.told.scores.items():
            scores[name] = row["value"]
            scores[f"{name}_low"], scores[f"{name}_high"] = row["low"], row["high"]
            scores[f"{name}_null"] = row["null_value"]
        own = {
            "latent": hit.told.latent,
            "explanation": hit.explanation or None,
            "explanation_hits": [list(each) for each in hit.spans],
            "explainer": one_row(hit.told.explainer),
            "density": hit.told.density,
            "found_by": list(hit.found_by),
            "fused": hit.fused,
            "cosine": hit.cosine,
            "n_windows": hit.n_windows,
            "window": hit.window or None,
            "window_hits": [list(each) for each in hit.window_spans],
            "fires_on_words": hit.on_words,
        }
        # A scorer in another's file may be called as one of our columns.
        rows.append({**own, **scores, **own})
    return rows
