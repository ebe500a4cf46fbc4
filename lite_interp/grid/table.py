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


class Told(NamedTuple):
    """A condition that was run, with what is known of it."""

    row: ConditionRow
    """The condition."""
    arm: Arm
    """Its explanations."""
    scores: list[dict[str, Any]]
    """Scores of its explanations by its own judge, as `load_scores` gives them."""


def load_told(db: Database, grid: str) -> list[Told]:
    """The conditions of a grid that are finished.

    Raises:
        UsageError: there is none.
    """
    rows = load_conditions(db, grid)
    if not rows:
        raise UsageError(f"no condition of this grid is finished: {one_line(grid)}")
    base = next((row for row in rows if row.name == BASE), rows[0])
    scores: dict[str, list[dict[str, Any]]] = {}
    found = []
    for row in rows:
        if row.cache_id not in scores:
            scores[row.cache_id] = load_scores(db, row.cache_id)
        ids = set(row.explanation_ids)
        own = [
            score
            for score in scores[row.cache_id]
            if score["explanation_id"] in ids
            and (score["scorer"] == "embedding" or score["model_id"] == row.judge_id)
        ]
        judge = row.judge_id if row.judge_id != base.judge_id else ""
        found.append(Told(row, arm_of(db, row.explanation_ids, judge, row.name), own))
    return found


def comparisons(db: Database, told: Sequence[Told]) -> list[tuple[str, str, Comparison]]:
    """(condition, what it is compared with, comparison), in the order of the grid."""
    judged = Judged(db)
    known = {each.row.name: each for each in told}
    found = []
    for each in told:
        for name in each.row.against:
            if name not in known:
                continue
            first, other = each.arm, known[name]
            second = other.arm
            if first.judge:  # two judges on the same explanations
                second = replace(second, judge=other.row.judge_id)
            found += [
                (each.row.name, name, replace(one, scorer=_without_model(one.scorer)))
                for one in compare(judged, first, second)
            ]
    return found


def _without_model(name: str) -> str:
    """The name of a way to score without its judge, which the condition names."""
    scorer, _, told = name.partition("@")
    kept = [each for each in told.split(",") if each and not each.startswith("model=")]
    return f"{scorer}@{','.join(kept)}" if kept else scorer


def score_rows(told: Sequence[Told]) -> list[dict[str, Any]]:
    """One plain row for each condition, scorer and variant, and the null of the base."""
    rows = []
    for each in told:
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for score in each.scores:
            groups.setdefault((score["scorer"], score["variant"]), []).append(score)
        for (scorer, variant), some in groups.items():
            rows.append(_score_row(each, scorer, variant, some))
            if each.row.name == BASE:
                null = [score | {"value": score["null_value"], "metrics": {}} for score in some]
                floor: dict[str, Any] = {
                    "condition": "shuffled",
                    "part": "floor",
                    "label": SHUFFLED,
                }
                floor["paper"] = PAPER["shuffled"].get(scorer)
                rows.append(_score_row(each, scorer, variant, null) | floor)
    return rows


SHUFFLED = "shuffled: other latents' explanations"


def _score_row(
    each: Told, scorer: str, variant: str, scores: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    values = _known(score["value"] for score in scores)
    right = _known(_accuracy(score) for score in scores)
    mean = stats.mean_interval(values)
    return {
        "kind": "score",
        "condition": each.row.name,
        "part": each.row.part,
        "label": each.row.label,
        "scorer": scorer,
        "variant": variant,
        "statistic": scores[0]["statistic"],
        "n": len(values),
        "n_failed": each.arm.n_failed,
        "mean": _plain(mean.value),
        "low": _plain(mean.low),
        "high": _plain(mean.high),
        "quartiles": _quartiles(values),
        "accuracy_quartiles": _quartiles(right),
        "tokens": int(sum(score["tokens"] or 0 for score in scores)),
        "paper": PAPER.get(each.row.name, {}).get(scorer),
    }


def _known(values: Iterable[float | None]) -> np.ndarray:
    return np.array([value for value in values if value is not None], np.float64)


def _accuracy(score: Mapping[str, Any]) -> float | None:
    found = score["metrics"].get("balanced_accuracy")
    return found[0] if found else None


def _quartiles(values: np.ndarray) -> list[float] | None:
    return np.quantile(values, [0.25, 0.5, 0.75]).tolist() if len(values) else None


def difference_rows(found: Sequence[tuple[str, str, Comparison]]) -> list[dict[str, Any]]:
    """One plain row for each comparison, with a q-value over all of them."""
    p_values = np.array([one.means.p_value for _, _, one in found])
    q_values = stats.q_values(p_values) if len(found) else p_values
    rows = []
    for (name, against, one), q_value in zip(found, q_values, strict=True):
        means = one.means
        rows.append(
            {
                "kind": "difference",
                "condition": name,
                "against": against,
                "scorer": one.scorer,
                "variant": one.variant,
                "pairing": one.pairing,
                "n": means.n_first,
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
