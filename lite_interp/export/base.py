"""What every export is made from: one latent at a time, and one plain row for each explanation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlite_utils import Database

from lite_interp.db import caches, details, export_rows, trials
from lite_interp.db.caches import CacheInfo
from lite_interp.details import LatentDetails
from lite_interp.errors import ResultsError, UsageError, one_line
from lite_interp.outside.formats import EXPLAINER as IMPORTED
from lite_interp.overview import IN_METRICS, diagnosis, finds_intruders, score_columns
from lite_interp.records import LatentStats
from lite_interp.score_lines import number
from lite_interp.ways import Way, in_order, way_names, way_of

if TYPE_CHECKING:
    from lite_interp.loading import Reporter

Row = dict[str, Any]

HEAD: dict[str, type] = {
    "latent": int,
    "explanation": str,
    "source": str,
    "explainer": str,
    "engine": str,
    "prompt": str,
    "failure": str,
    "coder": str,
    "density": float,
    "n_firings": int,
    "n_contexts": int,
    "max_value": float,
    "mean_value": float,
    "flags": list,
    "top_tokens": list,
    "promoted": list,
    "suppressed": list,
    "tokens": int,
    "seconds": float,
    "diagnosis": str,
}
"""Columns of every row before those of scores, with the type of what is not None."""

TAIL: dict[str, type] = {"id": str, "raw": str, "settings": dict}
"""Columns behind those of scores, where there is room."""

OF_A_SCORE: dict[str, type] = {
    "": float,
    "_low": float,
    "_high": float,
    "_null": float,
    "_difference": float,
    "_difference_low": float,
    "_q": float,
    "_n": int,
    "_n_failed": int,
    "_reason": str,
    "_tokens": int,
    "_seconds": float,
    **{f"_{name}": float for name in IN_METRICS},
}
"""What follows the name of a way to score in the names of its columns, as in `list --json`."""


class ExportJob(NamedTuple):
    """What is exported, and where to."""

    format: str
    """Name in FORMATS."""
    out: str
    """File or folder."""
    latents: tuple[int, ...] = ()
    """Indices; empty = all that the format takes."""
    explainer: str = ""
    """Only explanations by this explainer; empty = all."""
    force: bool = False
    """Write over an earlier export."""
    model_id: str = ""
    """What Neuronpedia calls the subject; empty = from its name."""
    source_id: str = ""
    """What Neuronpedia calls the coder, `<layer>-<set>`; empty = from its names."""


@dataclass(frozen=True, slots=True)
class Latent:
    """Everything that most formats take of a latent."""

    stats: LatentStats
    """Its statistics."""
    details: LatentDetails | None
    """Tokens, lens, neighbours; None if the cache has none."""
    explanations: tuple[Row, ...]
    """Its explanations as `export_rows.explanations` gives them, failures too."""
    scores: tuple[Row, ...]
    """Scores on its windows."""

    def own_scores(self, explanation: Row) -> list[Row]:
        """The scores of one explanation, and those of the latent without any, on its windows."""
        return [
            row
            for row in self.scores
            if row["explanation_id"] == explanation["id"]
            or (
                row["explanation_id"] is None
                and row["example_set_id"] == explanation["example_set_id"]
            )
        ]

    def best(self) -> Row | None:
        """The explanation for formats that take one: the one that detection likes best.

        Where there is no such score, fuzzing decides, then simulation, then what was written first.
        """
        texts = [each for each in self.explanations if each["text"] is not None]
        return max(texts, key=self._rank, default=None)

    def _rank(self, explanation: Row) -> tuple[float, ...]:
        values = {
            row["scorer"]: number(row["value"])
            for row in self.scores
            if row["explanation_id"] == explanation["id"] and row["variant"] == "raw"
        }
        found = [values.get(name, float("nan")) for name in ("detection", "fuzzing", "simulation")]
        return tuple(-1e9 if value != value else value for value in found)


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """A results file that is being exported."""

    db: Database
    """The file, to read from."""
    cache: CacheInfo
    """Which cache."""
    job: ExportJob
    """What is wanted."""
    names: Mapping[Way, str]
    """Ways to score with their names."""
    about: Row
    """Subject, coder and settings: `export_rows.sizes`."""
    able: bool
    """Whether intruders are found at all; see `overview.finds_intruders`."""
    tell: Reporter
    """Who is told."""
    lost: list[str] = field(default_factory=list)
    """What the format did not take of this file, a line each; the formats fill it."""

    def n_latents(self, explained: bool) -> int:
        """How many latents `latents` gives."""
        if self.job.latents:
            return len(self.job.latents)
        count = export_rows.n_explained if explained else export_rows.n_latents
        return count(self.db, self.cache.id)

    def latents(self, explained: bool) -> Iterator[Latent]:
        """The latents that are wanted, in order; never more than one in memory.

        Args:
            explained: without named latents, those that have an explanation or a failure; else all.
        """
        every = export_rows.explained if explained else export_rows.latents
        chosen = self.job.latents or every(self.db, self.cache.id)
        sets = export_rows.example_sets(self.db, self.cache.id)
        at, ids = next(sets, (-1, []))
        total = self.n_latents(explained)
        for latent in self.tell.track(chosen, total, "latents") if total else ():
            while -1 < at < latent:
                at, ids = next(sets, (-1, []))
            yield self._latent(latent, ids if at == latent else [])

    def _latent(self, latent: int, example_set_ids: Sequence[str]) -> Latent:
        found = export_rows.explanations(self.db, self.cache.id, latent)
        wanted = self.job.explainer
        try:
            stats = caches.load_latent(self.db, self.cache.id, latent)
            known = details.load_details(self.db, self.cache.id, latent)
            _check(stats, known)
        except (StopIteration, TypeError, ValueError, OverflowError, RecursionError):
            raise ResultsError(
                f"the file is damaged: statistics of latent {latent}", "take a copy from before"
            ) from None
        return Latent(
            stats,
            known,
            tuple(each for each in found if wanted in ("", each["explainer"])),
            tuple(export_rows.scores(self.db, example_set_ids) if example_set_ids else ()),
        )

    def columns(self, with_tail: bool) -> dict[str, type]:
        """Every column of `rows`, whatever is in them, with its type."""
        columns = dict(HEAD)
        for name in in_order(self.names.values()):
            columns |= {f"{name}{end}": kind for end, kind in OF_A_SCORE.items()}
        # A scorer in another's file may be called as one of our columns.
        return {**columns, **HEAD, **(TAIL if with_tail else {})}

    def rows(self, with_tail: bool) -> Iterator[Row]:
        """One row for each explanation, with every column; a named latent has one in any case."""
        columns = self.columns(with_tail)
        for latent in self.latents(explained=True):
            for explanation in latent.explanations or ((None,) if self.job.latents else ()):
                row = self._row(latent, explanation)
                yield {name: row.get(name) for name in columns}

    def _row(self, latent: Latent, explanation: Row | None) -> Row:
        stats, known = latent.stats, latent.details
        head = {name: getattr(stats, name) for name in HEAD if hasattr(stats, name)}
        head |= {name: getattr(known, name, None) for name in ("top_tokens", "promoted")}
        head |= {name: getattr(known, name, None) for name in ("flags", "suppressed")}
        head |= {"coder": self.cache.coder_id}
        if explanation is None:
            return {**head, "failure": "not explained yet"}
        own = latent.own_scores(explanation)
        told = {
            name: explanation[name]
            for name in ("explainer", "engine", "prompt", "failure", "tokens", "seconds", "id")
        }
        told |= {"explanation": explanation["text"], "source": source_of(explanation)}
        told |= {"raw": explanation["raw"], "settings": explanation["settings"]}
        told |= {"diagnosis": diagnosis(own, self.able)}
        return {**score_columns(own, self.names, "raw"), **head, **told}

    @property
    def layer(self) -> int:
        """The layer of the hookpoint.

        Raises:
            UsageError: its name has none.
        """
        found = re.search(r"\.([0-9]{1,6})(\.|$)", self.cache.hookpoint)
        if found is None:
            raise UsageError(
                f"the hookpoint has no layer: {one_line(self.cache.hookpoint)}",
                "this format orders latents by layer; jsonl, csv and parquet do not",
            )
        return int(found[1])


def open_export(db: Database, cache: CacheInfo, job: ExportJob, tell: Reporter) -> Export:
    """Everything about a cache that an export needs to know first.

    Raises:
        UsageError: a latent is named that the coder does not have.
    """
    absent = [latent for latent in job.latents if not 0 <= latent < cache.n_latents]
    if absent:
        raise UsageError(
            f"no such latent: {absent[0]}", f"the coder has 0 to {cache.n_latents - 1}"
        )
    return Export(
        db,
        cache,
        job._replace(latents=tuple(sorted(set(job.latents)))),
        way_names(trials.scored_ways(db, cache.id)),
        export_rows.sizes(db, cache.id),
        finds_intruders(export_rows.intruders(db, cache.id)),
        tell,
    )


def _check(stats: LatentStats, known: LatentDetails | None) -> None:
    """Raise what a bug would raise if the JSON of a latent is of another shape than ours."""
    [int(count) for count in stats.histogram]
    for name in ("top_tokens", "promoted", "suppressed", "decoder_neighbours"):
        for first, second in getattr(known, name, None) or ():
            if not isinstance(first, int if name == "decoder_neighbours" else str):
                raise TypeError
            float(second)


def source_of(explanation: Row) -> str:
    """Who wrote an explanation: the explainer, or whom the import named."""
    if explanation["explainer"] == IMPORTED and isinstance(explanation["settings"], dict):
        return str(explanation["settings"].get("source") or IMPORTED)
    return str(explanation["explainer"])


def values_of(export: Export, latent: Latent, explanation: Row) -> list[tuple[str, float]]:
    """(name of the way, raw value) of each score that an explanation has."""
    values = {
        export.names[way_of(row)]: row["value"]
        for row in latent.own_scores(explanation)
        if row["variant"] == "raw" and row["value"] is not None and way_of(row) in export.names
    }
    return [(name, values[name]) for name in in_order(values)]
