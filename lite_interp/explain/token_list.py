"""The floor: the tokens that a latent fires on most, no engine asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lite_interp.explain.base import Answer, Evidence, Explainer, Means
from lite_interp.records import ExampleSet
from lite_interp.render import one_row

LEAST_SHARE = 0.02
"""Share of all activation that a token of the list carries, at least."""


def token_shares(examples: ExampleSet) -> list[tuple[str, float]]:
    """Tokens of the shown windows by their share of all activation, greatest first.

    Spelling variants (case, space before) count as one and are written as the commonest.
    """
    totals: dict[str, float] = defaultdict(float)
    spellings: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for window, _, _ in examples.shown:
        for token, value in zip(window.tokens, window.values, strict=True):
            word = one_row(token).strip()
            if value > 0 and word:
                totals[word.lower()] += float(value)
                spellings[word.lower()][word] += float(value)
    whole = sum(totals.values()) or 1.0
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return [
        (max(spellings[word], key=spellings[word].__getitem__), total / whole)
        for word, total in ranked
    ]


def list_tokens(group: Sequence[Evidence], means: Means) -> list[Answer]:
    """The most telling tokens of each latent."""
    return [_token_list(known.examples, means.settings) for known in group]


def _token_list(examples: ExampleSet, settings: Mapping[str, Any]) -> Answer:
    shares = token_shares(examples)
    if not shares:
        return Answer(None, "", "no_windows")
    words = [word for word, share in shares[: settings["n_tokens"]] if share >= LEAST_SHARE]
    text = "fires on: " + ", ".join(words or [shares[0][0]])
    return Answer(text, text, None)


TOKEN_LIST = Explainer(
    "token_list",
    "The tokens that carry the most activation; asks no engine.",
    None,
    {"n_tokens": 8},
    list_tokens,
)
