"""Parquet: the table with types, lists and whole texts, by the optional `pyarrow`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lite_interp.errors import UsageError
from lite_interp.export.base import Export, Row
from lite_interp.export.writing import json_text, tidy, tidy_text

GROUP_ROWS = 4096
"""Rows that are in memory at once."""
TOKEN_LISTS = ("top_tokens", "promoted", "suppressed")


def write(export: Export, place: Path) -> None:
    """Write a row for each explanation, in groups, compressed with zstandard.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(
            "Parquet is written by pyarrow, which is not installed",
            "pip install lite-interp[export]",
        ) from None
    columns = export.columns(with_tail=True)
    schema = pyarrow.schema([(tidy_text(name), _type(name, columns[name])) for name in columns])
    with pyarrow.parquet.ParquetWriter(place, schema, compression="zstd") as file:
        for rows in _groups(export.rows(with_tail=True)):
            plain = [_plain(row) for row in rows]
            file.write_table(pyarrow.Table.from_pylist(plain, schema=schema))


def _type(name: str, kind: type) -> Any:
    import pyarrow

    if kind is list:
        token = pyarrow.struct([("token", pyarrow.string()), ("value", pyarrow.float64())])
        return pyarrow.list_(token if name in TOKEN_LISTS else pyarrow.string())
    plain = {int: pyarrow.int64(), float: pyarrow.float64()}
    return plain.get(kind, pyarrow.string())


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    while group := list(islice(rest, GROUP_ROWS)):
        yield group


def _plain(row: Row) -> Row:
    """Token lists as records, settings as JSON text."""
    found = tidy(
        {**row, "settings": None if row["settings"] is None else json_text(row["settings"])}
    )
    for name in TOKEN_LISTS:
        if row[name] is not None:
            found[name] = [{"token": text, "value": value} for text, value in found[name]]
    return found
