"""A grid that was run, as tables for a terminal or Markdown: ours beside the paper's."""

from __future__ import annotations

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
from lite_interp.grid.conditions import BASE, SAMPLERS
from lite_interp.grid.table import (
    Told,
    by_decile,
    comparisons,
    difference_rows,
    load_told,
    score_rows,
)
from lite_interp.render import terminal_safe
from lite_interp.score_lines import chance, statistic_name
from lite_interp.ways import base

Form = Literal["terminal", "markdown"]

NOTE = (
    "n: latents with a score, of those explained. mean: over latents, with its 95 % interval. "
    "median: of the same (quartiles); accuracy: of the balanced accuracy at a threshold from other "
    "latents' windows. paper: arXiv 2410.13928, appendix F, medians of accuracy, for embedding of "
    "AUROC; another subject, coder and engine."
)
DIFFERENCES_NOTE = (
    "Mean over latents with its 95 % interval, paired by latent and window; p by Student's t, "
    "two-sided; q over all differences of the grid (Benjamini and Hochberg; they share the base, "
    "and raw and relative the verdicts, so they are not independent). visible: the smallest true "
    "difference that this run would have found in 80 % of cases. ** q < .05, * p < .05."
)
STRATA_NOTE = (
    "AUROC of the activating windows of a decile against all silent ones, A − B, mean over "
    "latents with its 95 % interval. weak − strong: whether A loses more on weak windows than on "
    "strong ones."
)
PAIRING = {"items": "", "latents": " (other windows)", "none": " (not paired)"}


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
    """Print what a grid says: Markdown, or tables for a terminal."""
    every = sheets(*_read(results, grid))
    for sheet, after in zip(every, [*every[1:], None], strict=True):
        # A note that holds for several tables stands under the last of them.
        if after is not None and after.note == sheet.note:
            sheet = sheet._replace(note="")
        if form == "markdown":
            console.out(markdown(sheet), highlight=False)
        else:
            _print_table(sheet, console)


def grid_records(results: Path, grid: str) -> list[dict[str, Any]]:
    """What a grid says as plain records: scores of each condition, then differences."""
    told, found = _read(results, grid)
    return [*score_rows(told), *difference_rows(found)]


def _read(results: Path, grid: str) -> tuple[list[Told], list[tuple[str, str, Comparison]]]:
    """Conditions, and their comparisons."""
    with read_results(results) as db:
        told = load_told(db, grid)
        return told, comparisons(db, told)


def sheets(told: Sequence[Told], found: Sequence[tuple[str, str, Comparison]]) -> list[Sheet]:
    """Scores and differences for each scorer, then samplers by decile."""
    scores = [row for row in score_rows(told) if row["variant"] == "raw"]
    differences = difference_rows(found)
    made = []
    for scorer in dict.fromkeys(row["scorer"] for row in scores):
        made.append(scores_sheet(scorer, [row for row in scores if row["scorer"] == scorer]))
    for way in dict.fromkeys((row["scorer"], row["variant"]) for row in differences):
        some = [row for row in differences if (row["scorer"], row["variant"]) == way]
        made.append(differences_sheet(", ".join(way), some))
    return [sheet for sheet in [*made, *strata_sheets(found)] if sheet.rows]


def scores_sheet(scorer: str, rows: Sequence[dict[str, Any]]) -> Sheet:
    """A row for each condition: ours, and the paper's beside it."""
    # The paper's figures of embedding are areas; what is no area has no accuracy.
    is_accuracy = base(scorer) != "embedding" and any(row["accuracy_quartiles"] for row in rows)
    cells = [
        (
            row["label"],
            _of(str(row["n"]), row["n_latents"] - row["n"], row["n_latents"])
            + (f" ({row['n_failed']} failed)" if row["n_failed"] else ""),
            _interval(row["mean"], row["low"], row["high"]),
            _spread(row["quartiles"]),
            *([_spread(row["accuracy_quartiles"])] if is_accuracy else []),
            _spread(row["paper"], median_first=True),
        )
        for row in rows
    ]
    header = ["condition", "n", "mean", "median", *(["accuracy"] if is_accuracy else []), "paper"]
    name = statistic_name(rows[0]["statistic"])
    return Sheet(f"Scores: {scorer}, {name}", tuple(header), cells, NOTE)


