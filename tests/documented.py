"""What docs/records.toml says of the records that `--json` prints."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

from lite_interp.prompts import tomllib

PATH = Path(__file__).parent.parent / "docs" / "records.toml"
RECORDS = tomllib.loads(PATH.read_text(encoding="utf-8"))


def printed(out: str) -> list[dict]:
    """The records, a line each, that no terminal minds."""
    assert not out or out.endswith("\n")
    for line in out.removesuffix("\n").split("\n"):
        assert line.isprintable()
    rows = [json.loads(line) for line in out.splitlines()]
    for text in texts(rows):
        assert not any(unicodedata.category(each) in ("Cc", "Cs") for each in text)
    return rows


def texts(value):
    """Every text in a record, names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


def check_records(
    command: str, out: str, kinds: set[str] | None = None, all_fields: bool = True
) -> list[dict]:
    """Records have the fields that are documented for the command: no other, and none missing.

    Args:
        command: its name.
        out: what it printed.
        kinds: kinds of record that must be there; None = all that are documented.
        all_fields: whether each documented field must be there.
    """
    rows, known = printed(out), RECORDS[command]
    by_kind: dict[str, set[str]] = {}
    for row in rows:
        by_kind.setdefault(row.get("kind", "record"), set()).update(row.keys() - {"kind"})
    assert (set(known) if kinds is None else kinds) == set(by_kind)
    for kind, names in by_kind.items():
        missing, others = compared(set(known[kind]), names)
        assert others == set(), f"{command}, {kind}"
        assert missing == set() or not all_fields, f"{command}, {kind}"
    return rows


def compared(documented: set[str], names: set[str]) -> tuple[set[str], set[str]]:
    """Fields that are documented and not there; those that are there and not documented."""
    ends = [name.removeprefix("WAY") for name in documented if name.startswith("WAY")]
    plain = {name for name in documented if not name.startswith("WAY")}
    others = names - plain
    seen = {end for end in ends if end and any(name.endswith(end) for name in others)}
    pattern = "|".join(re.escape(end) for end in ends if end)
    ways = {name for name in others if not re.search(f"({pattern})$", name)} if ends else set()
    stray = {name for name in others if not any(name == way + end for way in ways for end in ends)}
    missing = {f"WAY{end}" for end in ends if end and end not in seen}
    return (plain - names) | missing, stray
