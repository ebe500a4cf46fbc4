"""What people's ratings say, for a terminal of 80 columns and as plain rows.

Names of people and of scorers may come from another's file: they go through `terminal_safe`, and
are never read as markup.
"""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lite_interp.raters.reliability import Reliability
from lite_interp.raters.scorers import WithJudge, WithScorer
from lite_interp.raters.study import People
from lite_interp.records import Estimate
from lite_interp.render import one_row, terminal_safe
from lite_interp.score_lines import short

NAME_WIDTH = 20
"""Cells of the longest name of a person that is shown whole."""

SOURCES = {
    "explanation": "paper: arXiv 2410.13928, section 4.1, 81 explanations, no interval",
    "intruder": "intruder in arXiv 2507.08473: people with people .87, judge with people .77–.84",
}
"""Task → what stands under the correlations."""


def people_page(found: People) -> Group:
    """People with each other, with the scorers and with the judges; empty without ratings."""
    if not found.tasks:
        return Group()
    parts = [_heading(found), _alphas(found)]
    for there, make in (
        (any(each.right for each in found.tasks), _rights),
        (found.scorers, _scorers),
        (found.judges, _judges),
    ):
        if there:
            parts += ["", make(found)]
    return Group(*parts)


def _heading(found: People) -> Text:
    n_answers = sum(each.n_answers for each in found.tasks)
    head = f"people: {n_answers} answer{'s' * (n_answers != 1)}"
    if found.explainer:
        head += f", explanations by {terminal_safe(found.explainer)} only"
    return Text(f"{head}; `more` would make the 95 % interval narrower than {found.width:g}")


def _table(*columns: str) -> Table:
    """A table whose first column may be folded; an empty name is text, the others are numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for place, name in enumerate(columns):
        left = place == 0 or name in ("rater", "")
        table.add_column(Text(name), justify="left" if left else "right", overflow="fold")
    return table


def _alphas(found: People) -> Table:
    table = _table("people agree", "raters", "answers", "by two", "alpha", "more", "")
    for each in found.tasks:
        counts = (each.n_raters, each.n_answers, each.n_shared)
        cells = (_interval(each.alpha), _count(each.n_more), Text(each.reason, "dim"))
        table.add_row(each.task, *map(str, counts), *cells)
    return table


def _rights(found: People) -> Table:
    table = _table("people are right", "rater", "answers", "share", "chance", "more")
    for each in found.tasks:
        for right in each.right:
            one = right.rater is not None
            name = Text(terminal_safe(right.rater or "") if one else "all")
            name.truncate(NAME_WIDTH, overflow="ellipsis")
            cells = (_interval(right.share), short(each.chance), _count(right.n_more))
            table.add_row("" if one else each.task, name, str(right.n), *cells)
    return table


def _scorers(found: People) -> Group:
    table = _table("people – scorer", "n", "Spearman", "paper", "Pearson", "more")
    for each in found.scorers:
        number = "rating" if each.task == "explanation" else "right"
        name = Text(f"{number} – {terminal_safe(each.scorer)}")
        if each.reason:
            name.append(f" ({each.reason})", "dim")
        spearman, pearson = _interval(each.spearman), _interval(each.pearson)
        paper, more = short(each.paper), _count(each.n_more)
        table.add_row(name, str(each.n), spearman, paper, pearson, more)
    tasks = {each.task for each in found.scorers}
    sources = [Text(text, "dim") for task, text in SOURCES.items() if task in tasks]
    return Group(table, *sources)


def _judges(found: People) -> Table:
    table = _table("on the same items", "n", "", "")
    for each in found.judges:
        for place, (what, estimate) in enumerate(_lines(each)):
            head = ("", "") if place else (Text(terminal_safe(each.scorer)), str(each.n))
            table.add_row(*head, what, _interval(estimate))
    return table


def _lines(each: WithJudge) -> list[tuple[str, Estimate]]:
    if each.task == "intruder":
        return [
            ("people: share right", each.people),
            ("judge: share right", each.judge),
            ("judge less people", each.difference),
            ("people who chose the judge's place", each.alike),
        ]
    return [
        ("people: balanced accuracy", each.people),
        ("judge: area for the right answers", each.judge),
        ("judge: area for people's answers", each.alike),
    ]


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    ends = f"[{short(estimate.low)}, {short(estimate.high)}]"
    return f"{short(estimate.value)} {ends if not math.isnan(estimate.low) else '':>13}"


def _count(n: int | None) -> str:
    return "–" if n is None else f"{n}" if n < 1_000_000 else ">1m"


def people_rows(found: People) -> list[dict[str, Any]]:
    """Plain rows for JSON, None for what is not there; `kind` says what a row is.

    `raters`: a task, with `rater` None for all people, else of one person. `people_scorer`: people
    and a way to score over explanations. `people_judge`: people and a judge on the same items.
    """
    rows = [row for each in found.tasks for row in _task_rows(each, found.width)]
    rows += [_scorer_row(each, found) for each in found.scorers]
    return rows + [_judge_row(each) for each in found.judges]


def _task_rows(each: Reliability, width: float) -> list[dict[str, Any]]:
    head = {
        "kind": "raters",
        "task": each.task,
        "rater": None,
        "n_raters": each.n_raters,
        "n_answers": each.n_answers,
        "n_questions": each.n_questions,
        "n_shared": each.n_shared,
        "n_latents": each.n_latents,
        **_columns("alpha", each.alpha),
        "alpha_n_more": each.n_more,
        "reason": each.reason or None,
    }
    whole = {right.rater: right for right in each.right}
    rows = []
    for rater in (None, *(name for name in whole if name is not None)):
        right = whole.get(rater)
        share = right.share if right else Estimate(math.nan, math.nan, math.nan)
        own = {} if rater is None else dict.fromkeys(head, None)
        own |= {"kind": "raters", "task": each.task, "rater": rater and one_row(rater)}
        n = {} if rater is None or right is None else {"n_raters": 1, "n_answers": right.n}
        tail = {
            "n_right_asked": right.n if right else 0,
            **_columns("right", share),
            "chance": _number(each.chance),
            "right_n_more": right.n_more if right else None,
            "width": width,
        }
        rows.append({**head, **own, **n, **tail})
    return rows


def _scorer_row(each: WithScorer, found: People) -> dict[str, Any]:
    return {
        "kind": "people_scorer",
        "task": each.task,
        "scorer": one_row(each.scorer),
        "variant": found.variant,
        "explainer": found.explainer or None,
        "n": each.n,
        **_columns("spearman", each.spearman),
        "spearman_paper": each.paper,
        **_columns("pearson", each.pearson),
        "n_more": each.n_more,
        "width": found.width,
        "reason": each.reason or None,
    }


def _judge_row(each: WithJudge) -> dict[str, Any]:
    return {
        "kind": "people_judge",
        "task": each.task,
        "scorer": one_row(each.scorer),
        "n": each.n,
        "n_latents": each.n_latents,
        **_columns("people", each.people),
        **_columns("judge", each.judge),
        **_columns("difference", each.difference),
        "n_alike": each.n_alike,
        **_columns("alike", each.alike),
    }


def _columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    ends = zip(("", "_low", "_high"), estimate, strict=True)
    return {f"{name}{end}": _number(value) for end, value in ends}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
