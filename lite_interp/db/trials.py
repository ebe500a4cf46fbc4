"""Trials, verdicts and scores in the results file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlite_utils import Database

from lite_interp.db.file import add
from lite_interp.ids import canonical_json
from lite_interp.records import Score, Trial, Usage, Verdict


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial as the file knows it, for computing scores."""

    id: str
    """The trial."""
    explanation_id: str | None
    """The explanation that was judged; None if the latent was judged without one."""
    control: bool
    """Whether it belongs to another latent."""
    verdicts: tuple[Verdict, ...]
    """Its verdicts, in the order of the window ids and items."""
    usage: Usage = Usage(0, 0, 0.0)
    """What it cost."""


class Group(NamedTuple):
    """Trials of one explanation, or of one latent without any, that one score is made from."""

    latent: int
    """The latent."""
    explanation_id: str | None
    """The explanation; None if there is none."""
    example_set_id: str
    """The windows."""
    scorer: str
    """Name of the scorer."""
    settings: str
    """Its settings, JSON."""
    model_id: str
    """Engine or embedder."""


def store_trials(db: Database, trials: Iterable[tuple[Trial, Usage]], judge: str) -> None:
    """Store trials that were judged together, with their verdicts, all or nothing.

    Args:
        db: the file.
        trials: each with what it cost.
        judge: what their `model_id` is: `engine` or `embedder`.
    """
    with db.atomic():
        for trial, usage in trials:
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
                add(db, "verdicts", _verdict_row(trial.id, verdict))


def _verdict_row(trial_id: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "trial_id": trial_id,
        "window_id": verdict.window_id,
        "item": verdict.item,
        "active": int(verdict.active),
        "value": verdict.value,
        "failure": verdict.failure,
        "detail": None if verdict.detail is None else dict(verdict.detail),
    }


def load_trials(
    db: Database, example_set_id: str, scorer: str, settings: str, model_id: str
) -> list[TrialRow]:
    """Trials of one scorer on one example set, all by the same model and settings (JSON)."""
    trials = db.execute(
        """select id, explanation_id, control, prompt_tokens, output_tokens, seconds from trials
           where example_set_id = ? and scorer = ? and settings = ?
           and coalesce(engine_id, embedder_id) = ? order by id""",
        [example_set_id, scorer, settings, model_id],
    )
    return [
        TrialRow(trial_id, explanation_id, bool(control), _verdicts(db, trial_id), Usage(*spent))
        for trial_id, explanation_id, control, *spent in trials.fetchall()
    ]


def _verdicts(db: Database, trial_id: str) -> tuple[Verdict, ...]:
    rows = db.execute(
        """select window_id, active, value, failure, item, detail from verdicts
           where trial_id = ? order by window_id, item""",
        [trial_id],
    )
    return tuple(
        Verdict(window_id, bool(active), value, failure, item, json.loads(detail or "null"))
        for window_id, active, value, failure, item, detail in rows.fetchall()
    )


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


def is_judged(
    db: Database,
    explanation_id: str,
    example_set_id: str,
    scorer: str,
    settings: dict[str, Any],
    model_id: str,
) -> bool:
    """Whether one way to score has judged an explanation on its own latent's windows."""
    rows = db.execute(
        """select 1 from trials
           where explanation_id = ? and example_set_id = ? and scorer = ? and settings = ?
           and control = 0 and coalesce(engine_id, embedder_id) = ?""",
        [explanation_id, example_set_id, scorer, canonical_json(settings), model_id],
    )
    return bool(rows.fetchone())


def scored_groups(db: Database, cache_id: str) -> list[Group]:
    """What can be scored: every own trial of a cache, in the order of latents."""
    rows = db.execute(
        """select distinct latent, explanation_id, example_set_id, scorer, trials.settings,
                  coalesce(trials.engine_id, embedder_id)
           from trials join example_sets on example_sets.id = example_set_id
           where cache_id = ? and control = 0
           order by latent, scorer, trials.settings, explanation_id""",
        [cache_id],
    )
    return [Group(*row) for row in rows.fetchall()]


def are_scores_fresh(db: Database, cache_id: str, version: str) -> bool:
    """Whether the scores of a cache were computed from all its trials, by this version."""
    row = db.execute("select n_trials, version from scorings where cache_id = ?", [cache_id])
    return row.fetchone() == (_n_trials(db, cache_id), version)


def note_scoring(db: Database, cache_id: str, version: str) -> None:
    """Note that the scores of a cache were computed from all its trials."""
    db.execute(
        "insert or replace into scorings (cache_id, n_trials, version) values (?, ?, ?)",
        [cache_id, _n_trials(db, cache_id), version],
    )


def _n_trials(db: Database, cache_id: str) -> int:
    row = db.execute(
        """select count(*) from trials join example_sets on example_sets.id = example_set_id
           where cache_id = ?""",
        [cache_id],
    )
    return int(row.fetchone()[0])


