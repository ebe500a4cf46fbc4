"""The command that scores: steer the subject, let each scorer judge, compute the scores.

Models are loaded one after the other and only for work that is there: the subject, the embedder,
then the engine once for all scorers that ask it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp import analysis, intervening, oracles, scoring, study
from lite_interp.db import caches, studies
from lite_interp.db.caches import CacheInfo
from lite_interp.db.runs import open_run
from lite_interp.errors import UsageError
from lite_interp.explain import refuse_unknown
from lite_interp.fetch import model_path
from lite_interp.loading import Reporter
from lite_interp.parts import EVERYTHING, Part, part_of
from lite_interp.records import Explanation
from lite_interp.score import Scorer, Tools, choose_scorers
from lite_interp.scoring import Judging, Wanted
from lite_interp.tools import OpenModels, find_engine, find_prompt, store_tools


class ScoreJob(NamedTuple):
    """Which explanations are scored, and by whom."""

    engine: study.EngineSection
    score: study.ScoreSection
    latents: Sequence[int] = ()
    """Only explanations of these; empty = of all."""
    places: intervening.Places = intervening.Places()
    """Where subject and coder are now, if not where they were when the cache was made."""
    explanation_ids: Sequence[str] = ()
    """Only these explanations; empty = all."""
    part: Part = EVERYTHING
    """Which of the latents."""


class Room(NamedTuple):
    """Where judging takes place."""

    tell: Reporter
    """Who is told."""
    models: OpenModels
    """What is open."""


def score_explanations(
    results: Path, wanted: str, job: ScoreJob, tell: Reporter, models: OpenModels | None = None
) -> None:
    """Judge explanations on their windows, with controls, and compute the scores.

    Args:
        results: the results file.
        wanted: beginning of the cache's id; empty if there is only one.
        job: what to score, and how.
        tell: who is told.
        models: what stays open between commands; None = closed at the end.
    """
    scorers = check_scorers(job)
    with open_run(results, "score") as db, OpenModels.borrowed(models) as open_models:
        cache = caches.the_cache(db, wanted)
        if job.score.oracles:
            oracles.write_oracles(db, cache, job.places.subject, tell)
        explanations = wanted_explanations(db, cache, job, tell)
        ways = [scorer.settings for scorer in scorers if scorer.steers]
        intervening.steer(db, cache, explanations, ways, job.places, tell)
        for needs in ("embedder", "engine"):
            some = [scorer for scorer in scorers if scorer.needs == needs]
            if some:
                _judge(db, cache, explanations, some, job, Room(tell, open_models))
        analysis.write_scores(db, cache.id)


def check_scorers(job: ScoreJob) -> list[Scorer]:
    """The scorers that are named; refuses what cannot work before a file is opened."""
    for name in job.score.explainers:
        refuse_unknown(name)
    scorers = choose_scorers(job.score.scorers, job.score.scorer_settings())
    for scorer in scorers:
        find_prompt(scorer, _prompt_name(scorer, job))
        if scorer.needs == "engine":
            find_engine(job.engine)
        else:
            model_path(job.score.embedder, "embedder")
    return scorers


def _prompt_name(scorer: Scorer, job: ScoreJob) -> str:
    """The prompt that the user names is detection's; the others have their own."""
    return job.score.prompt if scorer.name == "detection" else ""


def _judge(
    db: Database,
    cache: CacheInfo,
    explanations: Sequence[Explanation],
    scorers: Sequence[Scorer],
    job: ScoreJob,
    room: Room,
) -> None:
    """Let scorers that need the same model judge what is pending."""
    with scoring_tools(scorers[0], job, room.models) as tools:
        pool = studies.load_explanations(db, cache.id)
        if job.explanation_ids:
            pool = [each for each in pool if each.id in job.explanation_ids]
        plans = [wanted_trials(explanations, pool, scorer, job, tools) for scorer in scorers]
        works = [scoring.pending_trials(db, plan) for plan in plans]
    if any(works) and tools.engine:
        engine = room.models.engine(find_engine(job.engine), room.tell)
        tools = replace(tools, engine=engine)
    for plan, work in zip(plans, works, strict=True):
        able = replace(tools, prompt=plan.tools.prompt)
        if work:
            store_tools(db, able)
        done = scoring.write_trials(db, work, replace(plan, tools=able))
        for _ in room.tell.track(done, len(work), f"scoring ({plan.scorer.name})"):
            pass


def wanted_trials(
    explanations: Sequence[Explanation],
    pool: Sequence[Explanation],
    scorer: Scorer,
    job: ScoreJob,
    tools: Tools,
) -> Wanted:
    """What one scorer is to judge, with its prompt."""
    able = replace(tools, prompt=find_prompt(scorer, _prompt_name(scorer, job)))
    judging = Judging(job.score.n_controls, job.score.until_sure)
    return Wanted(explanations, pool, scorer, able, judging)


@contextmanager
def scoring_tools(scorer: Scorer, job: ScoreJob, models: OpenModels) -> Iterator[Tools]:
    """What a scorer uses; an engine has no weights yet, and is freed at the end."""
    if scorer.needs == "embedder":
        yield Tools(embedder=models.embedder(job.score.embedder))
        return
    with find_engine(job.engine).preview() as engine:
        yield Tools(engine=engine)


def wanted_explanations(
    db: Database, cache: CacheInfo, job: ScoreJob, tell: Reporter
) -> list[Explanation]:
    """The explanations that are named, those of oracles too if they are asked for.

    Raises:
        UsageError: there is none.
    """
    found = [
        explanation
        for explanation in studies.load_explanations(db, cache.id)
        if explanation.latent >= 0
        and (not job.latents or explanation.latent in job.latents)
        and (not job.score.explainers or explanation.explainer in job.score.explainers)
        and (not job.explanation_ids or explanation.id in job.explanation_ids)
    ]
    if not found:
        raise UsageError("there is no explanation to score", "begin with `lite-interp explain`")
    own = part_of(sorted({each.latent for each in found}), job.part)
    found = [each for each in found if each.latent in own]
    few = studies.few_windows(db, [each.example_set_id for each in found])
    if few:
        named = ", ".join(f"{latent} ({n})" for latent, n in few)
        tell.say(f"latents with fewer than {studies.FEW} activating windows to score: {named}")
    if job.score.oracles and job.part[0] == 1:
        found += [
            each
            for each in studies.load_explanations(db, cache.id)
            if each.latent < 0 and each.text is not None
        ]
    return found
