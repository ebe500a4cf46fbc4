"""Latents made by rule, whose true meaning is known, with explanations that are more or less true.

A rule is a pattern over the text of a context. It fires, with an activation of 1, at every token
that holds a character of a match, whatever the tokenizer makes of the text: a word cut into three
tokens fires on all three, and `the` in `theory` on none.

What a judge reaches on explanations that are known to be true is what its scores of real latents
are to be measured by. Source: the idea is that of neuron puzzles (OpenAI, "Language models can
explain neurons in language models", 2023), whose meanings are written by hand together with their
texts. We differ: rules need no texts of their own, they fire on the corpus of the study.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.records import Firings


class Meanings(NamedTuple):
    """Four explanations of one rule, in the style of an explainer."""

    true: str
    """Just what the rule fires on."""
    broader: str
    """All that it fires on, and more."""
    narrower: str
    """A part of what it fires on."""
    false: str
    """Something else altogether."""


KINDS = Meanings._fields
"""How true an explanation is; it is stored in the explanation's settings."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A latent that fires where a pattern says."""

    name: str
    """One word."""
    description: str
    """What it fires on, exactly, for the documentation."""
    pattern: re.Pattern[str]
    """Its matches, in the text of a context, never hold a line break."""
    meanings: Meanings
    """What may be said of it."""


def _words(words: str) -> re.Pattern[str]:
    """Whole words in any case; an underscore is no letter, books have _emphasis_ between them."""
    return re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])", re.IGNORECASE)


RULES = (
    Rule(
        "the",
        "The word `the`, in any case.",
        _words("the"),
        Meanings(
            "the word 'the'",
            "articles and other small words that come before a noun, such as the, a, this",
            "the word 'The' at the beginning of a sentence",
            "words for colours",
        ),
    ),
    Rule(
        "digits",
        "Decimal digits of any script.",
        re.compile(r"\d+"),
        Meanings(
            "numbers written in digits",
            "numbers and amounts, in digits or in words",
            "years written in four digits, such as 1987",
            "names of animals",
        ),
    ),
    Rule(
        "pronouns",
        "he, she and they in all their forms.",
        _words("he|him|his|himself|she|hers?|herself|they|them|theirs?|themselves"),
        Meanings(
            "the pronouns he, she and they in all their forms, such as him, her, their",
            "pronouns of any kind, such as I, you, it, she, who",
            "pronouns for a woman: she, her, herself",
            "food and drink",
        ),
    ),
    Rule(
        "quotes",
        'Double quotation marks: `"`, “ ” „ and « ».',
        re.compile(r'["“”„«»]+'),
        Meanings(
            "double quotation marks",
            "punctuation marks of any kind",
            "quotation marks that close a question",
            "names of countries",
        ),
    ),
    Rule(
        "negation",
        "not, no, never, nothing and the like, and n't.",
        re.compile(
            _words("not|no|never|none|nothing|nobody|nowhere|neither|nor|cannot").pattern
            + r"|n['’]t(?![^\W_])",
            re.IGNORECASE,
        ),
        Meanings(
            "words of negation: not, no, never, nothing, n't",
            "words of negation, refusal, doubt or contrast",
            "negation shortened to n't, as in didn't",
            "parts of the body",
        ),
    ),
)
"""Plain, and frequent in English prose of any kind. The file knows a rule by its place: one that
was released is never changed or moved, others are added at the end."""


def oracle_latent(number: int) -> int:
    """The latent that a rule stands for in the tables: below 0, where no sparse coder has any."""
    return -(number + 1)


def activations(rule: Rule, tokens: Sequence[str]) -> NDArray[np.float32]:
    """(w,) 1 at each token that holds a character of a match, else 0.

    Args:
        rule: the rule.
        tokens: (w,) texts of single tokens that join to the text of a context; those that end
            amid a character are empty, and never fire.
    """
    lengths = np.array([len(token) for token in tokens], np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    values = np.zeros(len(tokens), np.float32)
    for match in rule.pattern.finditer("".join(tokens)):
        first = np.searchsorted(ends, match.start(), side="right")
        behind = np.searchsorted(starts, match.end(), side="left")
        values[first:behind] = 1
    values[lengths == 0] = 0
    return values


def rule_firings(rules: Sequence[Rule], contexts: Iterable[Sequence[str]]) -> list[Firings]:
    """Where each rule fires, from one pass over the texts of all contexts' tokens, in order."""
    places: list[list[tuple[int, NDArray[np.intp]]]] = [[] for _ in rules]
    for context, tokens in enumerate(contexts):
        for found, rule in zip(places, rules, strict=True):
            positions = np.flatnonzero(activations(rule, tokens))
            if len(positions):
                found.append((context, positions))
    return [_firings(found) for found in places]


def _firings(found: Sequence[tuple[int, NDArray[np.intp]]]) -> Firings:
    sizes = [len(positions) for _, positions in found]
    contexts = np.repeat(np.array([context for context, _ in found], np.int32), sizes)
    positions = np.concatenate([np.zeros(0, np.int32), *(each for _, each in found)])
    return Firings(contexts, positions.astype(np.int32), np.ones(len(contexts), np.float32))
