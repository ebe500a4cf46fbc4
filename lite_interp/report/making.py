"""A results file to a page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp import __version__
from lite_interp.db.caches import CacheInfo, the_cache
from lite_interp.db.file import read_results, show_broken_text
from lite_interp.db.trials import load_scores
from lite_interp.errors import UsageError
from lite_interp.report.latent import latent_record
from lite_interp.report.page import refuse_output, render_page, write_text
from lite_interp.report.provenance import study_record
from lite_interp.report.rows import (
    agreement_records,
    cost_records,
    latent_rows,
    summary_records,
)
from lite_interp.report.study import Row, Study, open_study, ways_record
from lite_interp.report.texts import visible
from lite_interp.terminal import Terminal


class Made(NamedTuple):
    """A page that was written."""

    path: Path
    """Where."""
    n_latents: int
    """Latents that are in it."""
    n_bytes: int
    """Its size."""


def overview_record(study: Study, name: str, latents: Collection[int] | None = None) -> Row:
    """All of a page but the latents' own records.

    Args:
        study: the cache.
        name: what the results file is called.
        latents: which latents the table has; None = all that were explained or scored.
    """
    scores = load_scores(study.db, study.cache.id, metrics=False)
    return {**about_record(study, name, scores), "rows": latent_rows(study, scores, latents)}


def about_record(study: Study, name: str, scores: Sequence[Row]) -> Row:
    """What is said over all latents.

    Args:
        study: the cache.
        name: what the results file is called.
        scores: all its scores, as `load_scores` gives them.
    """
    return {
        "version": __version__,
        "file": visible(name),
        "study": study_record(study),
        "ways": ways_record(study),
        "summary": summary_records(study, scores),
        "agreement": agreement_records(study, scores),
        "costs": cost_records(study, scores),
    }


def make_report(
    results: Path,
    out: Path,
    terminal: Terminal,
    cache: str = "",
    latents: Sequence[int] = (),
    force: bool = False,
) -> Made:
    """Write a page about one cache.

    Args:
        results: the results file.
        out: where the page goes.
        terminal: what it tells a person through.
        cache: beginning of the cache's id.
        latents: only these; none = all that were explained or scored.
        force: whether a file that is there may be replaced.

    Raises:
        UsageError: no such cache or latent, nothing to show, or no place for the page.
    """
    with read_results(results) as db:
        refuse_output(out, results, force)
        show_broken_text(db)
        found = the_cache(db, cache)
        _refuse_latents(db, found, latents)
        study = open_study(db, found)
        overview = overview_record(study, results.name, set(latents) or None)
        shown = list(dict.fromkeys(row["latent"] for row in overview["rows"]))
        if not shown:
            raise UsageError(
                "no latent of this cache was explained or scored",
                "`lite-interp explain` does; --latents 12,99 shows latents as they are",
            )

        def records() -> Iterator[Row]:
            for latent in terminal.track(shown, len(shown), "report"):
                yield latent_record(study, latent)

        title = f"{overview['study']['coder']}, {len(shown):,} latents"
        n_bytes = write_text(out, render_page(title, overview, records()))
    return Made(out, len(shown), n_bytes)


def _refuse_latents(db: Database, cache: CacheInfo, latents: Sequence[int]) -> None:
    for latent in latents:
        if not 0 <= latent < cache.n_latents:
            raise UsageError(
                f"no such latent: {latent}", f"the coder has 0 to {cache.n_latents - 1}"
            )
