"""Windows, example sets, explanations, verdicts and scores in the results file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlite_utils import Database

from lite_interp.db.file import add
from lite_interp.ids import canonical_json
from lite_interp.records import (
    ExampleSet,
    Explanation,
    Placed,
    Score,
    Trial,
    Usage,
    Verdict,
    Window,
)
from lite_interp.render import marked_text


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial as the file knows it, for computing scores."""

    id: str
    """The trial."""
    explanation_id: str
    """The explanation that was judged."""
    control: bool
    """Whether it belongs to another latent."""
    verdicts: tuple[Verdict, ...]
    """Its verdicts, in the order of the window ids."""


def store_example_set(db: Database, cache_id: str, examples: ExampleSet) -> None:
    """Store an example set with its windows, readable as they are, all or nothing."""
    with db.atomic():
        row = {
            "id": examples.id,
            "cache_id": cache_id,
            "latent": examples.latent,
            "sampler": examples.sampler,
            "settings": dict(examples.settings),
            "seed": examples.seed,
        }
        add(db, "example_sets", row)
        for role, placed in (("shown", examples.shown), ("scored", examples.scored)):
            for ordinal, (window, stratum, weight) in enumerate(placed):
                add(db, "windows", _window_row(cache_id, window))
                add(
                    db,
                    "example_set_windows",
                    {
                        "example_set_id": examples.id,
                        "role": role,
                        "ordinal": ordinal,
                        "window_id": window.id,
                        "stratum": stratum,
                        "weight": weight,
                    },
                )


def _window_row(cache_id: str, window: Window) -> dict[str, Any]:
    """Values are rounded first: the marks in the file are those of the window read back."""
    acts = [float(f"{value:.5g}") for value in window.values]
    window = replace(window, values=np.array(acts, np.float32))
    return {
        "id": window.id,
        "cache_id": cache_id,
        "latent": window.latent,
        "context": window.context,
        "start": window.start,
        "max_value": window.peak,
        "marked": marked_text(window),
        "tokens": list(window.tokens),
        "acts": acts,
    }


def load_example_set(db: Database, example_set_id: str) -> ExampleSet | None:
    """An example set with its windows, or None if it is not in the file."""
    row = next(db.query("select * from example_sets where id = ?", [example_set_id]), None)
    if row is None:
        return None
    windows = list(
        db.query(
            """select role, stratum, weight, windows.* from example_set_windows
               join windows on windows.id = window_id
               where example_set_id = ? order by role, ordinal""",
            [example_set_id],
        )
    )
    placed = {
        role: tuple(
            Placed(_window(found), found["stratum"], found["weight"])
            for found in windows
            if found["role"] == role
        )
        for role in ("shown", "scored")
    }
    return ExampleSet(
        row["id"],
        row["latent"],
        row["sampler"],
        json.loads(row["settings"]),
        row["seed"],
        placed["shown"],
        placed["scored"],
    )


def _window(row: dict[str, Any]) -> Window:
    return Window(
        row["id"],
        row["latent"],
        row["context"],
        row["start"],
        tuple(json.loads(row["tokens"])),
        np.array(json.loads(row["acts"]), np.float32),
    )


def store_explanations(
    db: Database, cache_id: str, found: Iterable[tuple[Explanation, Usage]]
) -> None:
    """Store explanations, or the reasons why there are none, with what they cost: all or none."""
    with db.atomic():
        for explanation, usage in found:
            row = {
                "id": explanation.id,
                "cache_id": cache_id,
                "latent": explanation.latent,
                "example_set_id": explanation.example_set_id,
                "explainer": explanation.explainer,
                "prompt_id": explanation.prompt_id,
                "engine_id": explanation.engine_id,
                "settings": dict(explanation.settings),
                "text": explanation.text,
                "raw": explanation.raw,
                "failure": explanation.failure,
                **usage._asdict(),
            }
            add(db, "explanations", row)


def load_explanations(db: Database, cache_id: str) -> list[Explanation]:
    """Every explanation of a cache, in order of latent, then of writing."""
    rows = db.query(
        """select id, latent, example_set_id, explainer, prompt_id, engine_id, settings, text,
                  raw, failure from explanations where cache_id = ? order by latent, rowid""",
        [cache_id],
    )
    return [Explanation(**{**row, "settings": json.loads(row["settings"])}) for row in rows]


def known(db: Database, table: str, row_id: str) -> bool:
    """Whether a row of this content id is in the file: whether a question was answered."""
    return bool(db.execute(f"select 1 from {table} where id = ?", [row_id]).fetchone())


def store_trial(db: Database, trial: Trial, judge: str, usage: Usage) -> None:
    """Store a trial with its verdicts, all or nothing.

    Args:
        db: the file.
        trial: the trial.
        judge: what `trial.model_id` is: `engine` or `embedder`.
        usage: what it cost.
    """
    with db.atomic():
        row = {
            "id": trial.id,
            "scorer": trial.scorer,
            "settings": dict(trial.settings),
            "explanation_id": trial.explanation_id,
            "example_set_id": trial.example_set_id,
            "control": int(trial.control),
            "prompt_id": trial.prompt_id,
            f"{judge}_id": trial.model_id,
            **usage._asdict(),
        }
        add(db, "trials", row)
        for verdict in trial.verdicts:
            add(
                db,
                "verdicts",
                {
                    "trial_id": trial.id,
                    "window_id": verdict.window_id,
                    "active": int(verdict.active),
                    "value": verdict.value,
                    "failure": verdict.failure,
                },
            )


