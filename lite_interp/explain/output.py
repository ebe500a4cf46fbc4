"""What a latent makes the subject say, as an engine is asked about it.

The evidence is a steering whose strength was tuned on shown windows: behind each of those prompts
the tokens whose probability rises most. What is scored is never looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from lite_interp.explain.asking import ask_engine
from lite_interp.explain.base import Evidence, Explainer
from lite_interp.prompts import Message, Prompt
from lite_interp.records import Steering
from lite_interp.render import one_row

N_ENDING = 60
"""Characters at the end of a prompt that are shown."""


class Raised(NamedTuple):
    """A shown prompt, and what steering makes likelier behind it."""

    prompt: str
    """Its end, on one line."""
    words: tuple[tuple[str, float], ...]
    """Words of one line with the increase of their probability, the greatest first."""


def raised_words(steering: Steering | None) -> list[Raised]:
    """The shown prompts behind which something is raised; none if the steering failed."""
    if steering is None or steering.failure is not None:
        return []
    found = []
    for prompt, tokens in steering.promoted.get("shown", ()):
        words = tuple((one_row(token).strip(), float(increase)) for token, increase in tokens)
        words = tuple(word for word in words if word[0])
        if words:
            found.append(Raised(_ending(prompt), words))
    return found


def _ending(prompt: str) -> str:
    """The last words of a prompt."""
    text = one_row(prompt).strip()
    if len(text) <= N_ENDING:
        return text
    cut = text[-N_ENDING:]
    # A cut word is left out, unless there is no other.
    return "… " + (cut.partition(" ")[2] or cut)


def ask_output(
    raised: Sequence[Raised], prompt: Prompt, settings: Mapping[str, Any]
) -> tuple[Message, ...]:
    """The question put to an engine: ends of prompts, what is raised behind each, and in all."""
    return prompt.fill(**raised_values(raised, settings["n_prompts"], settings["n_words"]))


def raised_values(raised: Sequence[Raised], n_prompts: int, n_words: int) -> dict[str, str]:
    """Values of the variables that tell what is raised.

    Args:
        raised: what `raised_words` gives.
        n_prompts: prompts that are shown.
        n_words: words in the list over all prompts.
    """
    endings = "\n".join(
        f"{number}. {each.prompt} → {', '.join(word for word, _ in each.words)}"
        for number, each in enumerate(raised[:n_prompts], 1)
    )
    return {"endings": endings, "raised": ", ".join(ranked_words(raised)[:n_words])}


def ranked_words(raised: Sequence[Raised]) -> list[str]:
    """The distinct raised words, by how much steering raises them over all prompts."""
    totals: dict[str, float] = defaultdict(float)
    for each in raised:
        for word, increase in each.words:
            totals[word] += increase
    return sorted(totals, key=lambda word: (-totals[word], word))


def about_output(
    known: Evidence, prompt: Prompt, settings: Mapping[str, Any]
) -> tuple[Message, ...] | str:
    """The question about what steering raises."""
    raised = raised_words(known.steering)
    return ask_output(raised, prompt, settings) if raised else "no_output"


OUTPUT = Explainer(
    "output",
    "An engine reads which words steering along the latent makes likelier.",
    "explain/output",
    {"max_tokens": 48, "temperature": 0.0, "seed": 0, "n_prompts": 10, "n_words": 12},
    partial(ask_engine, question=about_output),
    reads="output",
)
