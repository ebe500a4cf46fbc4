"""Surprisal: does the explanation make the windows that activate easier to foresee?

    value(window) = log p(window | explanation) − log p(window | neutral description)     (nats)

summed over the window's tokens; the score is the AUROC of the value over activating and silent
windows. Source: arXiv 2410.13928, appendix D.3. We differ: the paper does not say how the tokens
are joined, here it is their sum, and the mean is kept beside it; the window's first token counts;
no examples stand before; and an instruct engine may judge, in its own chat format, where the paper
has a base model. Engines without a chat format get the same text plain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import Engine, EngineFailure
from lite_interp.ids import content_id
from lite_interp.prompts import Message, Prompt
from lite_interp.records import Window
from lite_interp.render import plain_text
from lite_interp.score.asking import asking_tools, failed
from lite_interp.score.base import Item, Judgement, Scorer, Tools, quoted, scored_windows
from lite_interp.score.open_end import before_window, check_open, spelled

NEUTRAL = "texts of any kind, with nothing in common"
"""A description that says nothing."""


def ask(explanation: str, prompt: Prompt) -> tuple[Message, ...]:
    """What stands before a window."""
    return prompt.fill(explanation=quoted(explanation), window="")


def shown(window: Window) -> str:
    """A window as its probability is read: one line, no white space around it."""
    return plain_text(window).strip()


def score(
    explanation: str, items: Sequence[Item], tools: Tools, settings: Mapping[str, Any]
) -> list[Judgement]:
    """One difference of log-probabilities a window, nats; per token and the count in `detail`.

    Under the neutral description the same windows are evaluated once for all explanations, and
    kept in `tools.memory`. An engine that fails gives failures, not an exception.
    """
    engine, prompt = asking_tools(tools, "surprisal")
    check_open(prompt)
    texts = [shown(item.window) for item in items]
    if not any(texts):
        return [Judgement(None, "no_text")] * len(items)
    neutral = str(settings["neutral"])
    # All texts of the call are in the name: packed numbers depend in their last digits on what
    # is evaluated together, and a resumed run must give the same ones.
    question = ["surprisal", engine.id, prompt.id, quoted(neutral), texts]
    name = content_id(question)
    try:
        told = log_probabilities(ask(explanation, prompt), texts, engine)
        if name not in tools.memory:
            tools.memory[name] = log_probabilities(ask(neutral, prompt), texts, engine)
    except EngineFailure as failure:
        return failed(failure, len(items))
    return [gain(*pair) for pair in zip(told, tools.memory[name], strict=True)]


def log_probabilities(
    messages: Sequence[Message], texts: Sequence[str], engine: Engine
) -> list[NDArray[np.float32]]:
    """(n_tokens,) log-probability of each token of each text behind the messages, nats."""
    start = before_window(messages, engine)
    suffixes = [spelled(text, messages, engine) for text in texts]
    return engine.logprobs(start.prefix, suffixes, start.root)


def gain(told: NDArray[np.float32], neutral: NDArray[np.float32]) -> Judgement:
    """What the explanation adds to the log-probability of one window."""
    n = len(told)
    if not n:
        return Judgement(None, "no_text")
    value = float(told.sum(dtype=np.float64) - neutral.sum(dtype=np.float64))
    if not np.isfinite(value):
        return Judgement(None, "not_finite")
    return Judgement(value, detail={"per_token": value / n, "n_tokens": n})


SURPRISAL = Scorer(
    "surprisal",
    "Measures how much likelier the explanation makes each window than a neutral description.",
    "engine",
    "score/surprisal",
    "nats (log-likelihood ratio)",
    {"neutral": NEUTRAL},
    scored_windows,
    score,
)
