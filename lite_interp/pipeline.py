"""The pipeline of one results file: cache, explain, score; each goes on where it stopped.

cache_corpus → explain_latents → score_explanations
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sqlite_utils import Database

from lite_interp import intervening, stages, study
from lite_interp.cache import Reader, cache_id
from lite_interp.db import caches
from lite_interp.db.details import has_details
from lite_interp.db.file import add, refuse_unusable
from lite_interp.db.runs import open_run
from lite_interp.detailing import Weights, compute_details
from lite_interp.documents import Skips
from lite_interp.explain_pipeline import ExplainJob, explain_latents, explaining_engine
from lite_interp.loading import (
    CacheJob,
    Loaded,
    Reporter,
    coder_id,
    coder_name,
    load_job,
    open_stream,
    read_corpus,
)
from lite_interp.score_pipeline import ScoreJob, check_scorers, score_explanations


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
    latents = explain_latents(results, wanted, explain_job, tell).latents
    places = intervening.Places(whole.subject.model, whole.coder.path)
    score_explanations(results, wanted, ScoreJob(whole.engine, section, latents, places), tell)
    return name, latents
