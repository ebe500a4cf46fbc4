"""What was found, as a table in a terminal; every text in it may be hostile."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lite_interp.db.search import Span
from lite_interp.render import shortened, terminal_safe
from lite_interp.score_lines import short
from lite_interp.search.finding import Hit
from lite_interp.terminal import CellText
from lite_interp.ways import header, in_order

WINDOW_CHARACTERS, EXPLANATION_CHARACTERS = 100, 400
"""Of a text that are shown, around the first word that was found."""


def hits_table(hits: Sequence[Hit], console: Console) -> Table:
    """A row for each latent: its explanation, and the window it fires in most.

    What was found is bold; where there is no bold, it stands in [brackets].
    """
    name = next(iter(in_order({hit.told.score[0] for hit in hits if hit.told.score})), None)
    near = any(hit.cosine is not None for hit in hits)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    score = "\n".join(map(terminal_safe, header(name).split("\n"))) if name else ""
    for head in ("latent", score, "density", "cos" if near else ""):
        if head:
            table.add_column(Text(head), justify="right", no_wrap=True)
    table.add_column("explanation", ratio=1, overflow="fold")
    for hit in hits:
        cells = [str(hit.told.latent)]
        if name:
            cells.append(short(hit.told.scores.get(name, {}).get("value")))
        cells.append(f"{100 * hit.told.density:.2f}%")
        if near:
            cells.append(short(hit.cosine))
        table.add_row(*map(Text, cells), _told(hit, console.is_terminal))
    return table


def _told(hit: Hit, bold: bool) -> Text:
    """The explanation, or what stands for it; below it the window."""
    if hit.told.explanation is not None:
        text = _marked(*_excerpt(hit.explanation, hit.spans, EXPLANATION_CHARACTERS), bold)
    else:
        words = terminal_safe(shortened(hit.told.words or "unknown", EXPLANATION_CHARACTERS))
        text = CellText(f"(no explanation; fires on: {words})", "italic")
    if hit.window:
        on = "fires on it " if hit.on_words else ""
        places = f"\n{on}in {hit.n_windows} window{'s' * (hit.n_windows != 1)}: "
        window = _marked(*_excerpt(hit.window, hit.window_spans, WINDOW_CHARACTERS), bold)
        text = CellText.assemble(text, (places, "dim"), window)
    return text


def _marked(text: str, spans: Sequence[Span], bold: bool) -> Text:
    marked, end = CellText(), 0
    for first, behind in spans:
        marked.append(terminal_safe(text[end:first]))
        found = terminal_safe(text[first:behind])
        marked.append(found if bold else f"[{found}]", "bold underline" if bold else "")
        end = behind
    return marked.append(terminal_safe(text[end:]))


def _excerpt(text: str, spans: Sequence[Span], length: int) -> tuple[str, list[Span]]:
    """The part of a text around the first word that was found, and where words stand in it."""
    first = spans[0][0] if spans else 0
    start = min(max(0, first - length // 2), max(0, len(text) - length))
    stop = start + length
    before, behind = "…" * (start > 0), "…" * (stop < len(text))
    move = len(before) - start
    inside = [(a + move, b + move) for a, b in spans if start <= a and b <= stop]
    return before + text[start:stop] + behind, inside
