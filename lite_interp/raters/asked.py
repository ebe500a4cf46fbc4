"""What people were asked, with what each of them answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

from sqlite_utils import Database

from lite_interp.db.ratings import load_ratings
from lite_interp.db.report import example_sets_by_latent
from lite_interp.db.studies import load_explanations
from lite_interp.ids import canonical_json
from lite_interp.records import Question, Task

TASKS = get_args(Task)
"""What people do, in the order it is told."""

Of = tuple[str | None, str]
"""Explanation, or None where the latent is judged without one; and example set."""


class Asked(NamedTuple):
    """A question, and what people answered."""

    question: Question
    """What was asked."""
    latent: int
    """About which latent."""
    answers: Mapping[str, int]
    """Rater → answer."""

    @property
    def of(self) -> Of:
        """What is judged by it."""
        return self.question.explanation_id, self.question.example_set_id


def load_asked(db: Database, cache_id: str, explainer: str = "") -> list[Asked]:
    """The questions about one cache that people answered; those about latents made by rule are not.

    Args:
        db: the file.
        cache_id: whose latents they are about.
        explainer: only about explanations by this one, and about latents; empty = all.
    """
    latents = {
        name: latent
        for latent, names in example_sets_by_latent(db, cache_id).items()
        for name in names
    }
    explainers = {each.id: each.explainer for each in load_explanations(db, cache_id)}
    questions: dict[tuple[str, ...], Question] = {}
    answers: dict[tuple[str, ...], dict[str, int]] = {}
    for rating in load_ratings(db, cache_id):
        asked = rating.question
        by = explainers.get(asked.explanation_id or "", "")
        if asked.example_set_id in latents and (not explainer or by in ("", explainer)):
            key = _key(asked)
            questions.setdefault(key, asked)
            answers.setdefault(key, {})[rating.rater] = rating.answer
    return [
        Asked(questions[key], latents[questions[key].example_set_id], answers[key])
        for key in sorted(questions)
    ]


def _key(asked: Question) -> tuple[str, ...]:
    settings = canonical_json(dict(asked.settings))
    ids = asked.explanation_id or "", asked.example_set_id, asked.window_id or "", asked.item
    return asked.task, *ids, settings


def of_task(asked: Sequence[Asked], task: str) -> list[Asked]:
    """Those of one task."""
    return [each for each in asked if each.question.task == task]


def with_right(asked: Sequence[Asked]) -> list[Asked]:
    """Those that have a right answer."""
    return [each for each in asked if each.question.right_answer is not None]
