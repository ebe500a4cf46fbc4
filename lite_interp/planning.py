"""What an engine would be asked: the pending units of work, rehearsed without its weights.

The units are computed by the very code that computes them in earnest, over an engine that has
the model's tokens and notes its calls. So the plan is what will happen, but for what the engine
writes: an answer is planned at its greatest length, and what is asked about an answer, when it is
tried or revised, is planned only as far as such an answer leads to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from lite_interp import scoring
from lite_interp.db import caches, studies
from lite_interp.db.runs import open_run
from lite_interp.engine import Rehearsal
from lite_interp.errors import UsageError
from lite_interp.explain import explain_group
from lite_interp.explain_pipeline import ExplainJob, explaining_engine, pending_explanations
from lite_interp.loading import Reporter
from lite_interp.score import Tools
from lite_interp.score_pipeline import (
    ScoreJob,
    check_scorers,
    wanted_explanations,
    wanted_trials,
)
from lite_interp.tools import EngineSource, find_engine


class PlannedUnit(NamedTuple):
    """One unit of work as the engine would see it."""

    unit: str
    """What it is, e.g. `detection`."""
    latents: tuple[int, ...]
    """Latents it is about."""
    n_items: int
    """Windows judged, or latents explained."""
    n_evaluated: int
    """Prompt tokens evaluated; what is kept from the unit before is not among them."""
    n_written: int
    """Tokens written, at most."""
    n_calls: int
    """Evaluations."""
    largest: int
    """Tokens of the largest of them."""
    n_outputs: int
    """Positions whose logits are computed."""


def plan_explanations(
    results: Path, wanted: str, job: ExplainJob, tell: Reporter
) -> list[PlannedUnit]:
    """What `explain_latents` would ask; windows are drawn and the subject steered in earnest."""
    source = explaining_engine(job)
    if source is None:
        raise UsageError("these explainers ask no engine: there is nothing to plan")
    units = []
    with open_run(results, "explain") as db, closing_rehearsal(source) as rehearsal:
        _, _, works = pending_explanations(db, wanted, job, source, tell)
        for work in works:
            if work.n and work.explainer.helpers:
                name = work.explainer.name
                tell.say(f"{name} tries what it writes: how much that takes is a guess")
            for group in work.groups if work.prompt else ():
                ask = partial(explain_group, group, work.explainer, work.prompt, rehearsal.engine)
                latents = tuple(known.examples.latent for known in group)
                units.append(_rehearse(rehearsal, work.explainer.name, latents, len(group), ask))
    return units


def plan_scores(results: Path, wanted: str, job: ScoreJob, tell: Reporter) -> list[PlannedUnit]:
    """What `score_explanations` would ask of the engine, if it judged every item.

    A scorer that reads what the steered subject wrote is left out until that is written.
    """
    units = []
    scorers = [scorer for scorer in check_scorers(job) if scorer.needs == "engine"]
    with open_run(results, "score") as db:
        cache = caches.the_cache(db, wanted)
        explanations = wanted_explanations(db, cache, job, tell)
        pool = studies.load_explanations(db, cache.id)
        for scorer in scorers:
            with closing_rehearsal(find_engine(job.engine)) as rehearsal:
                tools = Tools(engine=rehearsal.engine)
                plan = wanted_trials(explanations, pool, scorer, job, tools)
                for trial in chain.from_iterable(scoring.pending_trials(db, plan)):
                    items = scoring.trial_items(db, trial, scorer)
                    ask = partial(scorer.score, trial.text, items, plan.tools, scorer.settings)
                    latents = (trial.latent,)
                    units.append(_rehearse(rehearsal, scorer.name, latents, len(items), ask))
    return units


@contextmanager
def closing_rehearsal(source: EngineSource) -> Iterator[Rehearsal]:
    """The engine without its weights, freed at the end."""
    rehearsal = source.rehearse()
    with rehearsal.engine:
        yield rehearsal


def _rehearse(
    rehearsal: Rehearsal,
    name: str,
    latents: tuple[int, ...],
    n_items: int,
    ask: Callable[[], object],
) -> PlannedUnit:
    engine, first = rehearsal.engine, len(rehearsal.calls)
    evaluated, written = engine.n_evaluated, engine.n_written
    ask()
    calls = rehearsal.calls[first:]
    return PlannedUnit(
        name,
        latents,
        n_items,
        engine.n_evaluated - evaluated,
        engine.n_written - written,
        len(calls),
        max((call.n_tokens for call in calls), default=0),
        sum(call.n_outputs for call in calls),
    )


def plan_table(units: Sequence[PlannedUnit]) -> Table:
    """A row for each unit and the sums; `each` is the tokens evaluated for an item."""
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False, show_footer=True)
    sums = [sum(column) for column in zip(*(_numbers(unit) for unit in units), strict=True)] or [
        0
    ] * 6
    items, evaluated, written, calls, _, outputs = sums
    largest = max((unit.largest for unit in units), default=0)
    table.add_column("unit", footer=f"{len(units)} units")
    table.add_column("latents", overflow="fold")
    for name, footer in (
        ("items", items),
        ("tokens", evaluated),
        ("written ≤", written),
        ("calls", calls),
        ("largest", largest),
        ("logits", outputs),
    ):
        table.add_column(name, justify="right", footer=f"{footer:,}")
    table.add_column("each", justify="right", footer=f"{evaluated / max(1, items):.1f}")
    for unit in units:
        table.add_row(
            unit.unit,
            ", ".join(map(str, unit.latents)),
            *(f"{number:,}" for number in _numbers(unit)),
            f"{unit.n_evaluated / max(1, unit.n_items):.1f}",
        )
    return table


def _numbers(unit: PlannedUnit) -> tuple[int, ...]:
    return (
        unit.n_items,
        unit.n_evaluated,
        unit.n_written,
        unit.n_calls,
        unit.largest,
        unit.n_outputs,
    )
