"""What the ways to score are called, where one scorer judged in several.

A way is a scorer with its settings and model. The plainest keeps the name of the scorer; another
one adds what differs from it: `intervention` and `intervention@kl=1`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lite_interp.render import one_row

HEADERS = {
    "detection": "det",
    "fuzzing": "fuzz",
    "surprisal": "surp",
    "embedding": "emb",
    "intervention": "int",
    "simulation": "sim",
    "intruder": "intr",
}
"""Scorer → the head of a narrow column, in the order of columns."""


class Way(NamedTuple):
    """One way to score."""

    scorer: str
    """Name of the scorer."""
    settings: str
    """Its settings, JSON."""
    model_id: str
    """Engine or embedder."""


def way_of(row: Mapping[str, Any]) -> Way:
    """The way in which a score, a row of `load_scores`, was made."""
    return Way(*(row[name] for name in Way._fields))


def way_names(rows: Iterable[Mapping[str, Any]]) -> dict[Way, str]:
    """Each way with its name, those of one scorer from the plainest on.

    Ids of prompts and models are cut to eight digits. Names hold no control characters.
    """
    first: dict[str, Way] = {}
    names = {}
    for way in sorted({way_of(row) for row in rows}, key=plainest):
        names[way] = one_row(way.scorer)
        if first.setdefault(way.scorer, way) != way:
            names[way] += "@" + _difference(first[way.scorer], way)
    return names


def plainest(way: Way) -> tuple[str, int, Way]:
    """What ways of a scorer are sorted by: fewest settings first, then as text."""
    return way.scorer, len(_settings(way)), way


def _difference(first: Way, way: Way) -> str:
    """The settings in which a way differs from the first of its scorer: `ablate=true,kl=1`."""
    here, there = (_settings(each) for each in (way, first))
    return ",".join(
        f"{one_row(key)}={_told(here.get(key))}"
        for key in sorted(here | there)
        if here.get(key) != there.get(key)
    )


def _settings(way: Way) -> dict[str, Any]:
    try:
        found = json.loads(way.settings)
    except ValueError:  # another's file
        found = None
    return {**(found if isinstance(found, dict) else {}), "model": way.model_id}


def _told(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return one_row(value[3:11] if value.startswith("b2:") else value)
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of ways in the order of columns; scorers that are not ours behind them."""
    places = {scorer: place for place, scorer in enumerate(HEADERS)}
    return sorted(names, key=lambda name: (places.get(base(name), len(places)), name))


def base(name: str) -> str:
    """The scorer in the name of a way."""
    return name.partition("@")[0]


def header(name: str) -> str:
    """The head of a narrow column, where a way differs on a line of its own: `int`, `kl=1`."""
    scorer, _, difference = name.partition("@")
    return "\n".join([HEADERS.get(scorer, scorer[:5]), *difference.split(",")]).strip()
