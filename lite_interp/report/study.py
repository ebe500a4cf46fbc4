"""A cache opened for pages: what is looked up once, and used for every row and every latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlite_utils import Database

from lite_interp.compare.arms import called
from lite_interp.db import report as reading
from lite_interp.db import studies
from lite_interp.db.caches import CacheInfo
from lite_interp.explain import way_of as made_in
from lite_interp.records import Explanation
from lite_interp.report.texts import visible
from lite_interp.score import SCORERS
from lite_interp.ways import Way, in_order, way_names, way_of

Row = dict[str, Any]
VARIANTS = ("raw", "relative", "per_token")
"""In the order that a page offers them; others come behind."""


class ScoredWay(NamedTuple):
    """One way to score in one variant: a number that a latent may have."""

    way: Way
    """Scorer, settings and model."""
    name: str
    """What the way is called: `fuzzing@marks=paper`."""
    variant: str
    """`raw`, `relative`, `per_token`."""
    statistic: str
    """What the number is."""


@dataclass(frozen=True, slots=True)
class Study:
    """One cache of a results file, ready to be read latent by latent."""

    db: Database
    """The file."""
    cache: CacheInfo
    """Which latents."""
    ways: tuple[ScoredWay, ...]
    """Everything that latents are scored by; records name one by its place here."""
    arms: dict[str, str]
    """Explanation → what the way it was made is called."""
    made: dict[str, tuple[int, str]]
    """Explanation → its latent, and how it was made: the controls of one are made alike."""
    sets: dict[int, list[str]]
    """Latent → its example sets."""

    def place(self, row: Row) -> int:
        """Where the way and variant of a score stand in `ways`."""
        wanted = way_of(row), row["variant"]
        return next(n for n, each in enumerate(self.ways) if (each.way, each.variant) == wanted)

    def name(self, way: Way) -> str | None:
        """What a way to score is called; None if nothing was scored by it."""
        return next((each.name for each in self.ways if each.way == way), None)

    def arm(self, explanation: Explanation) -> str:
        """What the way that an explanation was made is called."""
        return visible(self.arms.get(explanation.id, explanation.explainer))


def open_study(db: Database, cache: CacheInfo) -> Study:
    """Look up what all pages about a cache need."""
    rows = reading.scored_variants(db, cache.id)
    names = way_names(rows)
    order = {name: place for place, name in enumerate(in_order(names.values()))}
    ways = [
        ScoredWay(way_of(row), visible(names[way_of(row)]), row["variant"], row["statistic"])
        for row in sorted(rows, key=lambda row: (order[names[way_of(row)]], *_variant(row)))
    ]
    explanations = studies.load_explanations(db, cache.id)
    return Study(
        db,
        cache,
        tuple(ways),
        called(db, cache.id),
        {each.id: (each.latent, made_in(each)) for each in explanations},
        reading.example_sets_by_latent(db, cache.id),
    )


def _variant(row: Row) -> tuple[int, str]:
    variant = row["variant"]
    return VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), variant


def ways_record(study: Study) -> list[Row]:
    """`Study.ways` for a page."""
    return [
        {
            "name": each.name,
            "variant": visible(each.variant),
            "statistic": visible(each.statistic),
            "scorer": visible(each.way.scorer),
            "unit": SCORERS[each.way.scorer].unit if each.way.scorer in SCORERS else "",
        }
        for each in study.ways
    ]
