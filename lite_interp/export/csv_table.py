"""A table with commas, for spreadsheets and for `import`.

A spreadsheet runs a cell that begins with one of `= + - @` as a formula, and some do so behind
spaces, tabs or line breaks. Such a text gets a `'` before it; `cells.plain_cell` takes it off
again, and so does `import`. Numbers are no texts: they stay as they are.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lite_interp.export.base import Export
from lite_interp.export.writing import json_text, tidy_text
from lite_interp.outside.cells import safe_cell
from lite_interp.render import one_row


def write(export: Export, place: Path) -> None:
    """Write the names of the columns, then a line for each explanation."""
    columns = export.columns(with_tail=False)
    with io.TextIOWrapper(place.open("wb"), "utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([safe_cell(one_row(tidy_text(name))) for name in columns])
        for row in export.rows(with_tail=False):
            lines.writerow([cell(row[name]) for name in columns])


def cell(value: Any) -> str | int | float:
    """What stands in a cell: a number, a text on one line, or JSON; empty for None."""
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return value if value == value else ""
    text = value if isinstance(value, str) else json_text(value)
    return safe_cell(one_row(tidy_text(text)))
