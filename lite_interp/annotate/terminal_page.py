"""A question for a terminal; every text in it may be hostile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lite_interp.db.ratings import RatingCount
from lite_interp.records import Window
from lite_interp.render import mark, terminal_safe
from lite_interp.view import window_text

FIRES, SILENT = "it fires in (shade or digit: how strongly)", "it is silent in"
"""Titles of windows."""
MARKED = "bold reverse"
"""Style of marked words, where there are styles; else they stand between << and >>."""


def question_page(record: dict[str, Any], place: str, console: Console) -> RenderableType:
    """A `question_record` with all that can be answered.

    Args:
        record: the question.
        place: how far the rater is: `12 of 240`.
        console: where it is shown: decides how strength and marks are.
    """
    parts: list[RenderableType] = ["", Text(place, "dim")]
    if record["explanation"] is not None:
        told = terminal_safe(record["explanation"])
        parts += ["", Text.assemble(("explanation: ", "dim"), (told, "bold")), ""]
    if record["task"] == "explanation":
        parts += _rated(record, console)
    else:
        shown = [_judged(each, console) for each in record["windows"]]
        parts += [_rows(shown, numbered=record["task"] == "intruder"), ""]
    parts.append(Text(record["ask"], "bold"))
    for value, label in record["answers"]:
        parts.append(Text(f"  {value}  {label}"))
    return Group(*parts)


def _rated(record: dict[str, Any], console: Console) -> list[RenderableType]:
    """The windows in which the latent fires, and those in which it does not."""
    parts: list[RenderableType] = []
    for title, fires in ((FIRES, True), (SILENT, False)):
        windows = [each for each in record["windows"] if bool(each["fires"]) is fires]
        if windows:
            shown = [_fired(each, record["max"], console) for each in windows]
            parts += [Text(title, "dim"), _rows(shown), ""]
    return parts


def _fired(window: dict[str, Any], greatest: float, console: Console) -> Text:
    values = np.zeros(len(window["tokens"]), np.float32)
    for place, value in window["fires"]:
        values[place] = value
    return window_text(Window("", 0, 0, 0, tuple(window["tokens"]), values), greatest, console)


def _judged(window: dict[str, Any], console: Console) -> Text:
    """A window as a judge sees it; marks are a style, or brackets where there is none."""
    tokens = [terminal_safe(token) for token in window["tokens"]]
    marks = window.get("marks", ())
    marked = [place in marks for place in range(len(tokens))]
    if console.color_system is None or console.no_color:
        return Text(mark(tokens, marked))
    text = Text()
    for token, is_marked in zip(tokens, marked, strict=True):
        space = token[: len(token) - len(token.lstrip(" "))]
        text.append(space)
        text.append(token[len(space) :], MARKED if is_marked else "")
    return text


def _rows(windows: Sequence[Text], numbered: bool = False) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for number, window in enumerate(windows, 1):
        table.add_row(str(number) if numbered else "·", window)
    return table


def status_table(counts: Sequence[RatingCount]) -> Table | Text:
    """Who has answered how much."""
    if not counts:
        return Text("nobody has answered anything yet", "italic")
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("rater", overflow="fold")
    table.add_column("task")
    table.add_column("answers", justify="right")
    for each in counts:
        table.add_row(
            Text(terminal_safe(each.rater)), Text(terminal_safe(each.task)), f"{each.n:,}"
        )
    return table
