"""A question as a person sees it, and nothing that tells whose work it is or what is right.

Left out: latent, explainer, engine, scores, strata, weights, where a window stands, ids of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp.annotate.answering import answers
from lite_interp.annotate.pool import spread, task_items
from lite_interp.db import studies
from lite_interp.db.caches import CacheInfo
from lite_interp.ids import generator
from lite_interp.records import ExampleSet, Question, Window
from lite_interp.report.latent import MOST_TOKENS
from lite_interp.report.texts import compact, token_text, visible

N_ACTIVE, N_SILENT = 12, 4
"""Windows that an explanation is rated against, at most."""
ASKED = {
    "explanation": "How well does the explanation say what the latent fires on?",
    "detection": "Does the text contain what the explanation describes?",
    "fuzzing": "Are the marked words what the explanation describes?",
    "intruder": "In which text do the marked words not belong with those of the others?",
}
"""Task → the question."""

Row = dict[str, Any]


def question_record(db: Database, cache: CacheInfo, question: Question) -> Row:
    """What a person is shown, as plain JSON: task, ask, explanation, windows, answers.

    `explanation` is None where there is none to be seen. A window has its tokens; for the task
    `explanation` also `fires`, [place, activation] pairs, empty in a silent window, and the record
    `max`, the greatest activation in the example set; for `fuzzing` and `intruder` also `marks`,
    places of marked tokens. `answers` are [value, label] pairs.

    Raises:
        LookupError: the question is about something that the file does not hold.
    """
    examples = studies.load_example_set(db, question.example_set_id)
    if examples is None:
        raise LookupError(f"no such example set: {question.example_set_id}")
    record: Row = {"task": question.task, "ask": ASKED[question.task]}
    record["explanation"] = _text(db, cache, question, examples.latent)
    if question.task == "explanation":
        record["max"] = compact(_greatest(examples))
        record["windows"] = _rated_windows(examples)
    else:
        record["windows"] = _judged_windows(examples, question)
    record["answers"] = [list(pair) for pair in answers(question)]
    return record


def _text(db: Database, cache: CacheInfo, question: Question, latent: int) -> str | None:
    if question.explanation_id is None:
        return None
    for each in studies.load_explanations(db, cache.id, latent):
        if each.id == question.explanation_id:
            return visible(each.text)
    raise LookupError(f"no such explanation: {question.explanation_id}")


def _greatest(examples: ExampleSet) -> float:
    placed = (*examples.shown, *examples.scored, *examples.held_out)
    return max((each.window.peak for each in placed), default=0.0)


def _rated_windows(examples: ExampleSet) -> list[Row]:
    """Activating windows of every strength in random order; behind them a few silent ones."""
    random = generator(0, "annotate", "windows", examples.id)
    active = spread([each for each in examples.scored if each.window.peak > 0], N_ACTIVE, random)
    silent = spread([each for each in examples.scored if each.window.peak == 0], N_SILENT, random)
    return [
        {"tokens": _tokens(found[place].window), "fires": _fires(found[place].window)}
        for found in (active, silent)
        for place in random.permutation(len(found))
    ]


def _judged_windows(examples: ExampleSet, question: Question) -> list[Row]:
    """The window of an item, or the windows that a question is about."""
    for item in task_items(examples, question.task):
        if (item.window.id, item.name) == (question.window_id, question.item):
            if item.choices:
                return [_marked(each.window, each.marked) for each in item.choices]
            if item.marked is not None:
                return [_marked(item.window, item.marked)]
            return [{"tokens": _tokens(item.window)}]
    raise LookupError(f"no such item of the example set {examples.id}: {question.item}")


def _marked(window: Window, marked: NDArray[np.bool_]) -> Row:
    return {"tokens": _tokens(window), "marks": np.flatnonzero(marked[:MOST_TOKENS]).tolist()}


def _fires(window: Window) -> list[list[Any]]:
    places: Sequence[int] = np.flatnonzero(window.values[:MOST_TOKENS] > 0).tolist()
    return [[place, compact(float(window.values[place]))] for place in places]


def _tokens(window: Window) -> list[str]:
    tokens = [token_text(token) for token in window.tokens[:MOST_TOKENS]]
    if len(window.tokens) > MOST_TOKENS:
        tokens.append(f"… [cut: {len(window.tokens):,} tokens]")
    return tokens
