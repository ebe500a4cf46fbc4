"""Everything about one latent, as one record: windows once, all else refers to them by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lite_interp.db import caches, details, steerings, studies
from lite_interp.db import report as reading
from lite_interp.records import ExampleSet, Explanation, LatentStats, Placed, Steering, Window
from lite_interp.report.judged import judged_records
from lite_interp.report.study import Row, Study
from lite_interp.report.texts import (
    compact,
    flat,
    maybe,
    numbers,
    pairs,
    token_text,
    visible,
    words,
)

MOST_TOKENS = 512
"""Of a window that are shown."""
MORE = (
    "balanced_accuracy",
    "f1",
    "average_precision",
    "precision",
    "recall",
    "false_positive_rate",
    "base_rate",
    "brier",
    "ece",
    "share_saved",
    "sem",
    "kl_scored",
    "strength",
    "top_and_random",
    "window_auroc",
    "mass",
)
"""Numbers of a score's metrics that a page shows beside the strata."""


def latent_record(study: Study, latent: int) -> Row:
    """What the file has about one latent.

    `windows` holds each window once, with its tokens and the places and activations of those that
    fire; example sets, verdicts and questions name a window by its place there. A way to score is
    named by its place in `Study.ways`.
    """
    examples = [studies.load_example_set(study.db, name) for name in study.sets.get(latent, ())]
    sets = [each for each in examples if each is not None]
    windows: dict[str, Window] = {}
    for each in sets:
        for placed in (*each.shown, *each.scored, *each.held_out):
            windows.setdefault(placed.window.id, placed.window)
    places = {name: place for place, name in enumerate(windows)}
    scores = {each.id: reading.set_scores(study.db, each.id) for each in sets}
    verdicts = {each.id: judged_records(study, each, places) for each in sets}
    record = _facts(study, caches.load_latent(study.db, study.cache.id, latent))
    return {
        **record,
        "windows": [window_record(window) for window in windows.values()],
        "sets": [_set(each, places) for each in sets],
        "explanations": [
            {
                **_explanation(study, each, [*verdicts].index(each.example_set_id)),
                "scores": _scores(study, scores[each.example_set_id], each.id),
                "judged": verdicts[each.example_set_id].get(each.id, []),
            }
            for each in studies.load_explanations(study.db, study.cache.id, latent)
            if each.example_set_id in verdicts
        ],
        "alone": [
            {
                "set": number,
                "scores": _scores(study, scores[each.id], None),
                "judged": verdicts[each.id].get(None, []),
            }
            for number, each in enumerate(sets)
            if any(row["explanation_id"] is None for row in scores[each.id])
        ],
        "steerings": [each for name in verdicts for each in _steerings(study, name, places)],
    }


def _facts(study: Study, stats: LatentStats) -> Row:
    found: Row = {
        "latent": stats.latent,
        "n_firings": stats.n_firings,
        "n_contexts": stats.n_contexts,
        "density": compact(stats.density),
        "mean": compact(stats.mean_value),
        "max": compact(stats.max_value),
        "histogram": numbers(stats.histogram),
    }
    known = details.load_details(study.db, study.cache.id, stats.latent)
    if known is not None:
        found |= {
            "flags": words(known.flags),
            "quantiles": numbers(known.quantiles),
            "top_tokens": pairs(known.top_tokens),
            "position_dependence": compact(known.position_dependence),
            "promoted": pairs(known.promoted),
            "suppressed": pairs(known.suppressed),
            "decoder_neighbours": pairs(known.decoder_neighbours),
            "cofiring_neighbours": pairs(known.cofiring_neighbours),
        }
    return found


def window_record(window: Window) -> Row:
    """A window: its tokens, and the places and activations of those that fire."""
    tokens = [token_text(token) for token in window.tokens[:MOST_TOKENS]]
    if len(window.tokens) > MOST_TOKENS:
        tokens.append(f"… [cut: {len(window.tokens):,} tokens]")
    fires = np.flatnonzero(window.values[:MOST_TOKENS] > 0).tolist()
    return {
        "tokens": tokens,
        "fires": [[place, compact(float(window.values[place]))] for place in fires],
        "context": window.context,
        "start": window.start,
    }


