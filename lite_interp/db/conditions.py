"""The conditions of a grid in the results file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlite_utils import Database

from lite_interp.ids import canonical_json


class ConditionRow(NamedTuple):
    """One condition that was run."""

    grid: str
    """Name of the grid."""
    name: str
    """Name of the condition."""
    ordinal: int
    """Its place in the grid."""
    part: str
    """What it varies."""
    label: str
    """It in words."""
    against: Sequence[str]
    """Conditions that it is compared with."""
    settings: Mapping[str, Any]
    """The whole study, with what was changed."""
    cache_id: str
    """The cache."""
    judge_id: str
    """The engine that judged; empty if none did."""
    explanation_ids: Sequence[str]
    """Its explanations, failed ones among them."""


def store_condition(db: Database, row: ConditionRow) -> None:
    """Note a condition that is finished; one of the same name is replaced."""
    values = {
        key: canonical_json(value) if key in ("against", "settings", "explanation_ids") else value
        for key, value in row._asdict().items()
    }
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    with db.atomic():
        db.execute(f"insert or replace into conditions ({names}) values ({marks})", values)


def drop_others(db: Database, base: ConditionRow) -> int:
    """Forget the conditions of a grid that belong to another base; returns how many.

    They were compared with other explanations, or judged by another engine: beside a new base
    they would make one table of two studies. What was explained and judged stays in the file.
    """
    known = {row.name: row for row in load_conditions(db, base.grid)}
    if not known or (base.name in known and _meaning(known[base.name]) == _meaning(base)):
        return 0
    db.execute("delete from conditions where grid = ?", [base.grid])
    return len(known)


def _meaning(row: ConditionRow) -> tuple[str, str, list[str]]:
    return row.cache_id, row.judge_id, sorted(row.explanation_ids)


def load_conditions(db: Database, grid: str) -> list[ConditionRow]:
    """The conditions of a grid that are finished, in its order."""
    names = ", ".join(ConditionRow._fields)
    rows = db.execute(
        f"select {names} from conditions where grid = ? order by ordinal, name", [grid]
    )
    found = [ConditionRow(*row) for row in rows.fetchall()]
    return [
        row._replace(
            against=json.loads(str(row.against)),
            settings=json.loads(str(row.settings)),
            explanation_ids=json.loads(str(row.explanation_ids)),
        )
        for row in found
    ]
