"""A grid that was run, as tables for a terminal or Markdown: ours beside the paper's."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lite_interp.compare.comparing import Comparison
from lite_interp.db.file import read_results
from lite_interp.errors import one_line
from lite_interp.grid.conditions import BASE
from lite_interp.grid.table import Told, comparisons, difference_rows, load_told, score_rows
from lite_interp.render import terminal_safe

Form = Literal["terminal", "markdown", "json"]

NOTE = (
    "AUROC: mean over latents with its 95 % interval. acc: median (quartiles) of the balanced "
    "accuracy at a threshold from other latents. paper: median (quartiles) of accuracy (embedding: "
    "AUROC), arXiv 2410.13928, appendix F; another subject, coder and engine."
)
DIFFERENCES_NOTE = (
    "Paired by latent and window, mean over latents; p by Student's t, two-sided; q over the rows "
    "of this table (Benjamini and Hochberg). visible: the smallest true difference that this run "
    "would have found in 80 % of cases."
)


class Sheet(NamedTuple):
    """A table before it is printed."""

    title: str
    """What it shows."""
    header: tuple[str, ...]
    """Names of its columns."""
    rows: list[tuple[str, ...]]
    """Cells."""
    note: str
    """What stands under it."""


def print_grid(results: Path, grid: str, form: Form, console: Console) -> None:
    """Print what a grid says: JSON lines, Markdown, or tables for a terminal."""
    with read_results(results) as db:
        told = load_told(db, grid)
        found = comparisons(db, told)
    if form == "json":
        for row in [*score_rows(told), *difference_rows(found)]:
            console.out(json.dumps(row, ensure_ascii=False), highlight=False)
        return
    for sheet in (scores_sheet(told), differences_sheet(found), strata_sheet(found)):
        if not sheet.rows:
            continue
        if form == "markdown":
            console.out(markdown(sheet), highlight=False)
        else:
            _print_table(sheet, console)


def scores_sheet(told: Sequence[Told]) -> Sheet:
    """A row for each condition: ours, and the paper's beside it."""
    rows = [row for row in score_rows(told) if row["variant"] == "raw"]
    scorers = list(dict.fromkeys(row["scorer"] for row in rows))
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["condition"], {})[row["scorer"]] = row
    header = ["condition", "n", "failed"]
    for scorer in scorers:
        header += [scorer, *(["acc"] if scorer != "embedding" else []), "paper"]
    cells = []
    for some in by_name.values():
        first = next(iter(some.values()))
        line = [first["label"], str(first["n"]), str(first["n_failed"])]
        for scorer in scorers:
            row = some.get(scorer)
            line.append(_interval(row["mean"], row["low"], row["high"]) if row else "–")
            if scorer != "embedding":
                line.append(_spread(row and row["accuracy_quartiles"]))
            line.append(_spread(row and row["paper"], median_first=True))
        cells.append(tuple(line))
    return Sheet("Scores", tuple(header), cells, NOTE)


def differences_sheet(found: Sequence[tuple[str, str, Comparison]]) -> Sheet:
    """A row for each comparison in each way to score."""
    cells = []
    for row in difference_rows(found):
        if row["difference"] is None:
            verdict = row["reason"] or "–"
        elif row["q"] is not None and row["q"] < 0.05:
            verdict = "told apart"
        else:
            verdict = "told apart (p only)" if (row["p"] or 1) < 0.05 else "not told apart"
        cells.append(
            (
                f"{row['condition']} − {row['against']}",
                f"{row['scorer']}, {row['variant']}",
                str(row["n"]),
                _interval(row["difference"], row["low"], row["high"], signed=True),
                _number(row["p"]),
                _number(row["q"]),
                _number(row["visible"]),
                f"{row['n_up']}/{row['n_down']}",
                verdict
                + {"items": "", "latents": "; other windows", "none": "; not paired"}[
                    row["pairing"]
                ],
            )
        )
    header = ("A − B", "score", "n", "difference", "p", "q", "visible", "up/down", "")
    return Sheet("Differences", header, cells, DIFFERENCES_NOTE)


def strata_sheet(found: Sequence[tuple[str, str, Comparison]]) -> Sheet:
    """Samplers by decile: is one that shows the strongest windows worse on the weak ones?"""
    chosen = [each for each in found if each[0] in ("top", "random", "mix") and each[1] == BASE]
    names = sorted({stratum.name for _, _, one in chosen for stratum in one.strata})
    rows = []
    for name, against, one in chosen:
        by_name = {stratum.name: stratum.means.difference for stratum in one.strata}
        if by_name:
            cells = [
                _interval(*by_name[each], signed=True) if each in by_name else "–" for each in names
            ]
            rows.append((f"{name} − {against}", f"{one.scorer}, {one.variant}", *cells))
    header = ("A − B", "score", *(name.replace("decile_", "d") for name in names))
    return Sheet(
        "Samplers by decile (d0 the strongest)",
        header,
        rows,
        "AUROC of the stratum against all windows of the other side, A − B.",
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _interval(
    value: float | None, low: float | None, high: float | None, signed: bool = False
) -> str:
    sign = "+" if signed else ""

    def told(number: float | None) -> str:
        return (
            "–"
            if number is None or math.isnan(number)
            else f"{number:{sign}.3f}".replace("0.", ".", 1)
        )

    if value is None or math.isnan(value):
        return "–"
    return f"{told(value)} [{told(low)}, {told(high)}]"


def _spread(quartiles: Any, median_first: bool = False) -> str:
    """`.74 (.63-.85)`: median (lower-upper quartile)."""
    if not quartiles:
        return "–"
    told = ["?" if each is None else f"{each:.2f}".removeprefix("0") for each in quartiles]
    middle, low, high = told if median_first else (told[1], told[0], told[2])
    return f"{middle} ({low}-{high})"


def markdown(sheet: Sheet) -> str:
    """A table as Markdown."""
    lines = [f"### {sheet.title}", "", _line(sheet.header), _line(["---"] * len(sheet.header))]
    return "\n".join([*lines, *map(_line, sheet.rows), "", sheet.note, ""])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _print_table(sheet: Sheet, console: Console) -> None:
    table = Table(
        title=sheet.title, box=None, padding=(0, 1, 0, 0), title_justify="left", header_style="bold"
    )
    for number, name in enumerate(sheet.header):
        table.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(terminal_safe(cell)) for cell in row))
    console.print(table)
    console.print(Text(sheet.note, style="dim"))
    console.print()
