"""What is open while pages are served: the file, its table, its index, and models once wanted."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lite_interp import search
from lite_interp.annotate import Sitting
from lite_interp.db.cached import load_firings
from lite_interp.db.caches import CacheInfo, densities, the_cache
from lite_interp.db.told import tell_latents
from lite_interp.db.trials import load_scores
from lite_interp.embedder import Embedder
from lite_interp.errors import UsageError
from lite_interp.reopening import Places, Reopened, reopen
from lite_interp.report.latent import latent_record, window_record
from lite_interp.report.making import about_record
from lite_interp.report.rows import latent_rows
from lite_interp.report.study import Row, Study, open_study
from lite_interp.report.texts import maybe, token_text, visible
from lite_interp.serve.table import Table
from lite_interp.terminal import Terminal

if TYPE_CHECKING:
    from lite_interp.samplers import Source
    from lite_interp.text_firings import TextFirings

N_HITS = 50
"""Latents that a search finds, at most."""
N_DRAWN = 20
"""Windows of a latent that nobody explained."""
N_STRONGEST = 5
"""Latents of a token of a text."""


@dataclass(slots=True, eq=False)
class Models:
    """Models that answer questions; each is loaded when the first such question comes."""

    places: Places
    """Where subject and coder are, if they have moved."""
    embedder_name: str
    """The embedder that compares meanings."""
    reopened: Reopened | None = None
    """Subject and coder."""
    embedder: Embedder | None = None
    """The embedder."""
    searched: search.Searched | None = None
    """The file with directions by the embedder."""
    source: Source | None = None
    """The corpus and the tokenizer that cut it."""


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """One cache of a results file, as it is served."""

    path: Path
    """The results file."""
    study: Study
    """The cache, ready to be read latent by latent."""
    table: Table
    """All its rows."""
    known: Collection[int]
    """Latents that the file has statistics of; in another's file not all."""
    overview: str
    """What is said over all latents, JSON."""
    searched: search.Searched
    """The file with an index of its words."""
    models: Models
    """Models that may be wanted."""
    rating: bool
    """Whether people may rate."""
    terminal: Terminal
    """What says in the terminal that something takes long."""
    sittings: dict[tuple[str, str], Sitting] = field(default_factory=dict)
    """(rater, task) → what that person is asked."""

    @property
    def cache(self) -> CacheInfo:
        """Which latents."""
        return self.study.cache


@contextmanager
def open_live(path: Path, cache: str, models: Models, rating: bool) -> Iterator[Live]:
    """Open a results file to serve one of its caches.

    The file is not written to: an index of words that is not up to date is made in memory.

    Args:
        path: the results file.
        cache: beginning of the cache's id.
        models: what may be loaded later.
        rating: whether people may rate.

    Raises:
        ResultsError: the file cannot be read.
        UsageError: no such cache.
    """
    terminal = Terminal()
    with search.open_to_search(path, search.PLACES["all"], terminal) as searched:
        db = searched.db
        study = open_study(db, the_cache(db, cache))
        scores = load_scores(db, study.cache.id, metrics=False)
        table = Table(latent_rows(study, scores), len(study.ways))
        about = {
            **about_record(study, path.name, scores),
            "n_rows": len(table.rows),
            "arms": table.arms,
            "diagnoses": table.diagnoses,
            "rating": rating,
        }
        overview = json.dumps(about, ensure_ascii=False, allow_nan=False)
        known = densities(db, study.cache.id)
        yield Live(path, study, table, known, overview, searched, models, rating, terminal)


def served_latent(live: Live, latent: int) -> Row:
    """The record of a latent, with a line for each of its neighbours.

    Raises:
        UsageError: there is no such latent, or nothing is known of it.
    """
    _refuse_latent(live, latent)
    record = latent_record(live.study, latent)
    near = [
        other
        for name in ("decoder_neighbours", "cofiring_neighbours")
        for other, _ in record.get(name, ())
        if type(other) is int and 0 <= other < live.cache.n_latents
    ]
    return {**record, "told": told_lines(live, dict.fromkeys(near))}


