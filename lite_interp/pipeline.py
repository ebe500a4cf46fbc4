"""The pipeline of one results file: load the models, run the stages, say what happens.

cache_corpus → explain_latents → score_explanations         each goes on where it stopped
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp import intervening, stages, study
from lite_interp.cache import Reader, cache_id
from lite_interp.choosing import choose_latents
from lite_interp.db import caches, steerings
from lite_interp.db.caches import CacheInfo
from lite_interp.db.details import has_details
from lite_interp.db.file import add, refuse_unusable
from lite_interp.db.runs import open_run
from lite_interp.detailing import Weights, compute_details
from lite_interp.documents import Skips
from lite_interp.embedder import Embedder
from lite_interp.explain import Explainer, find_explainer
from lite_interp.loading import (
    CacheJob,
    Loaded,
    Reporter,
    cache_tokenizer,
    coder_id,
    coder_name,
    load_job,
    open_stream,
    read_corpus,
)
from lite_interp.prompts import Prompt
from lite_interp.records import ExampleSet, Steering
from lite_interp.samplers import Source, find_sampler
from lite_interp.score import Tools
from lite_interp.score.intervention import INTERVENTION, steering_id
from lite_interp.score_pipeline import ScoreJob, check_scorers, score_explanations
from lite_interp.tokenizer import Tokenizer
from lite_interp.tools import (
    EngineSource,
    find_embedder,
    find_engine,
    find_prompt,
    store_tools,
)


def cache_corpus(results: Path, job: CacheJob, tell: Reporter, loaded: Loaded | None = None) -> str:
    """Corpus × subject × coder → firings in the file; returns the cache's id.

    Args:
        results: the results file; made if it is not there.
        job: what to cache.
        tell: who is told.
        loaded: the models, if they are in memory already.
    """
    refuse_unusable(results)
    loaded = loaded or load_job(job, tell)
    corpus = read_corpus(job, loaded.tokenizer, tell)
    subject = loaded.subject
    dtype = str(subject.dtype).removeprefix("torch.")
    name = cache_id(corpus.id, subject.hash, coder_id(loaded), loaded.settings, f"{dtype}→float32")
    with open_run(results, "cache", create=True) as db:
        _store_models(db, loaded)
        if not caches.has_corpus(db, corpus.id):
            caches.store_corpus(db, corpus, open_stream(job, loaded.tokenizer, Skips()))
        row = {
            "id": name,
            "corpus_id": corpus.id,
            "subject_id": subject.hash,
            "coder_id": coder_id(loaded),
            "settings": {**asdict(loaded.settings), "dtype": dtype, "encode_dtype": "float32"},
        }
        add(db, "caches", row)
        reader = Reader(
            subject, loaded.coder, loaded.site, loaded.settings, loaded.sample.median_norm
        )
        shards = caches.pending_shards(db, name, corpus.id)
        for _ in tell.track(
            stages.cache_shards(db, name, corpus.id, shards, reader), len(shards), "caching"
        ):
            pass
        cache = next(found for found in caches.load_caches(db) if found.id == name)
        if cache.n_counted is None:
            tell.say("counting the firings of each latent")
            stages.finish_cache(db, cache)
        if not has_details(db, name):
            tell.say("looking at each latent: its tokens, its direction, its neighbours")
            weights = Weights(subject, loaded.coder, loaded.site.writes)
            compute_details(db, cache, loaded.tokenizer, weights)
    return name


def _store_models(db: Database, loaded: Loaded) -> None:
    subject, coder = loaded.subject, loaded.coder
    add(
        db,
        "subjects",
        {
            "id": subject.hash,
            "name": subject.name,
            "architecture": subject.architecture,
            "d_model": subject.d_model,
            "provenance": dict(subject.provenance),
        },
    )
    add(
        db,
        "coders",
        {
            "id": coder_id(loaded),
            "name": coder_name(coder),
            "format": coder.format,
            "hookpoint": str(loaded.site.reads),
            "activation": coder.activation,
            "k": coder.k,
            "d_in": coder.d_in,
            "n_latents": coder.n_latents,
            "fit": {**loaded.sample.fit._asdict(), "median_norm": loaded.sample.median_norm},
            "provenance": dict(coder.provenance),
        },
    )


def _source(
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


def explain_latents(results: Path, wanted: str, job: ExplainJob, tell: Reporter) -> list[int]:
    """Explain latents of a cache; returns their indices.

    Args:
        results: the results file.
        wanted: beginning of the cache's id; empty if there is only one.
        job: what to explain, and how.
        tell: who is told.
    """
    source = explaining_engine(job)
    with open_run(results, "explain") as db:
        cache, latents, works = pending_explanations(db, wanted, job, source, tell)
        asks = any(work.n and work.prompt for work in works)
        with source.open(tell) if source and asks else nullcontext() as engine:
            for work in works:
                asked = engine if work.prompt else None
                store_tools(db, Tools(engine=asked, prompt=work.prompt))
                done = stages.write_explanations(db, cache, work, asked)
                for _ in tell.track(done, work.n, f"explaining ({work.explainer.name})"):
                    pass
    return latents


def explaining_engine(job: ExplainJob) -> EngineSource | None:
    """The engine that explainers ask; refuses what cannot work before a file is opened."""
    find_sampler(job.examples.sampler)
    asks = [_prompt(find_explainer(name), job) for name in job.explain.explainers]
    return find_engine(job.engine) if any(asks) else None


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
    latents = choose_latents(db, cache, job.latents, job.seed)
    examples = _examples(db, cache, latents, job, tell)
    explainers = [find_explainer(name) for name in job.explain.explainers]
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


def _examples(
    db: Database, cache: CacheInfo, latents: Sequence[int], job: ExplainJob, tell: Reporter
) -> list[ExampleSet]:
    embedder = find_embedder(job.examples.embedder) if job.examples.n_near else None
    settings = study.draw_settings(job.examples, embedder.id if embedder else "")
    pending = stages.pending_draws(db, cache, latents, settings, job.seed)
    if pending:
        tokenizer = cache_tokenizer(cache, job.subject)
        source = _source(db, cache, tokenizer, settings.width, embedder, tell)
        done = stages.write_examples(db, cache, source, pending, settings, job.seed)
        for _ in tell.track(done, len(pending), "drawing windows"):
            pass
    drawn = stages.load_examples(db, cache, latents, settings, job.seed)
    few = [str(examples.latent) for examples in drawn if len(examples.shown) < 3]
    if few:
        tell.say(f"fewer than 3 windows to show for latents {', '.join(few)}")
    return drawn


def run_study(
    results: Path, whole: study.Study, tell: Reporter, loaded: Loaded | None = None
) -> tuple[str, list[int]]:
    """The whole pipeline, from where it stopped; returns the cache's id and the latents."""
    explain_job = ExplainJob(
        whole.seed,
        whole.latents,
        whole.examples,
        whole.engine,
        whole.explain,
        whole.subject.model,
        whole.coder.path,
    )
    section = whole.score
    if not section.explainers:
        section = section.model_copy(update={"explainers": whole.explain.explainers})
    # What would only fail in the last stage is refused before the first.
    explaining_engine(explain_job)
    check_scorers(ScoreJob(whole.engine, section))
    job = CacheJob(whole.subject, whole.coder, whole.corpus, whole.cache)
    name = cache_corpus(results, job, tell, loaded)
    wanted = name.removeprefix("b2:")
    latents = explain_latents(results, wanted, explain_job, tell)
    places = intervening.Places(whole.subject.model, whole.coder.path)
    score_explanations(results, wanted, ScoreJob(whole.engine, section, latents, places), tell)
    return name, latents
