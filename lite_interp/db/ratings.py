"""What people answered, in the results file."""

from __future__ import annotations

import json
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp.db.file import add
from lite_interp.ids import canonical_json, content_id
from lite_interp.records import Question, Rating

COLUMNS = """ratings.id, rater, task, ratings.explanation_id, ratings.example_set_id,
    ratings.settings, window_id, item, right_answer, answer, ratings.seconds, answered_utc"""
OF_CACHE = """from ratings join example_sets on example_sets.id = ratings.example_set_id
    where cache_id = :cache"""


class RatingCount(NamedTuple):
    """How much one person has answered."""

    rater: str
    """Who."""
    task: str
    """What was asked."""
    n: int
    """Answers."""


def rating_id(rater: str, question: Question) -> str:
    """Content id of a rater and a question."""
    return content_id(
        [
            "rating",
            rater,
            question.task,
            question.explanation_id,
            question.example_set_id,
            canonical_json(dict(question.settings)),
            question.window_id,
            question.item,
        ]
    )


def store_rating(db: Database, rating: Rating) -> bool:
    """Keep an answer; False if this person has answered the question before: the first stays."""
    asked = rating.question
    row = {
        "id": rating.id,
        "rater": rating.rater,
        "task": asked.task,
        "explanation_id": asked.explanation_id,
        "example_set_id": asked.example_set_id,
        "settings": dict(asked.settings),
        "window_id": asked.window_id,
        "item": asked.item,
        "right_answer": asked.right_answer,
        "answer": rating.answer,
        "seconds": rating.seconds,
        "answered_utc": rating.answered_utc,
    }
    with db.atomic():
        known = db.execute("select 1 from ratings where id = ?", [rating.id]).fetchone()
        add(db, "ratings", row)
    return known is None


def load_ratings(db: Database, cache_id: str, task: str = "", rater: str = "") -> list[Rating]:
    """The answers about one cache in the order they were given.

    Args:
        db: the file.
        cache_id: whose latents they are about.
        task: only of this task; empty = all.
        rater: only of this person; empty = all.
    """
    rows = db.execute(
        f"""select {COLUMNS} {OF_CACHE} and (:task = '' or task = :task)
            and (:rater = '' or rater = :rater) order by answered_utc, ratings.rowid""",
        {"cache": cache_id, "task": task, "rater": rater},
    )
    return [
        Rating(
            id,
            who,
            Question(kind, explanation, examples, json.loads(settings), window, item, right),
            answer,
            seconds,
            answered,
        )
        for (
            id, who, kind, explanation, examples, settings, window, item, right, answer, seconds,
            answered,
        ) in rows
    ]  # fmt: skip


def undo_rating(db: Database, rating_id: str) -> bool:
    """Take an answer back; False if it is not there."""
    with db.atomic():
        return bool(db.execute("delete from ratings where id = ?", [rating_id]).rowcount)


def count_ratings(db: Database, cache_id: str) -> list[RatingCount]:
    """How much each person has answered about one cache, by name and task."""
    rows = db.execute(
        f"select rater, task, count(*) {OF_CACHE} group by 1, 2 order by 1, 2", {"cache": cache_id}
    )
    return [RatingCount(*row) for row in rows]
