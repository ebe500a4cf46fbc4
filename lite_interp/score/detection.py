"""Detection: does a rule that knows only the explanation pick the windows that activate?

    margin(window) = log Σ p(yes variants) − log Σ p(no variants)       (nats)

read from the engine's logits after one question about one window; the score is the AUROC of
the margin over activating and silent windows. Source: arXiv 2410.13928, section 3.3.1. We
differ: the paper shows five windows a prompt and reads a list of 0 and 1 as text; here a window
is judged alone, no answer can fail to parse, and how sure the engine is counts. The question
stands before the window, so that all windows share everything before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from lite_interp.engine import ChatTokens, Engine, EngineFailure, choice_tokens
from lite_interp.prompts import Message, Prompt
from lite_interp.records import Window
from lite_interp.render import plain_text
from lite_interp.score.base import Judgement, Scorer, Tools

YES = ("Yes",)
NO = ("No",)


def ask(explanation: str, window: Window, prompt: Prompt) -> tuple[Message, ...]:
    """The question about one window."""
    return prompt.fill(explanation=explanation, window=plain_text(window).strip())


def score(explanation: str, windows: Sequence[Window], tools: Tools) -> list[Judgement]:
    """One margin a window, in nats. An engine that fails gives failures, not an exception."""
    engine, prompt = tools.engine, tools.prompt
    if engine is None or prompt is None:
        raise ValueError("detection needs an engine and a prompt")
    if not windows:
        return []
    yes, no = choice_tokens(engine, YES), choice_tokens(engine, NO)
    try:
        prompts = [engine.chat(ask(explanation, window, prompt)) for window in windows]
        answers = _answers(engine, prompts, [*yes, *no])
    except EngineFailure as failure:
        return [Judgement(None, f"engine: {failure}")] * len(windows)
    says_yes = np.asarray(logsumexp(answers[:, : len(yes)], axis=1))
    says_no = np.asarray(logsumexp(answers[:, len(yes) :], axis=1))
    margins = says_yes - says_no
    return [
        Judgement(float(margin)) if np.isfinite(margin) else Judgement(None, "not_finite")
        for margin in margins
    ]


def _answers(
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


DETECTION = Scorer(
    "detection",
    "Asks the engine, window by window, whether the explanation fits; reads the logits.",
    "engine",
    "score/detection",
    "nats (log-odds of yes)",
    {},
    score,
)
