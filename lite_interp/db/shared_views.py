"""Views of a shared file for people who open it in a browser of databases.

They are in shared copies alone, and say nothing that the tables do not. Each way to score has a
column of its own, called as `list` calls it; which ways there are is written into the view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp.db.plain_views import (
    CODER,
    OF_CACHE,
    RATERS,
    SCORES,
    VERDICTS,
    WINDOWS,
    Column,
    View,
    literal,
)
from lite_interp.score_lines import statistic_name
from lite_interp.ways import Way, in_order, way_names

VIEW_NAMES = ("v_latents", "v_explanations", "v_scores", "v_windows", "v_verdicts", "v_raters")
"""In the order that people want them."""

MOST_WAYS = 30
"""Columns for ways to score, at most; others are in v_scores."""


class ScoreColumn(NamedTuple):
    """A way to score that has a column."""

    name: str
    """What the column is called."""
    way: Way
    """Scorer, settings and model."""
    statistic: str
    """What the number is: `auroc`."""
    of_latent: bool
    """Whether latents are judged without an explanation."""


def score_columns(db: Database) -> list[ScoreColumn]:
    """The ways in which latents of a file were scored, in the order of columns."""
    rows = list(
        db.query(
            """select scorer, scores.settings, model_id, min(statistic) as statistic,
                      min(explanation_id is null) as of_latent
               from scores join example_sets on example_sets.id = example_set_id
               where latent >= 0 and variant = 'raw'
                 and instr(scorer || scores.settings || model_id, char(0)) = 0
               group by 1, 2, 3"""
        )
    )
    names = way_names(rows)
    by_name: dict[str, tuple[Way, Mapping]] = {}
    for row in rows:
        way = Way(row["scorer"], row["settings"], row["model_id"])
        by_name.setdefault(names[way], (way, row))
    return [
        ScoreColumn(name, way, str(row["statistic"]), bool(row["of_latent"]))
        for name in in_order(by_name)[:MOST_WAYS]
        for way, row in [by_name[name]]
    ]


def make_views(ways: Sequence[ScoreColumn]) -> list[View]:
    """All views of a file with these ways to score."""
    return [_latents(ways), _explanations(ways), SCORES, WINDOWS, VERDICTS, RATERS]


def add_views(db: Database) -> list[View]:
    """Put the views into a file; returns them."""
    views = make_views(score_columns(db))
    for view in views:
        db.execute(view.sql)
    return views


def drop_views(db: Database) -> None:
    """Take our views out of a file: a change of its tables could not be made under them."""
    for name in VIEW_NAMES:
        db.execute(f"drop view if exists {name}")


def _score(way: ScoreColumn, explanation: str, column: str = "value") -> str:
    """SQL: a raw score of an explanation, given by the name of its table."""
    whose = "''" if way.of_latent else f"{explanation}.id"
    return (
        f"(select {column} from scores where example_set_id = {explanation}.example_set_id"
        f" and coalesce(explanation_id, '') = {whose} and scorer = {literal(way.way.scorer)}"
        f" and settings = {literal(way.way.settings)}"
        f" and model_id = {literal(way.way.model_id)} and variant = 'raw' limit 1)"
    )


def _scores(ways: Sequence[ScoreColumn], taken: Sequence[Column], more: bool) -> list[Column]:
    """Columns of scores; names that are taken get a number."""
    used = {each.name.lower() for each in taken}
    found: list[Column] = []

    def add(name: str, way: ScoreColumn, column: str, told: str) -> None:
        free, number = name, 2
        while free.lower() in used:
            free, number = f"{name} {number}", number + 1
        used.add(free.lower())
        found.append(Column(free, _score(way, "explanations", column), told))

    for way in ways:
        what = f"{statistic_name(way.statistic)}, raw"
        add(way.name, way, "value", f"{what}: how well the explanation fits, by {way.name}")
        if more:
            add(f"{way.name}_null", way, "null_value", "the same for other latents' explanations")
            add(f"{way.name}_q", way, "q_value", "chance that it is no better, over all latents")
    return found


TOKENS = """(select group_concat(trim(json_extract(each.value, '$[0]')), ', ') from (
        select value from json_each(case when json_valid({0}) then {0} else '[]' end) limit 6
    ) as each)"""


def _latents(ways: Sequence[ScoreColumn]) -> View:
    judged = [way for way in ways if not way.of_latent]
    scores = [_score(way, "e") for way in judged]
    # By the first way that has judged any of them, as told.tell_latent chooses.
    places = "".join(f" when {score} is not null then {n}" for n, score in enumerate(scores))
    value = f"coalesce({', '.join([*scores, 'null', 'null'])})"
    order = f"case{places} else {len(scores)} end, {value} desc, " if scores else ""
    best = f"""(select e.id from explanations e
    where e.cache_id = latents.cache_id and e.latent = latents.latent and e.text is not null
    order by {order}e.rowid desc limit 1)"""
    head = [
        CODER,
        Column("latent", "latents.latent", "index of the latent"),
        Column("explanation", "explanations.text", "its best explanation, by the first score"),
    ]
    flags = "case when json_valid(flags) then flags else '[]' end"
    tail = [
        Column("density", "latents.density", "firings per counted position"),
        Column("n_firings", "latents.n_firings", "positions at which it fires"),
        Column("n_contexts", "latents.n_contexts", "contexts in which it fires"),
        Column("max_value", "latents.max_value", "greatest activation"),
        Column("mean_value", "latents.mean_value", "mean activation over firings"),
        Column("top_tokens", TOKENS.format("top_tokens"), "tokens it fires on, most first"),
        Column("promoted", TOKENS.format("promoted"), "tokens that its direction makes likelier"),
        Column("flags", f"(select group_concat(value, ', ') from json_each({flags}))",
               "what to know before its explanation is read"),
        Column("n_explanations", """(select count(*) from explanations e
        where e.cache_id = latents.cache_id and e.latent = latents.latent)""",
               "explanations, failed ones among them"),
        Column("explainer", "explanations.explainer", "who wrote the explanation"),
        Column("explanation_id", "explanations.id", "key in explanations"),
        Column("cache_id", "latents.cache_id", "key in caches"),
    ]  # fmt: skip
    columns = [*head, *_scores(ways, [*head, *tail], False), *tail]
    rows = f"""
