"""How people agree with each other, and how often they are right.

    alpha = 1 − observed disagreement / disagreement expected by chance

Krippendorff's alpha (Computing Krippendorff's Alpha-Reliability, 2011): any number of raters,
answers may be missing; 1 is perfect agreement, 0 what chance gives, and below 0 is worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.ids import generator
from lite_interp.raters.asked import TASKS, Asked, of_task, with_right
from lite_interp.raters.intervals import more_by_root, over_latents, share
from lite_interp.records import Estimate
from lite_interp.stats import NOTHING

LEVELS = {
    "explanation": "ordinal",
    "detection": "nominal",
    "fuzzing": "nominal",
    "intruder": "nominal",
}
"""Task → level of measurement: whether answers are steps of a scale, or only alike or not."""

N_CHOICES = 5
"""Windows of an intruder question whose settings don't say."""


class Right(NamedTuple):
    """How often one person, or all, answered right."""

    rater: str | None
    """Who; None = all."""
    n: int
    """Answers to questions that have a right one."""
    share: Estimate
    """Share of right ones, 0 to 1."""
    n_more: int | None
    """Answers to be added until the interval is as narrow as wanted; None if nothing tells."""


class Reliability(NamedTuple):
    """What people answered to the questions of one task."""

    task: str
    """The task."""
    n_raters: int
    """People."""
    n_answers: int
    """Answers."""
    n_questions: int
    """Questions with an answer."""
    n_shared: int
    """Of these answered by two or more: the ones that alpha is from."""
    n_latents: int
    """Latents that the questions are about."""
    alpha: Estimate
    """Krippendorff's alpha, at most 1; NaN if undefined."""
    n_more: int | None
    """Shared questions to be added until its interval is as narrow as wanted."""
    reason: str
    """Why there is no alpha, or no interval; empty if there are both."""
    chance: float
    """Share right by guessing; NaN for a task without right answers."""
    right: tuple[Right, ...]
    """Of all, then of each person by name; empty without right answers."""


def reliability(asked: Sequence[Asked], width: float) -> list[Reliability]:
    """Agreement and right answers for each task that has answers.

    Args:
        asked: what people were asked.
        width: how narrow a 95 % interval is wanted.
    """
    tasks = ((task, of_task(asked, task)) for task in TASKS)
    return [_of_task(task, questions, width) for task, questions in tasks if questions]


def _of_task(task: str, asked: Sequence[Asked], width: float) -> Reliability:
    raters = sorted({rater for each in asked for rater in each.answers})
    shared = [each for each in asked if len(each.answers) > 1]
    alpha, reason = _alpha(task, shared, len(raters))
    right, chance = _right(asked, raters, width)
    return Reliability(
        task,
        len(raters),
        sum(len(each.answers) for each in asked),
        len(asked),
        len(shared),
        len({each.latent for each in asked}),
        alpha,
        more_by_root(alpha, len(shared), width),
        reason,
        chance,
        right,
    )


def _alpha(task: str, shared: Sequence[Asked], n_raters: int) -> tuple[Estimate, str]:
    """Alpha over the shared questions, and why it or its interval is missing."""
    if n_raters < 2:
        return NOTHING, "one rater"
    if not shared:
        return NOTHING, "no shared question"
    counts = value_counts([list(each.answers.values()) for each in shared])
    if counts.shape[1] < 2:
        return NOTHING, "all answers equal"
    latents = np.array([each.latent for each in shared])
    found = over_latents(
        latents,
        lambda rows: alpha_of(counts[rows], LEVELS[task]),
        generator(0, task, "alpha"),
    )
    if not math.isnan(found.low):
        return found, ""
    one = len(set(latents.tolist())) < 2
    return found, "one latent" if one else "latents all alike"


def value_counts(answers: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """(n_questions, n_values) how often each value was given, values in rising order."""
    values = sorted({value for each in answers for value in each})
    return np.array([[each.count(value) for value in values] for each in answers], np.int64)


def alpha_of(counts: NDArray[np.int64], level: str) -> float:
    """Krippendorff's alpha of (n_questions, n_values) counts; NaN if only one value was given.

    Args:
        counts: how often each value was given; questions with fewer than two answers fall out.
        level: `nominal` or `ordinal`.
    """
    import krippendorff

    kind: Any = level
    if (counts.sum(axis=1) > 1).sum() < 1 or counts.shape[1] < 2:
        return math.nan
    # Without two values there is no disagreement to expect: 0 / 0.
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(krippendorff.alpha(value_counts=counts, level_of_measurement=kind))


def _right(
    asked: Sequence[Asked], raters: Sequence[str], width: float
) -> tuple[tuple[Right, ...], float]:
    """Right answers of all and of each, and the share that guessing has."""
    known = with_right(asked)
    if not known:
        return (), math.nan
    answers = [
        (each.latent, rater, answer == each.question.right_answer)
        for each in known
        for rater, answer in each.answers.items()
    ]
    found = []
    for wanted in (None, *raters):
        own = [(latent, right) for latent, rater, right in answers if wanted in (None, rater)]
        if own:
            latents, right = (np.array(column) for column in zip(*own, strict=True))
            n = len(own)
            estimate = share(latents, right[None].astype(float), np.ones((1, n)), n)
            found.append(Right(wanted, n, estimate, more_by_root(estimate, n, width)))
    return tuple(found), float(np.mean([_chance(each) for each in known]))


def _chance(asked: Asked) -> float:
    """Share right by guessing: one of two, or one of the windows shown."""
    if asked.question.task != "intruder":
        return 0.5
    n = asked.question.settings.get("n_choices")
    return 1 / (n if type(n) is int and n > 0 else N_CHOICES)