def _of(n: str, n_left_out: int, n_all: int) -> str:
    """A number of latents, and of how many if some have no number."""
    return f"{n} of {n_all}" if n_left_out else n


def differences_sheet(name: str, rows: Sequence[dict[str, Any]]) -> Sheet:
    """A row for each comparison in one way to score."""
    cells = []
    for row in rows:
        q_value, p_value = row["q"], row["p"]
        sure = "**" if q_value is not None and q_value < 0.05 else ""
        sure = sure or ("*" if p_value is not None and p_value < 0.05 else "")
        n = str(row["n"]) if row["pairing"] != "none" else f"{row['n']} + {row['n_against']}"
        n_all = row["n"] + (row["n_against"] if row["pairing"] == "none" else 0)
        n_left_out = sum(row["latents_left_out"].values())
        interval = _interval(row["difference"], row["low"], row["high"], signed=True)
        cells.append(
            (
                f"{row['condition']} − {row['against']}{PAIRING[row['pairing']]}",
                _of(n, n_left_out, n_all + n_left_out),
                interval + sure if row["difference"] is not None else row["reason"] or "–",
                chance(p_value),
                chance(q_value),
                _number(row["visible"]),
                f"{row['n_up']}/{row['n_down']}",
            )
        )
    header = ("A − B", "n", "difference", "p", "q", "visible", "up/down")
    return Sheet(f"Differences: {name}", header, cells, DIFFERENCES_NOTE)


def strata_sheets(found: Sequence[tuple[str, str, Comparison]]) -> list[Sheet]:
    """Samplers by decile: is one that shows the strongest windows worse on the weak ones?"""
    chosen = [each for each in found if each[0] in SAMPLERS and each[1] == BASE and each[2].strata]
    made = []
    for way in dict.fromkeys((one.scorer, one.variant) for _, _, one in chosen):
        some = [each for each in chosen if (each[2].scorer, each[2].variant) == way]
        columns = {f"{name} − {against}": by_decile(one) for name, against, one in some}
        names = dict.fromkeys(name for column in columns.values() for name in column)
        rows = [
            (name, *(_interval(*column[name], signed=True) for column in columns.values()))
            for name in names
            if all(name in column for column in columns.values())
        ]
        header = ("windows", *columns)
        made.append(Sheet(f"Samplers by decile: {', '.join(way)}", header, rows, STRATA_NOTE))
    return made


def _number(value: float | None, sign: str = "") -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{sign}.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.3f}"


def _interval(
    value: float | None, low: float | None, high: float | None, signed: bool = False
) -> str:
    sign = "+" if signed else ""
    told = _number(value, sign)
    return told if told == "–" else f"{told} [{_number(low, sign)}, {_number(high, sign)}]"


def _spread(quartiles: Any, median_first: bool = False) -> str:
    """`.74 (.63-.85)`: median (lower-upper quartile)."""
    if not quartiles:
        return "–"
    told = ["?" if each is None else f"{each:.2f}".removeprefix("0") for each in quartiles]
    middle, low, high = told if median_first else (told[1], told[0], told[2])
    return f"{middle} ({low}-{high})"


def markdown(sheet: Sheet) -> str:
    """A table as Markdown."""
    lines = [
        f"### {_cell(sheet.title)}",
        "",
        _line(sheet.header),
        _line(["---"] * len(sheet.header)),
    ]
    note = [sheet.note, ""] if sheet.note else []
    return "\n".join([*lines, *map(_line, sheet.rows), "", *note])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """A text of others that can end no cell, and be no link, image or HTML."""
    plain = one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def _print_table(sheet: Sheet, console: Console) -> None:
    table = Table(
        title=Text(terminal_safe(sheet.title)),
        box=None,
        padding=(0, 1, 0, 0),
        title_justify="left",
        header_style="bold",
    )
    for number, name in enumerate(sheet.header):
        left = number == 0
        table.add_column(
            Text(terminal_safe(name)),
            justify="left" if left else "right",
            overflow="fold",
        )
    for row in sheet.rows:
        table.add_row(*(Text(terminal_safe(cell)) for cell in row))
    console.print(table)
    if sheet.note:
        console.print(Text(sheet.note, style="dim"))
    console.print()