from latents{OF_CACHE.format("latents")}
left join latent_details
  on latent_details.cache_id = latents.cache_id and latent_details.latent = latents.latent
left join explanations on explanations.id = {best}
where (latents.cache_id, latents.latent) in (select cache_id, latent from example_sets)"""
    told = "A row for each latent that was explained or scored: its best explanation, its scores."
    return View("v_latents", told, tuple(columns), rows, ("coder", "explainer"), _best(columns, 3))


def _explanations(ways: Sequence[ScoreColumn]) -> View:
    head = [
        CODER,
        Column("latent", "explanations.latent", "index of the latent"),
        Column("explainer", "explanations.explainer", "who wrote it"),
        Column("explanation", "explanations.text", "what the latent means"),
    ]
    tail = [
        Column("failure", "explanations.failure", "why there is no explanation"),
        Column("engine", "engines.name", "model that was asked"),
        Column("prompt", "prompts.name", "prompt that it was asked with"),
        Column("tokens", "prompt_tokens + output_tokens", "engine tokens that it took"),
        Column("seconds", "explanations.seconds", "time that it took", "s"),
        Column("id", "explanations.id", "key in explanations"),
        Column("example_set_id", "explanations.example_set_id", "windows it was made from"),
    ]
    columns = [*head, *_scores(ways, [*head, *tail], True), *tail]
    rows = f"""
from explanations{OF_CACHE.format("explanations")}
left join engines on engines.id = engine_id left join prompts on prompts.id = prompt_id
where explanations.latent >= 0"""
    told = "A row for each explanation: its raw scores, their nulls and q-values side by side."
    facets = ("coder", "explainer", "engine", "prompt", "failure")
    return View("v_explanations", told, tuple(columns), rows, facets, _best(columns, 4))


def _best(columns: Sequence[Column], n_head: int) -> str:
    """The first column behind the head if it is a score: what a view is sorted by."""
    first = columns[n_head]
    return first.name if "from scores" in first.sql else ""
