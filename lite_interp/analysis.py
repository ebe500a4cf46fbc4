"""Verdicts to scores: what is judged on what, the pool to calibrate on, the means over latents."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp import __version__, calibration, measures, stats
from lite_interp.calibration import Calibration
from lite_interp.cost import summed
from lite_interp.db import steerings, studies, trials
from lite_interp.db.trials import Group, TrialRow
from lite_interp.explain import way_of
from lite_interp.ids import content_id
from lite_interp.judging import plan_rounds
from lite_interp.records import Estimate, ExampleSet, Explanation, Score, Verdict
from lite_interp.score import SCORERS
from lite_interp.score.base import scored_windows
from lite_interp.score.intervention import steering_id
from lite_interp.sheets import Sheet, readings

N_FOLDS = 5
"""Parts of the latents: a threshold for one part comes from the windows of the others."""


def write_scores(db: Database, cache_id: str) -> None:
    """Compute every score of a cache again from its verdicts; the same verdicts, the same bytes.

    Does nothing if no trial came since they were computed. Verdicts of a scorer that this version
    does not know are left alone.
    """
    if trials.are_scores_fresh(db, cache_id, __version__):
        return
    explanations = {each.id: each for each in studies.load_explanations(db, cache_id)}
    alike: dict[str, list[Group]] = {}
    for group in trials.scored_groups(db, cache_id):
        if group.scorer in SCORERS and group.settings.startswith("{"):
            own = explanations.get(group.explanation_id or "")
            way = way_of(own) if own else ""
            key = content_id([group.scorer, group.settings, group.model_id, way])
            alike.setdefault(key, []).append(group)
    with db.atomic():
        found = (_scores(db, groups, explanations) for groups in alike.values())
        trials.replace_scores(db, cache_id, chain.from_iterable(found))
        trials.set_q_values(db, _q_values(trials.load_scores(db, cache_id)))
        trials.note_scoring(db, cache_id, __version__)


def _scores(
    db: Database, groups: Sequence[Group], explanations: Mapping[str, Explanation]
) -> Iterator[tuple[Score, str, str]]:
    """The scores of explanations that were made and judged in one way, calibrated on each other."""
    sheets = [_sheet(db, group, explanations) for group in groups]
    pool = _Pool(groups, sheets)
    for group, sheet in zip(groups, sheets, strict=True):
        statistic = SCORERS[sheet.scorer].statistic
        for score in measures.score_sheet(sheet, statistic, pool.calibrate(group.latent)):
            yield score, group.settings, group.model_id


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
            for reading in readings(sheet):
                if reading.variant == variant:
                    active.append(sheet.active)
                    values.append(reading.own)
        return calibration.calibrate(np.concatenate(active), np.concatenate(values))


def _sheet(db: Database, group: Group, explanations: Mapping[str, Explanation]) -> Sheet:
    """The verdicts of a group, aligned, with what the example set says of their windows."""
    own = explanations.get(group.explanation_id or "")
    examples = studies.load_example_set(db, group.example_set_id)
    assert examples is not None
    settings = json.loads(group.settings)
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
    if "until_sure" in settings:
        # In a merged file another group of controls may have stopped elsewhere.
        controls = [trial for trial in controls if _asked(trial) == _asked(mine)]
    sheet = replace(
        aligned(group, settings, examples, [mine, *controls]), facts=_facts(db, group, settings)
    )
    if "until_sure" not in settings:
        return sheet
    # How often it was planned to look follows from what there was to judge.
    items = SCORERS[group.scorer].items(examples, settings, None)
    n_looks = len(plan_rounds(items, settings["n_looks"]))
    return replace(sheet, n_items=len(items), settings={**settings, "n_looks": n_looks})


def _asked(trial: TrialRow) -> set[tuple[str, str]]:
    return {(verdict.window_id, verdict.item) for verdict in trial.verdicts}


def _is_kin(own: Explanation, other: Explanation | None) -> bool:
    return other is not None and other.latent != own.latent and way_of(own) == way_of(other)


def aligned(
    group: Group,
    settings: Mapping[str, Any],
    examples: ExampleSet,
    rows: Sequence[TrialRow],
) -> Sheet:
    """Trials item by item: the items of the first, NaN where another has no value on one.

    Args:
        group: what the score is of.
        settings: those of the scorer.
        examples: the windows; verdicts on others are left out.
        rows: the own trial, then its controls, or whatever else it is compared with.
    """
    placed = {each.window.id: each for each in examples.scored}
    own = [verdict for verdict in rows[0].verdicts if verdict.window_id in placed]
    names = [(verdict.window_id, verdict.item) for verdict in own]
    tables = [{(v.window_id, v.item): v for v in row.verdicts} for row in rows]
    needed = NEEDED.get(SCORERS[group.scorer].statistic, ())
    found = [[_answer(table.get(name), needed) for name in names] for table in tables]
    population: dict[str, float] = {}
    for _, stratum, weight in examples.scored:
        population[stratum] = population.get(stratum, 0.0) + weight
    details = tuple(tuple(detail for _, detail in row) for row in found)
    strata = [
        detail.get("stratum") or placed[verdict.window_id].stratum
        for verdict, detail in zip(own, details[0], strict=True)
    ]
    return Sheet(
        group.example_set_id,
        group.explanation_id,
        group.scorer,
        settings,
        np.array([verdict.active for verdict in own], bool),
        np.array(strata, np.str_),
        np.array([placed[verdict.window_id].weight for verdict in own]),
        np.array([[value for value, _ in row] for row in found]).reshape(len(rows), len(own)),
        details,
        tuple(placed[verdict.window_id].window.values for verdict in own),
        SCORERS[group.scorer].items is scored_windows,
        len(own),
        summed(*(row.usage for row in rows)),
        {},
        population,
    )


NEEDED: dict[str, tuple[str, ...]] = {
    "pearson": ("expected", "mass"),
    "nats": ("n_tokens",),
}
"""Statistic → what must stand in the detail of a verdict that counts."""


def _answer(verdict: Verdict | None, needed: Sequence[str]) -> tuple[float, Mapping[str, Any]]:
    """Value and detail of a verdict; NaN where it failed, or where a file says nothing sensible."""
    detail = (verdict and verdict.detail) or {}
    value = verdict.value if verdict else None
    whole = value is not None and math.isfinite(value) and all(key in detail for key in needed)
    return (float(value), detail) if value is not None and whole else (math.nan, detail)


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
    "drawn_settings",
    "drawn_seed",
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
