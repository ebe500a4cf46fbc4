"""Verdicts to scores: areas with intervals, nulls, and the mean over latents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp import stats
from lite_interp.db import studies
from lite_interp.db.studies import TrialRow
from lite_interp.ids import generator
from lite_interp.records import Estimate, Score


def write_scores(db: Database, cache_id: str) -> None:
    """Compute every score of a cache again from its verdicts; the same verdicts, the same bytes."""
    rows = []
    for explanation_id, example_set_id, scorer, settings, model_id in studies.scored_groups(
        db, cache_id
    ):
        trials = studies.load_trials(db, example_set_id, scorer, settings, model_id)
        kin = studies.comparable(db, explanation_id)
        own = next(t for t in trials if t.explanation_id == explanation_id and not t.control)
        controls = [t for t in trials if t.control and t.explanation_id in kin]
        rows += [(score, settings, model_id) for score in score_trials(own, controls, scorer)]
    studies.replace_scores(db, cache_id, rows)


def score_trials(own: TrialRow, controls: Sequence[TrialRow], scorer: str) -> Iterator[Score]:
    """The scores of one explanation: raw, and relative where there are two controls or more.

    A window counts if the explanation and every control have a verdict on it. A control without
    any verdict, because its explanation was too long for the engine, say, is left out.
    """
    controls = [
        trial for trial in controls if any(verdict.value is not None for verdict in trial.verdicts)
    ]
    windows = [verdict.window_id for verdict in own.verdicts]
    table = np.array([_values(trial, windows) for trial in (own, *controls)])
    usable: NDArray[np.bool_] = np.logical_not(np.isnan(table).any(axis=0))
    active = np.array([verdict.active for verdict in own.verdicts], bool)[usable]
    n_failed = len(usable) - int(usable.sum())
    value, null = table[0, usable], table[1:, usable]
    variants = [("raw", value, null)]
    if len(null) >= 2:
        variants.append(("relative", stats.relative(value, null), stats.relative_controls(null)))
    for variant, own_values, control_values in variants:
        random = generator(0, own.explanation_id, scorer, variant)
        area = stats.auroc(active, own_values)
        n_active, n_silent = int(active.sum()), int((~active).sum())
        null_area, difference = stats.difference_from_null(
            active, own_values, control_values, random
        )
        yield Score(
            own.explanation_id,
            scorer,
            variant,
            "auroc",
            stats.auroc_interval(area, n_active, n_silent),
            null_area,
            difference,
            n_active,
            n_silent,
            n_failed,
            len(controls),
        )


def _values(trial: TrialRow, windows: Sequence[str]) -> list[float]:
    values = {verdict.window_id: _number(verdict.value) for verdict in trial.verdicts}
    return [values.get(window, math.nan) for window in windows]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


ALIKE = (
    "explainer",
    "scorer",
    "variant",
    "explained_by",
    "explained_with",
    "settings",
    "model_id",
)
"""Columns in which the scores of one mean are alike: no mean over two engines or prompts."""


class Summary(NamedTuple):
    """One scorer over all latents that an explainer explained."""

    explainer: str
    """The explainer."""
    scorer: str
    """The scorer."""
    variant: str
    """`raw` or `relative`."""
    n_latents: int
    """Latents with a score."""
    value: Estimate
    """Mean score over latents."""
    null: Estimate
    """Mean null over latents."""
    difference: Estimate
    """Mean of score less null over latents: an interval above 0 says the explanations help."""


def summarise(rows: Sequence[dict[str, Any]]) -> list[Summary]:
    """Means over latents, with intervals by Student's t, of rows as `load_scores` gives them."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in ALIKE), []).append(row)
    return [
        Summary(
            key[0],
            key[1],
            key[2],
            len({row["latent"] for row in group if row["value"] is not None}),
            stats.mean_interval(_column(group, "value")),
            stats.mean_interval(_column(group, "null_value")),
            stats.mean_interval(_column(group, "difference")),
        )
        for key, group in groups.items()
    ]


def _column(rows: Sequence[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([_number(row[name]) for row in rows], np.float64)
