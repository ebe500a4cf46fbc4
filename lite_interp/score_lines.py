"""A score in words and numbers, for a terminal: what it is, and what else follows from it.

Rows are those of `load_scores`. Everything in them may come from another's file: texts go through
`terminal_safe`, and what should be a number and is none is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lite_interp.render import terminal_safe

Row = Mapping[str, Any]

STATISTICS = {
    "auroc": "AUROC",
    "pearson": "Pearson r",
    "nats": "gain",
    "accuracy": "share of intruders found",
}
"""Statistic → what it is called."""

COUNTED = {"pearson": "windows", "nats": "prompts", "accuracy": "questions"}
"""Statistic → what it counts, where that is not the windows of two kinds."""


def statistic_name(statistic: str) -> str:
    """What a statistic is called."""
    return STATISTICS.get(statistic) or terminal_safe(statistic)


def number(value: Any) -> float:
    """A number, of an estimate its first; NaN for everything that is none."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return float(value) if type(value) in (int, float) else math.nan


def short(value: Any) -> str:
    """A number on three or four characters: `.83`, `1.0`, `-.12`, `12`; a dash for none."""
    value = number(value)
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 9.95:
        return f"{value:.0f}"
    if abs(value) >= 0.995:
        return f"{value:.1f}"
    return f"{value:.2f}".replace("0.", ".", 1)


def two(value: Any, sign: str = "") -> str:
    """A number with two digits behind the point; a dash for none."""
    value = number(value)
    return f"{value:{sign}.2f}" if math.isfinite(value) else "–"


def chance(value: Any) -> str:
    """A p- or q-value."""
    value = number(value)
    return "–" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "<0.001"


def percent(share: Any) -> str:
    """A share of 100, two digits; a dash for none."""
    share = number(share)
    return f"{100 * share:.2g}%" if math.isfinite(share) and share < 0.995 else short(share)


def drafts_lines(detail: Any) -> list[str]:
    """What was tried before an explanation was kept, a line a draft; none if there was one only.

    Args:
        detail: of an explanation; it may come from another's file.
    """
    drafts = detail.get("drafts") if isinstance(detail, Mapping) else None
    rows = (
        [each for each in drafts if isinstance(each, Mapping)] if isinstance(drafts, list) else []
    )
    if len(rows) < 2:
        return []
    lines = []
    for place, draft in enumerate(rows):
        word = "kept " if place == detail.get("kept") else "draft"
        text = draft.get("text") or f"(none: {draft.get('failure')})"
        area = two(draft.get("held_out_auroc"))
        lines.append(f"  {word} AUROC {area} on held-out windows: {terminal_safe(str(text))}")
    return lines


def score_lines(row: Row, name: str) -> list[str]:
    """What to print about one score: the number with its null, then what follows from it.

    Args:
        row: a row of `load_scores`.
        name: what the way to score is called.
    """
    title = f"{terminal_safe(name)} ({terminal_safe(row['variant'])}) "
    if row["value"] is None:
        reason = terminal_safe(row["reason"] or "not defined")
        named = statistic_name(row["statistic"])
        return [f"{title}no {named}: {reason} ({_counts(row)})"]
    more = MORE.get(row["statistic"], lambda metrics: [])(row["metrics"])
    return [title + _numbers(row), *(f"  {line}" for line in more if line)]


def _numbers(row: Row) -> str:
    sign = "+" if row["statistic"] == "nats" else ""
    text = f"{statistic_name(row['statistic'])} {two(row['value'], sign)}"
    if row["statistic"] == "nats":
        unit = "nats a token" if row["variant"] == "per_token" else "nats"
        text += f" ± {two(row['metrics'].get('sem'))} {unit}"
    text += _interval(row["low"], row["high"], sign)
    if row["null_value"] is not None:
        null = "chance" if row["statistic"] == "accuracy" else "null"
        text += f", {null} {two(row['null_value'], sign)}"
    if row["difference"] is not None:
        text += f", difference {two(row['difference'], '+')}"
        text += _interval(row["difference_low"], row["difference_high"], "+")
    if row["q_value"] is not None:
        text += f", q {chance(row['q_value'])}"
    return f"{text} ({_counts(row)})"


