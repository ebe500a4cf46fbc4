"""Windows as an engine reads them, and the explainer that asks what their marks share.

Which of the variables a prompt uses decides what is shown: excerpts with marks alone, or with the
activation of each marked token as in arXiv 2410.13928, section 3.2 and appendix B.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from lite_interp.explain.asking import ask_engine
from lite_interp.explain.base import Evidence, Explainer
from lite_interp.prompts import Message, Prompt, Takes
from lite_interp.records import ExampleSet, Placed, Window
from lite_interp.render import marked_text, marked_tokens, one_row, plain_text

MARKED = 0.3
"""Share of a window's greatest activation above which a token is marked, as in the paper's code."""

EXCERPTS = frozenset({"excerpts", "excerpts_with_activations"})
"""Variables that show windows; a prompt has at least one of them."""

ASKING: Mapping[str, Any] = {"max_tokens": 48, "temperature": 0.0, "seed": 0, "n_words": 24}
"""Settings of every explainer that asks about windows: longest answer, how it is drawn, and how
many marked words are listed."""


def ask(examples: ExampleSet, prompt: Prompt, n_words: int) -> tuple[Message, ...]:
    """The question put to an engine: numbered excerpts with marks, and the marked words."""
    values = shown_values(examples, n_words)
    return prompt.fill(**{name: values[name] for name in prompt.variables})


def shown_values(examples: ExampleSet, n_words: int) -> dict[str, str]:
    """Values of the variables that tell of the shown windows."""
    windows = [placed.window for placed in examples.shown]
    return {
        "excerpts": numbered(marked_text(window, MARKED) for window in windows),
        "excerpts_with_activations": numbered(_with_activations(examples.shown)),
        "words": ", ".join(marked_words(examples)[:n_words]),
    }


def numbered(texts: Iterable[str]) -> str:
    """One text a line, numbered from 1."""
    return "\n".join(f"{number}. {text.strip()}" for number, text in enumerate(texts, 1))


def plain_excerpts(windows: Iterable[Window]) -> str:
    """Windows without marks, one a line, numbered."""
    return numbered(map(plain_text, windows))


def _with_activations(shown: Sequence[Placed]) -> Iterable[str]:
    """Windows with marks, and behind each its marked tokens with their activation, 0 to 10.

    floor(10 · activation / the greatest of the shown windows), the paper's scale.
    """
    greatest = max((placed.window.peak for placed in shown), default=0.0) or 1.0
    for placed in shown:
        window = placed.window
        told = [
            f'("{one_row(token).strip()}", {math.floor(10 * float(value) / greatest)})'
            for token, value, is_marked in zip(
                window.tokens, window.values, marked_tokens(window.values, MARKED), strict=True
            )
            if is_marked
        ]
        yield f"{marked_text(window, MARKED).strip()}\nActivations: {', '.join(told)}"


def marked_words(examples: ExampleSet) -> list[str]:
    """The distinct marked stretches of the shown windows, by how much activation they carry."""
    totals: dict[str, float] = defaultdict(float)
    for window, _, _ in examples.shown:
        marked = marked_tokens(window.values, MARKED)
        tokens = zip(window.tokens, window.values, marked, strict=True)
        for is_marked, run in groupby(tokens, key=lambda token: bool(token[2])):
            if is_marked:
                stretch = list(run)
                word = one_row("".join(token for token, _, _ in stretch)).strip()
                totals[word] += sum(float(value) for _, value, _ in stretch)
    totals.pop("", None)
    return sorted(totals, key=lambda word: (-totals[word], word))


def about_windows(
    known: Evidence, prompt: Prompt, settings: Mapping[str, Any]
) -> tuple[Message, ...] | str:
    """The question about the shown windows."""
    examples = known.examples
    return ask(examples, prompt, settings["n_words"]) if examples.shown else "no_windows"


LLM = Explainer(
    "llm",
    "An engine reads numbered excerpts with marks and says what the marks share.",
    "explain/small",
    ASKING,
    partial(ask_engine, question=about_windows),
    Takes(EXCERPTS | {"words"}, (EXCERPTS,)),
)
