"""Steering and continuations in the results file."""

from __future__ import annotations

import json

from sqlite_utils import Database

from lite_interp.db.file import add
from lite_interp.records import Passage, Steering


def store_steering(db: Database, steering: Steering, seconds: float) -> None:
    """Store how the subject was steered and what it wrote, all or nothing."""
    with db.atomic():
        row = {
            "id": steering.id,
            "example_set_id": steering.example_set_id,
            "settings": dict(steering.settings),
            "strength": steering.strength,
            "kl_tuned": steering.kl_tuned,
            "kl_scored": steering.kl_scored,
            "promoted": dict(steering.promoted),
            "failure": steering.failure,
            "seconds": seconds,
        }
        add(db, "steerings", row)
        for passage in steering.passages:
            for steered, texts in enumerate((passage.clean, passage.steered)):
                for ordinal, text in enumerate(texts):
                    row = {
                        "steering_id": steering.id,
                        "window_id": passage.window_id,
                        "steered": steered,
                        "ordinal": ordinal,
                        "prompt": passage.prompt,
                        "text": text,
                    }
                    add(db, "continuations", row)


def load_steering(db: Database, steering_id: str) -> Steering | None:
    """A steering with its continuations, or None if it is not in the file."""
    row = next(db.query("select * from steerings where id = ?", [steering_id]), None)
    if row is None:
        return None
    texts: dict[str, tuple[str, list[str], list[str]]] = {}
    for window_id, prompt, steered, text in db.execute(
        """select window_id, prompt, steered, text from continuations
           where steering_id = ? order by window_id, steered, ordinal""",
        [steering_id],
    ):
        texts.setdefault(window_id, (prompt, [], []))[1 + steered].append(text)
    return Steering(
        row["id"],
        row["example_set_id"],
        json.loads(row["settings"]),
        row["strength"],
        row["kl_tuned"],
        row["kl_scored"],
        json.loads(row["promoted"]),
        row["failure"],
        tuple(
            Passage(window_id, prompt, tuple(clean), tuple(steered))
            for window_id, (prompt, clean, steered) in texts.items()
        ),
    )
