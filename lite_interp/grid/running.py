"""The command that runs a grid: condition by condition, each goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lite_interp import intervening, study
from lite_interp.db.conditions import ConditionRow, drop_others, store_condition
from lite_interp.db.file import open_results
from lite_interp.explain_pipeline import ExplainJob, explain_latents, explaining_engine
from lite_interp.grid.conditions import BASE, Condition, changed
from lite_interp.ids import canonical_json
from lite_interp.loading import CacheJob, Reporter
from lite_interp.pipeline import cache_corpus
from lite_interp.score_pipeline import ScoreJob, check_scorers, score_explanations
from lite_interp.tools import OpenModels, find_engine


def run_grid(
    results: Path, name: str, base: study.Study, conditions: Sequence[Condition], tell: Reporter
) -> None:
    """Cache, explain and score every condition of a grid, and note in the file what it was.

    A condition that is finished costs a look into the file; one that was interrupted goes on. The
    table of a file is that of one base: conditions of an earlier one leave it.

    Args:
        results: the results file; made if it is not there.
        name: name of the grid.
        base: the study that is varied.
        conditions: what is varied.
        tell: who is told.
    """
    jobs = [_jobs(base, condition) for condition in conditions]
    for explain_job, score_job in jobs:  # what would only fail at last is refused at first
        explaining_engine(explain_job)
        check_scorers(score_job)
    cached: dict[str, str] = {}
    with OpenModels.borrowed(None) as models:
        for number, (condition, (explain_job, score_job)) in enumerate(
            zip(conditions, jobs, strict=True), 1
        ):
            tell.say(f"{number} of {len(conditions)}: {condition.label}")
            whole = changed(base, condition.changes)
            job = CacheJob(whole.subject, whole.coder, whole.corpus, whole.cache)
            key = canonical_json([section.model_dump() for section in job[:4]])
            if key not in cached:
                (cached[key],) = cache_corpus(results, job, tell)
            wanted = cached[key].removeprefix("b2:")
            found = explain_latents(results, wanted, explain_job, tell, models)
            score_job = score_job._replace(
                latents=found.latents, explanation_ids=found.explanation_ids
            )
            score_explanations(results, wanted, score_job, tell, models)
            row = ConditionRow(
                name,
                condition.name,
                condition.ordinal,
                condition.part,
                condition.label,
                condition.against,
                whole.model_dump(mode="json"),
                cached[key],
                _judge_id(score_job),
                found.explanation_ids,
            )
            with open_results(results) as db:
                n_others = drop_others(db, row) if row.name == BASE else 0
                store_condition(db, row)
            if n_others:
                tell.say(f"another base was run before: {n_others} conditions leave the table")


def _jobs(base: study.Study, condition: Condition) -> tuple[ExplainJob, ScoreJob]:
    """What a condition asks of explainers and scorers."""
    whole = changed(base, condition.changes)
    explain_job = ExplainJob(
        whole.seed,
        whole.latents,
        whole.examples,
        _engine(whole, condition.explained_by),
        whole.explain,
        whole.subject.model,
        whole.coder.path,
    )
    places = intervening.Places(whole.subject.model, whole.coder.path)
    engine = _engine(whole, condition.judged_by)
    # Which explanations are scored follows from the condition, whatever the study says.
    section = whole.score.model_copy(update={"explainers": ()})
    return explain_job, ScoreJob(engine, section, places=places)


def _engine(whole: study.Study, other: str) -> study.EngineSection:
    return whole.engine.model_copy(update={"model": other}) if other else whole.engine


def _judge_id(job: ScoreJob) -> str:
    """The engine that judges; empty if no scorer asks one."""
    if not any(scorer.needs == "engine" for scorer in check_scorers(job)):
        return ""
    with find_engine(job.engine).preview() as engine:
        return engine.id
