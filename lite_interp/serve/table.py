"""The rows of the table of latents, and those that fit what a person asks for.

The browser asks for a hundred of 131,072 rows; which, follows from columns of numbers. Sorting and
filtering mean the same as in the script of a report, whose table has all rows in the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.errors import UsageError, one_line
from lite_interp.report.rows import SCORE
from lite_interp.report.study import Row

SHOWN = {"value": "value", "difference": "difference", "q": "q_value"}
"""What of a score is shown → its column in `SCORE`."""
PLAIN = ("latent", "density", "tokens", "seconds")
"""Keys of columns of numbers, beside those of the scores: `way 0`, …"""
WORDS = ("explanation", "diagnosis")
"""Keys of columns that are sorted as texts."""
N_PLOTTED = 10_000
"""Rows that plots are made of, at most."""
N_KEPT = 32
"""Answers that are kept."""


class Query(NamedTuple):
    """What a person asks of the table."""

    text: str = ""
    """Words that a row has, all of them."""
    arm: str = ""
    """How explanations were made; empty = in any way."""
    diagnosis: str = ""
    """One diagnosis; empty = any."""
    show: str = "value"
    """What of a score counts: a name in `SHOWN`."""
    key: str = "latent"
    """The column that rows are sorted by."""
    down: bool = False
    """Greatest first. What has no value stands at the end either way."""
    ranges: tuple[tuple[str, float | None, float | None], ...] = ()
    """(column, least, greatest); None = no bound."""


class Found(NamedTuple):
    """Rows that fit a query, in its order."""

    places: NDArray[np.int64]
    """(n,) places of rows."""
    firsts: NDArray[np.int64]
    """(m,) where in `places` each latent stands first, rising."""


class Table:
    """All rows, as JSON and as columns."""

    def __init__(self, rows: Sequence[Row], n_ways: int) -> None:
        """Take the records of `report.rows.latent_rows`.

        Args:
            rows: the records.
            n_ways: places in their `scores`.
        """
        self.rows = [_json(row) for row in rows]
        self.arms = list(dict.fromkeys(row["arm"] for row in rows if row["arm"]))
        self.diagnoses = sorted({row["diagnosis"] for row in rows})
        self._arm = np.array([row["arm"] for row in rows], object)
        self._diagnosis = np.array([row["diagnosis"] for row in rows], object)
        self._text = [_haystack(row) for row in rows]
        self._columns = {name: _numbers(row[name] for row in rows) for name in PLAIN}
        for way in range(n_ways):
            for shown, name in SHOWN.items():
                place = SCORE.index(name)
                self._columns[f"way {way} {shown}"] = _numbers(
                    None if row["scores"][way] is None else row["scores"][way][place]
                    for row in rows
                )
        for name in WORDS:
            self._columns[name] = _ranks([(row[name] or "").lower() for row in rows])
        self.find = lru_cache(N_KEPT)(self._find)

    def _find(self, query: Query) -> Found:
        """The rows that fit.

        Raises:
            UsageError: there is no such column.
        """
        fit = np.ones(len(self.rows), np.bool_)
        if query.arm:
            fit &= self._arm == query.arm
        if query.diagnosis:
            fit &= self._diagnosis == query.diagnosis
        for key, low, high in query.ranges:
            column = self._column(key, query.show)
            fit &= ~np.isnan(column)
            fit &= True if low is None else column >= low
            fit &= True if high is None else column <= high
        places = np.flatnonzero(fit)
        for word in query.text.lower().split():
            places = places[[word in self._text[place] for place in places]]
        column = self._column(query.key, query.show)[places]
        latents = self._columns["latent"][places]
        # A value that is not there is greater than all others, whichever way is up.
        order = np.lexsort((latents, -column if query.down else column))
        places = places[order]
        _, firsts = np.unique(latents[order], return_index=True)
        return Found(places, np.sort(firsts))

    def _column(self, key: str, show: str) -> NDArray[np.float64]:
        name = f"{key} {show}" if key.startswith("way ") else key
        if name not in self._columns:
            raise UsageError(f"no such column: {one_line(key)}")
        return self._columns[name]

    def page(self, query: Query, first: int, n: int) -> str:
        """JSON: how many rows fit, and n of them."""
        places = self.find(query).places
        rows = ",".join(self.rows[place] for place in places[first : first + n])
        return f'{{"n":{len(places)},"rows":[{rows}]}}'

    def place(self, query: Query, latent: int) -> dict[str, int | None]:
        """Where a latent stands in the order of the query, −1 = nowhere, and its neighbours."""
        found = self.find(query)
        latents = self._columns["latent"][found.places[found.firsts]]
        at = np.flatnonzero(latents == latent)
        if not at.size:
            return {"place": -1, "before": None, "after": None}

        def other(step: int) -> int | None:
            there = 0 <= at[0] + step < len(latents)
            return int(latents[at[0] + step]) if there else None

        return {"place": int(found.firsts[at[0]]), "before": other(-1), "after": other(1)}

    def plotted(self, arm: str) -> str:
        """JSON: rows for the plots, evenly over all; all if they are few."""
        places = self.find(Query(arm=arm)).places
        if len(places) > N_PLOTTED:
            even = np.linspace(0, len(places) - 1, N_PLOTTED).round().astype(np.int64)
            places = places[even]
        return f"[{','.join(self.rows[place] for place in places)}]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _haystack(row: Mapping[str, Any]) -> str:
    """What words are looked for in, as the script of a report makes it."""
    texts = [row["latent"], row["explanation"], row["failure"], row["arm"], row["diagnosis"]]
    flags = [flag.replace("_", " ") for flag in row["flags"]]
    return "\n".join(
        "" if text is None else str(text) for text in (*texts, *flags, *row["top_tokens"])
    ).lower()


def _numbers(values: Any) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _ranks(texts: Sequence[str]) -> NDArray[np.float64]:
    """Places in the order of the alphabet, the same for the same text; NaN for an empty one."""
    order = {text: rank for rank, text in enumerate(sorted({text for text in texts if text}))}
    return np.array([order.get(text, np.nan) for text in texts], np.float64)
