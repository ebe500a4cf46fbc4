"""What the file says, for a terminal: one latent, where the file came from, models.

Everything shown comes from models, corpora and files, so every text goes through
`render.terminal_safe` and is never read as markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from sqlite_utils import Database

from lite_interp.compare.arms import called
from lite_interp.db import caches, details, steerings, studies, trials
from lite_interp.db.caches import CacheInfo
from lite_interp.db.report import set_steerings
from lite_interp.db.runs import load_runs
from lite_interp.details import details_lines
from lite_interp.records import LatentStats, Passage, Placed, Steering, Window
from lite_interp.render import levels, one_row, shortened, terminal_safe
from lite_interp.score_lines import drafts_lines, percent, score_lines, short, two
from lite_interp.terminal import CellText
from lite_interp.ways import Way, way_names, way_of

SHADES = ("#fdf3d8", "#fbe0a0", "#f8c662", "#f2a134", "#e0731a")
"""Backgrounds from weak to strong, dark letters on them: readable on dark and light terminals."""
DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
BARS = " ▁▂▃▄▅▆▇█"
N_LISTED = 6
"""Tokens and neighbours that are listed of each kind."""
N_PROMPTS = 3
"""Prompts whose continuations are shown."""
N_PROMPT_CHARACTERS = 48
"""Of the end of a prompt."""
MOST_TOKEN, MOST_TEXT, MOST_NAME = 200, 4000, 400
"""Characters that are shown of a token, of an explanation or continuation, of any other text."""
SPACE, NOTHING = "␣", "∅"
"""Stand for a firing token of spaces, and for one that holds a part of a character."""


def latent_page(
    db: Database,
    cache: CacheInfo,
    latent: int,
    n_windows: int,
    console: Console,
    unexplained: Sequence[Window] | str = (),
) -> RenderableType:
    """Everything the file has about one latent.

    Args:
        db: the file.
        cache: whose latent.
        latent: which.
        n_windows: windows to show.
        console: where it will be printed.
        unexplained: windows of a latent that nobody explained, or why there are none.
    """
    stats = caches.load_latent(db, cache.id, latent)
    names = way_names(trials.scored_ways(db, cache.id))
    rows = trials.load_scores(db, cache.id, latent)
    explanations = studies.load_explanations(db, cache.id, latent)
    ways = called(db, cache.id)
    parts: list[RenderableType] = [_head(cache, stats, console)]
    known = details.load_details(db, cache.id, latent)
    if known:
        parts.append(_facts(line.partition(": ")[::2] for line in details_lines(known, N_LISTED)))
    alone = [row for row in rows if row["explanation_id"] is None]
    if alone:
        parts += ["", Text("judged without an explanation", style="dim"), _scores(alone, names)]
    for explanation in explanations:
        own = [row for row in rows if row["explanation_id"] == explanation.id]
        whose = ways.get(explanation.id, explanation.explainer)
        parts += ["", _explanation(whose, explanation.text, explanation.failure)]
        parts += map(_indented, drafts_lines(explanation.detail))
        parts.append(_scores(own, names))
    if explanations:
        examples = studies.load_example_set(db, explanations[0].example_set_id)
        if examples is not None:
            parts += ["", Text("windows shown to explainers, strongest first", style="bold")]
            parts.append(_windows(_spread(examples.shown, n_windows), stats.max_value, console))
            parts += _mistakes(db, explanations[-1].id, examples.scored, stats.max_value, console)
            parts += _steerings(db, examples.id)
    else:
        parts += ["", Text("no explanation yet: `lite-interp explain` makes one", style="italic")]
        parts += _unexplained(unexplained, stats.max_value, console)
    return Group(*parts)


def _safe(text: str, most: int = MOST_NAME) -> str:
    return terminal_safe(shortened(text, most))


def _facts(pairs: Iterable[Sequence[str]]) -> Table:
    """Names with what is known; what is folded stands below where it begins."""
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for name, told in pairs:
        table.add_row(name, CellText(_safe(told)))
    return table


def _head(cache: CacheInfo, stats: LatentStats, console: Console) -> Text:
    head = Text.assemble((f"latent {stats.latent}", "bold"))
    head.append(f" of {_safe(cache.coder_name)} ")
    head.append(f"at {_safe(cache.hookpoint)}\n", "dim")
    head.append(
        f"{stats.n_firings:,} firings in {stats.n_contexts:,} contexts, density "
        f"{100 * stats.density:.3f} %, mean {stats.mean_value:.3g}, max {stats.max_value:.3g}\n"
    )
    return head.append(f"strength 0 {_bars(stats.histogram, console)} max", "")


def _scores(rows: Sequence[dict[str, Any]], names: Mapping[Way, str]) -> RenderableType:
    lines = [line for row in rows for line in score_lines(row, names[way_of(row)])]
    return Group(*(_indented(line) for line in lines))


def _indented(line: str) -> Padding:
    """A line two cells to the right, and what is folded below where it begins."""
    text = line.lstrip(" ")
    return Padding(CellText(text), (0, 0, 0, 2 + len(line) - len(text)))


def _explanation(whose: str, text: str | None, failure: str | None) -> Text:
    told = (_safe(text, MOST_TEXT), "bold") if text is not None else _none(failure)
    return Text.assemble((f"{_safe(whose)}: ", "dim"), told)


def _none(failure: str | None) -> tuple[str, str]:
    """What stands where there is no explanation, and its style."""
    return f"(none: {_safe(failure or '')})", "italic"


def _bars(histogram: Sequence[int], console: Console) -> str:
    """Counts as bars on a logarithmic scale, because most firings are weak; else as digits."""
    most = math.log1p(max(histogram, default=0)) or 1.0
    bars = BARS if console.encoding.startswith("utf") else " 12345678"
    return "".join(
        bars[math.ceil(8 * math.log1p(count) / most) if count else 0] for count in histogram
    )


def _spread(placed: Sequence[Placed], n: int) -> list[Placed]:
    """Up to n windows, evenly over the strengths."""
    if len(placed) <= n:
        return list(placed)
    return [placed[round(k * (len(placed) - 1) / max(1, n - 1))] for k in range(n)]


def _unexplained(
    windows: Sequence[Window] | str, greatest: float, console: Console
) -> list[RenderableType]:
    """Windows that were drawn only to be looked at; or why there are none."""
    if isinstance(windows, str):
        return [Text(f"its windows cannot be shown: {_safe(windows)}", style="dim")]
    if not windows:
        return []
    title = Text("windows it fires in, evenly over all strengths", style="bold")
    placed = [Placed(window, "", 1.0) for window in windows]
    return ["", title, _windows(placed, greatest, console)]


def _windows(placed: Iterable[Placed], greatest: float, console: Console) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for window, _, _ in placed:
        table.add_row(f"{window.peak:.3g}", window_text(window, greatest, console))
    return table


def window_text(window: Window, greatest: float, console: Console) -> CellText:
    """A window whose activating tokens can be seen, and how strongly: shade, or a digit 1 to 9.

    Without colours, or with only sixteen, the strength stands as a small digit behind the token:
    `year⁹`; where it is not clear that the token begins inside a word, in brackets: `un[like⁹]`.
    """
    text, behind = CellText(), " "
    # Sixteen colours have one yellow: not enough for five shades.
    coloured = console.color_system in ("256", "truecolor") and not console.no_color
    for token, level in zip(window.tokens, levels(window.values, greatest), strict=True):
        word = terminal_safe(one_row(shortened(token, MOST_TOKEN)))
        if not level:
            text.append(word)
        else:
            word = word if word.strip(" ") else SPACE * len(word) or NOTHING
            space = word[: len(word) - len(word.lstrip(" "))]
            word = word[len(space) :]
            text.append(space)
            if coloured:
                text.append(word, style=f"#1a1a1a on {SHADES[(int(level) - 1) // 2]}")
            else:
                marked = word + _digit(min(9, int(level)), console)
                begins = not space and word[0] not in (SPACE, NOTHING)
                inside = begins and behind.isalnum() and behind not in DIGITS
                text.append(f"[{marked}]" if inside else marked)
        behind = text.plain[-1:] or " "
    return text


def _digit(level: int, console: Console) -> str:
    return DIGITS[level] if console.encoding.startswith("utf") else f"[{level}]"


def _mistakes(
    db: Database, explanation_id: str, scored: Sequence[Placed], greatest: float, console: Console
) -> list[RenderableType]:
    """The scored windows that detection judged worst: missed ones and false alarms."""
    margins = trials.own_margins(db, explanation_id, "detection")
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


def _steerings(db: Database, example_set_id: str) -> list[RenderableType]:
    """What the subject wrote behind a few prompts, clean and steered side by side."""
    parts: list[RenderableType] = []
    for steering in [
        steerings.load_steering(db, each) for each in set_steerings(db, example_set_id)
    ]:
        if steering is not None:
            parts += ["", *(Text(line, style) for line, style in _steered(steering))]
            parts += [_continuations(steering.passages[:N_PROMPTS])] if steering.passages else []
    return parts


def _steered(steering: Steering) -> list[tuple[str, str]]:
    """How the subject was steered, in lines with their style."""
    settings, told = steering.settings, steering.promoted
    along = _safe(str(settings.get("direction", "decoder")))
    how = "ablated" if settings.get("ablate") else f"added along the {along} direction"
    title = f"what the subject writes with the latent {how}"
    if not settings.get("ablate"):
        title += f", KL {short(settings.get('kl'))} wanted"
    if steering.failure is not None:
        return [(f"{title}: nothing, {_safe(steering.failure)}", "bold")]
    title += f", {two(steering.kl_scored)} nats reached"
    lines = [(title, "bold")]
    tokens = [pair for pair in told.get("tokens", ()) if isinstance(pair, list) and len(pair) == 2]
    if tokens:
        words = "  ".join(f'"{pair[0]}" {two(pair[1], "+")}' for pair in tokens[:N_LISTED])
        lines.append((f"makes likelier: {_safe(words)}", ""))
    if "lens_steered" in told:
        shares = f"{percent(told['lens_steered'])} of what it writes, {percent(told['lens_clean'])}"
        lines.append((f"tokens that the latent promotes: {shares} without steering", ""))
    return lines


def _continuations(passages: Sequence[Passage]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name, ratio in (("… prompt", 2), ("clean", 3), ("steered", 3)):
        table.add_column(name, ratio=ratio, overflow="fold")
    for passage in passages:
        prompt = CellText(terminal_safe(passage.prompt[-N_PROMPT_CHARACTERS:]), "dim")
        for written in zip(passage.clean[:2], passage.steered[:2], strict=True):
            table.add_row(
                prompt, *(CellText(_safe(each.lstrip(" "), MOST_TEXT)) for each in written)
            )
            prompt = CellText("")
    return table


def info_table(db: Database) -> Group:
    """What is in the file, and which commands made it."""
    parts: list[RenderableType] = []
    for cache in caches.load_caches(db):
        corpus = cache.corpus
        fit = caches.coder_fit(db, cache.coder_id)
        # Nobody can say how well the coder of an imported cache reconstructs.
        fvu = "unknown" if fit["fvu"] is None else f"{fit['fvu']:.3f}"
        state = "complete" if cache.n_counted is not None else "not complete"
        parts += [
            Text.assemble((f"cache {_safe(cache.id[3:11])}", "bold"), f" ({state})"),
            _facts(
                [
                    ("  subject", cache.subject_path),
                    (
                        "  coder",
                        f"{cache.coder_name}, {cache.n_latents:,} latents at {cache.hookpoint}, "
                        f"FVU {fvu}, L0 {fit['l0']:.1f}",
                    ),
                    (
                        "  corpus",
                        f"{corpus.name}: {corpus.n_tokens:,} tokens, {corpus.n_contexts:,} "
                        f"contexts of up to {corpus.n_ctx}, {corpus.n_documents:,} documents, "
                        f"{corpus.n_skipped} left out",
                    ),
                ]
            ),
        ]
    counts = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    counts.add_column()
    counts.add_column(justify="right")
    for table in ("example_sets", "windows", "explanations", "trials", "verdicts", "scores"):
        counts.add_row(table.replace("_", " "), f"{studies.count(db, table):,}")
    parts += ["", counts, ""]
    runs = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for column in ("run", "started (UTC)", "ended", "outcome"):
        runs.add_column(column, overflow="fold")
    for row in load_runs(db):
        words = [row["command"], _time(row["started_utc"]), _time(row["ended_utc"] or "–")]
        words.append(row["outcome"] or "killed, or still going on")
        runs.add_row(*(CellText(_safe(word)) for word in words))
    return Group(*parts, runs)


def _time(stamp: str) -> str:
    """`2026-01-31 12:00:00`; what is no such time is left as it is."""
    return stamp.removesuffix("+00:00").replace("T", " ") if stamp.endswith("+00:00") else stamp


def models_table(rows: Sequence[dict[str, Any]], folder: str) -> Group:
    """Known models, what they are for, how big, which are installed, and in which folder."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("roles", "licence"):
        table.add_column(column, overflow="fold")
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("installed", no_wrap=True)
    for row in rows:
        words = [row["name"], ", ".join(row["roles"]), row["licence"]]
        words += [f"{row['bytes'] / 1e6:,.0f}", "yes" if row["installed"] else "no"]
        table.add_row(*(Text(terminal_safe(word)) for word in words))
    return Group(table, "", Text(f"folder of models: {terminal_safe(folder)}", "dim"))
