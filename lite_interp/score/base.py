"""What a scorer is: from an example set to items, from explanation and items to judgements.

    example set ─items─▶ what is asked, with the right answers ─score─▶ one judgement an item

Items depend on the example set alone. So the explanations of other latents, the controls of the
null, are judged on the very same items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.embedder import Embedder
from lite_interp.engine import Engine
from lite_interp.prompts import Prompt
from lite_interp.records import ExampleSet, Passage, Steering, Window
from lite_interp.render import one_row

Statistic = Literal["auroc", "pearson", "nats", "accuracy"]
"""What a score is made of an own trial's values: the area, a correlation over tokens, a mean, a
share of right answers."""

LONGEST_EXPLANATION = 600
"""Characters of an explanation that a judge is shown."""


class Marked(NamedTuple):
    """A window as it is shown with marks."""

    window: Window
    """The window."""
    marked: NDArray[np.bool_]
    """(w,) which tokens stand between marks."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One thing that a scorer is asked about, and the right answer."""

    window: Window
    """The window that it is about."""
    active: bool
    """The right answer: whether the latent fires in it, or whether its marks are right."""
    stratum: str
    """Stratum of the window, or of the windows that a question is about."""
    weight: float
    """Windows of the stratum in the cache that this one stands for."""
    name: str = ""
    """What tells items of one window apart."""
    marked: NDArray[np.bool_] | None = None
    """(w,) tokens that are shown between marks; None = shown plain."""
    choices: tuple[Marked, ...] = ()
    """The windows of a question about several, in the order they are shown."""
    passage: Passage | None = None
    """What the subject wrote behind the beginning of the window."""


class Judgement(NamedTuple):
    """One answer on one item, before it is stored as a verdict."""

    value: float | None
    """The scorer's number; None if there is none."""
    failure: str | None = None
    """Why there is none."""
    detail: Mapping[str, Any] | None = None
    """What else the scorer says of it; plain JSON."""


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """What a scorer may use."""

    engine: Engine | None = None
    """The local model that judges."""
    embedder: Embedder | None = None
    """The sentence-embedding model."""
    prompt: Prompt | None = None
    """The scorer's prompt."""
    memory: dict[Any, Any] = field(default_factory=dict)
    """What a scorer wants to find again in the next trial of the same run; made anew for each."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """One way to measure an explanation, or a latent."""

    name: str
    """Name in SCORERS."""
    description: str
    """One sentence for the documentation."""
    needs: Literal["engine", "embedder"]
    """What it judges with."""
    prompt: str | None
    """Prompt file it uses unless another is named."""
    unit: str
    """Unit of a verdict's value."""
    settings: Mapping[str, Any]
    """What changes the numbers; goes into the id of a trial."""
    items: Callable[[ExampleSet, Mapping[str, Any], Steering | None], list[Item]]
    """Example set, settings, and what the steered subject wrote, to what is asked."""
    score: Callable[[str, Sequence[Item], Tools, Mapping[str, Any]], list[Judgement]]
    """Explanation, items, tools and settings to one judgement an item, in the same order."""
    statistic: Statistic = "auroc"
    """What its score is."""
    judges: Literal["explanation", "latent"] = "explanation"
    """Whether an explanation is judged, or the latent without any: then it has no null."""
    steers: bool = False
    """Whether it reads what the steered subject wrote."""


def scored_windows(
    examples: ExampleSet, settings: Mapping[str, Any], steering: Steering | None
) -> list[Item]:
    """Every scored window once, without marks: does the latent fire in it?"""
    return [
        Item(window, window.peak > 0, stratum, weight)
        for window, stratum, weight in examples.scored
    ]


def quoted(explanation: str) -> str:
    """An explanation as a judge is shown it: one line, no control characters, cut where too long.

    With the line breaks gone, nothing in it can look like the next part of a prompt; that it
    cannot become a special token is the tokenizer's work.
    """
    text = " ".join(one_row(explanation).replace("↵", " ").split())
    return text if len(text) <= LONGEST_EXPLANATION else text[:LONGEST_EXPLANATION] + " …"
