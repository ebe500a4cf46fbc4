"""Plain rows: sort and filter by any column."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any

from lite_interp.errors import UsageError, nearest, one_line

COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}

FILTER = re.compile(
    r"\s*(\w+(?:@[^<>!\s]+?)?)\s*(>=|<=|!=|>|<|=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
)

Row = dict[str, Any]


def sort_rows(rows: Sequence[Row], column: str, down: bool) -> list[Row]:
    """Rows in the order of a column; those without a value come last."""
    _check(rows, column)
    there = [row for row in rows if row.get(column) is not None]
    absent = [row for row in rows if row.get(column) is None]
    return sorted(there, key=lambda row: row[column], reverse=down) + absent


def filter_rows(rows: Sequence[Row], filters: Sequence[str]) -> list[Row]:
    """Rows for which every filter `column OPERATOR number` holds; without a value it doesn't."""
    kept = list(rows)
    for text in filters:
        match = FILTER.fullmatch(text)
        if match is None:
            raise UsageError(f"not a filter: {one_line(text)}", "for example: detection>0.7")
        column, sign, number = match.groups()
        _check(rows, column)
        wrong = [row for row in rows if isinstance(row.get(column), str)]
        if wrong:
            raise UsageError(f"not a column of numbers: {column}")
        holds = COMPARE[sign]
        kept = [
            row for row in kept if row.get(column) is not None and holds(row[column], float(number))
        ]
    return kept


def _check(rows: Sequence[Row], column: str) -> None:
    known = {key for row in rows for key in row}
    if rows and column not in known:
        raise UsageError(f"no column is named: {one_line(column)}", nearest(column, known))
