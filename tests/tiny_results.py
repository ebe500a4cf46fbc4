"""Rows for a results file, made by hand: no model, no corpus, no engine."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict

import numpy as np
from sqlite_utils import Database

from lite_interp.db import caches, studies
from lite_interp.db.file import add
from lite_interp.migrations import migrations
from lite_interp.records import (
    ContextShard,
    Corpus,
    ExampleSet,
    Explanation,
    Place,
    Placed,
    Trial,
    Usage,
    Verdict,
)
from lite_interp.samplers import DrawSettings, example_set_id
from lite_interp.windows import make_window

CACHE = "b2:cache"
ENGINE, EMBEDDER, PROMPT = "b2:engine", "b2:embedder", "b2:prompt"
CORPUS = Corpus("b2:corpus", "tiny", "sha256:s", "sha256:t", 8, True, False, 0, 3, 1, 6, 40)
USAGE = Usage(100, 10, 0.5)


def memory() -> Database:
    """An empty results file in memory, with everything that a cache refers to."""
    db = Database(sqlite3.connect(":memory:", isolation_level=None))
    migrations.apply(db)
    db.execute("pragma foreign_keys = on")
    add_cache(db)
    return db


def add_cache(db: Database, cache_id: str = CACHE, corpus: Corpus = CORPUS) -> str:
    """A cache and whatever it refers to, without tokens and firings."""
    subject = {"id": "b2:subject", "name": "s", "architecture": "llama", "d_model": 8}
    add(db, "subjects", {**subject, "provenance": {"path": "/models/s"}})
    coder = {"id": "b2:coder", "name": "c", "format": "sparsify", "hookpoint": "layers.1.output"}
    sizes = {"activation": "relu", "k": None, "d_in": 8, "n_latents": 4}
    add(db, "coders", {**coder, **sizes, "fit": {"fvu": 0.1, "l0": 3.0}, "provenance": {}})
    add(db, "corpora", asdict(corpus))
    row = {"id": cache_id, "corpus_id": corpus.id, "subject_id": "b2:subject"}
    row |= {"coder_id": "b2:coder", "settings": {"mask_special": True}}
    if "number" in db["caches"].columns_dict:
        caches.store_cache(db, row)
    else:  # a file of an older version
        add(db, "caches", row)
    add(db, "engines", {"id": ENGINE, "name": "e", "provenance": {}})
    add(db, "embedders", {"id": EMBEDDER, "name": "m", "provenance": {}})
    add(db, "prompts", {"id": PROMPT, "name": "p", "text": "{}"})
    return cache_id


def make_shards(n_contexts: int = 6, size: int = 2, n_ctx: int = 8) -> list[ContextShard]:
    """Contexts of falling length, whose token ids say where they stand."""
    shards = []
    for ordinal, first in enumerate(range(0, n_contexts, size)):
        lengths = np.arange(n_ctx - first, n_ctx - first - size, -1).astype(np.int32)
        ids = 100 * (first + np.arange(size))[:, None] + np.arange(n_ctx)
        token_ids = np.where(np.arange(n_ctx) < lengths[:, None], ids, 0).astype(np.int32)
        shards.append(ContextShard(ordinal, first, lengths, token_ids))
    return shards


def make_examples(latent: int = 0, peaks=(3.0, 2.0, 0.0, 0.0), seed: int = 0) -> ExampleSet:
    """The first window is shown, all others are scored; three tokens each."""
    settings = DrawSettings(width=3, n_shown=1, n_active=1, n_silent=2)
    placed = [
        Placed(
            make_window(
                CACHE,
                latent,
                Place(context, 3, 3),
                (" in", f" the{context}", " year"),
                np.array([0.0, peak / 4, peak], np.float32),
            ),
            "decile_0" if peak else "random",
            1.5,
        )
        for context, peak in enumerate(peaks)
    ]
    return ExampleSet(
        example_set_id(CACHE, latent, settings, seed),
        latent,
        settings.sampler,
        asdict(settings),
        seed,
        tuple(placed[:1]),
        tuple(placed[1:]),
    )


def make_explanation(examples: ExampleSet, name: str = "x", **changes) -> Explanation:
    """What an explainer of this name said about the latent."""
    plain = {
        "id": f"b2:{name}{examples.latent}",
        "latent": examples.latent,
        "example_set_id": examples.id,
        "explainer": "llm",
        "prompt_id": PROMPT,
        "engine_id": ENGINE,
        "settings": {"n_words": 24},
        "text": f"meaning {examples.latent}",
        "raw": f" meaning {examples.latent}.",
        "failure": None,
    }
    return Explanation(**{**plain, **changes})


def make_trial(explanation: Explanation, examples: ExampleSet, values, **changes) -> Trial:
    """Verdicts of an engine on the scored windows; None is a failure."""
    verdicts = tuple(
        Verdict(p.window.id, p.window.peak > 0, value, None if value is not None else "engine: x")
        for p, value in zip(examples.scored, values, strict=True)
    )
    plain = {
        "id": f"b2:trial/{explanation.id}/{examples.id}",
        "scorer": "detection",
        "settings": {},
        "explanation_id": explanation.id,
        "example_set_id": examples.id,
        "control": explanation.latent != examples.latent,
        "prompt_id": PROMPT,
        "model_id": ENGINE,
        "verdicts": verdicts,
    }
    return Trial(**{**plain, **changes})


def store_latent(db: Database, examples: ExampleSet, **changes) -> Explanation:
    """An example set and one explanation made from it, in the file."""
    explanation = make_explanation(examples, **changes)
    studies.store_example_set(db, CACHE, examples)
    studies.store_explanations(db, CACHE, [(explanation, USAGE)])
    return explanation


def store_corpus(db: Database) -> None:
    """The corpus with its tokens."""
    db.execute("delete from caches")
    db.execute("delete from corpora")
    caches.store_corpus(db, CORPUS, make_shards())
    add_cache(db)
