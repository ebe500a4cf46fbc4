"""Questions to people and their answers, as pages ask and send them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from lite_interp import annotate
from lite_interp.db.ratings import count_ratings
from lite_interp.errors import UsageError
from lite_interp.records import Question
from lite_interp.report.study import Row
from lite_interp.report.texts import visible
from lite_interp.serve.live import Live


def rated(live: Live) -> Row:
    """What can be done, and how much each person has done."""
    counts = count_ratings(live.study.db, live.cache.id)
    return {
        "tasks": list(annotate.TASKS),
        "counts": [[visible(each.rater), each.task, each.n] for each in counts],
    }


def asked(live: Live, rater: object, task: object, later: Sequence[str] = ()) -> Row:
    """The next question of a person, and how many there are.

    Args:
        live: what is served.
        rater: who is asked.
        task: one of `annotate.TASKS`.
        later: names of questions that were skipped, first skipped first.

    Raises:
        UsageError: no such task, no usable name, or nothing to ask.
    """
    sitting = _sitting(live, rater, task)
    turn = annotate.next_question(live.study.db, live.cache, sitting, later)
    return {
        "n_answered": turn.n_answered,
        "n_questions": turn.n_questions,
        **_question(live, turn.question),
    }


def answered(
    live: Live, rater: object, task: object, name: str, answer: object, seconds: float
) -> Row:
    """Keep an answer; `kept` is false if the question had one, which stays.

    Args:
        live: what is served.
        rater: who answers.
        task: one of `annotate.TASKS`.
        name: of the question.
        answer: one of those that were offered.
        seconds: from the question to the answer.

    Raises:
        UsageError: it is no answer to a question that this person can be asked.
        ResultsError: the file cannot be written to.
    """
    sitting = _sitting(live, rater, task)
    question = sitting.questions.get(name)
    if question is None:
        raise UsageError("no such question", "reload the page")
    now = datetime.datetime.now(datetime.timezone.utc)
    rating = annotate.make_rating(sitting.rater, question, answer, seconds, now)
    return {"kept": annotate.keep_rating(live.path, rating)}


def taken_back(live: Live, rater: object, task: object) -> Row:
    """Take back the last answer of a person at a task, and ask that again.

    Raises:
        UsageError: there is no answer.
        ResultsError: the file cannot be written to.
    """
    sitting = _sitting(live, rater, task)
    with annotate.open_to_answer(live.path) as db:
        question = annotate.take_back(db, live.cache, sitting)
    if question is None:
        raise UsageError("there is no answer to take back")
    return _question(live, question)


def _sitting(live: Live, rater: object, task: object) -> annotate.Sitting:
    if not live.rating:
        raise UsageError("ratings are not taken here", "`lite-interp serve FILE --annotate`")
    key = annotate.checked_rater(rater), str(task)
    if key not in live.sittings:
        request = annotate.Request(key[1])
        live.sittings[key] = annotate.open_sitting(live.study.db, live.cache, key[0], request)
    return live.sittings[key]


def _question(live: Live, question: Question | None) -> Row:
    if question is None:
        return {"name": None, "question": None}
    record = annotate.question_record(live.study.db, live.cache, question)
    return {"name": annotate.question_id(question), "question": record}