def _interval(low: Any, high: Any, sign: str) -> str:
    return "" if low is None or high is None else f" [{two(low, sign)}, {two(high, sign)}]"


def _counts(row: Row) -> str:
    n_active, n_silent = row["n_active"], row["n_silent"]
    counted = COUNTED.get(row["statistic"])
    what = f"{n_active + n_silent} {counted}" if counted else f"{n_active} + {n_silent} windows"
    return f"{what}, {row['n_failed']} failed"


def _of_area(metrics: Row) -> list[str]:
    lines = [by_stratum(metrics, "auroc"), "", "", ""]
    if "balanced_accuracy" in metrics:
        lines[1] = f"balanced accuracy {two(metrics['balanced_accuracy'])}"
    if "f1" in metrics:
        lines[1] += (
            f"; at the base rate of {percent(metrics.get('base_rate'))}: F1 {two(metrics['f1'])}, "
            f"average precision {two(metrics.get('average_precision'))}"
        )
    if "brier" in metrics:
        known = number(metrics.get("n_calibration"))
        lines[2] = f"Brier {two(metrics['brier'])}, ECE {two(metrics.get('ece'))}"
        if math.isfinite(known):
            lines[2] += f", calibrated on {known:.0f} verdicts of other latents"
    if "share_saved" in metrics:
        lines[3] = f"stopped when it was sure: {percent(metrics['share_saved'])} of the items saved"
    return lines


def _of_correlation(metrics: Row) -> list[str]:
    return [
        by_stratum(metrics, "pearson"),
        f"strongest decile and random windows: r {two(metrics.get('top_and_random'))}; AUROC of "
        f"windows by greatest simulated activation {two(metrics.get('window_auroc'))}; "
        f"{percent(metrics.get('mass'))} of the probability on digits",
    ]


def _of_gain(metrics: Row) -> list[str]:
    parts = []
    if math.isfinite(number(metrics.get("kl_scored"))):
        parts.append(f"KL {two(metrics['kl_scored'])} nats reached on the scored prompts")
    if math.isfinite(number(metrics.get("kl_tuned"))):
        parts.append(f"{two(metrics['kl_tuned'])} on those for tuning")
    if math.isfinite(number(metrics.get("strength"))):
        parts.append(f"strength {number(metrics['strength']):.3g}")
    return [", ".join(parts)]


def _of_share(metrics: Row) -> list[str]:
    return [by_stratum(metrics, "share")]


MORE: dict[str, Callable[[Row], list[str]]] = {
    "auroc": _of_area,
    "pearson": _of_correlation,
    "nats": _of_gain,
    "accuracy": _of_share,
}
"""Statistic → what its metrics say, a line each."""


def by_stratum(metrics: Row, key: str) -> str:
    """`by decile .9 .8 …`, strongest first, then other strata by name; empty without any."""
    strata = metrics.get("strata")
    if not isinstance(strata, dict):
        return ""
    values = {name: row.get(key) for name, row in strata.items() if isinstance(row, dict)}
    deciles = [values.get(f"decile_{decile}") for decile in range(10)]
    wrong = [values.get(f"decile_{decile}_wrong") for decile in range(10)]
    parts = [
        f"{what} {' '.join(_tenth(value) for value in row)}"
        for what, row in (("by decile", deciles), ("wrong marks by decile", wrong))
        if any(value is not None for value in row)
    ]
    parts += [
        f"{terminal_safe(name).replace('_', ' ')} {short(value)}"
        for name, value in values.items()
        if not name.startswith("decile_")
    ]
    return "; ".join(parts)


def _tenth(value: Any) -> str:
    """One digit behind the point, because a decile has few windows."""
    value = number(value)
    if not math.isfinite(value):
        return "–"
    return f"{value:.1f}".replace("0.", ".", 1)
