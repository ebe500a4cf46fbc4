"""The pipeline of one results file: cache, explain, score; each goes on where it stopped.

cache_corpus → explain_latents → score_explanations
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from sqlite_utils import Database

from lite_interp import intervening, study
from lite_interp.cache import BATCH_TOKENS, Reader, cache_id, plain, span
from lite_interp.caching import CacheWork, cache_shards, context_shards, finish_cache
from lite_interp.db import cached, caches
from lite_interp.db.caches import CacheInfo
from lite_interp.db.details import has_details
from lite_interp.db.file import add, refuse_unusable, shrink
from lite_interp.db.runs import open_run
from lite_interp.detailing import Weights, compute_details
from lite_interp.explain_pipeline import ExplainJob, explain_latents, explaining_engine
from lite_interp.loading import (
    CacheJob,
    Loaded,
    Reporter,
    coder_id,
    coder_name,
    load_jobs,
    read_corpus,
)
from lite_interp.parts import EVERYTHING, Part, part_of
from lite_interp.records import Corpus
from lite_interp.sae import make_encoder
from lite_interp.score_pipeline import ScoreJob, check_scorers, score_explanations
from lite_interp.shelf import Shelf
from lite_interp.subject import has_fast_bfloat16


def cache_corpus(
    results: Path,
    job: CacheJob,
    tell: Reporter,
    loaded: Sequence[Loaded] = (),
    part: Part = EVERYTHING,
) -> list[str]:
    """Corpus × subject × coders → firings in the file; returns the ids of the caches.

    Args:
        results: the results file; made if it is not there.
        job: what to cache.
        tell: who is told.
        loaded: the models, if they are in memory already: one for each coder of the job.
        part: which shards of the caches; statistics follow when all of them are in one file.
    """
    refuse_unusable(results)
    loaded = loaded or load_jobs(job, tell)
    # A coder that was named twice is cached once.
    loaded = list({coder_id(each): each for each in loaded}.values())
    with Shelf() as shelf:
        corpus = read_corpus(job, loaded[0].tokenizer, tell, shelf)
        with open_run(results, "cache", create=True) as db:
            if not caches.has_corpus(db, corpus.id):
                caches.store_corpus(db, corpus, shelf)
            names = [_store_cache(db, corpus, each) for each in loaded]
            infos = {found.id: found for found in caches.load_caches(db)}
            _read_pending(db, [infos[name] for name in names], loaded, job, part, tell)
            for name, each in zip(names, loaded, strict=True):
                _finish(db, infos[name], each, tell)
    return names


def _store_cache(db: Database, corpus: Corpus, loaded: Loaded) -> str:
    """Store a cache, without firings, and what it is made from; returns its id."""
    _store_models(db, loaded)
    dtype = str(loaded.subject.dtype).removeprefix("torch.")
    coder, settings = coder_id(loaded), loaded.settings
    name = cache_id(corpus.id, loaded.subject.hash, coder, settings, f"{dtype}→float32")
    tokens = study.shard_contexts(corpus.n_ctx) * corpus.n_ctx
    row = {
        "id": name,
        "corpus_id": corpus.id,
        "subject_id": loaded.subject.hash,
        "coder_id": coder,
        "settings": {**plain(settings), "dtype": dtype, "encode_dtype": "float32"},
        "span": span(loaded.coder.n_latents, tokens),
    }
    caches.store_cache(db, row)
    return name


def _read_pending(
    db: Database,
    infos: Sequence[CacheInfo],
    loaded: Sequence[Loaded],
    job: CacheJob,
    part: Part,
    tell: Reporter,
) -> None:
    """Read and store the shards of this part that are not there."""
    works = []
    for cache, each in zip(infos, loaded, strict=True):
        own = set(part_of(range(cached.n_shards(db, cache)), part))
        pending = own & set(cached.pending_shards(db, cache))
        encoder = make_encoder(each.coder, has_fast_bfloat16(each.subject.device))
        reader = Reader(encoder, each.site, each.settings, each.sample.median_norm)
        if pending:
            works.append(CacheWork(cache, reader, frozenset(pending)))
    known = [cached.least_batch(db, cache) for cache in infos]
    batch = job.settings.batch_tokens or min([n for n in known if n], default=BATCH_TOKENS)
    total = len(context_shards(db, works))
    with closing(cache_shards(db, works, loaded[0].subject, batch)) as done:
        for _ in tell.track(done, total, "caching"):
            pass


def _finish(db: Database, cache: CacheInfo, loaded: Loaded, tell: Reporter) -> None:
    """Look at each latent and count its firings, as soon as all shards are there."""
    if missing := len(cached.pending_shards(db, cache)):
        tell.say(
            f"{missing} of {cached.n_shards(db, cache)} shards are not in this file: merge the "
            "others into it, then the same command without --shard ends it"
        )
        return
    if not has_details(db, cache.id):
        tell.say("looking at each latent: its tokens, its direction, its neighbours")
        weights = Weights(loaded.subject, loaded.coder, loaded.site.writes)
        compute_details(db, cache, loaded.tokenizer, weights)
    if cache.n_counted is None:
        tell.say("counting the firings of each latent")
        finish_cache(db, cache)
    if cache.keep != "all":
        # Pages that are free after thinning go back to the disk.
        shrink(db)


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
    (name,) = cache_corpus(results, job, tell, [loaded] if loaded else ())
    wanted = name.removeprefix("b2:")
    latents = explain_latents(results, wanted, explain_job, tell).latents
    places = intervening.Places(whole.subject.model, whole.coder.path)
    score_explanations(results, wanted, ScoreJob(whole.engine, section, latents, places), tell)
    return name, latents
