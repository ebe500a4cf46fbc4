"""A grid that was run, as plain rows: scores of conditions, differences between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from sqlite_utils import Database

from lite_interp import stats
from lite_interp.compare.arms import Arm, arm_of
from lite_interp.compare.comparing import Comparison, compare
from lite_interp.compare.judged import Judged
from lite_interp.db.conditions import ConditionRow, load_conditions
from lite_interp.db.trials import load_scores
from lite_interp.errors import UsageError, one_line
from lite_interp.grid.conditions import BASE
from lite_interp.grid.paper import PAPER
from lite_interp.records import Estimate
from lite_interp.render import one_row
from lite_interp.score import SCORERS
from lite_interp.ways import Way, base, way_names, way_of


class Told(NamedTuple):
    """A condition that was run, with what is known of it."""

    row: ConditionRow
    """The condition."""
    arm: Arm
    """Its explanations."""
    scores: list[dict[str, Any]]
    """Scores of its explanations by its own judge and any embedder, as `load_scores` gives them."""


def load_told(db: Database, grid: str) -> list[Told]:
    """The conditions of a grid that are finished.

    Raises:
        UsageError: there is none.
    """
    rows = load_conditions(db, grid)
    if not rows:
        raise UsageError(f"no condition of this grid is finished: {one_line(grid)}")
    scores: dict[str, list[dict[str, Any]]] = {}
    found = []
    for row in rows:
        if row.cache_id not in scores:
            scores[row.cache_id] = load_scores(db, row.cache_id)
        ids = set(row.explanation_ids)
        own = [
            score
            for score in scores[row.cache_id]
            if score["explanation_id"] in ids and _is_own(way_of(score), row)
        ]
        found.append(Told(row, arm_of(db, row.explanation_ids, name=row.name), own))
    return found


def _is_own(way: Way, row: ConditionRow) -> bool:
    """Whether this is how a condition is judged: by its engine if one is asked."""
    scorer = SCORERS.get(way.scorer)
    return scorer is not None and (scorer.needs == "embedder" or way.model_id == row.judge_id)


def _without_engine(way: Way) -> Way:
    """A way to score without its engine, which the condition names."""
    return way._replace(model_id="") if SCORERS[way.scorer].needs == "engine" else way


def _names(told: Sequence[Told]) -> dict[Way, str]:
    """What the ways to score are called in the tables, all of them: none is mixed with another."""
    ways = {_without_engine(way_of(score)) for each in told for score in each.scores}
    return way_names(way._asdict() for way in ways)


def comparisons(db: Database, told: Sequence[Told]) -> list[tuple[str, str, Comparison]]:
    """(condition, what it is compared with, comparison), in the order of the grid."""
    judged, names = Judged(db), _names(told)
    known = {each.row.name: each for each in told}
    found = []
    for each in told:
        for name in each.row.against:
            if name not in known:
                continue
            other = known[name]
            first, second = each.arm, other.arm
            if each.row.judge_id != other.row.judge_id:  # two judges on the same explanations
                first = replace(first, judge=each.row.judge_id)
                second = replace(second, judge=other.row.judge_id)
            for one in compare(judged, first, second):
                way = _without_engine(one.ways[0])
                if _is_own(one.ways[0], each.row) and way in names:
                    found.append((each.row.name, name, replace(one, scorer=names[way])))
    return found


def score_rows(told: Sequence[Told]) -> list[dict[str, Any]]:
    """One plain row for each condition, way to score and variant, and the null of the base.

    A condition without any score, because all its explanations failed, say, has rows too.
    """
    names, rows = _names(told), []
    statistics = {
        names[_without_engine(way_of(score))]: score["statistic"]
        for each in told
        for score in each.scores
    }
    for each in told:
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for score in each.scores:
            name = names[_without_engine(way_of(score))]
            groups.setdefault((name, score["variant"]), []).append(score)
        if not groups:
            rows += [_score_row(each, name, "raw", [], it) for name, it in statistics.items()]
        for (scorer, variant), some in groups.items():
            rows.append(_score_row(each, scorer, variant, some, statistics[scorer]))
            if each.row.name == BASE:
                null = [score | {"value": score["null_value"], "metrics": {}} for score in some]
                floor: dict[str, Any] = {
                    "condition": "shuffled",
                    "part": "floor",
                    "label": SHUFFLED,
                }
                floor["paper"] = PAPER["shuffled"].get(base(scorer))
                rows.append(_score_row(each, scorer, variant, null, statistics[scorer]) | floor)
    return rows


SHUFFLED = "shuffled: other latents' explanations"


def _score_row(
    each: Told, scorer: str, variant: str, scores: Sequence[Mapping[str, Any]], statistic: str
) -> dict[str, Any]:
    values = _known(score["value"] for score in scores)
    right = _known(_accuracy(score) for score in scores)
    mean = stats.mean_interval(values)
    return {
        "kind": "score",
        "condition": one_row(each.row.name),
        "part": one_row(each.row.part),
        "label": one_row(each.row.label),
        "scorer": scorer,
        "variant": variant,
        "statistic": statistic,
        "n": len(values),
        "n_latents": len(each.arm.explanations),
        "n_failed": each.arm.n_failed,
        "mean": _plain(mean.value),
        "low": _plain(mean.low),
        "high": _plain(mean.high),
        "quartiles": _quartiles(values),
        "accuracy_quartiles": _quartiles(right),
        "tokens": int(sum(score["tokens"] or 0 for score in scores)),
        "paper": PAPER.get(each.row.name, {}).get(base(scorer)),
    }


def _known(values: Iterable[float | None]) -> np.ndarray:
    return np.array([value for value in values if value is not None], np.float64)


def _accuracy(score: Mapping[str, Any]) -> float | None:
    found = score["metrics"].get("balanced_accuracy")
    return found[0] if found else None


def _quartiles(values: np.ndarray) -> list[float] | None:
    return np.quantile(values, [0.25, 0.5, 0.75]).tolist() if len(values) else None


def difference_rows(found: Sequence[tuple[str, str, Comparison]]) -> list[dict[str, Any]]:
    """One plain row for each comparison, with a q-value over all of them.

    Rows are not independent: all share the base, and `raw` and `relative` are two readings of the
    same verdicts. Benjamini and Hochberg's rate holds where such rows lean the same way.
    """
    p_values = np.array([one.means.p_value for _, _, one in found])
    q_values = stats.q_values(p_values) if len(found) else p_values
    rows = []
    for (name, against, one), q_value in zip(found, q_values, strict=True):
        means = one.means
        rows.append(
            {
                "kind": "difference",
                "condition": one_row(name),
                "against": one_row(against),
                "scorer": one.scorer,
                "variant": one.variant,
                "pairing": one.pairing,
                "n": means.n_first,
                "n_against": means.n_second,
                "latents_left_out": {one_row(why): n for why, n in one.left_out.items()},
                "first": _plain(means.first.value),
                "second": _plain(means.second.value),
                "difference": _plain(means.difference.value),
                "low": _plain(means.difference.low),
                "high": _plain(means.difference.high),
                "p": _plain(means.p_value),
                "q": _plain(float(q_value)),
                "visible": _plain(means.visible),
                "n_up": means.n_up,
                "n_down": means.n_down,
                "reason": one.reason,
                "strata": {
                    stratum.name: [_plain(number) for number in stratum.means.difference]
                    for stratum in one.strata
                },
            }
        )
    return rows


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


HALVES = {"strong": range(5), "weak": range(5, 10)}
"""Names of the halves of the deciles."""


def by_decile(found: Comparison) -> dict[str, Estimate]:
    """A − B over latents for each decile, each half of them, and the one half less the other.

    A half of one latent is the mean over its windows there.
    """
    means = {
        stratum.name.replace("decile_", "decile "): stratum.means.difference
        for stratum in found.strata
        if stratum.name.startswith("decile_") and not stratum.name.endswith("_wrong")
    }
    halves: dict[str, list[float]] = {name: [] for name in HALVES}
    for latent in found.latents:
        for name, deciles in HALVES.items():
            some = [
                latent.strata[f"decile_{number}"]
                for number in deciles
                if f"decile_{number}" in latent.strata
            ]
            n = sum(each.n_items for each in some)
            gain = sum(each.n_items * (each.first - each.second) for each in some)
            halves[name].append(gain / n if n else math.nan)
    values = {name: np.array(column, np.float64) for name, column in halves.items()}
    if values["weak"].size:
        means |= {f"{name} half": stats.mean_interval(column) for name, column in values.items()}
        means["weak − strong"] = stats.mean_interval(values["weak"] - values["strong"])
    return means