def drawn_windows(live: Live, latent: int) -> list[Row]:
    """Windows of a latent that nobody explained, evenly over all strengths.

    Raises:
        UsageError: there is no such latent.
        ResultsError: firings or corpus were left out of the file.
        SubjectError: the tokenizer is not there, or another one.
    """
    from lite_interp import unexplained

    _refuse_latent(live, latent)
    firings = load_firings(live.study.db, live.cache, latent)
    models = live.models
    if models.source is None:
        moved = models.places.subject
        models.source = unexplained.open_windows(live.study.db, live.cache, moved)
    found = unexplained.spread_windows(models.source, latent, firings, N_DRAWN)
    return [window_record(window) for window in found]


def _refuse_latent(live: Live, latent: int) -> None:
    n = live.cache.n_latents
    if not 0 <= latent < n:
        raise UsageError(f"no such latent: {latent}", f"the coder has 0 to {n - 1}")
    if latent not in live.known:
        raise UsageError(f"the file has no statistics of latent {latent}")


def told_lines(live: Live, latents: Any) -> dict[int, str | None]:
    """Latent → its best explanation, or the tokens it fires on most; None if neither is known."""
    told = tell_latents(live.study.db, live.cache, latents)
    return {
        latent: maybe(each.explanation if each.explanation is not None else each.words or None)
        for latent, each in told.items()
    }


def found_latents(live: Live, text: str, meaning: bool) -> list[Row]:
    """Latents that fit a text; in texts, pieces that were found are told from others.

    Raises:
        UsageError: there is no word in the text, or no such embedder.
    """
    searched, embedder = _with_meaning(live) if meaning else (live.searched, None)
    request = search.Request(text, "all", embedder, N_HITS)
    return [
        {
            "latent": hit.told.latent,
            "explanation": _pieces(hit.explanation, hit.spans),
            "words": visible(hit.told.words),
            "window": _pieces(hit.window, hit.window_spans),
            "n_windows": hit.n_windows,
            "on_words": hit.on_words,
            "found_by": list(hit.found_by),
            "cosine": hit.cosine,
            "score": [visible(hit.told.score[0]), hit.told.score[1]] if hit.told.score else None,
        }
        for hit in search.find(searched, live.cache, request)
    ]


def _pieces(text: str, spans: Any) -> list[list[Any]]:
    """[text, whether it was found] in order."""
    pieces, end = [], 0
    for first, behind in spans:
        pieces += [[text[end:first], False], [text[first:behind], True]]
        end = behind
    pieces.append([text[end:], False])
    return [[visible(piece), found] for piece, found in pieces if piece]


def _with_meaning(live: Live) -> tuple[search.Searched, Embedder]:
    from lite_interp.tools import find_embedder

    models = live.models
    if models.embedder is None:
        models.embedder = find_embedder(models.embedder_name)
    if models.searched is None:
        models.searched = search.with_meaning(live.searched, models.embedder, live.terminal)
    return models.searched, models.embedder


def fired_latents(live: Live, text: str) -> Row:
    """Which latents fire on a text: tokens with their strongest, latents with their tokens.

    Raises:
        UsageError: the text is empty or too long.
        SubjectError: the subject is not there; the same of the coder.
    """
    from lite_interp import text_firings

    words = text_firings.checked_text(text)
    if live.models.reopened is None:
        live.models.reopened = reopen(live.study.db, live.cache, live.models.places, live.terminal)
    found = text_firings.read_text(live.study.db, live.cache, live.models.reopened, words)
    return _fired_record(live, found, text_firings.shown_latents(found, N_STRONGEST, every=False))


def _fired_record(live: Live, found: TextFirings, shown: list[int]) -> Row:
    told = tell_latents(live.study.db, live.cache, shown)
    wanted = set(shown)
    tokens = [
        {
            "token": token_text(text),
            "special": bool(found.special[place]),
            "context": int(found.contexts[place]),
            "fires": [[latent, value] for latent, value in found.at(place)[:N_STRONGEST]],
        }
        for place, text in enumerate(found.tokens)
    ]
    latents = [
        {
            "latent": each.latent,
            "peak": each.peak,
            "share": each.peak / told[each.latent].max_value
            if told[each.latent].max_value > 0
            else None,
            "at": [
                [int(token), float(v)] for token, v in zip(each.tokens, each.values, strict=True)
            ],
        }
        for each in found.by_latent()
        if each.latent in wanted
    ]
    return {"tokens": tokens, "latents": latents, "told": told_lines(live, shown)}
