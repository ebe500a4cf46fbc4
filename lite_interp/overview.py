"""All explanations at a glance: rows with every score, a diagnosis, the means over latents."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlite_utils import Database

from lite_interp.analysis import Summary, alike, summarise
from lite_interp.compare.arms import called
from lite_interp.db import caches, studies, trials
from lite_interp.db.caches import CacheInfo
from lite_interp.records import Explanation
from lite_interp.render import one_row, terminal_safe
from lite_interp.score_lines import number, percent, statistic_name
from lite_interp.stats import wilson
from lite_interp.ways import Way, in_order, plainest, way_names, way_of

Row = dict[str, Any]
Diagnosis = Literal["good", "bad explanation", "bad latent", "unsure"]

IN_METRICS = ("balanced_accuracy", "f1", "average_precision")
"""Numbers in the metrics of an area that get a column of their own."""

MISSED = 0.5
"""A latent of which certainly fewer than this share of the intruders are found is a bad one."""


def latent_rows(
    db: Database, cache: CacheInfo, variant: str, latents: Collection[int] | None = None
) -> list[Row]:
    """One plain row for each explanation: what `list` prints, sorts, and gives as JSON.

    Args:
        db: the file.
        cache: which latents.
        variant: which scores; None stands for those of a scorer that has no such variant.
        latents: of which; None = of all.

    A latent without a text, or with scores but no explanation yet, is a row too, with the reason
    in `failure`; a score without a number has it in `NAME_reason`. Texts are without control
    characters, so that they may be printed as CSV.
    """
    scores = [row for row in trials.load_scores(db, cache.id) if row["latent"] >= 0]
    names = way_names(scores)
    costs = trials.cost_by_latent(db, cache.id)
    of_explanation: dict[str, list[Row]] = {}
    of_examples: dict[str, list[Row]] = {}
    for score in scores:
        if score["explanation_id"] is not None:
            of_explanation.setdefault(score["explanation_id"], []).append(score)
        else:
            of_examples.setdefault(score["example_set_id"], []).append(score)
    found: list[tuple[int, Row, list[Row]]] = []
    arms = called(db, cache.id)
    for each in studies.load_explanations(db, cache.id):
        if each.latent >= 0:
            own = of_explanation.get(each.id, []) + of_examples.get(each.example_set_id, [])
            found.append((each.latent, _told(each, arms.get(each.id, each.explainer)), own))
    explained = {latent for latent, _, _ in found}
    nothing = {"explainer": "", "explanation": None, "failure": "not explained yet", "arm": ""}
    for own in of_examples.values():
        if own[0]["latent"] not in explained:
            found.append((own[0]["latent"], nothing, own))
    rows, able = [], finds_intruders(scores)
    densities = caches.densities(db, cache.id)
    for latent, told, own in sorted(found, key=lambda each: each[0]):
        if latents is not None and latent not in latents:
            continue
        tokens, seconds = costs.get(latent, (0, 0.0))
        head = {"latent": latent, "density": densities[latent]}
        tail = {"diagnosis": diagnosis(own, able), "tokens": tokens, "seconds": round(seconds, 1)}
        columns = score_columns(own, names, variant)
        # A scorer in another's file may be called as one of our columns.
        rows.append({**head, **told, **columns, **head, **told, **tail})
    return rows


def _told(explanation: Explanation, arm: str) -> Row:
    return {
        "explainer": one_row(explanation.explainer),
        "explanation": explanation.text and one_row(explanation.text),
        "failure": explanation.failure and one_row(explanation.failure),
        "arm": one_row(arm),
    }


def score_columns(scores: Sequence[Row], names: Mapping[Way, str], variant: str) -> Row:
    """The columns of one explanation's scores, as `load_scores` gives them, by name of the way."""
    found = {names[way_of(score)]: None for score in scores}
    found |= {names[way_of(score)]: score for score in scores if score["variant"] == variant}
    columns: Row = {}
    for name in in_order(found):
        score: Row = found[name] or {}
        columns[name] = score.get("value")
        columns[f"{name}_low"], columns[f"{name}_high"] = score.get("low"), score.get("high")
        columns[f"{name}_null"] = score.get("null_value")
        columns[f"{name}_difference"] = score.get("difference")
        columns[f"{name}_difference_low"] = score.get("difference_low")
        columns[f"{name}_q"] = score.get("q_value")
        columns[f"{name}_n"] = score["n_active"] + score["n_silent"] if score else None
        columns[f"{name}_n_failed"] = score.get("n_failed")
        columns[f"{name}_reason"] = score.get("reason") and one_row(score["reason"])
        columns[f"{name}_tokens"] = score.get("tokens")
        columns[f"{name}_seconds"] = score.get("seconds")
        if score.get("statistic") == "auroc":
            metrics = score["metrics"]
            there = {key: number(metrics[key]) for key in IN_METRICS if key in metrics}
            for key, value in there.items():
                columns[f"{name}_{key}"] = None if math.isnan(value) else value
    return columns


