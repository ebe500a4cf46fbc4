"""What the file says, for a terminal: tables, one latent, where the file came from.

Everything shown comes from models, corpora and files, so every text goes through
`render.terminal_safe` and is never read as markup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from sqlite_utils import Database

from lite_interp.analysis import Summary
from lite_interp.db import caches, studies
from lite_interp.db.caches import CacheInfo
from lite_interp.records import Placed, Window
from lite_interp.render import levels, one_row, terminal_safe

SHADES = ("#fdf3d8", "#fbe0a0", "#f8c662", "#f2a134", "#e0731a")
"""Backgrounds from weak to strong, dark letters on them: readable on dark and light terminals."""
DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
BARS = " ▁▂▃▄▅▆▇█"


def latent_rows(db: Database, cache: CacheInfo, variant: str) -> list[dict[str, Any]]:
    """One plain row for each explanation: what `list` prints, sorts, and gives as JSON.

    Texts are without control characters, so that they may be printed as CSV.
    """
    costs = studies.cost_by_latent(db, cache.id)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for score in studies.load_scores(db, cache.id):
        if score["variant"] == variant:
            scores.setdefault(score["explanation_id"], {})[one_row(score["scorer"])] = score
    rows = []
    for explanation in studies.load_explanations(db, cache.id):
        latent = caches.load_latent(db, cache.id, explanation.latent)
        tokens, seconds = costs.get(explanation.latent, (0, 0.0))
        row: dict[str, Any] = {
            "latent": explanation.latent,
            "density": latent.density,
            "explainer": one_row(explanation.explainer),
            "explanation": explanation.text and one_row(explanation.text),
            "failure": explanation.failure and one_row(explanation.failure),
        }
        for name, score in scores.get(explanation.id, {}).items():
            row[name] = score["value"]
            row[f"{name}_low"], row[f"{name}_high"] = score["low"], score["high"]
            row[f"{name}_null"] = score["null_value"]
            row[f"{name}_difference"] = score["difference"]
            row[f"{name}_n"] = score["n_active"] + score["n_silent"]
            row[f"{name}_n_failed"] = score["n_failed"]
        rows.append({**row, "tokens": tokens, "seconds": round(seconds, 1)})
    return rows


def latents_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Explanations with their scores, made to fit 80 columns."""
    several = len({row["explainer"] for row in rows}) > 1
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("latent", justify="right")
    table.add_column("density", justify="right")
    table.add_column("explanation", ratio=1, min_width=20, overflow="fold")
    table.add_column("detection", justify="right", no_wrap=True)
    table.add_column("null", justify="right")
    table.add_column("embed", justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("s", justify="right")
    for row in rows:
        told = _none(row["failure"]) if row["failure"] else (terminal_safe(row["explanation"]), "")
        name = (f"{terminal_safe(row['explainer'])}: " if several else "", "dim")
        text = Text.assemble(name, told)
        table.add_row(
            str(row["latent"]),
            f"{100 * row['density']:.2f}%",
            text,
            _interval(row, "detection"),
            _short(row.get("detection_null")),
            _short(row.get("embedding")),
            _thousands(row["tokens"]),
            f"{row['seconds']:.0f}",
        )
    return table


def _interval(row: dict[str, Any], name: str) -> str:
    if row.get(name) is None:
        return "–"
    return f"{_short(row[name])} {_short(row[f'{name}_low'])}–{_short(row[f'{name}_high'])}"


def _short(value: float | None) -> str:
    """An area on three characters: `.83`, `1.0`; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    return "1.0" if value >= 0.995 else f"{value:.2f}".replace("0.", ".", 1)


def _thousands(n: int) -> str:
    return f"{n / 1000:.1f}k" if n >= 1000 else str(n)


def summary_lines(summaries: Iterable[Summary]) -> list[str]:
    """Means over latents, a line each, and what to believe."""
    lines = []
    for summary in summaries:
        value, null, difference = summary.value, summary.null, summary.difference
        line = (
            f"{terminal_safe(summary.explainer)}, {terminal_safe(summary.scorer)} "
            f"({terminal_safe(summary.variant)}): mean AUROC "
            f"{value.value:.3f} over {summary.n_latents} latent{'s' * (summary.n_latents != 1)}"
        )
        if not math.isnan(null.value):
            line += f", null {null.value:.3f}, difference {difference.value:+.3f} "
            if math.isnan(difference.low):
                line += "(one latent: no interval)"
            else:
                line += f"[{difference.low:+.3f}, {difference.high:+.3f}]"
                if not difference.low > 0:
                    line += ": not told apart from its null, so it says nothing"
        lines.append(line)
    return lines


def latent_page(
    db: Database, cache: CacheInfo, latent: int, n_windows: int, console: Console
) -> RenderableType:
    """Everything the file has about one latent."""
    stats = caches.load_latent(db, cache.id, latent)
    rows = [row for row in studies.load_scores(db, cache.id) if row["latent"] == latent]
    explanations = [
        explanation
        for explanation in studies.load_explanations(db, cache.id)
        if explanation.latent == latent
    ]
    head = Text.assemble((f"latent {latent}", "bold"), f" of {terminal_safe(cache.coder_name)} ")
    head.append(f"at {terminal_safe(cache.hookpoint)}\n", "dim")
    head.append(
        f"{stats.n_firings:,} firings in {stats.n_contexts:,} contexts, density "
        f"{100 * stats.density:.3f} %, mean {stats.mean_value:.3g}, max {stats.max_value:.3g}\n"
    )
    head.append(f"strength 0 {_bars(stats.histogram)} max", "")
    parts: list[RenderableType] = [head]
    for explanation in explanations:
        parts += ["", _explanation(explanation.explainer, explanation.text, explanation.failure)]
        parts += [
            Padding(_score_line(row), (0, 0, 0, 2))
            for row in rows
            if row["explanation_id"] == explanation.id
        ]
    if explanations:
        examples = studies.load_example_set(db, explanations[0].example_set_id)
        if examples is not None:
            parts += ["", Text("windows shown to explainers, strongest first", style="bold")]
            parts.append(_windows(_spread(examples.shown, n_windows), stats.max_value, console))
            parts += _mistakes(db, explanations[-1].id, examples.scored, stats.max_value, console)
    else:
        parts += ["", Text("no explanation yet: `lite-interp explain` makes one", style="italic")]
    return Group(*parts)


def _explanation(explainer: str, text: str | None, failure: str | None) -> Text:
    told = (terminal_safe(text), "bold") if text is not None else _none(failure)
    return Text.assemble((f"{terminal_safe(explainer)}: ", "dim"), told)


def _none(failure: str | None) -> tuple[str, str]:
    """What stands where there is no explanation, and its style."""
    return f"(none: {terminal_safe(failure or '')})", "italic"


def _score_line(row: dict[str, Any]) -> Text:
    line = f"{terminal_safe(row['scorer'])} ({terminal_safe(row['variant'])}) AUROC "
    if row["value"] is None:
        return Text(line + f"not defined: {row['n_active']} activating, {row['n_silent']} silent")
    line += f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    if row["null_value"] is not None:
        line += f", null {row['null_value']:.2f}"
    counts = f" ({row['n_active']} + {row['n_silent']} windows, {row['n_failed']} failed)"
    return Text(line + counts)


def _bars(histogram: Sequence[int]) -> str:
    """Counts as bars on a logarithmic scale, because most firings are weak."""
    most = math.log1p(max(histogram, default=0)) or 1.0
    return "".join(
        BARS[math.ceil(8 * math.log1p(count) / most) if count else 0] for count in histogram
    )


def _spread(placed: Sequence[Placed], n: int) -> list[Placed]:
    """Up to n windows, evenly over the strengths."""
    if len(placed) <= n:
        return list(placed)
    return [placed[round(k * (len(placed) - 1) / max(1, n - 1))] for k in range(n)]


def _windows(placed: Iterable[Placed], greatest: float, console: Console) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for window, _, _ in placed:
        table.add_row(f"{window.peak:.3g}", window_text(window, greatest, console))
    return table


def window_text(window: Window, greatest: float, console: Console) -> Text:
    """A window whose activating tokens can be seen, and how strongly: shade, or a digit 1 to 9.

    Without colours, or with only sixteen, the strength stands as a small digit behind the token:
    `year⁹`.
    """
    text = Text()
    # Sixteen colours have one yellow: not enough for five shades.
    coloured = console.color_system in ("256", "truecolor") and not console.no_color
    for token, level in zip(window.tokens, levels(window.values, greatest), strict=True):
        word = terminal_safe(one_row(token))
        if not level:
            text.append(word)
        elif coloured:
            space = word[: len(word) - len(word.lstrip(" "))]
            text.append(space)
            text.append(word[len(space) :], style=f"#1a1a1a on {SHADES[(int(level) - 1) // 2]}")
        else:
            text.append(word + _digit(min(9, int(level)), console))
    return text


def _digit(level: int, console: Console) -> str:
    return DIGITS[level] if console.encoding.startswith("utf") else f"[{level}]"


def _mistakes(
    db: Database, explanation_id: str, scored: Sequence[Placed], greatest: float, console: Console
) -> list[RenderableType]:
    """The scored windows that detection judged worst: missed ones and false alarms."""
    margins = studies.own_margins(db, explanation_id, "detection")
    judged = [placed for placed in scored if placed.window.id in margins]
    missed = sorted(
        (placed for placed in judged if placed.window.peak > 0),
        key=lambda placed: margins[placed.window.id],
    )
    alarms = sorted(
        (placed for placed in judged if placed.window.peak == 0),
        key=lambda placed: -margins[placed.window.id],
    )
    if not missed or not alarms:
        return []
    return [
        "",
        Text("activating windows the judge doubted most", style="bold"),
        _windows(missed[:2], greatest, console),
        "",
        Text("silent windows the judge believed most", style="bold"),
        _windows(alarms[:2], greatest, console),
    ]


def info_table(db: Database) -> Group:
    """What is in the file, and which commands made it."""
    parts: list[RenderableType] = []
    for cache in caches.load_caches(db):
        corpus = cache.corpus
        fit = json.loads(
            db.execute("select fit from coders where id = ?", [cache.coder_id]).fetchone()[0]
        )
        state = "complete" if cache.n_counted is not None else "not complete"
        parts.append(
            Text.assemble(
                (f"cache {terminal_safe(cache.id[3:11])}", "bold"),
                f" ({state})\n"
                f"  subject  {terminal_safe(cache.subject_path)}\n"
                f"  coder    {terminal_safe(cache.coder_name)}, {cache.n_latents:,} latents at "
                f"{terminal_safe(cache.hookpoint)}, FVU {fit['fvu']:.3f}, L0 {fit['l0']:.1f}\n"
                f"  corpus   {terminal_safe(corpus.name)}: {corpus.n_tokens:,} tokens, "
                f"{corpus.n_contexts:,} contexts of up to {corpus.n_ctx}, "
                f"{corpus.n_documents:,} documents, {corpus.n_skipped} left out",
            )
        )
    counts = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    counts.add_column()
    counts.add_column(justify="right")
    for table in ("example_sets", "windows", "explanations", "trials", "verdicts", "scores"):
        counts.add_row(table.replace("_", " "), f"{studies.count(db, table):,}")
    parts += ["", counts, ""]
    runs = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for column in ("run", "started", "ended", "outcome"):
        runs.add_column(column, overflow="fold")
    for row in db.query("select command, started_utc, ended_utc, outcome from runs order by id"):
        words = [row["command"], row["started_utc"], row["ended_utc"] or "–"]
        words.append(row["outcome"] or "killed, or still going on")
        runs.add_row(*(Text(terminal_safe(word)) for word in words))
    return Group(*parts, runs)


def models_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Known models, what they are for, how big, and where they are."""
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for column in ("name", "roles", "licence"):
        table.add_column(column, overflow="fold")
    table.add_column("MB", justify="right")
    table.add_column("installed", overflow="fold")
    for row in rows:
        table.add_row(
            row["name"],
            ", ".join(row["roles"]),
            row["licence"],
            f"{row['bytes'] / 1e6:,.0f}",
            Text(terminal_safe(row["installed"] or "no")),
        )
    return table
