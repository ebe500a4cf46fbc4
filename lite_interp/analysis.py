"""Verdicts to scores: what is judged on what, the pool to calibrate on, the means over latents."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp import calibration, measures, stats
from lite_interp.calibration import Calibration
from lite_interp.cost import summed
from lite_interp.db import steerings, studies, trials
from lite_interp.db.trials import Group, TrialRow
from lite_interp.ids import content_id
from lite_interp.judging import plan_rounds
from lite_interp.measures import Sheet
from lite_interp.records import Estimate, ExampleSet, Explanation, Score
from lite_interp.score import SCORERS
from lite_interp.score.base import scored_windows
from lite_interp.score.intervention import steering_id

N_FOLDS = 5
"""Parts of the latents: a threshold for one part comes from the windows of the others."""


def write_scores(db: Database, cache_id: str) -> None:
    """Compute every score of a cache again from its verdicts; the same verdicts, the same bytes."""
    explanations = {each.id: each for each in studies.load_explanations(db, cache_id)}
    found: dict[str, list[tuple[Group, Sheet]]] = {}
    for group in trials.scored_groups(db, cache_id):
        own = explanations.get(group.explanation_id or "")
        key = content_id([group.scorer, group.settings, group.model_id, _way(own)])
        found.setdefault(key, []).append((group, _sheet(db, group, own, explanations)))
    rows: list[tuple[Score, str, str]] = []
    for alike in found.values():
        rows += [
            (score, group.settings, group.model_id)
            for group, score in _scores([group for group, _ in alike], [s for _, s in alike])
        ]
    trials.replace_scores(db, cache_id, rows)
    trials.set_q_values(db, _q_values(trials.load_scores(db, cache_id)))


def _way(explanation: Explanation | None) -> list[Any]:
    """What explanations have in common that are compared: explainer, prompt, engine, settings."""
    if explanation is None:
        return []
    return [
        explanation.explainer,
        explanation.prompt_id,
        explanation.engine_id,
        dict(explanation.settings),
    ]


def _scores(groups: Sequence[Group], sheets: Sequence[Sheet]) -> Iterator[tuple[Group, Score]]:
    """The scores of explanations that were made and judged in one way, calibrated on each other."""
    pool = _Pool(groups, sheets)
    for group, sheet in zip(groups, sheets, strict=True):
        statistic = SCORERS[sheet.scorer].statistic
        for score in measures.score_sheet(sheet, statistic, pool.calibrate(group.latent)):
            yield group, score


class _Pool:
    """Calibrations by part of the latents and variant, each from the windows of the other parts.

    Latents made by rule lend no windows, and have no threshold.
    """

    def __init__(self, groups: Sequence[Group], sheets: Sequence[Sheet]) -> None:
        latents = sorted({group.latent for group in groups if group.latent >= 0})
        n_folds = min(N_FOLDS, len(latents))
        self._fold = {latent: place % n_folds for place, latent in enumerate(latents)}
        self._readings = [
            (self._fold.get(group.latent, -1), sheet.usable())
            for group, sheet in zip(groups, sheets, strict=True)
        ]
        self._known: dict[tuple[int, str], Calibration | None] = {}

    def calibrate(self, latent: int) -> measures.Calibrate:
        """The calibrations of one latent, by variant."""
        fold = self._fold.get(latent, -1)

        def by_variant(variant: str) -> Calibration | None:
            if (fold, variant) not in self._known:
                self._known[fold, variant] = self._fit(fold, variant)
            return self._known[fold, variant]

        return by_variant

    def _fit(self, fold: int, variant: str) -> Calibration | None:
        active, values = [np.zeros(0, bool)], [np.zeros(0)]
        for other, sheet in self._readings:
            if other < 0 or other == fold:
                continue
            for reading in measures.readings(sheet):
                if reading.variant == variant:
                    active.append(sheet.active)
                    values.append(reading.own)
        return calibration.calibrate(np.concatenate(active), np.concatenate(values))


def _sheet(
    db: Database,
    group: Group,
    own: Explanation | None,
    explanations: Mapping[str, Explanation],
) -> Sheet:
    """The verdicts of a group, aligned, with what the example set says of their windows."""
    examples = studies.load_example_set(db, group.example_set_id)
    assert examples is not None
    settings = json.loads(group.settings)
    n_items = len(examples.scored)
    if "until_sure" in settings:
        # How often it was planned to look follows from what there was to judge.
        items = SCORERS[group.scorer].items(examples, settings, None)
        n_items = len(items)
        settings["n_looks"] = len(plan_rounds(items, settings["n_looks"]))
    every = trials.load_trials(
        db, group.example_set_id, group.scorer, group.settings, group.model_id
    )
    mine = next(
        trial
        for trial in every
        if trial.explanation_id == group.explanation_id and not trial.control
    )
    controls = [
        trial
        for trial in every
        if trial.control and own and _is_kin(own, explanations.get(trial.explanation_id or ""))
    ]
    return replace(
        _aligned(group, settings, examples, [mine, *controls]),
        n_items=n_items,
        facts=_facts(db, group, settings),
    )


def _is_kin(own: Explanation, other: Explanation | None) -> bool:
    return other is not None and other.latent != own.latent and _way(own) == _way(other)


def _aligned(
    group: Group,
    settings: Mapping[str, Any],
    examples: ExampleSet,
    rows: Sequence[TrialRow],
) -> Sheet:
    placed = {each.window.id: each for each in examples.scored}
    own = rows[0].verdicts
    names = [(verdict.window_id, verdict.item) for verdict in own]
    tables = [{(v.window_id, v.item): v for v in row.verdicts} for row in rows]
    values = [
        [_number(table[name].value) if name in table else math.nan for name in names]
        for table in tables
    ]
    details = tuple(
        tuple((table[name].detail or {}) if name in table else {} for name in names)
        for table in tables
    )
    return Sheet(
        group.example_set_id,
        group.explanation_id,
        group.scorer,
        settings,
        np.array([verdict.active for verdict in own], bool),
        np.array(
            [
                detail.get("stratum") or placed[verdict.window_id].stratum
                for verdict, detail in zip(own, details[0], strict=True)
            ],
            np.str_,
        ),
        np.array([placed[verdict.window_id].weight for verdict in own]),
        np.array(values, np.float64).reshape(len(rows), len(own)),
        details,
        tuple(placed[verdict.window_id].window.values for verdict in own),
        SCORERS[group.scorer].items is scored_windows,
        len(own),
        summed(*(row.usage for row in rows)),
        {},
    )


def _facts(db: Database, group: Group, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a score of steering is told of the steering itself."""
    if not SCORERS[group.scorer].steers:
        return {}
    asked = {key: value for key, value in settings.items() if key != "prompt"}
    found = steerings.load_steering(db, steering_id(group.example_set_id, asked))
    if found is None:
        return {}
    return {
        "strength": found.strength,
        "kl_tuned": found.kl_tuned,
        "kl_scored": found.kl_scored,
        "promoted": dict(found.promoted),
        "failure": found.failure,
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


ALIKE = (
    "explainer",
    "scorer",
    "variant",
    "explained_by",
    "explained_with",
    "explained_settings",
    "settings",
    "model_id",
)
"""Columns in which the scores of one mean are alike: no mean over two engines or prompts."""


def _q_values(rows: Sequence[dict[str, Any]]) -> list[tuple[float | None, int]]:
    """(q-value, row number) of each score of a latent, over the latents of one way to score."""
    found: list[tuple[float | None, int]] = []
    for group in alike(rows).values():
        values = stats.q_values(np.array([_number(row["p_value"]) for row in group]))
        found += [
            (None if math.isnan(value) else float(value), row["number"])
            for value, row in zip(values, group, strict=True)
        ]
    return found


def alike(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Scores of latents, as `load_scores` gives them, by way to explain and to score."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["latent"] >= 0:
            groups.setdefault(tuple(row.get(name) for name in ALIKE), []).append(row)
    return groups


class Summary(NamedTuple):
    """One scorer over all latents that an explainer explained."""

    explainer: str | None
    """The explainer; None for a scorer that judges latents."""
    scorer: str
    """The scorer."""
    variant: str
    """`raw`, `relative`, `per_token`."""
    statistic: str
    """What the number is."""
    n_latents: int
    """Latents with a score."""
    value: Estimate
    """Mean score over latents."""
    null: Estimate
    """Mean null over latents."""
    difference: Estimate
    """Mean of score less null over latents: an interval above 0 says the explanations help."""
    n_certain: int
    """Latents whose q-value is below .05: certainly above their null."""
    tokens: float
    """Engine tokens for a latent, mean."""
    seconds: float
    """Seconds for a latent, mean."""


def summarise(rows: Sequence[dict[str, Any]]) -> list[Summary]:
    """Means over latents, with intervals by Student's t, of rows as `load_scores` gives them."""
    return [
        Summary(
            key[0],
            key[1],
            key[2],
            group[0].get("statistic", "auroc"),
            len({row["latent"] for row in group if row["value"] is not None}),
            stats.mean_interval(_column(group, "value")),
            stats.mean_interval(_column(group, "null_value")),
            stats.mean_interval(_column(group, "difference")),
            sum(row.get("q_value") is not None and row["q_value"] < 0.05 for row in group),
            float(np.mean([row.get("tokens") or 0 for row in group])),
            float(np.mean([row.get("seconds") or 0 for row in group])),
        )
        for key, group in alike(rows).items()
    ]


def _column(rows: Sequence[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([_number(row[name]) for row in rows], np.float64)
