"""Windows, example sets and explanations in the results file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from sqlite_utils import Database

from lite_interp.db.file import add
from lite_interp.records import ExampleSet, Explanation, Placed, Role, Usage, Window
from lite_interp.render import marked_text


def store_example_set(db: Database, cache_id: str, examples: ExampleSet) -> None:
    """Store an example set with its windows, readable as they are, all or nothing."""
    with db.atomic():
        row = {
            "id": examples.id,
            "cache_id": cache_id,
            "latent": examples.latent,
            "sampler": examples.sampler,
            "settings": dict(examples.settings),
            "seed": examples.seed,
        }
        add(db, "example_sets", row)
        for role, placed in _roles(examples).items():
            for ordinal, (window, stratum, weight) in enumerate(placed):
                add(db, "windows", _window_row(cache_id, window))
                add(
                    db,
                    "example_set_windows",
                    {
                        "example_set_id": examples.id,
                        "role": role,
                        "ordinal": ordinal,
                        "window_id": window.id,
                        "stratum": stratum,
                        "weight": weight,
                    },
                )


def _roles(examples: ExampleSet) -> dict[Role, tuple[Placed, ...]]:
    return {
        "shown": examples.shown,
        "scored": examples.scored,
        "held_out": examples.held_out,
    }


def _window_row(cache_id: str, window: Window) -> dict[str, Any]:
    """Values are rounded first: the marks in the file are those of the window read back."""
    acts = [float(f"{value:.5g}") for value in window.values]
    window = replace(window, values=np.array(acts, np.float32))
    return {
        "id": window.id,
        "cache_id": cache_id,
        "latent": window.latent,
        "context": window.context,
        "start": window.start,
        "max_value": window.peak,
        "marked": marked_text(window),
        "tokens": list(window.tokens),
        "acts": acts,
    }


def load_example_set(db: Database, example_set_id: str) -> ExampleSet | None:
    """An example set with its windows, or None if it is not in the file."""
    row = next(db.query("select * from example_sets where id = ?", [example_set_id]), None)
    if row is None:
        return None
    windows = list(
        db.query(
            """select role, stratum, weight, windows.* from example_set_windows
               join windows on windows.id = window_id
               where example_set_id = ? order by role, ordinal""",
            [example_set_id],
        )
    )
    placed = {
        role: tuple(
            Placed(_window(found), found["stratum"], found["weight"])
            for found in windows
            if found["role"] == role
        )
        for role in ("shown", "scored", "held_out")
    }
    return ExampleSet(
        row["id"],
        row["latent"],
        row["sampler"],
        json.loads(row["settings"]),
        row["seed"],
        placed["shown"],
        placed["scored"],
        placed["held_out"],
    )


def _window(row: dict[str, Any]) -> Window:
    return Window(
        row["id"],
        row["latent"],
        row["context"],
        row["start"],
        tuple(json.loads(row["tokens"])),
        np.array(json.loads(row["acts"]), np.float32),
    )


def store_explanations(
    db: Database, cache_id: str, found: Iterable[tuple[Explanation, Usage]]
) -> None:
    """Store explanations, or the reasons why there are none, with what they cost: all or none."""
    with db.atomic():
        for explanation, usage in found:
            row = {
                "id": explanation.id,
                "cache_id": cache_id,
                "latent": explanation.latent,
                "example_set_id": explanation.example_set_id,
                "explainer": explanation.explainer,
                "prompt_id": explanation.prompt_id,
                "engine_id": explanation.engine_id,
                "settings": dict(explanation.settings),
                "text": explanation.text,
                "raw": explanation.raw,
                "failure": explanation.failure,
                "detail": None if explanation.detail is None else dict(explanation.detail),
                **usage._asdict(),
            }
            add(db, "explanations", row)


def load_explanations(db: Database, cache_id: str, latent: int | None = None) -> list[Explanation]:
    """Every explanation of a cache, or of one latent, in order of latent, then of writing."""
    rows = db.query(
        """select id, latent, example_set_id, explainer, prompt_id, engine_id, settings, text,
                  raw, failure, detail
           from explanations where cache_id = :cache and (:latent is null or latent = :latent)
           order by latent, rowid""",
        {"cache": cache_id, "latent": latent},
    )
    return [
        Explanation(
            **{
                **row,
                "settings": json.loads(row["settings"]),
                "detail": json.loads(row["detail"] or "null"),
            }
        )
        for row in rows
    ]


def known(db: Database, table: str, row_id: str) -> bool:
    """Whether a row of this content id is in the file: whether a question was answered."""
    return bool(db.execute(f"select 1 from {table} where id = ?", [row_id]).fetchone())


def has_scored(db: Database, example_set_id: str) -> bool:
    """Whether an example set has windows to score."""
    row = db.execute(
        "select 1 from example_set_windows where example_set_id = ? and role = 'scored' limit 1",
        [example_set_id],
    )
    return row.fetchone() is not None


def count(db: Database, table: str) -> int:
    """Rows of a table."""
    return int(db.execute(f"select count(*) from {table}").fetchone()[0])


FEW = 10
"""Activating windows to score, below which a latent's scores say little."""


def few_windows(db: Database, example_set_ids: Iterable[str]) -> list[tuple[int, int]]:
    """(latent, activating windows to score) of the example sets that have only a few."""
    found: dict[int, int] = {}
    for example_set_id in dict.fromkeys(example_set_ids):
        latent, n = db.execute(
            """select latent, count(window_id) from example_sets left join example_set_windows
               on example_set_id = id and role = 'scored' and stratum like 'decile%'
               where id = ?""",
            [example_set_id],
        ).fetchone()
        if n < FEW:
            found[latent] = n
    return sorted(found.items())
