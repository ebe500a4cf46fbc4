"""People against scorers: over explanations, and item by item.

explanations:  mean rating of people, or their share right  ↔  score        correlation
items:         yes or no of people                          ↔  margin       area
               place that people chose                      ↔  place        share alike
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.correlations import N_PAIRS_MIN
from lite_interp.db.rated import RatedVerdict
from lite_interp.ids import generator
from lite_interp.raters.asked import TASKS, Asked, Of, of_task, with_right
from lite_interp.raters.intervals import correlation, difference, more_for_spearman, share
from lite_interp.records import Estimate, Question
from lite_interp.stats import NOTHING
from lite_interp.ways import Way, base, in_order, way_of

PAPER = {
    "fuzzing": 0.69,
    "simulation": 0.60,
    "detection": 0.59,
    "surprisal": 0.34,
    "embedding": 0.32,
}
"""Scorer → Spearman's correlation with people's ratings from 1 to 4 of 81 explanations:
arXiv 2410.13928, section 4.1. No interval is given."""

N_ANSWERS_MIN = 4
"""Answers about an explanation, or a latent, below which their share right is an accident."""

SAME_ITEM = {"fuzzing": ("marks", "threshold"), "intruder": ("n_questions", "n_choices")}
"""Scorer → settings that change what is asked under the same window and name."""

Verdicts = Mapping[tuple[str | None, str, str, str], RatedVerdict]
"""Explanation, example set, window, item → what one way to judge said."""


class WithScorer(NamedTuple):
    """How people and one way to score agree over explanations, or over latents."""

    task: str
    """What people did: `explanation` is their mean rating, else it is their share right."""
    scorer: str
    """Name of the way to score."""
    n: int
    """Explanations (intruder: latents) with both numbers."""
    spearman: Estimate
    """Correlation of ranks; NaN where there is none."""
    pearson: Estimate
    """Correlation of numbers."""
    paper: float | None
    """Spearman's in the paper; None if it has none."""
    n_more: int | None
    """Explanations to be rated until the interval of Spearman's is as narrow as wanted."""
    reason: str
    """Why there is no correlation; empty if there is one."""


class WithJudge(NamedTuple):
    """How people and one judge agree on the items that both were asked about."""

    task: str
    """What people did."""
    scorer: str
    """Name of the way to score."""
    n: int
    """Items (intruder: questions)."""
    n_latents: int
    """Latents that they are about."""
    people: Estimate
    """Balanced accuracy of people's answers; of intruders the share right."""
    judge: Estimate
    """Area of the judge's margins for the right answers; of intruders the share right."""
    difference: Estimate
    """Judge less people, of intruders; else NaN: the two are not the same number."""
    n_alike: int
    """Items that a majority of people said yes or no to."""
    alike: Estimate
    """Area of the judge's margins for that majority; of intruders the share of people who chose
    the judge's place."""


def with_scorers(
    asked: Sequence[Asked],
    scores: Sequence[Mapping[str, Any]],
    names: Mapping[Way, str],
    variant: str,
    width: float,
) -> list[WithScorer]:
    """Correlations between people's numbers and scores.

    Args:
        asked: what people were asked.
        scores: as `load_scores` gives them.
        names: of the ways to score.
        variant: which scores.
        width: how narrow a 95 % interval is wanted.

    Ratings are held against every way to score; right answers against ways of the same scorer.
    Only scores from the windows that were rated count; those of latents without an explanation
    belong to all explanations of the same example set.
    """
    tables: dict[str, dict[Of, float]] = {}
    for row in scores:
        if row["variant"] == variant and row["value"] is not None:
            table = tables.setdefault(names[way_of(row)], {})
            table[row["explanation_id"], row["example_set_id"]] = row["value"]
    latents = {each.of: each.latent for each in asked}
    found = []
    for task in TASKS:
        people = _peoples(task, of_task(asked, task))
        for name in in_order(tables):
            if people and task in ("explanation", base(name)):
                found.append(_with_scorer(task, name, people, tables[name], latents, width))
    return found


def _peoples(task: str, asked: Sequence[Asked]) -> dict[Of, float]:
    """What is judged → people's number: the mean of their mean ratings, or their share right."""
    found: dict[Of, list[float]] = {}
    if task == "explanation":
        return {each.of: float(np.mean([*each.answers.values()])) for each in asked}
    for each in with_right(asked):
        right = [float(answer == each.question.right_answer) for answer in each.answers.values()]
        found.setdefault(each.of, []).extend(right)
    return {of: float(np.mean(each)) for of, each in found.items() if len(each) >= N_ANSWERS_MIN}


def _with_scorer(
    task: str,
    name: str,
    people: Mapping[Of, float],
    table: Mapping[Of, float],
    latents: Mapping[Of, int],
    width: float,
) -> WithScorer:
    scored = {of: table.get(of, table.get((None, of[1]))) for of in people}
    both = sorted((of for of in people if scored[of] is not None), key=str)
    about = np.array([latents[of] for of in both], np.int64)
    x = np.array([people[of] for of in both], float)
    y = np.array([scored[of] for of in both], float)
    spearman, pearson = (
        correlation(about, x, y, kind, generator(0, "people", task, name, kind))
        for kind in ("spearman", "pearson")
    )
    reason = ""
    if math.isnan(spearman.value):
        few = len(set(about.tolist())) < N_PAIRS_MIN
        reason = f"below {N_PAIRS_MIN} latents" if few else "all equal"
    paper = PAPER.get(base(name)) if task == "explanation" else None
    n_more = more_for_spearman(spearman, len(both), width)
    return WithScorer(task, name, len(both), spearman, pearson, paper, n_more, reason)


