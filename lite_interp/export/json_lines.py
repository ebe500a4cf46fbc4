"""JSON lines: one object for each explanation, as `import` reads it."""

from __future__ import annotations

from pathlib import Path

from lite_interp.export.base import Export
from lite_interp.export.writing import json_line


def write(export: Export, place: Path) -> None:
    """Write one line for each explanation, every key in every line."""
    with place.open("wb") as file:
        for row in export.rows(with_tail=True):
            file.write(json_line(row))
