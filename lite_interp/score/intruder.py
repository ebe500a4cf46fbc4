"""Intruder: are a latent's windows so much alike that one in which it is silent stands out?

    value(question) = 1 if argmax_k [log p(k) − mean over questions of log p(k)] is the intruder

for the numbers k of five marked windows, four activating ones of about the same strength and a
silent one, read from the engine's logits; the score is the share of right answers, by chance
0.2. No explanation is used: a latent with a low score cannot be explained well, or this engine
cannot see how. Source: arXiv 2507.08473. We differ: the answer is read from logits; the marks
of the intruder are those of a fifth activating window of the same strength, so their places
give nothing away; and what the engine says of each place on average is taken away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from lite_interp.engine import Engine, EngineFailure, choice_tokens
from lite_interp.errors import UsageError
from lite_interp.ids import generator
from lite_interp.prompts import Message, Prompt
from lite_interp.records import ExampleSet, Placed, Steering, Window
from lite_interp.score.asking import ask_all, asking_tools, failed
from lite_interp.score.base import Item, Judgement, Marked, Scorer, Tools
from lite_interp.score.marks import marked_row, match, moved, right_marks

THRESHOLD = 0.3
"""Tokens above this share of their window's peak are marked."""
Draw = tuple[str, list[Marked]]
"""Stratum of a question, and its activating windows; the last one lends only its marks."""


def items(
    examples: ExampleSet, settings: Mapping[str, Any], steering: Steering | None
) -> list[Item]:
    """Questions about `n_choices` windows, spread evenly over strata and places.

    For each, `n_choices` activating windows of one stratum are drawn; one of them is replaced
    by a silent window with the same marks. No silent window serves twice before all have that
    its marks fit in. Silent windows of the stratum `random` are taken where there are any.

    Raises:
        UsageError: `n_choices` is not 2 to 9: the answer is one digit.
    """
    n_choices = settings["n_choices"]
    if not 2 <= n_choices <= 9:
        raise UsageError(f"intruder.n_choices is not within 2 to 9: {n_choices}")
    random = generator(examples.seed, examples.latent, "intruder")
    groups = strata(examples, n_choices)
    silent = [placed for placed in examples.scored if placed.window.peak == 0]
    pool = [placed.window for placed in silent if placed.stratum == "random"]
    pool = pool or [placed.window for placed in silent]
    draws = _draws(groups, settings["n_questions"], n_choices, random)
    found = _intruders(draws, pool, random)
    places = _even(len(found), n_choices, random)
    return [
        _item(number, draw, intruder, int(place))
        for number, ((draw, intruder), place) in enumerate(zip(found, places, strict=True))
    ]


def strata(examples: ExampleSet, n: int) -> dict[str, list[Window]]:
    """The activating windows by stratum; one of fewer than n is joined with the next weaker.

    What is left at the weak end goes to the stratum before it. Fewer than n in all: none.
    """

    def decile(placed: Placed) -> int:
        return int(placed.stratum.removeprefix("decile_"))

    active = sorted((each for each in examples.scored if each.window.peak > 0), key=decile)
    joined: list[tuple[list[int], list[Window]]] = []
    for number, group in groupby(active, decile):
        if not joined or len(joined[-1][1]) >= n:
            joined.append(([], []))
        joined[-1][0].append(number)
        joined[-1][1].extend(placed.window for placed in group)
    if joined and len(joined[-1][1]) < n:
        numbers, windows = joined.pop()
        if not joined:
            return {}
        joined[-1][0].extend(numbers)
        joined[-1][1].extend(windows)
    return {
        f"decile_{numbers[0]}" + (f"-{numbers[-1]}" if len(numbers) > 1 else ""): windows
        for numbers, windows in joined
    }


def _even(n: int, n_kinds: int, random: np.random.Generator) -> NDArray[np.int64]:
    """(n,) numbers below n_kinds in random order, each as often as the others, or once more."""
    return random.permutation(np.resize(random.permutation(n_kinds), n))


