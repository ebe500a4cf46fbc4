"""One person at one task: what comes next, how far it is, and how the last answer is taken back.

Answers are in the file and nowhere else, so whoever stops goes on where the answers end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast, get_args

from sqlite_utils import Database

from lite_interp.annotate.answering import checked_rater
from lite_interp.annotate.pool import order, pool, question_id
from lite_interp.db import studies
from lite_interp.db.caches import CacheInfo
from lite_interp.db.ratings import load_ratings, rating_id, undo_rating
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.records import Question, Task

if TYPE_CHECKING:
    from lite_interp.loading import Reporter

TASKS: tuple[Task, ...] = get_args(Task)
"""What people can do."""


class Request(NamedTuple):
    """What somebody wants to be asked about."""

    task: str
    """One of TASKS."""
    latents: tuple[int, ...] = ()
    """Only these; empty = all."""
    explainer: str = ""
    """Only what this explainer wrote; empty = all."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """One person at one task."""

    rater: str
    """Who."""
    task: Task
    """What is to be done."""
    questions: Mapping[str, Question]
    """`question_id` → question: everything there is to answer, in this person's order."""
    ratings: Mapping[str, str]
    """Id that this person's rating has or would have → `question_id`; in the same order."""


class Turn(NamedTuple):
    """Where a sitting has come to."""

    question: Question | None
    """What comes next; None when everything is answered."""
    n_answered: int
    """Questions of the sitting with an answer."""
    n_questions: int
    """All questions of it."""


def open_sitting(
    db: Database, cache: CacheInfo, rater: str, request: Request, tell: Reporter | None = None
) -> Sitting:
    """Everything that a person can be asked, in the person's order.

    Args:
        db: the file.
        cache: whose latents.
        rater: who is asked.
        request: about what.
        tell: who sees how far it is: items of 300 example sets are drawn in a second.

    Raises:
        UsageError: no such task, no usable name, or nothing to ask.
    """
    name = checked_rater(rater)
    if request.task not in TASKS:
        raise UsageError(f"no such task: {one_line(request.task)}", nearest(request.task, TASKS))
    task = cast(Task, request.task)
    found = pool(db, cache, task, request.latents, request.explainer, tell)
    if not found:
        raise _nothing(db, cache, task, request)
    questions = {question_id(each): each for each in order(found, name)}
    ratings = {rating_id(name, each): key for key, each in questions.items()}
    return Sitting(name, task, questions, ratings)


def _nothing(db: Database, cache: CacheInfo, task: Task, request: Request) -> UsageError:
    """Why there is nothing to ask."""
    explained = [each for each in studies.load_explanations(db, cache.id) if each.latent >= 0]
    if not explained:
        return UsageError("no explanations in this file", "`lite-interp explain` makes them")
    known = {each.explainer for each in explained}
    if request.explainer and request.explainer not in known:
        return UsageError(
            f"no explanations by: {one_line(request.explainer)}", nearest(request.explainer, known)
        )
    if request.latents:
        latents = ", ".join(map(str, request.latents[:12]))
        return UsageError(
            f"nothing to ask about these latents: {latents}", "`lite-interp list` shows which are"
        )
    return UsageError(
        f"nothing to ask for the task {task}", "it needs explanations and windows to score"
    )


def next_question(
    db: Database, cache: CacheInfo, sitting: Sitting, later: Sequence[str] = ()
) -> Turn:
    """The first question without an answer of this person.

    Args:
        db: the file.
        cache: whose latents.
        sitting: who is asked what.
        later: `question_id` of what was skipped, first skipped first: asked when nothing else is
            left.
    """
    answered = {each.id for each in load_ratings(db, cache.id, sitting.task, sitting.rater)}
    left = {name: None for rating, name in sitting.ratings.items() if rating not in answered}
    skipped = [name for name in later if name in left]
    names = [name for name in left if name not in skipped] or skipped
    question = sitting.questions[names[0]] if names else None
    return Turn(question, len(sitting.questions) - len(left), len(sitting.questions))


def take_back(db: Database, cache: CacheInfo, sitting: Sitting) -> Question | None:
    """Delete this person's last answer to a question of the sitting, and say which it was.

    None if there is none.
    """
    for rating in reversed(load_ratings(db, cache.id, sitting.task, sitting.rater)):
        if rating.id in sitting.ratings:
            undo_rating(db, rating.id)
            return sitting.questions[sitting.ratings[rating.id]]
    return None