def replace_scores(db: Database, cache_id: str, scores: Iterable[tuple[Score, str, str]]) -> None:
    """Put newly computed (score, settings, model) rows in the place of all scores of a cache."""
    with db.atomic():
        db.execute(
            """delete from scores where example_set_id in
               (select id from example_sets where cache_id = ?)""",
            [cache_id],
        )
        for score, settings, model_id in scores:
            row = _score_row(score) | {"settings": settings, "model_id": model_id}
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            db.execute(f"insert into scores ({names}) values ({marks})", row)


def _score_row(score: Score) -> dict[str, Any]:
    row = {
        "example_set_id": score.example_set_id,
        "explanation_id": score.explanation_id,
        "scorer": score.scorer,
        "variant": score.variant,
        "statistic": score.statistic,
        "value": score.estimate.value,
        "low": score.estimate.low,
        "high": score.estimate.high,
        "null_value": score.null,
        "difference": score.difference.value,
        "difference_low": score.difference.low,
        "difference_high": score.difference.high,
        "p_value": score.p_value,
        "n_active": score.n_active,
        "n_silent": score.n_silent,
        "n_failed": score.n_failed,
        "n_controls": score.n_controls,
        "metrics": canonical_json(_plain(score.metrics)),
        "reason": score.reason,
        "tokens": score.usage.prompt_tokens + score.usage.output_tokens,
        "seconds": score.usage.seconds,
    }
    return _plain(row)


def _plain(value: Any) -> Any:
    """The same with None for what is no finite number, and lists for tuples, as JSON wants it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def set_q_values(db: Database, rows: Sequence[tuple[float | None, int]]) -> None:
    """Put q-values in the place of none: (value, row number) pairs."""
    for value, number in rows:
        db.execute("update scores set q_value = ? where rowid = ?", [value, number])


def load_scores(
    db: Database, cache_id: str, latent: int | None = None, metrics: bool = True
) -> list[dict[str, Any]]:
    """Every score of a cache, or of one latent, with its explanation and what it cost.

    Args:
        db: the file.
        cache_id: whose latents.
        latent: of this one alone; None = of all.
        metrics: whether `metrics` is read, too: it is most of what a score takes.
    """
    known = [name for name in db["scores"].columns_dict if metrics or name != "metrics"]
    columns = ", ".join(f"scores.{name}" for name in known)
    rows = db.query(
        f"""select {columns}, scores.rowid as number, example_sets.latent, explanations.text,
                  explanations.failure, explanations.explainer,
                  explanations.settings as explained_settings,
                  example_sets.settings as drawn_settings, example_sets.seed as drawn_seed,
                  explanations.engine_id as explained_by, explanations.prompt_id as explained_with
           from scores join example_sets on example_sets.id = scores.example_set_id
           left join explanations on explanations.id = explanation_id
           where example_sets.cache_id = :cache
             and (:latent is null or example_sets.latent = :latent)
           order by example_sets.latent, explainer, scorer, scores.settings, variant""",
        {"cache": cache_id, "latent": latent},
    )
    if not metrics:
        return list(rows)
    return [{**row, "metrics": json.loads(row["metrics"])} for row in rows]


def scored_ways(db: Database, cache_id: str) -> list[dict[str, Any]]:
    """The ways in which latents of a cache were scored, those made by rule left out."""
    return list(
        db.query(
            """select distinct scorer, scores.settings, model_id
               from scores join example_sets on example_sets.id = example_set_id
               where cache_id = ? and latent >= 0""",
            [cache_id],
        )
    )


def own_margins(db: Database, explanation_id: str, scorer: str) -> dict[str, float]:
    """Window id → value, of an explanation's verdicts on its own latent's windows.

    If the scorer judged in several ways, of the plainest: fewest settings, then as text.
    """
    rows = db.execute(
        """select window_id, value from verdicts where value is not null and trial_id =
             (select id from trials where explanation_id = ? and scorer = ? and control = 0
              order by case when json_valid(settings) then
                (select count(*) from json_each(settings)) else 0 end, settings, rowid limit 1)""",
        [explanation_id, scorer],
    )
    return dict(rows.fetchall())


def cost_by_latent(db: Database, cache_id: str) -> dict[int, tuple[int, float]]:
    """Engine tokens and seconds spent on each latent: explaining it and judging on its windows."""
    rows = db.execute(
        """select latent, sum(tokens), sum(seconds) from (
             select latent, prompt_tokens + output_tokens as tokens, seconds
             from explanations where cache_id = :cache
             union all
             select latent, prompt_tokens + output_tokens, seconds
             from trials join example_sets on example_sets.id = example_set_id
             where cache_id = :cache
             union all
             select latent, 0, seconds
             from steerings join example_sets on example_sets.id = example_set_id
             where cache_id = :cache) group by latent""",
        {"cache": cache_id},
    )
    return {latent: (tokens, seconds) for latent, tokens, seconds in rows.fetchall()}