def _set(examples: ExampleSet, places: dict[str, int]) -> Row:
    def placed(some: Sequence[Placed]) -> list[list[Any]]:
        return [
            [places[each.window.id], visible(each.stratum), compact(each.weight)] for each in some
        ]

    return {
        "sampler": visible(examples.sampler),
        "seed": examples.seed,
        "shown": placed(examples.shown),
        "scored": placed(examples.scored),
        "held_out": placed(examples.held_out),
    }


def _explanation(study: Study, explanation: Explanation, number: int) -> Row:
    drafts = (explanation.detail or {}).get("drafts")
    return {
        "arm": study.arm(explanation),
        "text": maybe(explanation.text),
        "failure": maybe(explanation.failure),
        "raw": visible(explanation.raw) if explanation.failure else None,
        "set": number,
        "settings": [list(line) for line in flat(dict(explanation.settings))],
        "drafts": [_draft(each) for each in drafts if isinstance(each, dict)]
        if isinstance(drafts, list) and len(drafts) > 1
        else [],
        "kept": compact((explanation.detail or {}).get("kept")),
    }


def _draft(draft: Row) -> Row:
    told = draft.get("text") or f"(none: {draft.get('failure')})"
    return {"text": visible(told), "auroc": compact(draft.get("held_out_auroc"))}


def _scores(study: Study, rows: Sequence[Row], explanation_id: str | None) -> list[Row]:
    return [_score(study, row) for row in rows if row["explanation_id"] == explanation_id]


def _score(study: Study, row: Row) -> Row:
    metrics = row["metrics"]
    names = ("value", "low", "high", "difference", "difference_low", "difference_high")
    return {
        "way": study.place(row),
        **{name: compact(row[name]) for name in names},
        "null": compact(row["null_value"]),
        "q": compact(row["q_value"]),
        "n": [row["n_active"], row["n_silent"], row["n_failed"], row["n_controls"]],
        "reason": maybe(row["reason"]),
        "strata": _strata(metrics.get("strata")) if row["variant"] == "raw" else [],
        "more": {name: _more(metrics[name]) for name in MORE if metrics.get(name) is not None},
    }


def _strata(strata: Any) -> list[list[Any]]:
    """[name, value, items] of each stratum, whatever the statistic calls the value."""
    found = strata.items() if isinstance(strata, dict) else ()
    kept = []
    for name, row in found:
        if isinstance(row, dict):
            value = next((row[key] for key in ("auroc", "pearson", "share") if key in row), None)
            kept.append([visible(name), compact(value), compact(row.get("n"))])
    return kept


def _more(value: Any) -> Any:
    return numbers(value) if isinstance(value, list) else compact(value)


def _steerings(study: Study, example_set_id: str, places: dict[str, int]) -> list[Row]:
    names = reading.set_steerings(study.db, example_set_id)
    found = [steerings.load_steering(study.db, name) for name in names]
    return [_steering(each, places) for each in found if each is not None]


def _steering(steering: Steering, places: dict[str, int]) -> Row:
    told = steering.promoted
    return {
        "settings": [list(line) for line in flat(dict(steering.settings))],
        "ablated": bool(steering.settings.get("ablate")),
        "strength": compact(steering.strength),
        "kl": compact(steering.kl_scored),
        "failure": maybe(steering.failure),
        "likelier": pairs(told.get("tokens")),
        "lens": [compact(told.get("lens_clean")), compact(told.get("lens_steered"))],
        "passages": [
            {
                "window": places.get(passage.window_id),
                "prompt": visible(passage.prompt),
                "clean": [visible(text) for text in passage.clean],
                "steered": [visible(text) for text in passage.steered],
            }
            for passage in steering.passages
        ],
    }