def with_judges(
    asked: Sequence[Asked], verdicts: Sequence[RatedVerdict], names: Mapping[Way, str]
) -> list[WithJudge]:
    """How people's answers agree with each judge's on the same items.

    Args:
        asked: what people were asked.
        verdicts: of judges, on these items.
        names: of the ways to score.
    """
    tables: dict[Way, dict[tuple[str | None, str, str, str], RatedVerdict]] = {}
    for each in verdicts:
        key = each.explanation_id, each.example_set_id, each.window_id, each.item
        tables.setdefault(Way(each.scorer, each.settings, each.model_id), {})[key] = each
    ways = {names[way]: way for way in tables}
    found = []
    for name in in_order(ways):
        way = ways[name]
        questions = with_right(of_task(asked, way.scorer))
        pairs = [pair for each in questions if (pair := _joined(each, way, tables[way]))]
        if pairs:
            compare = _intruders if way.scorer == "intruder" else _yes_or_no
            found.append(compare(name, pairs))
    return found


Pair = tuple[Asked, RatedVerdict]
"""A question, and what a judge said to the same."""


def _joined(asked: Asked, way: Way, verdicts: Verdicts) -> Pair | None:
    """The verdict on the same item; None if there is none, or the item is not the same."""
    question = asked.question
    verdict = verdicts.get((*asked.of, question.window_id or "", question.item))
    if verdict is None or not _are_alike(question, way):
        return None
    if question.task == "intruder":
        detail = verdict.detail if isinstance(verdict.detail, dict) else {}
        return (asked, verdict) if detail.get("place") == question.right_answer else None
    return (asked, verdict) if verdict.active == question.right_answer else None


def _are_alike(question: Question, way: Way) -> bool:
    """Whether the settings of both make the same items."""
    try:
        settings = json.loads(way.settings)
    except ValueError:  # another's file
        return False
    keys = SAME_ITEM.get(way.scorer, ())
    both = [key for key in keys if key in question.settings and key in settings]
    return all(question.settings[key] == settings[key] for key in both)


def _yes_or_no(name: str, pairs: Sequence[Pair]) -> WithJudge:
    latents = np.array([asked.latent for asked, _ in pairs])
    active = np.array([verdict.active for _, verdict in pairs])
    margins = np.array([verdict.value for _, verdict in pairs])
    yes = np.array([_share_of(asked, 1) for asked, _ in pairs])
    of = np.unique([str(asked.of) for asked, _ in pairs], return_inverse=True)[1]
    kinds = np.stack([active, ~active]).astype(float)
    people = share(latents, kinds * np.stack([yes, 1 - yes]), kinds, len(pairs))
    decided = yes != 0.5
    judge = within(latents, of, active, margins)
    alike = within(latents[decided], of[decided], yes[decided] > 0.5, margins[decided])
    counts = len(pairs), len(np.unique(latents))
    task = pairs[0][0].question.task
    return WithJudge(task, name, *counts, people, judge, NOTHING, int(decided.sum()), alike)


def _share_of(asked: Asked, answer: Any) -> float:
    """Share of the people asked who answered this."""
    return sum(each == answer for each in asked.answers.values()) / len(asked.answers)


def within(
    latents: NDArray[np.int64],
    of: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    margins: NDArray[np.float64],
) -> Estimate:
    """Area of margins for an answer, over all pairs of items of the same explanation.

    Args:
        latents: (n,) whose latent each item is about.
        of: (n,) the explanation.
        wanted: (n,) the answer that a great margin should go with.
        margins: (n,) the judge's.

    Σ wins / Σ pairs, a tie is half a win. Items of different explanations are not compared, as a
    score doesn't: an explanation may move the margins of all of its items alike.
    """
    rows = []
    for each in np.unique(of):
        yes, no = margins[(of == each) & wanted], margins[(of == each) & ~wanted]
        wins = float(np.sign(yes[:, None] - no).sum() + yes.size * no.size) / 2
        rows.append((latents[of == each][0], wins, yes.size * no.size))
    about, won, n_pairs = (
        (np.array(column) for column in zip(*rows, strict=True))
        if rows
        else (np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    )
    some = n_pairs > 0
    return share(about[some], won[None, some], n_pairs[None, some].astype(float), len(margins))


def _intruders(name: str, pairs: Sequence[Pair]) -> WithJudge:
    latents = np.array([asked.latent for asked, _ in pairs])
    people = np.array([_share_of(asked, asked.question.right_answer) for asked, _ in pairs])
    judge = np.array([float(verdict.value > 0.5) for _, verdict in pairs])
    same = np.array([_share_of(asked, verdict.detail.get("chosen")) for asked, verdict in pairs])
    n = len(pairs)
    shares = (share(latents, each[None], np.ones((1, n)), n) for each in (people, judge, same))
    of_people, of_judge, alike = shares
    gain = difference(latents, people, judge)
    n_latents = len(np.unique(latents))
    return WithJudge("intruder", name, n, n_latents, of_people, of_judge, gain, n, alike)
