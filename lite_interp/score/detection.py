"""Detection: does a rule that knows only the explanation pick the windows that activate?

    margin(window) = log Σ p(yes variants) − log Σ p(no variants)       (nats)

read from the engine's logits after one question about one window; the score is the AUROC of
the margin over activating and silent windows. Source: arXiv 2410.13928, section 3.3.1. We
differ: the paper shows five windows a prompt and reads a list of 0 and 1 as text; here a window
is judged alone, no answer can fail to parse, and how sure the engine is counts. The question
stands before the window, so that all windows share everything before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lite_interp.prompts import Message, Prompt
from lite_interp.records import Window
from lite_interp.render import plain_text
from lite_interp.score.asking import asking_tools, margins
from lite_interp.score.base import Item, Judgement, Scorer, Tools, quoted, scored_windows
from lite_interp.score.listing import score_lists


def ask(explanation: str, window: Window, prompt: Prompt) -> tuple[Message, ...]:
    """The question about one window."""
    return prompt.fill(explanation=quoted(explanation), window=plain_text(window).strip())


def score(
    explanation: str, items: Sequence[Item], tools: Tools, settings: Mapping[str, Any]
) -> list[Judgement]:
    """One margin a window, in nats. An engine that fails gives failures, not an exception."""
    engine, prompt = asking_tools(tools, "detection")
    if settings["list"]:
        return score_lists(explanation, items, tools, settings, lambda it: plain_text(it.window))
    return margins([ask(explanation, item.window, prompt) for item in items], engine)


DETECTION = Scorer(
    "detection",
    "Asks the engine, window by window, whether the explanation fits; reads the logits.",
    "engine",
    "score/detection",
    "nats (log-odds of yes)",
    {"list": 0},
    scored_windows,
    score,
)
