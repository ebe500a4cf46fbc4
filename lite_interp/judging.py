"""Judging a latent until it is sure: in rounds, with looks that were planned beforehand.

Before the first answer it is fixed in which order items are judged and when it is looked whether
more are needed. At each look the explanation and its controls have been judged on the same
items; intervals are those of `sequential`, which hold at all looks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lite_interp import sequential
from lite_interp.cost import Meter, summed
from lite_interp.ids import generator
from lite_interp.records import Usage
from lite_interp.score import Item, Judgement, Scorer, Tools
from lite_interp.sheets import usable_rows


class Judged(NamedTuple):
    """What a trial brought."""

    answers: tuple[tuple[Item, Judgement], ...]
    """Items with the answers on them."""
    usage: Usage
    """What they cost."""


class Patience(Protocol):
    """When to stop."""

    @property
    def until_sure(self) -> float:
        """Width of an interval that is narrow enough."""
        ...

    @property
    def n_looks(self) -> int:
        """Looks, at most."""
        ...


def judge_until_sure(
    texts: Sequence[str], items: Sequence[Item], patience: Patience, scorer: Scorer, tools: Tools
) -> list[Judged]:
    """Judge items under an explanation and its controls until the explanation's score is sure.

    Args:
        texts: the explanation, then its controls.
        items: what is asked.
        patience: when to stop.
        scorer: how it is judged.
        tools: with what.

    Returns:
        One for each text; all have the same items, those that were judged.
    """
    rounds = plan_rounds(items, patience.n_looks)
    engine = tools.engine if scorer.needs == "engine" else None
    meters = [Usage(0, 0, 0.0)] * len(texts)
    answers: list[list[tuple[Item, Judgement]]] = [[] for _ in texts]
    for batch in rounds:
        for number, text in enumerate(texts):
            meter = Meter(engine)
            judged = scorer.score(text, batch, tools, scorer.settings)
            answers[number] += zip(batch, judged, strict=True)
            spent = meter.read()
            meters[number] = summed(meters[number], spent)
        if is_sure(answers, patience.until_sure, len(rounds)):
            break
    return [Judged(tuple(each), usage) for each, usage in zip(answers, meters, strict=True)]


def plan_rounds(items: Sequence[Item], n_looks: int) -> list[list[Item]]:
    """Items in rounds of like size; each holds its share of either answer and of each stratum.

    The order is drawn from the names of the windows, so a resumed run has the same rounds.
    """
    active = _spread([item for item in items if item.active])
    silent = _spread([item for item in items if not item.active])
    ends = sequential.looks(len(active), len(silent), n_looks)
    starts = [(0, 0), *ends[:-1]][: len(ends)]
    return [active[a:b] + silent[c:d] for (a, c), (b, d) in zip(starts, ends, strict=True)]


def _spread(items: Sequence[Item]) -> list[Item]:
    """Items in random order, strata in turn, so that any beginning holds each about equally."""
    names = [item.window.id + item.name for item in items]
    order = generator(0, "rounds", *sorted(names)).permutation(len(items))
    by_stratum: dict[str, list[Item]] = {}
    for index in order:
        by_stratum.setdefault(items[index].stratum, []).append(items[index])
    turns = [
        ((place + 0.5) / len(group), number, item)
        for number, group in enumerate(by_stratum.values())
        for place, item in enumerate(group)
    ]
    return [item for _, _, item in sorted(turns, key=lambda turn: turn[:2])]


def is_sure(
    answers: Sequence[Sequence[tuple[Item, Judgement]]], width: float, n_looks: int
) -> bool:
    """Whether the intervals at this look say that no more items are needed."""
    active, table = usable(answers)
    if active.all() or not active.any():
        return False
    own, controls = table[0], table[1:]
    score = sequential.area_interval(active, own, n_looks)
    difference = sequential.difference_interval(active, own, controls, n_looks)
    return sequential.decide(score, difference, width) != ""


def usable(
    answers: Sequence[Sequence[tuple[Item, Any]]],
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(n,) truth and (1 + c, n) values of the items that have a value from all that count."""
    values = [[_number(answer.value) for _, answer in each] for each in answers]
    table = np.array(values, np.float64)
    rows, kept = usable_rows(table)
    active = np.array([item.active for item, _ in answers[0]], bool)
    return active[kept], table[rows][:, kept]


def _number(value: float | None) -> float:
    return np.nan if value is None else value
