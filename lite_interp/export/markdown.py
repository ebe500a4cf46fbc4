"""A table for a README or an issue: what the latents mean, and how each explanation scores.

Every character that Markdown or HTML would read as theirs is escaped.
"""

from __future__ import annotations

import re
from pathlib import Path

from lite_interp.export.base import Export
from lite_interp.export.writing import tidy_text
from lite_interp.render import terminal_safe
from lite_interp.score_lines import short
from lite_interp.ways import in_order

_THEIRS = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$@:/^=])")
MOST_CHARACTERS = 500
"""Of a text: a table with longer ones cannot be read."""


def write(export: Export, place: Path) -> None:
    """Write the table: latent, density, explanation, who wrote it, scores, diagnosis."""
    names = in_order(export.names.values())
    heads = ["latent", "density", "explanation", "source", *names, "diagnosis"]
    marks = ["---:", "---:", "---", "---", *["---:"] * len(names), "---"]
    with place.open("w", encoding="utf-8", newline="\n") as file:
        file.write(_line([*map(escaped, heads)]) + _line(marks))
        for row in export.rows(with_tail=False):
            told = escaped(row["explanation"] or "")
            if row["explanation"] is None:
                told = f"*none: {escaped(row['failure'] or '')}*"
            cells = [str(row["latent"]), f"{100 * row['density']:.2f}%", told]
            cells += [escaped(row["source"] or ""), *(short(row[name]) for name in names)]
            file.write(_line([*cells, escaped(row["diagnosis"] or "")]))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def escaped(text: str) -> str:
    """A text on one line that Markdown shows as it is."""
    plain = terminal_safe(tidy_text(text))
    if len(plain) > MOST_CHARACTERS:
        plain = plain[:MOST_CHARACTERS] + "…"
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _THEIRS.sub(r"\\\1", plain)
