"""What may be answered, and by whom."""

from __future__ import annotations

import datetime
import math

from lite_interp.db.ratings import rating_id
from lite_interp.errors import UsageError, one_line
from lite_interp.records import Question, Rating

LONGEST_NAME = 40
"""Characters of a rater's name."""
FITS = (
    (1, "wrong: it says something else"),
    (2, "mostly wrong: it fits a few windows only, or any text"),
    (3, "mostly right: it fits most windows, or is too narrow or too wide"),
    (4, "right: it fits the windows that fire, and not the silent ones"),
)
"""Answers to the task `explanation`."""
YES_NO = ((1, "yes"), (0, "no"))
"""Answers to the tasks `detection` and `fuzzing`."""


def answers(question: Question) -> tuple[tuple[int, str], ...]:
    """(answer, what it means) for everything that may be answered."""
    if question.task == "explanation":
        return FITS
    if question.task == "intruder":
        return tuple((n, f"text {n}") for n in range(1, question.settings["n_choices"] + 1))
    return YES_NO


def checked_answer(question: Question, answer: object) -> int:
    """An answer that may be given.

    Raises:
        UsageError: it is none of `answers(question)`, or no whole number.
    """
    known = dict(answers(question))
    if type(answer) is not int or answer not in known:
        hint = ", ".join(f"{value} {label.split(':')[0]}" for value, label in known.items())
        raise UsageError(f"not an answer: {one_line(str(answer)[:40])}", hint)
    return answer


def checked_rater(name: object) -> str:
    """A rater's name without spaces around it.

    Raises:
        UsageError: empty, too long, or with characters that nobody sees.
    """
    plain = name.strip() if isinstance(name, str) else ""
    if not plain:
        raise UsageError("no rater is named", "e.g. --rater anna")
    if not (len(plain) <= LONGEST_NAME and plain.isprintable()):
        raise UsageError(
            f"not a rater's name: {one_line(str(name)[: LONGEST_NAME + 20])}",
            f"1 to {LONGEST_NAME} characters on one line, e.g. --rater anna",
        )
    return plain


def make_rating(
    rater: str, question: Question, answer: object, seconds: float, now: datetime.datetime
) -> Rating:
    """An answer as the file keeps it.

    Args:
        rater: who answers.
        question: what was asked.
        answer: one of `answers(question)`.
        seconds: from the question to the answer, 0 or more.
        now: when, with its time zone.

    Raises:
        UsageError: the rater's name, the answer or the time is none.
    """
    name = checked_rater(rater)
    said = checked_answer(question, answer)
    if not 0 <= seconds < math.inf:
        raise UsageError(f"not a time in seconds: {one_line(seconds)}")
    # Finer than seconds: the last answer can be taken back, so it must be known which it is.
    when = now.astimezone(datetime.timezone.utc).isoformat(timespec="milliseconds")
    return Rating(rating_id(name, question), name, question, said, round(seconds, 3), when)
