"""People rate explanations and do the judge's work, without knowing whose work they look at.

    results file ─pool─▶ questions, the same for all ─order─▶ a rater's turns ─▶ answers

A page or a terminal shows a `question_record`; what comes back goes through `make_rating`.
"""

from lite_interp.annotate.answering import answers, checked_answer, checked_rater, make_rating
from lite_interp.annotate.keeping import keep_rating, open_to_answer, open_to_ask
from lite_interp.annotate.pool import BLOCK, N_ITEMS, order, pool, question_id, spread
from lite_interp.annotate.showing import question_record
from lite_interp.annotate.sitting import (
    TASKS,
    Request,
    Sitting,
    Turn,
    next_question,
    open_sitting,
    take_back,
)

__all__ = [
    "BLOCK",
    "N_ITEMS",
    "TASKS",
    "Request",
    "Sitting",
    "Turn",
    "answers",
    "checked_answer",
    "checked_rater",
    "keep_rating",
    "make_rating",
    "next_question",
    "open_sitting",
    "open_to_answer",
    "open_to_ask",
    "order",
    "pool",
    "question_id",
    "question_record",
    "spread",
    "take_back",
]
