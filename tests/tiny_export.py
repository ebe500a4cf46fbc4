"""A results file with firings, windows, explanations, scores and details, made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_results
from tiny_results import CACHE, CORPUS, USAGE, make_examples, make_explanation, make_trial
from tiny_score_rows import AREA

from lite_interp.caching import finish_cache
from lite_interp.db import cached, caches, studies, trials
from lite_interp.db.details import store_details
from lite_interp.db.file import add, open_results
from lite_interp.details import LatentDetails
from lite_interp.firing_codec import pack_firings
from lite_interp.records import Estimate, Score

HOOKPOINT = "model.layers.1.output"
FIRINGS = {
    0: ([3, 5, 9, 17, 40], [3.0, 0.5, 2.0, 1.25, 0.75]),
    2: ([1, 8, 41], [70000.0, 1.0, 2.5]),
}
"""Latent → places in the corpus (context × 8 + position), and activations; 1 and 3 are silent."""

EVIL = (
    "=HYPERLINK(1)<script>alert(1)</script>\x1b[2J\x9b31m\u202eevil\u2066 \x00 | `x` [a](http://b) "
    "{{7*7}} ${x} \"q\" 'r', ;\ttab\r\nnew\x85line\u2028end"
)
"""Whatever somebody might put into a text."""


def write_file(path: Path, texts=("names of years", "a cat"), tokens=None) -> Path:
    """Latents 0 and 2 with texts, 1 with a failure, 3 with nothing; detection and embedding."""
    with open_results(path, create=True) as db:
        tiny_results.store_corpus(db)
        db.execute("update coders set hookpoint = ?", [HOOKPOINT])
        (cache,) = caches.load_caches(db)
        _store_firings(db, cache)
        finish_cache(db, cache)
        explanations = []
        for latent, text in zip((0, 2), texts, strict=True):
            examples = make_examples(latent, peaks=(3.0, 2.0, 1.0, 0.0, 0.0))
            if tokens is not None:
                examples = _with_tokens(examples, tokens)
            studies.store_example_set(db, CACHE, examples)
            explanation = make_explanation(examples, text=text)
            studies.store_explanations(db, CACHE, [(explanation, USAGE)])
            _store_trials(db, explanation, examples)
            explanations.append(explanation)
        failed = make_examples(1, peaks=(0.0, 0.0))
        studies.store_example_set(db, CACHE, failed)
        none = make_explanation(failed, text=None, failure="no_windows")
        studies.store_explanations(db, CACHE, [(none, USAGE)])
        _store_scores(db, explanations)
        store_details(db, CACHE, [_details(0), _details(2)])
    return path


def _store_firings(db, cache) -> None:
    for shard, first, n in caches.shard_places(db, CORPUS.id):
        blobs = []
        for latent, (places, values) in FIRINGS.items():
            at, what = np.array(places), np.array(values, np.float32)
            inside = (at >= first * 8) & (at < (first + n) * 8)
            if inside.any():
                blobs.append((latent, pack_firings(at[inside] - first * 8, what[inside])))
        counts = sum(((np.array(p) >= first * 8) & (np.array(p) < (first + n) * 8)).sum()
                     for p, _ in FIRINGS.values())  # fmt: skip
        row = {"cache_id": CACHE, "shard": shard, "n_firings": int(counts), "n_counted": 12}
        cached.store_cache_shard(db, {**row, "n_masked": {}, "seconds": 1.0}, blobs)


def _with_tokens(examples, tokens):
    from dataclasses import replace

    def changed(placed):
        return tuple(
            each._replace(window=replace(each.window, tokens=tuple(tokens))) for each in placed
        )

    return replace(examples, shown=changed(examples.shown), scored=changed(examples.scored))


def _store_trials(db, explanation, examples) -> None:
    values = [1.5, -0.5, None, -2.0]
    trial = make_trial(explanation, examples, values)
    trials.store_trials(db, [(trial, USAGE)], "engine")
    cosines = make_trial(
        explanation, examples, [0.5, 0.25, 0.0, -0.5], id=f"{trial.id}e", scorer="embedding",
        model_id=tiny_results.EMBEDDER, prompt_id=None,
    )  # fmt: skip
    trials.store_trials(db, [(cosines, USAGE)], "embedder")


def _store_scores(db, explanations) -> None:
    rows = []
    for explanation in explanations:
        for scorer, model in (("detection", tiny_results.ENGINE), ("embedding", "b2:embedder")):
            score = Score(
                explanation.example_set_id, explanation.id, scorer, "raw", "auroc",
                Estimate(0.8125, 0.6, 0.95), 0.5, Estimate(0.3125, 0.1, 0.5), 0.01, 2, 2, 1, 3,
                AREA, None, USAGE,
            )  # fmt: skip
            rows.append((score, "{}", model))
    trials.replace_scores(db, CACHE, rows)


def _details(latent: int) -> LatentDetails:
    return LatentDetails(
        latent, (0.5, 3.0), ((" year", 0.75), ("=x", 0.25)), 0.75, 0.01, ("rare",),
        ((" years", 2.5),), ((" cat", -1.5),), ((3, 0.5),), ((1, 0.25),),
    )  # fmt: skip


def hostile(path: Path) -> Path:
    """The same with texts that nobody should have to read."""
    tokens = ("\x1b]0;x\x07", "�=1+1" * 2, "</script>\u202e")
    write_file(path, (EVIL, "+1\ud800".encode("utf-8", "replace").decode()), tokens)
    with open_results(path) as db:
        # SQLite holds what Python would not store: half of a surrogate pair, as JSON.
        db.execute("update windows set tokens = json_replace(tokens, '$[0]', json('\"\\ud800\"'))")
        db.execute("update coders set name = ?", ["=cmd|' /C calc'!A0\x1b[31m"])
        db.execute("update engines set name = ?", ["@evil\u202e|<img src=x>"])
        add(db, "engines", {"id": "b2:other", "name": "x", "provenance": {}})
    return path
