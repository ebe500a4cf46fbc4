"""The table of latents: one record for each explanation, and what is said over all of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from lite_interp.agreement import PAPER_SOURCE, agree, agreement_head, agreement_rows
from lite_interp.analysis import alike, summarise
from lite_interp.correlations import N_PAIRS_MIN
from lite_interp.db import report as reading
from lite_interp.db import studies, trials
from lite_interp.db.report import Glance
from lite_interp.overview import diagnosis, finds_intruders
from lite_interp.records import Estimate, Explanation
from lite_interp.report.study import Row, Study
from lite_interp.report.texts import compact, maybe, pairs, visible, words
from lite_interp.ways import way_of

SCORE = (
    "value",
    "low",
    "high",
    "null_value",
    "difference",
    "difference_low",
    "difference_high",
    "q_value",
)
"""Columns of a score in a row of the table, in this order."""
N_TOKENS = 3
"""Top tokens in a row."""
UNKNOWN = Glance(math.nan, 0, None, None)


def latent_rows(
    study: Study, scores: Sequence[Row], latents: Collection[int] | None = None
) -> list[Row]:
    """One record for each explanation, in order of latent.

    Args:
        study: the cache.
        scores: all its scores, as `load_scores` gives them.
        latents: which; a named one without an explanation is a row too. None = all that were
            explained or scored.

    In a record `scores` has an entry for each of `Study.ways`: null, or the numbers of `SCORE`.
    """
    glances = reading.glances(study.db, study.cache.id)
    costs = trials.cost_by_latent(study.db, study.cache.id)
    by_explanation, by_set = _grouped(scores)
    able = finds_intruders(row for row in scores if row["latent"] >= 0)
    explanations: dict[int, list[Explanation]] = {}
    for each in studies.load_explanations(study.db, study.cache.id):
        explanations.setdefault(each.latent, []).append(each)
    scored = {row["latent"] for row in scores} | set(explanations)
    rows = []
    for latent in sorted(scored if latents is None else latents):
        if latent < 0:
            continue
        head = _head(latent, glances.get(latent, UNKNOWN), costs.get(latent, (0, 0.0)))
        alone = [row for name in study.sets.get(latent, ()) for row in by_set.get(name, ())]
        for each in explanations.get(latent, ()):
            own = by_explanation.get(each.id, []) + by_set.get(each.example_set_id, [])
            told = {"explanation": maybe(each.text), "failure": maybe(each.failure)}
            rows.append({**head, "arm": study.arm(each), **told, **_scores(study, own, able)})
        if latent not in explanations:
            told = {"arm": "", "explanation": None, "failure": "not explained yet"}
            rows.append({**head, **told, **_scores(study, alone, able)})
    return rows


def _grouped(scores: Sequence[Row]) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Scores by explanation, and those without one by example set."""
    by_explanation: dict[str, list[Row]] = {}
    by_set: dict[str, list[Row]] = {}
    for row in scores:
        if row["explanation_id"] is not None:
            by_explanation.setdefault(row["explanation_id"], []).append(row)
        else:
            by_set.setdefault(row["example_set_id"], []).append(row)
    return by_explanation, by_set


def _head(latent: int, glance: Glance, cost: tuple[int, float]) -> Row:
    return {
        "latent": latent,
        "density": compact(glance.density),
        "n_firings": glance.n_firings,
        "flags": words(glance.flags),
        "top_tokens": [text for text, _ in pairs(glance.top_tokens)[:N_TOKENS]],
        "tokens": cost[0],
        "seconds": round(cost[1], 1),
    }


def _scores(study: Study, own: Sequence[Row], able: bool) -> Row:
    found: list[Any] = [None] * len(study.ways)
    for row in own:
        if row["value"] is not None:
            found[study.place(row)] = [compact(row[name]) for name in SCORE]
    return {"diagnosis": diagnosis(own, able), "scores": found}


def summary_records(study: Study, scores: Sequence[Row]) -> list[Row]:
    """Means over the latents of each arm, a record for each way and variant."""
    return [
        {
            "arm": _arm(study, group),
            "way": study.place(group[0]),
            "n_latents": summary.n_latents,
            "n_certain": summary.n_certain,
            "value": _estimate(summary.value),
            "null": _estimate(summary.null),
            "difference": _estimate(summary.difference),
            "tokens": compact(summary.tokens),
            "seconds": compact(summary.seconds),
        }
        for summary, group in zip(summarise(scores), alike(scores).values(), strict=True)
    ]


def _arm(study: Study, group: Sequence[Row]) -> str:
    """The arm of scores that are alike; empty if latents were judged without explanations."""
    first = group[0]
    return visible(study.arms.get(first["explanation_id"] or "", first["explainer"] or ""))


def _estimate(estimate: Estimate) -> list[float | int | None]:
    return [compact(float(value)) for value in estimate]


def cost_records(study: Study, scores: Sequence[Row]) -> list[Row]:
    """What explaining, steering and scoring cost together: a record for each arm or way.

    All variants of a score come from the same verdicts, so one of them counts.
    """
    found: dict[tuple[str, str, str], list[float]] = {}

    def add(stage: str, name: str, arm: str, tokens: float, seconds: float) -> None:
        known = found.setdefault((stage, name, arm), [0, 0, 0])
        for place, more in enumerate((1, tokens, seconds)):
            known[place] += more

    costs = reading.explaining_costs(study.db, study.cache.id)
    for name, (tokens, seconds) in costs.items():
        if study.made.get(name, (-1, ""))[0] >= 0:
            add("explain", "", visible(study.arms.get(name, "")), tokens, seconds)
    n_steered, steered = reading.steering_cost(study.db, study.cache.id)
    if n_steered:
        found["steer", "", ""] = [n_steered, 0, steered]
    seen = set()
    for row in scores:
        key = (row["example_set_id"], row["explanation_id"], way_of(row))
        if row["latent"] >= 0 and key not in seen:
            seen.add(key)
            name = study.ways[study.place(row)].name
            add("score", name, _arm(study, [row]), row["tokens"], row["seconds"])
    return [
        {
            "stage": stage,
            "name": name,
            "arm": arm,
            "n": int(n),
            "tokens": int(tokens),
            "seconds": compact(seconds),
        }
        for (stage, name, arm), (n, tokens, seconds) in found.items()
    ]


def agreement_records(study: Study, scores: Sequence[Row]) -> list[Row]:
    """How the ways to score agree, a record for each variant: the pairs, and whose they are.

    None where too few latents have scores for a correlation.
    """
    variants = dict.fromkeys(each.variant for each in study.ways)
    records = []
    for variant in variants:
        found = agree(scores, variant)
        if found.pairs and found.n_latents >= N_PAIRS_MIN:
            records.append(
                {
                    "variant": visible(variant),
                    "head": visible(agreement_head(found)),
                    "source": PAPER_SOURCE,
                    "pairs": [_pair(row) for row in agreement_rows(found)],
                }
            )
    return records


def _pair(row: Row) -> Row:
    kept = {"first": visible(row["first"]), "second": visible(row["second"]), "n": row["n"]}
    for name in ("spearman", "pearson"):
        kept[name] = [compact(row[f"{name}{end}"]) for end in ("", "_low", "_high")]
        kept[f"{name}_paper"] = row[f"{name}_paper"]
    return kept