def load_trials(
    db: Database, example_set_id: str, scorer: str, settings: str, model_id: str
) -> list[TrialRow]:
    """Trials of one scorer on one example set, all by the same model and settings (JSON)."""
    trials = db.execute(
        """select id, explanation_id, control from trials
           where example_set_id = ? and scorer = ? and settings = ?
           and coalesce(engine_id, embedder_id) = ? order by id""",
        [example_set_id, scorer, settings, model_id],
    )
    return [
        TrialRow(trial_id, explanation_id, bool(control), _verdicts(db, trial_id))
        for trial_id, explanation_id, control in trials.fetchall()
    ]


def _verdicts(db: Database, trial_id: str) -> tuple[Verdict, ...]:
    rows = db.execute(
        """select window_id, active, value, failure from verdicts
           where trial_id = ? order by window_id""",
        [trial_id],
    )
    return tuple(Verdict(row[0], bool(row[1]), row[2], row[3]) for row in rows)


def judged_controls(
    db: Database, example_set_id: str, scorer: str, settings: dict[str, Any], model_id: str
) -> set[str]:
    """Explanations of other latents that one way to score has judged on an example set."""
    rows = db.execute(
        """select explanation_id from trials
           where example_set_id = ? and scorer = ? and settings = ? and control = 1
           and coalesce(engine_id, embedder_id) = ?""",
        [example_set_id, scorer, canonical_json(settings), model_id],
    )
    return {row[0] for row in rows}


def scored_groups(db: Database, cache_id: str) -> list[tuple[str, str, str, str, str]]:
    """What can be scored: (explanation, example set, scorer, settings, model) of own trials."""
    rows = db.execute(
        """select explanation_id, trials.example_set_id, scorer, trials.settings,
                  coalesce(trials.engine_id, embedder_id)
           from trials join explanations on explanations.id = explanation_id
           where cache_id = ? and control = 0 order by latent, scorer""",
        [cache_id],
    )
    return [tuple(row) for row in rows.fetchall()]


def replace_scores(db: Database, cache_id: str, scores: Iterable[tuple[Score, str, str]]) -> None:
    """Put newly computed (score, settings, model) rows in the place of all scores of a cache."""
    with db.atomic():
        db.execute(
            """delete from scores where explanation_id in
               (select id from explanations where cache_id = ?)""",
            [cache_id],
        )
        for score, settings, model_id in scores:
            row = {
                "explanation_id": score.explanation_id,
                "scorer": score.scorer,
                "settings": settings,
                "model_id": model_id,
                "variant": score.variant,
                "statistic": score.statistic,
                "value": score.estimate.value,
                "low": score.estimate.low,
                "high": score.estimate.high,
                "null_value": score.null,
                "difference": score.difference.value,
                "difference_low": score.difference.low,
                "difference_high": score.difference.high,
                "n_active": score.n_active,
                "n_silent": score.n_silent,
                "n_failed": score.n_failed,
                "n_controls": score.n_controls,
            }
            absent = {key: None for key, value in row.items() if _is_nan(value)}
            add(db, "scores", {**row, **absent})


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def load_scores(db: Database, cache_id: str) -> list[dict[str, Any]]:
    """Every score of a cache, with its explanation and what it cost, for tables."""
    rows = db.query(
        """select scores.*, explanations.latent, explanations.text, explanations.failure,
                  explanations.explainer, explanations.engine_id as explained_by,
                  explanations.prompt_id as explained_with
           from scores join explanations on explanations.id = explanation_id
           where cache_id = ? order by latent, explainer, scorer, variant""",
        [cache_id],
    )
    return list(rows)


def cost_by_latent(db: Database, cache_id: str) -> dict[int, tuple[int, float]]:
    """Engine tokens and seconds spent on each latent: explaining it and judging on its windows."""
    rows = db.execute(
        """select latent, sum(tokens), sum(seconds) from (
             select latent, prompt_tokens + output_tokens as tokens, seconds
             from explanations where cache_id = :cache
             union all
             select latent, prompt_tokens + output_tokens, seconds
             from trials join example_sets on example_sets.id = example_set_id
             where cache_id = :cache) group by latent""",
        {"cache": cache_id},
    )
    return {latent: (tokens, seconds) for latent, tokens, seconds in rows.fetchall()}


def comparable(db: Database, explanation_id: str) -> set[str]:
    """Explanations of other latents by the same explainer, prompt, engine and settings."""
    rows = db.execute(
        """select other.id from explanations as own join explanations as other
           on other.cache_id = own.cache_id and other.latent != own.latent
           and other.explainer = own.explainer and other.settings = own.settings
           and other.prompt_id is own.prompt_id and other.engine_id is own.engine_id
           where own.id = ?""",
        [explanation_id],
    )
    return {row[0] for row in rows}


def own_margins(db: Database, explanation_id: str, scorer: str) -> dict[str, float]:
    """Window id → value, of an explanation's verdicts on its own latent's windows."""
    rows = db.execute(
        """select window_id, value from verdicts join trials on trials.id = trial_id
           where explanation_id = ? and scorer = ? and control = 0 and value is not null""",
        [explanation_id, scorer],
    )
    return dict(rows.fetchall())


def count(db: Database, table: str) -> int:
    """Rows of a table."""
    return int(db.execute(f"select count(*) from {table}").fetchone()[0])
