"""The command that explains: draw windows, steer the subject if wanted, let explainers answer.

Models are loaded only for work that is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp import intervening, stages, study
from lite_interp.choosing import choose_latents
from lite_interp.db import caches, steerings
from lite_interp.db.caches import CacheInfo
from lite_interp.db.runs import open_run
from lite_interp.embedder import Embedder
from lite_interp.explain import Explainer, find_explainer, helper_prompts
from lite_interp.loading import Reporter, cache_tokenizer
from lite_interp.parts import EVERYTHING, Part, part_of
from lite_interp.prompts import Prompt
from lite_interp.records import ExampleSet, Steering
from lite_interp.samplers import Source, find_sampler
from lite_interp.score import Tools
from lite_interp.score.intervention import INTERVENTION, steering_id
from lite_interp.tokenizer import Tokenizer
from lite_interp.tools import (
    EngineSource,
    OpenModels,
    find_embedder,
    find_engine,
    find_prompt,
    store_tools,
)


class ExplainJob(NamedTuple):
    """Which latents are explained, from what, by whom."""

    seed: int
    latents: study.LatentsSection
    examples: study.ExamplesSection
    engine: study.EngineSection
    explain: study.ExplainSection
    subject: str = ""
    """Where the subject is now, if not where it was when the cache was made."""
    coder: str = ""
    """Where the coder is now; only an explainer that reads output needs it."""
    part: Part = EVERYTHING
    """Which of the latents; those that are explained side by side stay together."""


class Explained(NamedTuple):
    """What was explained."""

    latents: list[int]
    """Indices of the latents."""
    explanation_ids: list[str]
    """Their explanations, failed ones among them."""


def explain_latents(
    results: Path, wanted: str, job: ExplainJob, tell: Reporter, models: OpenModels | None = None
) -> Explained:
    """Explain latents of a cache.

    Args:
        results: the results file.
        wanted: beginning of the cache's id; empty if there is only one.
        job: what to explain, and how.
        tell: who is told.
        models: what stays open between commands; None = closed at the end.
    """
    source = explaining_engine(job)
    with open_run(results, "explain") as db, OpenModels.borrowed(models) as open_models:
        cache, latents, works = pending_explanations(db, wanted, job, source, tell)
        for work in works:
            engine = None
            if work.n and work.prompt and source:
                engine = open_models.engine(source, tell)
                for prompt in (work.prompt, *helper_prompts(work.explainer).values()):
                    store_tools(db, Tools(engine=engine, prompt=prompt))
            done = stages.write_explanations(db, cache, work, engine)
            for _ in tell.track(done, work.n, f"explaining ({work.explainer.name})"):
                pass
    return Explained(latents, [name for work in works for name in work.ids])


def explaining_engine(job: ExplainJob) -> EngineSource | None:
    """The engine that explainers ask; refuses what cannot work before a file is opened."""
    find_sampler(job.examples.sampler)
    asks = [_prompt(explainer, job) for explainer in _explainers(job)]
    return find_engine(job.engine) if any(asks) else None


def _explainers(job: ExplainJob) -> list[Explainer]:
    known = {name: find_explainer(name, changed) for name, changed in job.explain.settings.items()}
    names = dict.fromkeys(job.explain.explainers)
    return [known.get(name) or find_explainer(name) for name in names]


def _prompt(explainer: Explainer, job: ExplainJob) -> Prompt | None:
    """The prompt that the user names is of the first explainer that has one; others use theirs."""
    first = next((name for name in job.explain.explainers if find_explainer(name).prompt), "")
    return find_prompt(explainer, job.explain.prompt if explainer.name == first else "")


def pending_explanations(
    db: Database, wanted: str, job: ExplainJob, source: EngineSource | None, tell: Reporter
) -> tuple[CacheInfo, list[int], list[stages.ExplainWork]]:
    """The cache, the latents, and what each explainer has not answered.

    Windows are drawn, and the subject is steered for explainers that read its output.
    """
    cache = caches.the_cache(db, wanted)
    chosen = choose_latents(db, cache, job.latents, job.seed)
    latents = part_of(chosen, job.part, stages.GROUP)
    explainers = _explainers(job)
    examples = draw_examples(db, cache, latents, wanted_windows(job), job, tell)
    reads_output = any(explainer.reads == "output" for explainer in explainers)
    output = _output(db, cache, examples, job, tell) if reads_output else stages.NO_STEERINGS
    with source.preview() if source else nullcontext() as engine:
        works = []
        for explainer in explainers:
            prompt = _prompt(explainer, job)
            engine_id = engine.id if engine and prompt else None
            seen = output if explainer.reads == "output" else stages.NO_STEERINGS
            works.append(
                stages.pending_explanations(db, examples, explainer, prompt, engine_id, seen)
            )
    return cache, latents, works


def _output(
    db: Database, cache: CacheInfo, examples: Sequence[ExampleSet], job: ExplainJob, tell: Reporter
) -> Mapping[str, Steering | None]:
    """Example set → what the subject does when its latent is turned up, as intervention steers."""
    settings = INTERVENTION.settings
    places = intervening.Places(job.subject, job.coder)
    intervening.steer_sets(db, cache, [each.id for each in examples], [settings], places, tell)
    return {
        each.id: steerings.load_steering(db, steering_id(each.id, settings)) for each in examples
    }


def wanted_windows(job: ExplainJob) -> study.ExamplesSection:
    """The windows that are drawn: as many held out as the user says, or as explainers want."""
    section = job.examples
    if section.n_held_out is not None:
        return section
    n = max((explainer.n_held_out for explainer in _explainers(job)), default=0)
    return section.model_copy(update={"n_held_out": n})


def draw_examples(
    db: Database,
    cache: CacheInfo,
    latents: Sequence[int],
    section: study.ExamplesSection,
    job: ExplainJob,
    tell: Reporter,
) -> list[ExampleSet]:
    """Example sets of latents, drawn where they are not in the file."""
    embedder = find_embedder(section.embedder) if section.n_near else None
    settings = study.draw_settings(section, embedder.id if embedder else "")
    pending = stages.pending_draws(db, cache, latents, settings, job.seed)
    if pending:
        tokenizer = cache_tokenizer(cache, job.subject)
        source = open_source(db, cache, tokenizer, settings.width, embedder, tell)
        done = stages.write_examples(db, cache, source, pending, settings, job.seed)
        for _ in tell.track(done, len(pending), "drawing windows"):
            pass
    drawn = stages.load_examples(db, cache, latents, settings, job.seed)
    few = [str(examples.latent) for examples in drawn if len(examples.shown) < 3]
    if few:
        tell.say(f"fewer than 3 windows to show for latents {', '.join(few)}")
    return drawn


def open_source(
    db: Database,
    cache: CacheInfo,
    tokenizer: Tokenizer,
    width: int,
    embedder: Embedder | None,
    tell: Reporter,
) -> Source:
    """What windows are drawn from; where near ones are wanted, all windows are embedded once."""
    if embedder is None:
        return stages.open_source(db, cache, tokenizer, width)
    store_tools(db, Tools(embedder=embedder))
    source = stages.open_source(db, cache, tokenizer, width, embedder.id)
    if source.near is None:
        n_shards = len(stages.pending_vectors(db, cache, width, embedder.id))
        done = stages.write_vectors(db, cache, source, embedder)
        for _ in tell.track(done, n_shards, "embedding windows"):
            pass
        source = stages.open_source(db, cache, tokenizer, width, embedder.id)
    return source