def finds_intruders(scores: Iterable[Row]) -> bool:
    """Whether the engine finds intruders at all: over all latents certainly more than by guessing.

    If it does not, a low share says nothing of a latent.
    """
    asked = [row for row in scores if row["scorer"] == "intruder" and row["value"] is not None]
    counts = [row["n_active"] + row["n_silent"] for row in asked]
    n_right = sum(round(row["value"] * n) for row, n in zip(asked, counts, strict=True))
    share = wilson(n_right, sum(counts))
    return bool(asked) and share.low > max(row["null_value"] for row in asked)


def diagnosis(scores: Iterable[Row], able: bool = True) -> Diagnosis:
    """Where the fault lies if an explanation scores badly: in its words, or in the latent.

    Args:
        scores: those of one explanation and of its latent, as `load_scores` gives them.
        able: whether the engine that looked for intruders finds any; see `finds_intruders`.

    - `good`: detection, or fuzzing where there is no detection, is certainly above its null: the
      95 % interval of the difference lies above 0.
    - `bad explanation`: that isn't so, but intruders are certainly found more often than by
      guessing: the latent's windows have something in common that the words miss.
    - `bad latent`: intruders are certainly found less than half of the time, by an engine that
      does find them elsewhere: the windows seem to have nothing in common, so no words could do.
    - `unsure`: none of these, or nothing was judged.

    Raw scores are meant, whichever are shown. If a scorer judged in several ways, the first counts.
    """
    first: dict[str, Row] = {}
    for score in sorted(scores, key=lambda row: plainest(way_of(row))):
        if score["variant"] == "raw":
            first.setdefault(score["scorer"], score)
    gains = (first.get(name, {}).get("difference_low") for name in ("detection", "fuzzing"))
    gain = next((low for low in gains if low is not None), None)
    if gain is not None and gain > 0:
        return "good"
    intruder = first.get("intruder", {})
    low, chance, high = (intruder.get(name) for name in ("low", "null_value", "high"))
    if low is not None and chance is not None and low > chance:
        return "bad explanation"
    return "bad latent" if able and high is not None and high < MISSED else "unsure"


def summary_lines(rows: Sequence[Row]) -> list[str]:
    """Means over latents, a line for each way to score, and what to believe.

    Args:
        rows: scores as `load_scores` gives them; those of rule-made latents are left out.
    """
    names = way_names(row for row in rows if row["latent"] >= 0)
    groups = alike(rows).values()
    return [
        _summary_line(summary, names[way_of(group[0])], _saved(group))
        for summary, group in zip(summarise(rows), groups, strict=True)
    ]


def _summary_line(summary: Summary, name: str, saved: float) -> str:
    value, null, difference = summary.value, summary.null, summary.difference
    whose = "latents" if summary.explainer is None else terminal_safe(summary.explainer)
    line = f"{whose}, {terminal_safe(name)} ({terminal_safe(summary.variant)}): "
    sign = "+" if summary.statistic == "nats" else ""
    mean = statistic_name(summary.statistic)
    mean = mean if summary.statistic == "accuracy" else f"mean {mean}"
    over = f"over {summary.n_latents} latent{'s' * (summary.n_latents != 1)}"
    if not summary.n_latents:
        return f"{line}{mean}: no latent has one"
    unit = {"raw": " nats", "per_token": " nats a token"}.get(summary.variant, "")
    unit = unit if summary.statistic == "nats" else ""
    line += f"{mean} {value.value:{sign}.3f}{unit} {over}"
    if not math.isnan(null.value):
        what = "chance" if summary.statistic == "accuracy" else "null"
        line += f", {what} {null.value:{sign}.3f}, difference {difference.value:+.3f} "
        if math.isnan(difference.low):
            line += "(one latent: no interval)"
        else:
            line += f"[{difference.low:+.3f}, {difference.high:+.3f}]"
            if not difference.low > 0:
                line += f": not told apart from its {what}, so it says nothing"
        line += f"; {summary.n_certain} certain (q < .05)"
    line += f"; {summary.tokens:,.0f} tokens, {summary.seconds:.1f} s a latent"
    return line if math.isnan(saved) else f"{line}; {percent(saved)} of the items saved"


def _saved(rows: Sequence[Row]) -> float:
    """Mean share of items that were not judged because it was sure before; NaN if not so judged."""
    shares = [number(row["metrics"].get("share_saved")) for row in rows]
    known = [share for share in shares if not math.isnan(share)]
    return sum(known) / len(known) if known else math.nan
