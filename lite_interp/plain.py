"""What a file says as plain records, for `--json`; docs/cli.md says what stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from sqlite_utils import Database

from lite_interp.analysis import alike, summarise
from lite_interp.compare.arms import called
from lite_interp.db import caches, details, report, studies, trials
from lite_interp.db.caches import CacheInfo
from lite_interp.db.runs import load_runs
from lite_interp.db.steerings import load_steering
from lite_interp.details import LatentDetails
from lite_interp.records import Estimate, ExampleSet, Explanation, Window
from lite_interp.ways import way_names, way_of

Row = dict[str, Any]

TABLES = ("example_sets", "windows", "explanations", "trials", "verdicts", "scores")
"""Whose rows are counted."""
SCORE = (
    "scorer", "variant", "statistic", "value", "low", "high", "null_value", "difference",
    "difference_low", "difference_high", "q_value", "n_active", "n_silent", "n_failed",
    "n_controls", "reason", "tokens", "seconds", "metrics",
)  # fmt: skip
"""Of a score, as it stands in the file."""
DETAILS = tuple(field.name for field in fields(LatentDetails) if field.name != "latent")


def info_records(db: Database) -> Iterator[Row]:
    """What is in a file: a record for each cache, one of counts, one for each command."""
    for cache in caches.load_caches(db):
        yield cache_record(db, cache)
    yield {"kind": "counts", **{f"n_{table}": studies.count(db, table) for table in TABLES}}
    for run in load_runs(db):
        yield {"kind": "run", **run}


def cache_record(db: Database, cache: CacheInfo) -> Row:
    """A cache: what was read with what."""
    fit, corpus = caches.coder_fit(db, cache.coder_id), cache.corpus
    return {
        "kind": "cache",
        "id": cache.id,
        "complete": cache.n_counted is not None,
        "subject": cache.subject_path,
        "coder": cache.coder_name,
        "hookpoint": cache.hookpoint,
        "n_latents": cache.n_latents,
        "fvu": fit["fvu"],
        "l0": fit["l0"],
        "keep": cache.keep,
        "corpus": corpus.name,
        "n_tokens": corpus.n_tokens,
        "n_contexts": corpus.n_contexts,
        "n_ctx": corpus.n_ctx,
        "n_documents": corpus.n_documents,
        "n_skipped": corpus.n_skipped,
    }


def latent_records(
    db: Database, cache: CacheInfo, latent: int, unexplained: Sequence[Window] = ()
) -> Iterator[Row]:
    """All that `show` tells of a latent, and every window: one record of it, then its parts.

    Args:
        db: the file.
        cache: whose latent.
        latent: which.
        unexplained: windows of a latent that nobody explained.
    """
    yield _latent(db, cache, latent)
    explanations = studies.load_explanations(db, cache.id, latent)
    yield from explanation_records(db, cache, explanations)
    names = way_names(trials.scored_ways(db, cache.id))
    for row in trials.load_scores(db, cache.id, latent):
        kept = {name: row[name] for name in SCORE}
        yield {
            "kind": "score",
            "explanation_id": row["explanation_id"],
            "example_set_id": row["example_set_id"],
            "way": names[way_of(row)],
            **kept,
        }
    for name in report.example_sets_by_latent(db, cache.id).get(latent, ()):
        examples = studies.load_example_set(db, name)
        if examples is not None:
            own = [each for each in explanations if each.example_set_id == name]
            yield from _windows(db, examples, own)
            yield from _steerings(db, name)
    yield from map(_window, unexplained)


def _latent(db: Database, cache: CacheInfo, latent: int) -> Row:
    stats = caches.load_latent(db, cache.id, latent)
    known = details.load_details(db, cache.id, latent)
    return {
        "kind": "latent",
        "latent": latent,
        "cache": cache.id,
        "coder": cache.coder_name,
        "hookpoint": cache.hookpoint,
        "n_firings": stats.n_firings,
        "n_contexts": stats.n_contexts,
        "density": stats.density,
        "mean": stats.mean_value,
        "max": stats.max_value,
        "histogram": stats.histogram,
        **{name: getattr(known, name, None) for name in DETAILS},
    }


def explanation_records(
    db: Database, cache: CacheInfo, explanations: Sequence[Explanation]
) -> Iterator[Row]:
    """A record for each explanation, with what tells it from the others of its latent."""
    arms = called(db, cache.id)
    for each in explanations:
        yield {
            "kind": "explanation",
            "id": each.id,
            "latent": each.latent,
            "explainer": each.explainer,
            "arm": arms.get(each.id, each.explainer),
            "explanation": each.text,
            "failure": each.failure,
            "example_set_id": each.example_set_id,
            "settings": dict(each.settings),
        }


def _windows(db: Database, examples: ExampleSet, own: Sequence[Explanation]) -> Iterator[Row]:
    margins = {each.id: trials.own_margins(db, each.id, "detection") for each in own}
    for role in ("shown", "held_out", "scored"):
        for window, stratum, weight in getattr(examples, role):
            said = {name: found[window.id] for name, found in margins.items() if window.id in found}
            named = {"example_set_id": examples.id, "role": role}
            yield _window(window, **named, stratum=stratum, weight=weight, detection=said)


def _window(window: Window, **told: Any) -> Row:
    """A window; what is not told of it is null, since it was drawn only to be looked at."""
    head = {name: told.get(name) for name in ("example_set_id", "role", "stratum", "weight")}
    return {
        "kind": "window",
        "id": window.id,
        **head,
        "context": window.context,
        "start": window.start,
        "peak": window.peak,
        "tokens": window.tokens,
        "values": window.values.tolist(),
        "detection": told.get("detection", {}),
    }


def _steerings(db: Database, example_set_id: str) -> Iterator[Row]:
    for name in report.set_steerings(db, example_set_id):
        each = load_steering(db, name)
        if each is not None:
            yield {
                "kind": "steering",
                "id": each.id,
                "example_set_id": example_set_id,
                "settings": dict(each.settings),
                "strength": each.strength,
                "kl_tuned": each.kl_tuned,
                "kl_scored": each.kl_scored,
                "promoted": dict(each.promoted),
                "failure": each.failure,
                "passages": [
                    {"prompt": it.prompt, "clean": it.clean, "steered": it.steered}
                    for it in each.passages
                ],
            }


def explained_records(db: Database, cache: CacheInfo, ids: Sequence[str]) -> Iterator[Row]:
    """Records of the explanations with these ids, in the order of the file."""
    wanted = set(ids)
    found = studies.load_explanations(db, cache.id)
    yield from explanation_records(db, cache, [each for each in found if each.id in wanted])


def mean_records(db: Database, cache: CacheInfo) -> Iterator[Row]:
    """Means over latents, a record for each way to score and who explained."""
    rows = trials.load_scores(db, cache.id)
    names = way_names(row for row in rows if row["latent"] >= 0)
    for found, group in zip(summarise(rows), alike(rows).values(), strict=True):
        yield {
            "kind": "mean",
            "explainer": found.explainer,
            "way": names[way_of(group[0])],
            "variant": found.variant,
            "statistic": found.statistic,
            "n_latents": found.n_latents,
            **_ends("value", found.value),
            **_ends("null", found.null),
            **_ends("difference", found.difference),
            "n_certain": found.n_certain,
            "tokens": found.tokens,
            "seconds": found.seconds,
        }


def _ends(name: str, estimate: Estimate) -> Row:
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))
