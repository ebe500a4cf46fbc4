"""What an explainer is: from what is known of latents to answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from lite_interp.engine import Engine
from lite_interp.prompts import Message, Prompt, Takes
from lite_interp.records import ExampleSet, Steering, Usage

NO_COST = Usage(0, 0, 0.0)


class Answer(NamedTuple):
    """An explanation, or the reason why there is none."""

    text: str | None
    """The explanation."""
    raw: str
    """The whole answer."""
    failure: str | None
    """Why there is no text; docs/methods.md lists the reasons."""
    usage: Usage = NO_COST
    """What it cost, beside what it shared with others."""
    detail: Mapping[str, Any] | None = None
    """How it came about; plain JSON."""


class Evidence(NamedTuple):
    """What is known of one latent when it is explained."""

    examples: ExampleSet
    """Its windows; those that are scored are never looked at."""
    steering: Steering | None = None
    """What it does to the subject, for an explainer that reads that."""


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """What an explainer has to work with."""

    engine: Engine | None
    """The engine that is asked; None for an explainer that asks none."""
    prompt: Prompt | None
    """Its prompt."""
    settings: Mapping[str, Any]
    """Its settings."""
    helpers: Mapping[str, Prompt] = field(default_factory=dict)
    """Further prompts: of the draft that is revised, of the judge that tries it."""

    def asking(self) -> tuple[Engine, Prompt]:
        """Engine and prompt of an explainer that asks; raises `ValueError` without them."""
        if self.engine is None or self.prompt is None:
            raise ValueError("this explainer needs an engine and a prompt")
        return self.engine, self.prompt


Question = Callable[[Evidence, Prompt, Mapping[str, Any]], "tuple[Message, ...] | str"]
"""What an engine is asked about a latent, or the failure that there is nothing to ask about."""


@dataclass(frozen=True, slots=True)
class Explainer:
    """One way to explain."""

    name: str
    """Name in EXPLAINERS."""
    description: str
    """One sentence for the documentation."""
    prompt: str | None
    """Prompt file it uses unless another is named; None if it asks no engine."""
    settings: Mapping[str, Any]
    """What changes the answer; goes into the explanation's id."""
    explain: Callable[[Sequence[Evidence], Means], list[Answer]]
    """From what is known of latents to answers, one for each."""
    takes: Takes | None = None
    """Variables that its prompt may have; None = those of its own."""
    reads: Literal["windows", "output"] = "windows"
    """Whether it reads where a latent fires, or what it does when the subject is steered, too."""
    helpers: Mapping[str, str] = field(default_factory=dict)
    """Further prompt files that it uses, by what they are for."""
    n_held_out: int = 0
    """Windows of each kind that it wants held out, unless the user says how many."""