def _draws(
    groups: Mapping[str, Sequence[Window]], n: int, n_choices: int, random: np.random.Generator
) -> list[Draw]:
    if not groups:
        return []
    names = list(groups)
    draws = []
    for number in _even(n, len(names), random):
        windows = groups[names[number]]
        chosen = random.choice(len(windows), n_choices, replace=False)
        draws.append((names[number], [right_marks(windows[each], THRESHOLD) for each in chosen]))
    return draws


def _intruders(
    draws: Sequence[Draw], pool: Sequence[Window], random: np.random.Generator
) -> list[tuple[Draw, Marked]]:
    """Each question with its intruder; one whose marks fit in no silent window is left out."""
    found: dict[int, Marked] = {}
    while True:
        left = [number for number in range(len(draws)) if number not in found]
        patterns = [draws[number][1][-1] for number in left]
        matches = match(patterns, pool, random)
        if not matches:
            return [(draws[number], found[number]) for number in sorted(found)]
        for pattern, host in matches:
            found[left[pattern]] = moved(patterns[pattern], pool[host])


def _item(number: int, draw: Draw, intruder: Marked, place: int) -> Item:
    stratum, windows = draw
    choices = (*windows[:place], intruder, *windows[place:-1])
    return Item(intruder.window, True, stratum, 1.0, f"q{number}", choices=choices)


def ask(item: Item, prompt: Prompt) -> tuple[Message, ...]:
    """The question which of the windows does not belong."""
    rows = [f"[{number}] {marked_row(shown)}" for number, shown in enumerate(item.choices, 1)]
    return prompt.fill(windows="\n".join(rows))


def score(
    explanation: str, items: Sequence[Item], tools: Tools, settings: Mapping[str, Any]
) -> list[Judgement]:
    """1 or 0 a question. The explanation is not used; an engine that fails gives failures."""
    engine, prompt = asking_tools(tools, "intruder")
    if not items:
        return []
    try:
        table = _numbers([ask(item, prompt) for item in items], len(items[0].choices), engine)
    except EngineFailure as failure:
        return failed(failure, len(items))
    usable: NDArray[np.bool_] = np.all(np.isfinite(table), axis=1)
    leaning = np.zeros(table.shape[1])
    # Below one question a place, the mean would be the signal itself.
    if settings["calibrate"] and usable.sum() >= table.shape[1]:
        leaning = table[usable].mean(axis=0)
    return [
        _judgement(item, row, int(np.argmax(row - leaning)))
        if finite
        else Judgement(None, "not_finite")
        for item, row, finite in zip(items, table, usable, strict=True)
    ]


def _numbers(
    questions: Sequence[Sequence[Message]], n_choices: int, engine: Engine
) -> NDArray[np.float64]:
    """(n_questions, n_choices) log-probability of each number, given that it is one of them."""
    tokens = [choice_tokens(engine, [str(number + 1)]) for number in range(n_choices)]
    flat = [choice for variants in tokens for choice in variants]
    answers = ask_all(engine, [engine.chat(each) for each in questions], flat)
    ends = np.cumsum([len(variants) for variants in tokens])[:-1]
    parts = np.split(answers.astype(np.float64), ends, axis=1)
    said = np.stack([np.asarray(logsumexp(part, axis=1)) for part in parts], axis=1)
    return log_softmax(said, axis=1)


def _judgement(item: Item, row: NDArray[np.float64], chosen: int) -> Judgement:
    place = [shown.window.id for shown in item.choices].index(item.window.id)
    detail = {
        "stratum": item.stratum,
        "place": place + 1,
        "chosen": chosen + 1,
        "log_probabilities": [round(float(value), 4) for value in row],
    }
    return Judgement(float(chosen == place), detail=detail)


INTRUDER = Scorer(
    "intruder",
    "Asks the engine which of five marked windows does not belong; needs no explanation.",
    "engine",
    "score/intruder",
    "1 if the intruder is named, else 0",
    {"n_questions": 10, "n_choices": 5, "calibrate": True},
    items,
    score,
    statistic="accuracy",
    judges="latent",
)
