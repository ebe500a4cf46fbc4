"""Asking an engine: margins of yes over no, and what is shared between scorers that ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from lite_interp.engine import ChatTokens, Engine, EngineFailure, choice_tokens
from lite_interp.prompts import Message
from lite_interp.score.base import Judgement, Tools

YES = ("Yes",)
NO = ("No",)


def margins(questions: Sequence[Sequence[Message]], engine: Engine) -> list[Judgement]:
    """One log-odds margin of yes over no for each question, nats, read from the logits.

    An engine that fails gives failures, not an exception.
    """
    if not questions:
        return []
    yes, no = choice_tokens(engine, YES), choice_tokens(engine, NO)
    try:
        answers = ask_all(engine, [engine.chat(each) for each in questions], [*yes, *no])
    except EngineFailure as failure:
        return failed(failure, len(questions))
    says_yes = np.asarray(logsumexp(answers[:, : len(yes)], axis=1))
    says_no = np.asarray(logsumexp(answers[:, len(yes) :], axis=1))
    return [judgement(margin) for margin in says_yes - says_no]


def judgement(value: float) -> Judgement:
    """A number as a judgement, or the failure of having none."""
    return Judgement(float(value)) if np.isfinite(value) else Judgement(None, "not_finite")


def failed(failure: EngineFailure, n: int) -> list[Judgement]:
    """The same failure of the engine for each of n items."""
    return [Judgement(None, f"engine: {failure}")] * n


def asking_tools(tools: Tools, name: str):
    """Engine and prompt of a scorer that asks; raises `ValueError` without them."""
    if tools.engine is None or tools.prompt is None:
        raise ValueError(f"{name} needs an engine and a prompt")
    return tools.engine, tools.prompt


def ask_all(
    engine: Engine, prompts: Sequence[ChatTokens], choices: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    """(n_prompts, n_choices) log-probabilities, asked for all prompts with one prefix together.

    With the shipped prompt that is all of them, but for windows without any text; a prompt that
    puts the window before the explanation has a prefix for each window.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, tokens in enumerate(prompts):
        alike.setdefault(tuple(tokens.prefix), []).append(number)
    answers = np.zeros((len(prompts), len(choices)), np.float32)
    for numbers in alike.values():
        rests = [prompts[number].rest for number in numbers]
        first = prompts[numbers[0]]
        answers[numbers] = engine.answers(first.prefix, rests, choices, first.root)
    return answers
