"""Records for machines: how `--json` prints them, one a line, safe for a terminal too."""

from __future__ import annotations

import codecs
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]


def print_records(records: Iterable[Row]) -> None:
    """Print each record as JSON on one line.

    Line breaks in texts are ↵ and control characters �; what else cannot be seen is escaped, so
    that no text can do anything to a terminal, and so is what stdout cannot write. A number that
    is none is null.
    """
    is_unicode = codecs.lookup(sys.stdout.encoding or "ascii").name.startswith("utf")
    for record in records:
        line = json.dumps(plain(record), ensure_ascii=not is_unicode, allow_nan=False)
        sys.stdout.write((line if line.isprintable() else _escaped(line)) + "\n")


def plain(value: Any) -> Any:
    """The same of what JSON has: no number that is none, no control character."""
    from lite_interp.render import one_row

    if isinstance(value, str):
        return value if value.isprintable() else one_row(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def _escaped(line: str) -> str:
    """JSON whose unseen characters, which stand in texts only, are escaped."""
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)
